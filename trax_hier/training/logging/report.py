"""Tells what a run does: metrics to the log, progress to the console."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from trax_hier.training.logging.console import Console
from trax_hier.training.logging.metrics_log import MetricsLog
from trax_hier.training.step import METRICS


class NotFiniteError(FloatingPointError):
  """A training metric became infinite or not a number."""


class Reporter:
  """Takes the metrics of each step, in order, and passes them on."""

  def __init__(
    self,
    log: MetricsLog,
    console: Console,
    unit: str,
    tokens_per_step: int,
    log_every: int,
    full_speed: float | None = None,
  ):
    """Nothing is timed before the first step is reported.

    Args:
      log: gets every `log_every`-th step and every evaluation.
      console: gets every step.
      unit: what a scored token is, for the name `bits_per_<unit>`.
      tokens_per_step: for the speed.
      log_every: see above.
      full_speed: tokens per second at which the devices would do nothing but
        the model's FLOPs, for the model FLOPs utilisation; None: not known.
    """
    self._log, self._console = log, console
    self._bits = f'bits_per_{unit}'
    self._tokens_per_step = tokens_per_step
    self._log_every = log_every
    self._full_speed = full_speed
    self._speeds = {'log': _Speed(), 'console': _Speed()}

  def step(self, step: int, metrics: jax.Array) -> None:
    """Reports a training step; waits until it is done.

    Args:
      step: its number.
      metrics: (n_metrics,), in the order of `METRICS`.

    Raises:
      NotFiniteError: naming step and metric.
    """
    values = dict(zip(METRICS, np.asarray(metrics).tolist(), strict=True))
    for name, value in values.items():
      if not math.isfinite(value):
        raise NotFiniteError(f'step {step}: {name} is {value}')
    bits = values['loss'] / math.log(2)
    if step % self._log_every == 0:
      values[self._bits] = bits
      values['tokens_per_second'] = speed = self._speed('log', step)
      if self._full_speed:
        values['mfu'] = speed / self._full_speed
      self._log.write('train', step, values)
    if self._console.due(step):
      speed = self._speed('console', step)
      text = f'loss {values["loss"]:.4f}, {bits:.4f} {_spoken(self._bits)}, '
      text += f'{speed:,.0f} tokens/s'
      if self._full_speed:
        text += f', MFU {speed / self._full_speed:.1%}'
      self._console.update(step, text)

  def evaluation(self, step: int, values: Mapping[str, float]) -> None:
    """Reports an evaluation on the held-out set."""
    self._log.write('valid', step, values)
    self.say_evaluation(step, values)

  def say_evaluation(self, step: int, values: Mapping[str, float]) -> None:
    """Only prints an evaluation."""
    self._console.say(
      f'held-out at step {step}: {values[self._bits]:.4f} '
      f'{_spoken(self._bits)}, loss {values["loss"]:.4f}, '
      f'accuracy {values["accuracy"]:.3f}'
    )

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Leaves what is done inside out of the speeds."""
    start = time.perf_counter()
    yield
    for speed in self._speeds.values():
      speed.start += time.perf_counter() - start

  def _speed(self, name, step):
    return self._tokens_per_step * self._speeds[name].since_last(step)


class _Speed:
  """Steps per second between two calls; 0 at the first call."""

  def __init__(self):
    self.start, self._step = math.inf, 0

  def since_last(self, step):
    now = time.perf_counter()
    elapsed, steps = now - self.start, step - self._step
    self.start, self._step = now, step
    return steps / elapsed if elapsed > 0 else 0.0


def _spoken(name):
  return name.replace('_', ' ')
