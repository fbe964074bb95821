"""A toy model, a toy data set and a toy run for the tests of training."""

import functools

import numpy as np

from trax_hier import training
from trax_hier.compat import base, tl

VOCAB = 16


class RunningMean(base.Layer):
  """Adds a decaying mean of the last vectors of a row's earlier batches."""

  def init_weights_and_state(self, signature):
    rows, _, width = signature.shape
    self.weights = np.full((width,), 0.5, np.float32)
    self.state = (np.zeros((rows, width), np.float32), np.zeros((), np.int32))

  def forward(self, x):
    memory, count = self.state
    out = x + memory[:, None] * self.weights
    self.state = (0.5 * memory + 0.5 * x[:, -1], count + 1)
    return out


def Model(mode: str = 'train', dropout: float = 0.0, memory: bool = False):
  """Embedding, optional memory, dropout, logits; trains in a few steps."""
  return tl.Serial(
    tl.ShiftRight(mode=mode),
    tl.Embedding(VOCAB, 8),
    RunningMean() if memory else [],
    tl.Dropout(rate=dropout, mode=mode),
    tl.Dense(VOCAB),
  )


class Vocab:
  """Maps letters to ids."""

  size = VOCAB

  def encode(self, text):
    return np.array([ord(c) % VOCAB for c in text], np.int32)

  def decode(self, ids):
    return ''.join(chr(97 + i) for i in ids)


class Data:
  """Sequences of consecutive ids; the random start depends on the step."""

  vocab = Vocab()
  unit = 'byte'

  def __init__(self, rows=8, length=6, n_eval=3):
    self._rows, self._length, self._n_eval = rows, length, n_eval

  def _batch(self, seed, scored):
    rng = np.random.default_rng(seed)
    start = rng.integers(1, VOCAB, (self._rows, 1))
    tokens = ((start + np.arange(self._length)) % VOCAB).astype(np.int32)
    weights = np.ones(tokens.shape, np.float32)
    weights[scored:] = 0
    return {'inputs': tokens, 'targets': tokens, 'weights': weights}

  def train_batch(self, step, shard=0, n_shards=1):
    return self._batch(step, self._rows)

  def eval_batches(self, split):
    scored = [self._rows] * (self._n_eval - 1) + [self._rows // 2]
    return [self._batch(10**6 + i, n) for i, n in enumerate(scored)]

  def describe(self):
    return 'counting'


def run(folder, steps=4, **changes):
  """Trains the toy model; `changes` are further arguments of `train`."""
  arguments = {
    'model': Model,
    'data': Data(),
    'optimizer': functools.partial(training.Adam, 0.01),
    'eval_every': 2,
    'log_every': 1,
  }
  return training.train(str(folder), steps=steps, **(arguments | changes))
