"""Mixtures: shares, order, sources of every kind, evaluation and errors."""

import json

import numpy as np
import pytest

from trax_hier.data import (
  DocumentLanes,
  Mixture,
  SpanCorruption,
  Synthetic,
  TextFiles,
  TextPairs,
)
from trax_hier.data.batching.shares import (
  block_shares,
  locate_rows,
  split_rows,
)


@pytest.mark.parametrize(
  ('weights', 'rows'),
  [
    ((1,), [1]),
    ((3, 1), [3, 1]),
    ((6, 2), [3, 1]),
    ((0.75, 0.25), [3, 1]),
    ((0.1, 0.2, 0.7), [1, 2, 7]),
    ((2 / 3, 1 / 3), [2, 1]),
    ((10_000, 1), [999, 1]),
    ((2**0.5, 1), [586, 414]),
    ((1e308, 1e308), [1, 1]),
    ((1e308, 2**0.5), [999, 1]),
  ],
)
def test_blocks_have_the_ratio_of_the_weights(weights, rows):
  assert block_shares(weights).tolist() == rows


@pytest.mark.parametrize('n', [3, 4, 7, 64])
def test_rows_are_split_by_weight(n):
  rows = split_rows(n, (5, 2, 0.01))
  assert rows.sum() == n
  assert rows.min() >= 1
  assert (np.abs(rows - np.array([5, 2, 0.01]) / 7.01 * n) < 1.5).all()


