"""Synthetic: tasks, weights, and reproducibility."""

import numpy as np
import pytest

from trax_hier.data import Synthetic


def _rows(data, n=4):
  return [data.vocab.decode(row) for row in data.train_batch(0)['inputs'][:n]]


def test_copy():
  data = Synthetic('copy', 4, 12)
  batch = data.train_batch(0)
  for row, weights in zip(_rows(data), batch['weights'], strict=True):
    assert row[:6] == row[6:]
    assert row[0] == '\n'
    assert row[1:6].isalpha()
    assert weights.tolist() == [0] * 7 + [1] * 5


def test_copy_source():
  data = Synthetic('copy_source', 4, 9)
  batch = data.train_batch(0)
  np.testing.assert_array_equal(batch['sources'], batch['inputs'])
  assert batch['weights'].all() and all(row.isalpha() for row in _rows(data))


@pytest.mark.parametrize('length', [16, 17, 64])
def test_recall(length):
  data = Synthetic('recall', 64, length)
  batch = data.train_batch(0)
  for row, weights in zip(_rows(data, 64), batch['weights'], strict=True):
    first, noise, last = row[:8], row[8:-8], row[-8:]
    assert {first[i : i + 2] for i in range(0, 8, 2)} == {
      last[i : i + 2] for i in range(0, 8, 2)
    }
    assert len(set(first[::2])) == 4
    assert first[::2].islower()
    assert first[1::2].isdigit()
    assert noise == '' or noise.isupper()
    assert np.flatnonzero(weights).tolist() == list(
      range(length - 7, length, 2)
    )


def test_rows_are_pinned():
  assert _rows(Synthetic('copy', 2, 12)) == ['\ngfkcd\ngfkcd', '\nvtzlw\nvtzlw']
  assert _rows(Synthetic('recall', 2, 20)) == [
    'g4k6r7c7HXXWr7k6g4c7',
    'o6p6u3y6VSBQu3y6o6p6',
  ]


def test_samples_are_uniform():
  batch = Synthetic('copy', 256, 512).train_batch(0)
  letters = batch['inputs'][:, 1:256].ravel()
  counts = np.bincount(letters - ord('a'), minlength=26)
  assert abs(counts / counts.mean() - 1).max() < 0.1


@pytest.mark.parametrize('task', ['copy', 'copy_source', 'recall'])
def test_shards_steps_and_seeds(task):
  data = Synthetic(task, 8, 32)
  whole = data.train_batch(5)
  for key, value in whole.items():
    shards = [data.train_batch(5, shard, 4)[key] for shard in range(4)]
    np.testing.assert_array_equal(np.concatenate(shards), value)
  assert whole['inputs'].dtype == np.int32
  assert whole['weights'].dtype == np.float32
  other = Synthetic(task, 8, 32, seed=1)
  assert (other.train_batch(5)['inputs'] != whole['inputs']).any()
  assert (data.train_batch(6)['inputs'] != whole['inputs']).any()


@pytest.mark.parametrize('task', ['copy', 'copy_source', 'recall'])
def test_evaluation_is_fixed_and_disjoint(task):
  a = Synthetic(task, 8, 64, seed=0, n_eval_rows=12)
  b = Synthetic(task, 8, 64, seed=1, n_eval_rows=12)
  rows = {'train': {bytes(row) for row in a.train_batch(0)['inputs']}}
  for split in ('valid', 'test'):
    batches = a.eval_batches(split)
    assert len(batches) == 2
    assert batches[1]['inputs'].shape == (8, 64)
    assert (batches[1]['inputs'][4:] == 0).all()
    assert (batches[1]['weights'][4:] == 0).all()
    for i in range(2):
      for key, value in batches[i].items():
        types = {'weights': np.float32, 'start_of_sequence': np.bool_}
        assert value.dtype == types.get(key, np.int32)
        np.testing.assert_array_equal(value, b.eval_batches(split)[i][key])
    rows[split] = {bytes(row) for batch in batches for row in batch['inputs']}
    rows[split].discard(bytes(np.zeros(64, np.int32)))
    assert len(rows[split]) == 12
  assert not rows['train'] & rows['valid']
  assert not rows['valid'] & rows['test']


def test_window_does_not_apply():
  with pytest.raises(ValueError, match=r'window and stride.*Synthetic'):
    Synthetic('copy', 8, 32).eval_batches('test', window=16)


def test_describe():
  assert Synthetic('copy', 8, 32).describe() == (
    'Synthetic: copy, generated: valid 256, test 256 rows of 32 tokens; '
    'batches of 8 rows'
  )


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('copi', 8, 32), r"Synthetic\.task = 'copi': must be one of 'copy'"),
    (('copy', 0, 32), r'Synthetic\.batch_size = 0'),
    (('copy', 8, 31), r"Synthetic\.length = 31: task 'copy' needs an even"),
    (('recall', 8, 15), r'Synthetic\.length = 15'),
    (('recall', 8, 16, -1), r'Synthetic\.seed = -1'),
    (('recall', 8, 16, 2**64), r'at least 0 and below 2 \*\* 64'),
    (('recall', 8, 16, 0, 0), r'Synthetic\.n_eval_rows = 0'),
  ],
)
def test_bad_arguments_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    Synthetic(*arguments)
