"""Retention of the best checkpoint."""

import math

from orbax.checkpoint import checkpoint_managers as policies


class KeepBest(policies.PreservationPolicy):
  """Keeps the checkpoint of the lowest held-out loss.

  Losses may be recorded before or after the checkpoints of their steps are
  saved. A loss that is not finite does not count. Losses of different coverage
  are not compared: the best checkpoint of each is kept.
  """

  def __init__(self):
    """Starts without losses, so no checkpoint is the best one."""
    self._losses = {}  # (coverage, loss) by step.

  def record(self, step: int, loss: float, coverage: float) -> None:
    """Records the held-out loss of a step; see `logging.coverage`."""
    self._losses.pop(step, None)
    if math.isfinite(loss):
      self._losses[step] = coverage, loss

  def should_preserve(self, checkpoints, *, context):
    """Called by orbax: whether to keep each checkpoint."""
    del context
    best = {}  # (loss, step) by coverage; the newest of equal losses.
    for x in reversed(checkpoints):
      if x.step in self._losses:
        coverage, loss = self._losses[x.step]
        if coverage not in best or loss < best[coverage][0]:
          best[coverage] = loss, x.step
    kept = {step for _, step in best.values()}
    return [x.step in kept for x in checkpoints]
