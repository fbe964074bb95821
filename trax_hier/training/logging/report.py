"""Reports the progress of a run to its log and to the console."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from trax_hier.training.logging.console import Console
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
  ):
    """Timing starts at the first reported step.

    Args:
      log: Receives every `log_every`-th step and every evaluation.
      console: Shows progress and evaluations.
      metrics: Names of a step's metrics, 'loss' among them.
      unit: Unit of a scored token, for the name `bits_per_<unit>`.
      tokens_per_step: Tokens of a global batch.
      log_every: Steps between entries of the log.
      peak_speed: Tokens per second at a model FLOPs utilization of 1; None
        reports no utilization.
    """
    self._log, self._console = log, console
    self._metrics = metrics
    self._bits = f'bits_per_{unit}'
    self._tokens_per_step = tokens_per_step
    self._log_every = log_every
    self._peak_speed = peak_speed
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
      values['tokens_per_second'] = speed = self._speed('log', step)
      if self._peak_speed:
        values['mfu'] = speed / self._peak_speed
      self._log.write('train', step, values)
    if self._console.due(step):
      speed = self._speed('console', step)
      text = f'loss {values["loss"]:.4f}, {bits:.4f} {_readable(self._bits)}, '
      text += f'{speed:,.0f} tokens/s'
      if self._peak_speed:
        text += f', MFU {speed / self._peak_speed:.1%}'
      self._console.update(step, text)

  def evaluation(self, step: int, values: Mapping[str, float]) -> None:
    """Logs and prints an evaluation on the held-out set."""
    self._log.write('valid', step, values)
    self.say_evaluation(step, values)

  def say_evaluation(self, step: int, values: Mapping[str, float]) -> None:
    """Prints an evaluation without logging it."""
    self._console.say(
      f'held-out at step {step}: {values[self._bits]:.4f} '
      f'{_readable(self._bits)}, loss {values["loss"]:.4f}, '
      f'accuracy {values["accuracy"]:.3f}'
    )

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Excludes the time spent in this context from the speeds."""
    start = time.perf_counter()
    yield
    for timer in self._timers.values():
      timer.start += time.perf_counter() - start

  def _speed(self, name, step):
    return self._tokens_per_step * self._timers[name].steps_per_second(step)


class _Timer:
  """Steps per second since the previous call; 0 at the first call."""

  def __init__(self):
    self.start, self._step = math.inf, 0

  def steps_per_second(self, step):
    now = time.perf_counter()
    elapsed, steps = now - self.start, step - self._step
    self.start, self._step = now, step
    return steps / elapsed if elapsed > 0 else 0.0


def _readable(name):
  return name.replace('_', ' ')
