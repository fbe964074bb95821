"""Synthetic: generated memory tasks, the same on every machine."""

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.hashing import SPLIT_TAGS, hash64
from trax_hier.data.vocabularies.byte_vocab import ByteVocab

_N_PAIRS = 4  # pairs to remember in 'recall'
_LETTERS, _DIGITS = 26, 10
_LOWER, _UPPER, _ZERO, _NEWLINE = map(ord, 'aA0\n')


@configurable(module='trax_hier.data')
def Synthetic(
  task: str,
  batch_size: int,
  length: int,
  seed: int = 0,
  n_eval_rows: int = 256,
) -> DataSet:
  """Generated text for memory tasks; only predictable characters are scored.

  copy:   '\\n' w '\\n' w with random letters w; scores the second w.
  copy_source: w, from a source that is the same w; scores all. For models that
          read sources.
  recall: 'c7k0a3x7' + noise + 'a3x7c7k0': pairs of a letter and a digit, random
          capital letters, and the pairs in another order; scores the last
          digits, at least length - 14 tokens after their first occurrence. The
          loss of a model without memory is ln 10 = 2.303 nats per digit.

  Training rows do not end. Every character is a hash of (seed, split, row,
  position): batches are bitwise equal on every machine. Ids are bytes
  (`ByteVocab`); the unit is the token. Valid and test rows differ from training
  rows and do not depend on the seed.

  Args:
    task: 'copy', 'copy_source' or 'recall'.
    batch_size: Rows of the global batch.
    length: Characters in a row: an even number from 4 for copy, 16 or more for
      recall.
    seed: Seed of the training rows.
    n_eval_rows: Number of rows in valid and in test.

  Raises:
    ValueError: naming the binding, if the task does not exist or a number is
      invalid.

  Example:
    >>> data = Synthetic('recall', batch_size=2, length=20)
    >>> batch = data.train_batch(step=0)
    >>> data.vocab.decode(batch['inputs'][0])
    'g4k6r7c7HXXWr7k6g4c7'
    >>> print(batch['weights'][0].astype(int))
    [0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 1 0 1 0 1]
  """
  checks.check_choice('Synthetic.task', task, tuple(_TASKS))
  checks.check_positive('Synthetic.length', length)
  checks.check_seed('Synthetic.seed', seed)
  checks.check_positive('Synthetic.n_eval_rows', n_eval_rows)
  if task == 'copy' and (length < 4 or length % 2):
    raise ValueError(
      f"Synthetic.length = {length}: task 'copy' needs an even length of 4 "
      'or more'
    )
  if task == 'recall' and length < 4 * _N_PAIRS:
    raise ValueError(
      f"Synthetic.length = {length}: task 'recall' needs {4 * _N_PAIRS} or more"
    )

  def train_rows(index):
    return _TASKS[task](hash64(seed, SPLIT_TAGS['train'], index), length)

  def eval_rows(split, _):
    def rows(index):
      arrays = _TASKS[task](hash64(0, SPLIT_TAGS[split], index), length)
      inside = (index < n_eval_rows)[:, None]
      return tuple(None if x is None else x * inside for x in arrays)

    return rows, n_eval_rows

  return DataSet(
    'Synthetic',
    f'{task}, generated: valid {n_eval_rows}, test {n_eval_rows} rows of '
    f'{length} tokens',
    train_rows,
    eval_rows,
    ByteVocab(),
    'token',
    batch_size,
  )


def _sample(keys, n, choices):
  """Samples (b, n) int32 uniformly from range(choices), with keys (b,)."""
  samples = hash64(keys[:, None], np.arange(n)) % np.uint64(choices)
  return samples.astype(np.int32)


def _shuffle(keys, n):
  """Shuffles range(n) for each of (b,) keys, (b, n) int32."""
  # Stable, so that ties have the same order on every machine.
  order = np.argsort(hash64(keys[:, None], np.arange(n)), axis=1, kind='stable')
  return order.astype(np.int32)


def _copy_rows(keys, length):
  """Returns 'copy' tokens, (b, l) int32, and weights, (b, l) float32."""
  half = length // 2
  tokens = np.full((len(keys), length), _NEWLINE, np.int32)
  tokens[:, 1:half] = _LOWER + _sample(keys, half - 1, _LETTERS)
  tokens[:, half + 1 :] = tokens[:, 1:half]
  weights = np.zeros(tokens.shape, np.float32)
  weights[:, half + 1 :] = 1
  return tokens, weights


def _copy_source_rows(keys, length):
  """Returns tokens, (b, l) int32, weights, None, and the tokens as sources."""
  tokens = _LOWER + _sample(keys, length, _LETTERS)
  return tokens, np.ones(tokens.shape, np.float32), None, tokens


def _recall_rows(keys, length):
  """Returns 'recall' tokens, (b, l) int32, and weights, (b, l) float32."""
  noise, letters, digits, order = (hash64(keys, use) for use in range(4))
  pairs = np.stack(
    (
      _LOWER + _shuffle(letters, _LETTERS)[:, :_N_PAIRS],
      _ZERO + _sample(digits, _N_PAIRS, _DIGITS),
    ),
    axis=-1,
  )  # (b, pairs, 2)
  reordered = np.take_along_axis(
    pairs, _shuffle(order, _N_PAIRS)[:, :, None], axis=1
  )
  tokens = _UPPER + _sample(noise, length, _LETTERS)
  tokens[:, : 2 * _N_PAIRS] = pairs.reshape(len(keys), -1)
  tokens[:, -2 * _N_PAIRS :] = reordered.reshape(len(keys), -1)
  weights = np.zeros(tokens.shape, np.float32)
  weights[:, 1 - 2 * _N_PAIRS :: 2] = 1
  return tokens, weights


_TASKS = {
  'copy': _copy_rows,
  'copy_source': _copy_source_rows,
  'recall': _recall_rows,
}
