"""Which steps of a run evaluate, save a checkpoint, and probe the model."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Intervals:
  """Intervals of actions, due at their multiples and at the last step.

  Attributes:
    steps: Number of the last step.
    eval_every: Steps between evaluations.
    checkpoint_every: Steps between checkpoints.
    probe_every: Steps between probes; 0 means never.

  Example:
    >>> intervals = Intervals(7, 3, 6, probe_every=0)
    >>> [step for step in range(1, 8) if intervals.evaluates(step)]
    [3, 6, 7]
    >>> intervals.probes(7)
    False
  """

  steps: int
  eval_every: int
  checkpoint_every: int
  probe_every: int

  def any(self, step: int) -> bool:
    """Whether anything is due after this step."""
    return self.evaluates(step) or self.saves(step) or self.probes(step)

  def evaluates(self, step: int) -> bool:
    """Whether an evaluation is due after this step."""
    return self._is_due(step, self.eval_every)

  def saves(self, step: int) -> bool:
    """Whether a checkpoint is due after this step."""
    return self._is_due(step, self.checkpoint_every)

  def probes(self, step: int) -> bool:
    """Whether a probe is due after this step."""
    return self.probe_every != 0 and self._is_due(step, self.probe_every)

  def _is_due(self, step, every):
    return step % every == 0 or step == self.steps
