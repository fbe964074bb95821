"""OwnData: the rows of a subclass, and what is wrong with them."""

import numpy as np
import pytest

from trax_hier.data import OwnData


class Rows(OwnData):
  """Rows from a function."""

  def __init__(self, make, **arguments):
    self.make = make
    arguments = {'batch_size': 2, 'length': 6, 'vocab_size': 9} | arguments
    super().__init__(**arguments)

  def n_rows(self, split):
    return {'train': 5, 'valid': 3, 'test': 0}[split]

  def row(self, split, i):
    return self.make(split, i)


def test_rows_are_padded_and_shuffled():
  data = Rows(lambda split, i: [i + 1] * (i + 1))
  batches = [data.train_batch(step)['inputs'] for step in range(5)]
  rows = np.concatenate(batches)
  first, second = rows[:5], rows[5:]
  for epoch in (first, second):
    assert sorted(epoch.sum(axis=1)) == [1, 4, 9, 16, 25]
  assert (first != second).any()
  shards = [data.train_batch(1, i, 2)['inputs'] for i in range(2)]
  np.testing.assert_array_equal(np.concatenate(shards), batches[1])
  found = data.eval_batches('valid')
  assert len(found) == 2
  np.testing.assert_array_equal(found[1]['inputs'][0], [3, 3, 3, 0, 0, 0])
  np.testing.assert_array_equal(found[1]['weights'][0], [1, 1, 1, 0, 0, 0])
  assert not found[1]['weights'][1].any()
  assert data.describe() == (
    'Rows: train 5, valid 3, test 0 rows of 6; batches of 2 rows'
  )
  with pytest.raises(ValueError, match='Rows: the test split is empty'):
    data.eval_batches('test')


def test_texts_weights_and_sources():
  data = Rows(
    lambda split, i: {'sources': 'abc', 'targets': 'de', 'weights': [0, 1]},
    vocab_size=None,
    source_length=4,
  )
  batch = data.train_batch(0)
  assert data.unit == 'byte'
  assert batch['sources'].tolist() == [[97, 98, 99, 0]] * 2
  assert batch['targets'].tolist() == [[100, 101, 0, 0, 0, 0]] * 2
  assert batch['weights'].tolist() == [[0, 1, 0, 0, 0, 0]] * 2


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    (
      [1.5],
      r"Rows\.row\('train', 0\): 'targets' must be .* got float64 \(1,\)",
    ),
    (
      [[1]],
      r"'targets' must be a text or integer ids \(m,\), got int64 \(1, 1",
    ),
    ([1] * 7, "'targets' has 7 tokens, more than the 6 of a row"),
    ([9], r'has an id out of range: ids must be in \[0, 9\)'),
    ([-1], r'has an id out of range: ids must be in \[0, 9\)'),
    (
      {'inputs': [1]},
      r"row\('train', 0\) has 'inputs': a row may have 'targets', 'weights', "
      "'sources'",
    ),
    ({'weights': [1]}, r"row\('train', 0\) has no 'targets', only weights"),
    (
      {'targets': [1], 'sources': [1]},
      r"has 'sources': set Rows\.source_length",
    ),
    (
      {'targets': [1], 'weights': [float('nan')]},
      "'weights' must be 0 or more, got nan",
    ),
    ({'targets': [1], 'weights': [-1]}, "'weights' must be 0 or more, got -1"),
    ([[1], [1, 2]], r"'targets' must be .* got object \(2,\)"),
    (
      {'targets': [1], 'weights': [[1], [1, 2]]},
      r"'weights' must be numbers \(1,\)",
    ),
    ({'targets': [1], 'weights': [1, 1]}, r"'weights' must be numbers \(1,\)"),
    ('text', "'text' is not a token id"),
    (None, "'targets' must be a text or integer ids"),
  ],
)
def test_rows_that_do_not_fit_are_named(row, message):
  with pytest.raises(ValueError, match=message):
    Rows(lambda split, i: row)


def test_a_failure_of_the_user_s_code_names_its_line():
  line = r'\(line \d+ of .*test_own_data\.py\)'
  with pytest.raises(
    ValueError, match=rf"Rows\.row\('train', 0\) failed: KeyError: 'x' {line}"
  ):
    Rows(lambda split, i: {}['x'])
  rows = type('Lacks', (Rows,), {'n_rows': lambda self, split: {}[split]})
  with pytest.raises(
    ValueError, match=r"Lacks\.n_rows\('train'\) failed: KeyError"
  ):
    rows(lambda split, i: [1])


def test_numbers_of_rows_may_be_of_numpy():
  rows = type('Few', (Rows,), {'n_rows': lambda self, split: np.int64(3)})
  assert rows(lambda split, i: [1]).rows_per_epoch == 3
  rows = type('Bad', (Rows,), {'n_rows': lambda self, split: True})
  with pytest.raises(ValueError, match='True: must be an integer'):
    rows(lambda split, i: [1])


def test_sources_that_are_missing_are_named():
  with pytest.raises(ValueError, match="has no 'sources', only targets"):
    Rows(lambda split, i: [1], source_length=3)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'length': 0}, r'Rows\.length = 0'),
    ({'batch_size': -1}, r'Rows\.batch_size = -1'),
    ({'seed': -1}, r'Rows\.seed = -1'),
    ({'source_length': 0}, r'Rows\.source_length = 0'),
    ({'vocab': 'none.json'}, 'give vocab or vocab_size, not both'),
    ({'vocab': 'none.json', 'vocab_size': None}, r'Rows\.vocab = .*no such'),
  ],
)
def test_numbers_are_checked(arguments, message):
  with pytest.raises(ValueError, match=message):
    Rows(lambda split, i: [1], **arguments)
