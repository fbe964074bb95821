"""Retention of the best checkpoint."""

import math

from orbax.checkpoint import checkpoint_managers as policies


class KeepBest(policies.PreservationPolicy):
  """Keeps the checkpoint of the lowest held-out loss.

  Losses may be recorded before or after the checkpoints of their steps are
  saved. A loss that is not finite does not count.
  """

  def __init__(self):
    """Starts without losses, so no checkpoint is the best one."""
    self._losses = {}

  def record(self, step: int, loss: float) -> None:
    """Records the held-out loss of a step."""
    self._losses.pop(step, None)
    if math.isfinite(loss):
      self._losses[step] = loss

  def should_preserve(self, checkpoints, *, context):
    """Called by orbax: whether to keep each checkpoint."""
    del context
    # The newest of equal losses.
    steps = [x.step for x in reversed(checkpoints) if x.step in self._losses]
    best = min(steps, key=self._losses.get, default=None)
    return [x.step == best for x in checkpoints]
