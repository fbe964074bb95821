"""Trains the toy model; takes the arguments of `train` as one JSON object.

A further argument `process` is (coordinator, number of processes, index). With
`by_row`, the data set can make any rows alone, and there are probes. Process i
writes which rows it made to `rows_<i>.json`, and the weights to `rows_<i>.npz`.
Exits with code 143 on SIGTERM.
"""

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import toy_training
from jax.experimental import multihost_utils

from trax_hier.compat import tl
from trax_hier.inspection import probes
from trax_hier.layers import Repeat, SparseFF
from trax_hier.training import Adam, Stopped, mesh, train


class Rows(Sequence):
  """Batches whose rows are made one by one; the last three are not scored."""

  batch_size = 16

  def __init__(self, kind, n):
    self.made, self._kind, self._n = set(), kind, n

  def __len__(self):
    return self._n

  def rows(self, i, begin, end):
    self.made.update(range(begin, end))
    data = toy_training.Data(rows=1)
    rows = [
      data._batch([self._kind, i, row], int(row < 13))
      for row in range(begin, end)
    ]
    return {name: np.concatenate([x[name] for x in rows]) for name in rows[0]}

  def __getitem__(self, i):
    return self.rows(i, 0, self.batch_size)


class ByRow(toy_training.Data):
  """A data set that can make any rows of its batches alone."""

  batch_size = Rows.batch_size

  def __init__(self):
    self.train, self.valid = Rows(0, 10**6), Rows(1, 3)

  def train_batch(self, step, shard=0, n_shards=1):
    n = self.batch_size // n_shards
    return self.train.rows(step, shard * n, shard * n + n)

  def eval_batches(self, split):
    return self.valid

  def fingerprint(self):
    return {'train': 'generated'}


def Sparse(mode='train', dropout=0.0, max_len=None):
  """The toy model with layers that emit observations; it can be sampled."""
  *layers, logits = toy_training.Model(mode, dropout).sublayers
  feed_forward = Repeat(lambda: SparseFF(12, 3, mode=mode), 2)
  return tl.Serial(*layers, feed_forward, logits)


def write_results(folder, data, weights):
  """Writes which rows this process has made, and the weights of all."""
  made = {'train': sorted(data.train.made), 'valid': sorted(data.valid.made)}
  path = Path(folder, f'rows_{jax.process_index()}.json')
  path.write_text(json.dumps(made))
  everywhere = multihost_utils.process_allgather(weights, tiled=True)
  np.savez(path.with_suffix('.npz'), *jax.tree.leaves(everywhere))


if __name__ == '__main__':
  arguments = json.loads(sys.argv[1])
  if process := arguments.pop('process', None):
    jax.distributed.initialize(*process)
  mesh._SMALL = 1
  defaults = {
    'model': functools.partial(toy_training.Model, dropout=0.3, memory=True),
    'data': toy_training.Data(rows=16),
    'optimizer': functools.partial(Adam, 0.01),
    'eval_every': 30,
    'checkpoint_every': 20,
    'log_every': 1,
  }
  if arguments.pop('by_row', False):
    probes._NEW_TOKENS = 8
    model = functools.partial(Sparse, dropout=0.3)
    defaults |= {'data': ByRow(), 'model': model, 'probe': probes.Probes()}
  try:
    result = train(**(defaults | arguments))
  except Stopped as stopped:
    print(stopped)
    sys.exit(143)
  if isinstance(result.data, ByRow):
    write_results(arguments['output_dir'], result.data, result.weights)
