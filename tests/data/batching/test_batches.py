"""Batches: shards of a step, and the batches of a split."""

import numpy as np
import pytest

from trax_hier.data.batching.batches import EvalBatches, example_indices
from trax_hier.data.batching.windows import EvalWindows


def test_shards_join_to_the_global_batch():
  whole = example_indices('T', 5, 12, 0, 1)
  for n in (1, 2, 3, 4, 6, 12):
    parts = [example_indices('T', 5, 12, shard, n) for shard in range(n)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
  assert whole.tolist() == list(range(60, 72))


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((0, 8, 0, 3), r'T\.batch_size = 8: must be divisible by the 3 shards'),
    ((0, 8, 2, 2), r'shard = 2 of n_shards = 2'),
    ((0, 8, -1, 2), r'shard = -1'),
    ((0, 8, 0, 0), r'n_shards = 0'),
    ((-1, 8, 0, 1), r'step = -1'),
  ],
)
def test_bad_shards_and_steps(arguments, message):
  with pytest.raises(ValueError, match=message):
    example_indices('T', *arguments)


def _scored(tokens, length, stride, batch_size):
  """All scored tokens, in order, and the number of batches."""
  windows = EvalWindows(tokens, length, stride)
  batches = EvalBatches(windows.rows, windows.n_windows, batch_size)
  scored = []
  for batch in batches:
    assert batch['inputs'].shape == (batch_size, length)
    assert batch['inputs'].dtype == np.int32
    assert batch['weights'].dtype == np.float32
    scored.append(batch['targets'][batch['weights'] == 1])
  return np.concatenate(scored), len(batches)


@pytest.mark.parametrize('n', [1, 7, 8, 9, 16, 24, 25, 63, 64, 65])
@pytest.mark.parametrize('stride', [1, 3, 8])
@pytest.mark.parametrize('batch_size', [1, 3])
def test_evaluation_scores_each_token_once(n, stride, batch_size):
  tokens = np.arange(1, n + 1)
  scored, _ = _scored(tokens, 8, stride, batch_size)
  np.testing.assert_array_equal(scored, tokens)


def test_evaluation_batches_are_a_sequence():
  windows = EvalWindows(np.arange(64), 8, 8)
  batches = EvalBatches(windows.rows, windows.n_windows, 3)
  assert len(batches) == 3
  np.testing.assert_array_equal(batches[-1]['inputs'], batches[2]['inputs'])
  assert batches[2]['weights'][2].sum() == 0
  assert len(list(batches)) == 3
  for i in (3, -4):
    with pytest.raises(IndexError):
      batches[i]
