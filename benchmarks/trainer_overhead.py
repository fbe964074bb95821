"""Overhead of the training loop over the jitted step alone.

    python benchmarks/trainer_overhead.py [--pairs 20]

Trains a toy Hourglass with `train`, which makes batches, reads metrics at every
step and logs every tenth. Every 100 steps the run pauses, and a plain loop
calls the same compiled step on one batch that is already on the device. Both
are timed alternately in one process, so a busy machine slows both. Prints
milliseconds per step for the fastest and the median stretch of 50 steps, and
the ratios.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time

import jax

from trax_hier.data import Synthetic
from trax_hier.models import HourglassLM
from trax_hier.training import Adam, train
from trax_hier.training.build import build
from trax_hier.training.mesh import row_sharding

_PERIOD, _STRETCH, _SETTLE = 100, 50, 25


def toy_model(mode='train'):
  """An Hourglass with about 50,000 parameters."""
  return HourglassLM(
    256, d_model=32, d_ff=64, hierarchy='1@2', n_heads=2, mode=mode
  )


class BareStep:
  """The jitted step alone, on one batch."""

  def __init__(self, data):
    """Compiles the step."""
    built = build(toy_model, data, Adam)
    self._step = built.step
    self._state = built.init(jax.random.PRNGKey(0))
    self._batch = jax.device_put(data.train_batch(0), row_sharding(built.mesh))
    self.seconds()

  def seconds(self):
    """Seconds per step, measured over one stretch."""
    start = time.perf_counter()
    for _ in range(_STRETCH):
      self._state, metrics = self._step(self._state, self._batch)
    metrics.block_until_ready()
    return (time.perf_counter() - start) / _STRETCH


class TimedData:
  """A data set that times the loop that reads its batches."""

  def __init__(self, data, bare):
    """Collects seconds per step of each stretch in `ours` and `bare`."""
    self._data, self._bare = data, bare
    self.ours, self.bare = [], []
    self._start = None

  def train_batch(self, step, shard=0, n_shards=1):
    """The batch; once per period it first times a stretch of the bare step."""
    phase = step % _PERIOD
    if phase == _SETTLE:
      self._start = time.perf_counter()
    elif phase == _SETTLE + _STRETCH:
      self.ours.append((time.perf_counter() - self._start) / _STRETCH)
    elif phase == 0 and step:
      time.sleep(0.1)  # dispatched steps of the loop still run
      self.bare.append(self._bare.seconds())
    return self._data.train_batch(step, shard, n_shards)

  def __getattr__(self, name):
    return getattr(self._data, name)


def main():
  """Trains, then prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--pairs', type=int, default=20)
  parser.add_argument('--batch_size', type=int, default=4)
  parser.add_argument('--length', type=int, default=64)
  arguments = parser.parse_args()
  data = Synthetic('copy', arguments.batch_size, arguments.length)
  timed = TimedData(data, BareStep(data))
  steps = arguments.pairs * _PERIOD + 1
  with (
    tempfile.TemporaryDirectory() as folder,
    contextlib.redirect_stdout(io.StringIO()),
  ):
    train(folder, toy_model, timed, Adam, steps=steps, eval_every=steps)
  for name, pick in (('fastest', min), ('median', statistics.median)):
    ours, bare = 1e3 * pick(timed.ours), 1e3 * pick(timed.bare)
    print(
      f'{name}: ours {ours:.3f} ms, bare {bare:.3f} ms, ratio {ours / bare:.3f}'
    )


if __name__ == '__main__':
  main()
