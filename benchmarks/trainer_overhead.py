"""What the training loop costs over the bare jitted step.

    python benchmarks/trainer_overhead.py [--rounds 3] [--steps 300]

Trains a toy Hourglass with `train` (batches made, placed, metrics read and
logged each 10 steps) and calls the same compiled step in a plain loop over one
batch on the device, in turns. Prints the fastest milliseconds a step of each
(over stretches of 50 steps) and their ratio.
"""

import argparse
import contextlib
import io
import tempfile
import time

import jax

from trax_hier.data import Synthetic
from trax_hier.models import HourglassLM
from trax_hier.training import Adam, read_metrics, train
from trax_hier.training.build import build
from trax_hier.training.mesh import split_rows

_STRETCH = 50


def toy_model(mode='train'):
  """A Hourglass of 65 thousand weights."""
  return HourglassLM(
    256, d_model=32, d_ff=64, hierarchy='1@2', n_heads=2, mode=mode
  )


def ours(data, steps):
  """Seconds a step within `train`, the best stretch."""
  with (
    tempfile.TemporaryDirectory() as folder,
    contextlib.redirect_stdout(io.StringIO()),
  ):
    train(folder, toy_model, data, Adam, steps=steps, eval_every=steps)
    lines = [m for m in read_metrics(folder) if m['kind'] == 'train'][1:]
  tokens = data.train_batch(0)['inputs'].size
  seconds = [tokens / line['tokens_per_second'] for line in lines]
  n = _STRETCH // 10
  stretches = [seconds[i : i + n] for i in range(0, len(seconds) - n + 1, n)]
  return min(sum(stretch) / n for stretch in stretches)


def bare(data, steps):
  """Seconds a step of the jitted step alone, the best stretch."""
  built = build(toy_model, data, Adam)
  state = built.init(jax.random.PRNGKey(0))
  batch = jax.device_put(data.train_batch(0), split_rows(built.mesh))
  state, metrics = built.step(state, batch)
  seconds = []
  for _ in range(steps // _STRETCH):
    metrics.block_until_ready()
    start = time.perf_counter()
    for _ in range(_STRETCH):
      state, metrics = built.step(state, batch)
    metrics.block_until_ready()
    seconds.append((time.perf_counter() - start) / _STRETCH)
  return min(seconds)


def main():
  """Prints a line a round, then the ratio of the best of each."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument('--batch_size', type=int, default=4)
  parser.add_argument('--length', type=int, default=64)
  arguments = parser.parse_args()
  data = Synthetic('copy', arguments.batch_size, arguments.length)
  rounds = []
  for _ in range(arguments.rounds):
    rounds.append((bare(data, arguments.steps), ours(data, arguments.steps)))
    print('bare {:.3f} ms, ours {:.3f} ms'.format(*(1e3 * t for t in rounds[-1])))
  best_bare, best_ours = (min(times) for times in zip(*rounds, strict=True))
  print(f'ratio of the best: {best_ours / best_bare:.3f}')


if __name__ == '__main__':
  main()
