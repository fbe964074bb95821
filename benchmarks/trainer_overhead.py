"""What the training loop costs over the bare jitted step.

    python benchmarks/trainer_overhead.py [--pairs 20]

Trains a toy Hourglass with `train`: batches made, metrics read at each step
and logged at each tenth. Every 100 steps it is halted, and the same step
compiled alone is called in a plain loop over one batch that is on the device
already. So both are timed in turns, in one process, and a busy machine slows
both. Prints milliseconds a step of each, fastest and median stretch of 50
steps, and their ratios.
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
from trax_hier.training.mesh import split_rows

_PERIOD, _STRETCH, _SETTLE = 100, 50, 25


def toy_model(mode='train'):
  """An Hourglass of some fifty thousand weights."""
  return HourglassLM(
    256, d_model=32, d_ff=64, hierarchy='1@2', n_heads=2, mode=mode
  )


class BareStep:
  """The jitted step alone, on one batch."""

  def __init__(self, data):
    """Compiles it."""
    built = build(toy_model, data, Adam)
    self._step = built.step
    self._state = built.init(jax.random.PRNGKey(0))
    self._batch = jax.device_put(data.train_batch(0), split_rows(built.mesh))
    self.seconds()

  def seconds(self):
    """Seconds a step, over a stretch."""
    start = time.perf_counter()
    for _ in range(_STRETCH):
      self._state, metrics = self._step(self._state, self._batch)
    metrics.block_until_ready()
    return (time.perf_counter() - start) / _STRETCH


class TimedData:
  """A data set that times the loop asking it for batches."""

  def __init__(self, data, bare):
    """Keeps stretches in `ours` and `bare`, in seconds a step."""
    self._data, self._bare = data, bare
    self.ours, self.bare = [], []
    self._start = None

  def train_batch(self, step, shard=0, n_shards=1):
    """The batch; every so often, a stretch of the bare step before it."""
    phase = step % _PERIOD
    if phase == _SETTLE:
      self._start = time.perf_counter()
    elif phase == _SETTLE + _STRETCH:
      self.ours.append((time.perf_counter() - self._start) / _STRETCH)
    elif phase == 0 and step:
      time.sleep(0.1)  # the steps of the loop still on their way
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
