"""When a run evaluates, saves a checkpoint, and probes the model."""

import dataclasses
import math
import time

import jax
import numpy as np
from jax.experimental import multihost_utils


@dataclasses.dataclass(frozen=True)
class Intervals:
  """Intervals of actions, due at their multiples and at the last step.

  Attributes:
    steps: Number of the last step.
    eval_every: Steps between evaluations.
    checkpoint_every: Steps between checkpoints; None sets no interval.
    probe_every: Steps between probes; 0 means never.

  Example:
    >>> intervals = Intervals(7, 3, 4, probe_every=0)
    >>> [step for step in range(1, 8) if intervals.evaluates(step)]
    [3, 6, 7]
    >>> [step for step in range(1, 8) if intervals.saves(step)]
    [3, 4, 6, 7]
    >>> intervals.probes(7)
    False
  """

  steps: int
  eval_every: int
  checkpoint_every: int | None
  probe_every: int

  def any(self, step: int) -> bool:
    """Whether anything is due after this step."""
    return self.evaluates(step) or self.saves(step) or self.probes(step)

  def evaluates(self, step: int) -> bool:
    """Whether an evaluation is due after this step."""
    return self._is_due(step, self.eval_every)

  def saves(self, step: int) -> bool:
    """Whether a checkpoint is due after this step, or before its evaluation."""
    return self.evaluates(step) or self._is_due(step, self.checkpoint_every)

  def probes(self, step: int) -> bool:
    """Whether a probe is due after this step."""
    return self._is_due(step, self.probe_every)

  def _is_due(self, step, every):
    return bool(every) and (step % every == 0 or step == self.steps)


class SaveClock:
  """Says when a number of minutes has passed since the last checkpoint.

  With several hosts, the clock of the first one decides for all. They agree at
  a few steps only: at steps 1, 2, 4, … after a checkpoint, then when the
  interval should be over at the speed so far.
  """

  def __init__(self, minutes: float | None, step: int):
    """Starts the clock.

    Args:
      minutes: Minutes between checkpoints; None means never.
      step: Number of steps done.
    """
    self._seconds = math.inf if minutes is None else 60 * minutes
    self.restart(step)

  def restart(self, step: int) -> None:
    """Restarts the interval, after a checkpoint of `step`."""
    self._start, self._start_step = time.monotonic(), step
    self._next_check = step + 1

  def due(self, step: int) -> bool:
    """Whether a checkpoint is due after this step; called after every step."""
    if math.isinf(self._seconds) or step < self._next_check:
      return False
    elapsed = time.monotonic() - self._start
    due = elapsed >= self._seconds
    if jax.process_count() == 1:
      return due
    steps = step - self._start_step
    left = (self._seconds - elapsed) * steps / elapsed
    plan = np.array([due, min(max(left, 1), steps)], np.int32)
    due, wait = multihost_utils.broadcast_one_to_all(plan).tolist()
    self._next_check = step + wait
    return bool(due)