@pytest.mark.parametrize('shares', [[1], [3, 1], [1, 1, 1], [2, 7, 91]])
def test_each_source_is_read_in_order_without_gaps(shares):
  shares = np.array(shares)
  n = 5 * int(shares.sum())
  source, row = locate_rows(np.arange(n), shares, seed=3)
  for i, share in enumerate(shares):
    np.testing.assert_array_equal(row[source == i], np.arange(5 * share))
  # Any part of the rows is the same, in any order.
  index = np.array([n - 1, 3, 0, n // 2, 3])
  for part, whole in zip(
    locate_rows(index, shares, 3), (source, row), strict=True
  ):
    np.testing.assert_array_equal(part, whole[index])
  if len(shares) > 1:
    other, _ = locate_rows(np.arange(n), shares, seed=4)
    assert (other != source).any()


def _texts(tmp_path, **arguments):
  """Returns data sets of the letters a, b, …; and functions that make them."""
  sources = []
  for letter, n in zip('abc', (4000, 6000, 3000), strict=True):
    path = tmp_path / f'{letter}.txt'
    path.write_text(''.join(f'{letter}{i % 10}' for i in range(n // 2)))
    sources.append(TextFiles(str(path), 8, 16, **arguments))
  return sources


def _letters(batch):
  return [
    next((chr(x) for x in row if chr(x).isalpha()), '')
    for row in batch['inputs'].tolist()
  ]


def test_rows_have_the_ratio_of_the_weights(tmp_path):
  data = Mixture(_texts(tmp_path), weights=(2, 5, 1))
  for step in range(20):
    letters = _letters(data.train_batch(step))
    assert [letters.count(x) for x in 'abc'] == [2, 5, 1]
  orders = {tuple(_letters(data.train_batch(step))) for step in range(20)}
  assert len(orders) > 10


class _Plain:
  """A data set with what the protocol `TrainData` asks for alone."""

  def __init__(self, data):
    self._data = data
    self.vocab, self.unit, self.describe = data.vocab, data.unit, data.describe

  def train_batch(self, step):
    return _bare(self._data.train_batch(step))

  def eval_batches(self, split):
    return [_bare(batch) for batch in self._data.eval_batches(split)]


def _bare(batch):
  return {name: batch[name] for name in ('inputs', 'targets', 'weights')}


@pytest.mark.parametrize('is_plain', [False, True])
def test_sources_are_read_in_their_own_order(tmp_path, is_plain):
  a, b, _ = _texts(tmp_path)
  own = _Plain(b) if is_plain else b
  data = Mixture((a, own), weights=(1, 3))
  rows = {'a': [], 'b': []}
  for step in range(12):
    batch = data.train_batch(step)
    for letter, row in zip(_letters(batch), batch['inputs'], strict=True):
      rows[letter].append(row)
  for letter, source in (('a', a), ('b', b)):
    whole = [source.train_batch(i)['inputs'] for i in range(9)]
    whole = np.concatenate(whole)[: len(rows[letter])]
    np.testing.assert_array_equal(rows[letter], whole)


def test_data_sets_with_the_least_that_training_needs(tmp_path):
  sources = _texts(tmp_path)
  plain = Mixture([_Plain(source) for source in sources], weights=(1, 2, 3))
  mixed = Mixture([*sources[:2], _Plain(sources[2])], weights=(1, 2, 3))
  for step in (0, 3):
    for name, array in mixed.train_batch(step).items():
      np.testing.assert_array_equal(array, plain.train_batch(step)[name])
  a, b = (data.eval_batches('valid') for data in (plain, mixed))
  assert (len(a), a.batch_size, a.sources) == (len(b), b.batch_size, b.sources)
  for name, array in a[-1].items():
    np.testing.assert_array_equal(array, b[-1][name])
  assert plain.count_bytes('valid') is None
  assert plain.rows_per_epoch is None


def test_a_change_of_any_source_changes_the_fingerprint(tmp_path):
  a, b, c = _texts(tmp_path)
  found = Mixture([a, _Plain(b)]).fingerprint()
  assert found['1 train'] == a.fingerprint()['train']
  assert Mixture([a, _Plain(b)]).fingerprint() == found
  changed = Mixture([a, _Plain(c)]).fingerprint()
  differ = {name for name in found if found[name] != changed[name]}
  assert differ == {'2 train', '2 valid'}


def test_batches_are_a_pure_function_of_seed_step_and_shard(tmp_path):
  sources = _texts(tmp_path)
  data, again = (Mixture(sources, (1, 2, 3), seed=5) for _ in range(2))
  for step in (7, 0, 30, 7):
    whole = data.train_batch(step)
    for name, array in again.train_batch(step).items():
      np.testing.assert_array_equal(array, whole[name])
      shards = [data.train_batch(step, i, 4)[name] for i in range(4)]
      np.testing.assert_array_equal(np.concatenate(shards), array)
  with pytest.raises(ValueError, match='must be divisible by the 3 shards'):
    data.train_batch(0, 0, 3)


def _pairs(tmp_path):
  sources = []
  for letter in 'ab':
    rows = [{'document': f'{letter} {i}', 'summary': letter} for i in range(60)]
    path = tmp_path / f'{letter}.jsonl'
    path.write_text('\n'.join(map(json.dumps, rows)))
    sources.append(TextPairs(str(path), 4, 8, 4))
  return sources


_KINDS = {
  'pairs': _pairs,
  'spans': lambda tmp_path: [
    SpanCorruption(data, 16, 8, vocab_size=300) for data in _texts(tmp_path)
  ],
  'generated': lambda _: [Synthetic(x, 4, 16) for x in ('copy', 'recall')],
}


@pytest.mark.parametrize('kind', _KINDS)
def test_every_kind_of_data_set(tmp_path, kind):
  sources = _KINDS[kind](tmp_path)
  data = Mixture(sources)
  first = sources[0].train_batch(0)
  for step in (0, 5):
    batch = data.train_batch(step)
    assert {n: (x.shape, x.dtype) for n, x in batch.items()} == {
      n: (x.shape, x.dtype) for n, x in first.items()
    }
  batches = data.eval_batches('valid')
  assert len(batches) == sum(len(s.eval_batches('valid')) for s in sources)
  assert data.describe().count('; ') >= len(sources)


def _lanes(tmp_path):
  sources = []
  for letter in 'ab':
    (tmp_path / letter).mkdir()
    for i in range(30):
      text = letter * (20 + 7 * i % 50)
      (tmp_path / letter / f'{i}.txt').write_text(text)
    sources.append(
      DocumentLanes(
        str(tmp_path / letter),
        8,
        16,
        valid_fraction=0.1,
        test_fraction=0.1,
      )
    )
  return sources


def test_rows_that_continue_stay_with_their_source(tmp_path):
  sources = _lanes(tmp_path)
  data = Mixture(sources, weights=(3, 1))
  alone = [
    DocumentLanes(
      str(tmp_path / 'ab'[i]), n, 16, valid_fraction=0.1, test_fraction=0.1
    )
    for i, n in enumerate((6, 2))
  ]
  for step in (0, 1, 2, 9):
    batch = data.train_batch(step)
    for name, array in batch.items():
      parts = [source.train_batch(step)[name] for source in alone]
      np.testing.assert_array_equal(array, np.concatenate(parts))
      shards = [data.train_batch(step, i, 2)[name] for i in range(2)]
      np.testing.assert_array_equal(array, np.concatenate(shards))
  batches = data.eval_batches('test')
  # State flows from batch to batch, so sources follow each other.
  assert batches.sources == sorted(batches.sources)
  assert 'by fixed rows: (1) 75.0% DocumentLanes' in data.describe()


def test_evaluation_scores_each_token_of_each_source(tmp_path):
  sources = _texts(tmp_path)
  data = Mixture(sources)
  batches = data.eval_batches('valid')
  scored = {'a': 0, 'b': 0, 'c': 0}
  for i, batch in enumerate(batches):
    letter = _letters(batch)[0]
    assert batches.sources[i] == 'abc'.index(letter) + 1
    scored[letter] += batch['weights'].sum()
  assert scored == {'a': 200, 'b': 300, 'c': 150}
  # The first batches are of all sources.
  assert set(batches.sources[:3]) == {1, 2, 3}
  assert batches.counts(None) == [2, 3, 2]
  np.testing.assert_array_equal(
    batches.rows(1, 2, 5)['inputs'], batches[1]['inputs'][2:5]
  )
  np.testing.assert_array_equal(batches[-1]['inputs'], batches[6]['inputs'])
  assert data.eval_batches('valid', 8, 4).context == (8, 4)
  assert data.count_bytes('valid') is None
  assert 'valid scores 2 + 3 + 2 batches' in data.describe()


def test_epochs_fingerprint_and_vocabulary(tmp_path):
  sources = _texts(tmp_path)
  data = Mixture(sources, weights=(1, 1, 2))
  rows = [source.rows_per_epoch for source in sources]
  assert data.rows_per_epoch == 4 * max(rows[0], rows[1], -(-rows[2] // 2))
  found = data.fingerprint()
  assert found['2 train'] == sources[1].fingerprint()['train']
  assert len(found) == 9
  assert (data.vocab, data.unit, data.batch_size) == (
    sources[0].vocab,
    'byte',
    8,
  )
  generated = [Synthetic('copy', 4, 16)] * 2
  assert Mixture(generated).rows_per_epoch is None


_A, _B = (
  lambda **k: Synthetic('copy', **(dict(batch_size=4, length=16) | k))
  for _ in range(2)
)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (dict(sources=()), 'Mixture.sources must be data sets, such as'),
    (dict(sources=_A()), 'Mixture.sources must be data sets, such as'),
    (dict(sources=(_A(), Synthetic)), 'with parentheses'),
    (dict(weights=(1,)), r'Mixture.weights = \(1,\): must be 2 numbers'),
    (dict(weights=2), 'Mixture.weights = 2: must be 2 numbers'),
    (dict(weights=(1, 0)), 'numbers above 0, not 0'),
    (dict(weights=(1, 'x')), "numbers above 0, not 'x'"),
    (dict(weights=(1, float('inf'))), 'numbers above 0, not inf'),
    (dict(seed=-1), 'Mixture.seed = -1'),
    (
      dict(sources=(_A(), _B(length=32))),
      r'their batches must be equal, but source 1 has .*inputs 4x16.* and '
      'source 2 .*inputs 4x32',
    ),
    (
      dict(sources=(_A(), _B(batch_size=2))),
      'source 1 has .*inputs 4x16.* and source 2 .*inputs 2x16',
    ),
  ],
)
def test_errors_name_the_binding(arguments, message):
  with pytest.raises(ValueError, match=message):
    Mixture(**(dict(sources=(_A(), _B())) | arguments))


def test_vocabularies_must_agree(tmp_path):
  a, b, _ = _texts(tmp_path)
  b.vocab = type('Vocab', (), dict(size=300, key='tokenizer 77'))()
  with pytest.raises(
    ValueError,
    match=r'their vocabularies must be equal, but source 1 has 256 ids of .*, '
    'and source 2 300 ids of tokenizer 77',
  ):
    Mixture((a, b))


def test_too_few_rows_for_sources_that_continue(tmp_path):
  _lanes(tmp_path)
  few = [DocumentLanes(str(tmp_path / 'a'), 1, 16)] * 2
  with pytest.raises(ValueError, match='need a batch_size of at least 2, not'):
    Mixture(few)
