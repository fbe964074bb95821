"""Reports the progress of a run to its log and to the console."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from trax_hier.training.logging.console import Console
from trax_hier.training.logging.coverage import (
  coverage,
  describe_coverage,
  describe_sources,
)
from trax_hier.training.logging.metrics_log import MetricsLog
from trax_hier.training.logging.not_finite import NotFiniteError, not_finite


class Reporter:
  """Checks, logs and prints the metrics of steps and evaluations."""

  def __init__(
    self,
    log: MetricsLog,
    console: Console,
    metrics: Sequence[str],
    unit: str,
    tokens_per_step: int,
    log_every: int,
    peak_speed: float | None = None,
    steps_per_epoch: float | None = None,
    peak_memory: Callable[[], int | None] = lambda: None,
  ):
    """Timing starts at the first reported step, which has no speed.

    Args:
      log: Receives every `log_every`-th step and every evaluation.
      console: Shows progress and evaluations.
      metrics: Names of a step's metrics, 'loss' among them.
      unit: Unit of a scored token, for the name `bits_per_<unit>`.
      tokens_per_step: Tokens of a global batch.
      log_every: Steps between entries of the log.
      peak_speed: Tokens per second at a model FLOPs utilization of 1; None
        reports no utilization.
      steps_per_epoch: Steps that read the training data once; None reports no
        epochs.
      peak_memory: Returns the most bytes in use so far; None if unknown.
    """
    self._log, self._console = log, console
    self._metrics = metrics
    self._bits = f'bits_per_{unit}'
    self._tokens_per_step = tokens_per_step
    self._log_every = log_every
    self._peak_speed = peak_speed
    self._steps_per_epoch = steps_per_epoch
    self._peak_memory = peak_memory
    self._timers = {'log': _Timer(), 'console': _Timer()}

  def step(self, step: int, metrics: jax.Array) -> None:
    """Logs and prints a training step; waits until it is computed.

    Args:
      step: Number of the step.
      metrics: Values (n_metrics,) in the order of the constructor's `metrics`.

    Raises:
      NotFiniteError: naming step and metric.
    """
    metrics = np.asarray(metrics).tolist()
    values = dict(zip(self._metrics, metrics, strict=True))
    if text := not_finite(values):
      raise NotFiniteError(f'step {step}: {text}')
    bits = values['loss'] / math.log(2)
    if step % self._log_every == 0:
      values[self._bits] = bits
      if speed := self._speed('log', step):
        values['tokens_per_second'] = speed
        if self._peak_speed:
          values['mfu'] = speed / self._peak_speed
      self._log.write('train', step, values)
    if self._console.due(step):
      text = f'loss {values["loss"]:.4f}, {bits:.4f} {_readable(self._bits)}'
      self._console.update(step, text + self._progress(step))
    for timer in self._timers.values():
      timer.begin(step)

  def _progress(self, step):
    """The speed, the epochs and the memory of a training step, as text."""
    text = ''
    if speed := self._speed('console', step):
      text += f', {speed:,.0f} tokens/s'
      if self._peak_speed:
        text += f', MFU {speed / self._peak_speed:.1%}'
    if self._steps_per_epoch:
      text += f', {step / self._steps_per_epoch:.2f} epochs'
    if memory := self._peak_memory():
      text += f', peak memory {memory / 1e9:.1f} GB'
    return text

  def evaluation(self, step: int, values: Mapping[str, float]) -> None:
    """Logs and prints an evaluation on the held-out set."""
    self._log.write('valid', step, values)
    self.say_evaluation(step, values)

  def say_evaluation(self, step: int, values: Mapping[str, float]) -> None:
    """Prints an evaluation without logging it."""
    rows = ''
    # Only of short rows are all predictions right.
    if right := values.get('sequence_accuracy'):
      rows = f', sequence accuracy {right:.3f}'
    if self._bits != 'bits_per_byte' and 'bits_per_byte' in values:
      rows = f', {values["bits_per_byte"]:.4f} bits per byte{rows}'
    self._console.say(
      f'held-out at step {step}: {values[self._bits]:.4f} '
      f'{_readable(self._bits)}{describe_sources(values, self._bits)}, '
      f'loss {values["loss"]:.4f}, '
      f'accuracy {values["accuracy"]:.3f}{rows}, on '
      f'{describe_coverage(coverage(values))}'
    )

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Excludes the time spent in this context from the speeds."""
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    self._console.paused(seconds)
    for timer in self._timers.values():
      timer.pause(seconds)

  def _speed(self, name, step):
    """Tokens per second since the previous call; None at the first step."""
    steps_per_second = self._timers[name].steps_per_second(step)
    if steps_per_second is None:
      return None
    return self._tokens_per_step * steps_per_second


class _Timer:
  """Steps per second since the previous call."""

  def __init__(self):
    self._start = self._step = None

  def begin(self, step):
    """Starts after the first step."""
    if self._start is None:
      self._start, self._step = time.perf_counter(), step

  def pause(self, seconds):
    """Excludes a time from the speed."""
    if self._start is not None:
      self._start += seconds

  def steps_per_second(self, step):
    """The speed since the previous call or `begin`; None before `begin`."""
    if self._start is None:
      return None
    now = time.perf_counter()
    elapsed, steps = now - self._start, step - self._step
    self._start, self._step = now, step
    return steps / elapsed if elapsed > 0 else None


def _readable(name):
  return name.replace('_', ' ')
