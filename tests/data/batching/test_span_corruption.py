"""SpanCorruption: windows are recoverable, and noise has its distribution."""

from math import comb

import gin
import numpy as np
import pytest

from trax_hier.data import (
  DataSet,
  SpanCorruption,
  Synthetic,
  TextFiles,
)
from trax_hier.data.batching.windowed import windowed

_SIZES = {'train': 3000, 'valid': 230, 'test': 101}
_TOP = 5999  # the first sentinel


class _Numbers:
  """A vocabulary of numbers, for texts of distinct tokens."""

  size = 5000

  def encode(self, text):
    return np.array([int(word) for word in text.split()], np.int32)

  def decode(self, ids):
    return ' '.join(map(str, ids))


def _splits():
  """Tokens 1, 2, 3, …, all distinct and none 0."""
  ends = np.cumsum(list(_SIZES.values()))
  return {
    split: np.arange(end - size, end) + 1
    for (split, size), end in zip(_SIZES.items(), ends, strict=True)
  }


def _windows(length=64, batch_size=8, **kwargs):
  return windowed(
    'Text', 'here', _splits(), _Numbers(), batch_size, length, 0, **kwargs
  )


def _padded(length, batch_size):
  """Rows of 0, 1, … length tokens, in training and in evaluation."""

  def rows(index):
    n = index[:, None] % (length + 1)
    tokens = np.arange(length) + 1 + length * n
    is_text = np.arange(length) < n
    return (tokens * is_text).astype(np.int32), is_text.astype(np.float32)

  def eval_rows(split, _):
    return rows, length + 1

  return DataSet('Padded', '', rows, eval_rows, _Numbers(), 'token', batch_size)


def _corrupted(data, source_length=700, target_length=700, **kwargs):
  return SpanCorruption(data, source_length, target_length, _TOP + 1, **kwargs)


def _unpad(row):
  """Removes the padding of a row, and checks that only its end is padded."""
  row = row.tolist()
  text = [i for i in row if i]
  assert row == text + [0] * (len(row) - len(text))
  return text


def _rows(batch):
  """Yields (window, spans) of each row, recovered from sources and targets.

  A window is a list of tokens, a span a range of positions in it. Checks the
  order of the sentinels, the padding and the weights.
  """
  np.testing.assert_array_equal(batch['inputs'], batch['targets'])
  np.testing.assert_array_equal(batch['weights'], batch['targets'] != 0)
  for source, target in zip(batch['sources'], batch['targets'], strict=True):
    source, target = _unpad(source), _unpad(target)
    fills, sentinel = [], _TOP
    for token in target:
      if token == sentinel:
        fills.append([])
        sentinel -= 1
      else:
        fills[-1].append(token)
    if fills:
      assert fills.pop() == []
    window, spans = [], []
    for token in source:
      if token == _TOP - len(spans):
        fill = fills[len(spans)]
        spans.append(range(len(window), len(window) + len(fill)))
        window += fill
      else:
        window.append(token)
    assert len(spans) == len(fills)
    assert all(i < _Numbers.size for i in window)
    yield window, spans


def _is_noise(batch, length):
  """Returns (b, length) bool."""
  out = np.zeros((len(batch['targets']), length), np.bool_)
  for row, (_, spans) in zip(out, _rows(batch), strict=True):
    for span in spans:
      row[span] = True
  return out


# length, density, mean_span; noise tokens and spans
_COUNTS = [
  (512, 0.15, 3.0, 77, 26),
  (568, 0.15, 3.0, 85, 28),
  (64, 0.15, 3.0, 10, 3),
  (64, 0.5, 3.0, 32, 11),
  (64, 0.5, 1.0, 32, 32),
  (64, 0.9, 1.0, 58, 6),  # 6 kept tokens allow 6 of 58 spans
  (64, 0.15, 64.0, 10, 1),
  (64, 0.99, 3.0, 63, 1),  # noise clipped to 63
  (10, 0.01, 3.0, 1, 1),
  (10, 0.25, 1.0, 2, 2),  # 2.5 is rounded to even
  (3, 0.5, 1.0, 2, 1),
  (2, 0.15, 3.0, 1, 1),
]
counts = pytest.mark.parametrize(
  ('length', 'density', 'mean_span', 'n_noise', 'n_spans'), _COUNTS
)


@counts
def test_windows_are_recovered(length, density, mean_span, n_noise, n_spans):
  data = _windows(length, batch_size=32)
  corrupted = _corrupted(data, density=density, mean_span=mean_span)
  for step in range(4):
    batch = corrupted.train_batch(step)
    windows, spans = zip(*_rows(batch), strict=True)
    np.testing.assert_array_equal(windows, data.train_batch(step)['inputs'])
    for row in spans:
      assert len(row) == n_spans
      assert sum(map(len, row)) == n_noise
      assert min(map(len, row)) > 0
      # A kept span precedes each noise span.
      ends = [0, *(span.stop for span in row)]
      assert all(span.start > end for span, end in zip(row, ends, strict=False))
      assert ends[-1] == length


@counts
def test_least_lengths_fit(length, density, mean_span, n_noise, n_spans):
  data = _windows(length)
  least = {
    'source_length': length - n_noise + n_spans,
    'target_length': n_noise + n_spans + 1,
    'vocab_size': 5000 + n_spans + 1,
  }
  kwargs = dict(density=density, mean_span=mean_span)
  batch = SpanCorruption(data, **least, **kwargs).train_batch(0)
  assert batch['sources'].all()
  assert batch['targets'].all()
  assert batch['weights'].all()
  assert batch['sources'].shape == (8, least['source_length'])
  assert batch['targets'].shape == (8, least['target_length'])
  assert batch['targets'][:, -1].tolist() == [5000] * 8
  for name, value in least.items():
    message = rf'SpanCorruption\.{name} = {value - 1}: must be at least {value}'
    with pytest.raises(ValueError, match=message):
      SpanCorruption(data, **least | {name: value - 1}, **kwargs)


def test_dtypes():
  batch = _corrupted(_windows()).train_batch(0)
  types = {key: value.dtype for key, value in batch.items()}
  assert types == {
    'sources': np.int32,
    'inputs': np.int32,
    'targets': np.int32,
    'weights': np.float32,
    'start_of_sequence': np.bool_,
  }
  assert batch['start_of_sequence'].tolist() == [True] * 8


def test_rows_are_pinned():
  corrupted = _corrupted(_windows(12, 2), 12, 8, density=0.4, seed=5)
  batch = corrupted.train_batch(3)
  assert batch['sources'].tolist() == [
    [494, 495, 496, 497, 498, 5999, 500, 501, 5998, 0, 0, 0],
    [2942, 5999, 2944, 2945, 2946, 2947, 2948, 2949, 5998, 0, 0, 0],
  ]
  assert batch['targets'].tolist() == [
    [5999, 499, 5998, 502, 503, 504, 505, 5997],
    [5999, 2943, 5998, 2950, 2951, 2952, 2953, 5997],
  ]


def test_batches_are_pure():
  corrupted = _corrupted(_windows())
  later = corrupted.train_batch(7)
  for step in (3, 0, 7):
    corrupted.train_batch(step)
  again = _corrupted(_windows()).train_batch(7)
  for key, value in later.items():
    np.testing.assert_array_equal(value, again[key])
    for n in (2, 4, 8):
      shards = [corrupted.train_batch(7, shard, n)[key] for shard in range(n)]
      np.testing.assert_array_equal(np.concatenate(shards), value)


def test_noise_does_not_depend_on_the_batch_size():
  small, large = (_corrupted(_windows(batch_size=n)) for n in (4, 16))
  batches = [small.train_batch(step)['sources'] for step in range(4, 8)]
  np.testing.assert_array_equal(
    np.concatenate(batches), large.train_batch(1)['sources']
  )


def test_noise_differs_by_row_and_seed():
  masks = set()
  for seed in range(3):
    corrupted = _corrupted(_windows(128), seed=seed)
    # More than one epoch of the 22 windows.
    for step in range(20):
      is_noise = _is_noise(corrupted.train_batch(step), 128)
      masks |= {bytes(row) for row in is_noise}
  assert len(masks) == 3 * 20 * 8


def _probability(position, n_noise, n_kept, n_spans):
  """Returns the probability of noise at a position, by counting partitions."""
  ways = 0
  # Noise span j, after `kept` kept tokens and `noise` noise tokens.
  for j in range(1, n_spans + 1):
    for noise in range(min(n_noise, position)):
      kept = position - noise
      if j < n_spans and kept < n_kept:
        before = comb(kept - 1, j - 1)
        after = comb(n_kept - kept - 1, n_spans - j - 1)
      else:
        before = after = j == n_spans and kept == n_kept
        before *= comb(n_kept - 1, n_spans - 1)
      inside = comb(noise, j - 1) * comb(n_noise - 1 - noise, n_spans - j)
      ways += before * after * inside
  return ways / comb(n_kept - 1, n_spans - 1) / comb(n_noise - 1, n_spans - 1)


def test_noise_has_the_expected_probability_at_each_position():
  n_rows = 4096
  corrupted = _corrupted(_windows(64, batch_size=n_rows))
  share = _is_noise(corrupted.train_batch(0), 64).mean(axis=0)
  expected = np.array([_probability(i, 10, 54, 3) for i in range(64)])
  assert abs(expected.sum() - 10) < 1e-9
  assert (share[0], share[-1]) == (expected[0], expected[-1]) == (0, 1)
  deviation = np.sqrt(expected * (1 - expected) / n_rows)
  assert (abs(share - expected) <= 4 * deviation).all()


def test_noise_is_uniform_over_positions():
  """Except at the ends: a kept span is first, a noise span last."""
  corrupted = _corrupted(_windows(512, batch_size=1024))
  share = _is_noise(corrupted.train_batch(0), 512).mean(axis=0)
  eighths = share[32:-32].reshape(8, 56).mean(axis=1)
  assert abs(eighths - 0.15).max() < 0.01


def test_all_partitions_are_equally_probable():
  """4 of 9 tokens in 2 spans: 3 partitions of the noise, 4 of the rest."""
  data = _windows(9, batch_size=3000)
  corrupted = _corrupted(data, density=0.45, mean_span=2)
  batch = corrupted.train_batch(0)
  masks, n = np.unique(_is_noise(batch, 9), axis=0, return_counts=True)
  assert len(masks) == 12
  assert abs(n / 250 - 1).max() < 0.25


def _check_whole(batches, tokens):
  """Checks that the batches contain each token once."""
  rows = [window for batch in batches for window, _ in _rows(batch)]
  assert np.concatenate(rows).tolist() == tokens.tolist()


@pytest.mark.parametrize('window', [None, 17, 2])
@pytest.mark.parametrize('split', ['valid', 'test'])
def test_evaluation_has_each_token_once(split, window):
  batches = _corrupted(_windows()).eval_batches(split, window)
  assert batches.context is None
  n_rows = -(-_SIZES[split] // (window or 64))
  assert len(batches) == -(-n_rows // 8)
  _check_whole(batches, _splits()[split])
  assert batches[0]['weights'].any()


def test_padded_windows_are_corrupted_before_the_padding():
  batch = _corrupted(_windows()).eval_batches('test')[0]  # 101 = 64 + 37
  (full, some, *none) = _rows(batch)
  assert [len(full[0]), sum(map(len, full[1]))] == [64, 10]
  assert [len(some[0]), sum(map(len, some[1]))] == [37, 6]
  assert none == [([], [])] * 6
  assert batch['start_of_sequence'].shape == (8,)


def test_a_single_token_is_not_corrupted():
  batch = _corrupted(_windows()).eval_batches('test', 50)[0]  # 101 = 2*50 + 1
  assert _unpad(batch['sources'][2]) == [3331]
  assert not batch['targets'][2].any()
  assert not batch['weights'][2:].any()


@pytest.mark.parametrize(
  ('density', 'mean_span'), [(0.15, 3.0), (0.5, 1.0), (0.9, 1.0), (0.7, 1.5)]
)
def test_padded_rows_fit_if_full_ones_do(density, mean_span):
  length = 40
  data = _padded(length, batch_size=length + 1)
  kwargs = dict(density=density, mean_span=mean_span)
  full = _windows(length)
  least = {'source_length': 1, 'target_length': 1}
  for name in ('source_length', 'target_length'):
    with pytest.raises(ValueError, match=name) as error:
      _corrupted(full, **least, **kwargs)
    least[name] = int(str(error.value).split('at least ')[1].split()[0])
  corrupted = _corrupted(data, **least, **kwargs)
  for batch, whole in (
    (corrupted.train_batch(0), data.train_batch(0)),
    (corrupted.eval_batches('test')[0], data.eval_batches('test')[0]),
  ):
    for n, (window, spans) in enumerate(_rows(batch)):
      assert window == whole['inputs'][n, :n].tolist()
      n_noise = min(max(1, round(n * density)), n - 1) if n > 1 else 0
      assert sum(map(len, spans)) == n_noise
      assert bool(spans) == (n > 1)


def test_a_batch_of_padding():
  batch = _corrupted(_padded(4, 1), 4, 3).train_batch(0)
  assert not any(
    batch[key].any() for key in ('sources', 'targets', 'inputs', 'weights')
  )


def test_only_the_end_of_the_weights_counts():
  """The task scores the second half; corruption includes the first."""
  batch = _corrupted(Synthetic('copy', 64, 32)).train_batch(0)
  is_noise = _is_noise(batch, 32)
  assert is_noise.sum(axis=1).tolist() == [5] * 64
  assert is_noise[:, :16].any(axis=1).mean() > 0.5


def test_evaluation_noise_ignores_the_seed_and_differs_by_split():
  splits = _splits()
  # With the same text in all splits, only the noise can differ.
  same = dict.fromkeys(splits, splits['test'][:64])
  data = windowed('Text', 'here', same, _Numbers(), 1, 64, 0)
  a, b = (_corrupted(data, seed=seed) for seed in (0, 1))
  rows = [a.train_batch(0), b.train_batch(0)]
  for split in ('valid', 'test'):
    batch = a.eval_batches(split)[0]
    for key, value in batch.items():
      np.testing.assert_array_equal(value, b.eval_batches(split)[0][key])
      np.testing.assert_array_equal(value, a.eval_batches(split)[-1][key])
    rows.append(batch)
  assert len({bytes(row['sources']) for row in rows}) == 4


def test_evaluation_batches_by_number():
  batches = _corrupted(_windows(batch_size=2)).eval_batches('valid')
  assert len(batches) == 2
  for key, value in batches[-1].items():
    np.testing.assert_array_equal(value, batches[1][key])
  whole = _corrupted(_windows(batch_size=4)).eval_batches('valid')[0]
  both = [batch['sources'] for batch in batches]
  np.testing.assert_array_equal(np.concatenate(both), whole['sources'])
  for i in (2, -3):
    with pytest.raises(IndexError, match=f'batch {i} of 2'):
      batches[i]


@pytest.mark.parametrize('stride', [20, 11, 2])
def test_context_is_not_corrupted(stride):
  corrupted = _corrupted(_windows())
  text = _splits()['test']  # 101 tokens
  batches = corrupted.eval_batches('test', 31, stride)
  rows = [row for batch in batches for row in _rows(batch) if row[0]]
  own = list(rows[0][0])
  assert rows[0][1]
  for i, (window, spans) in enumerate(rows[1:], start=1):
    assert window == text[i * stride : i * stride + 31].tolist()
    new = window[31 - stride :]
    own += new
    assert bool(spans) == (len(new) > 1)
    assert all(span.start > 31 - stride for span in spans)
  assert own == text.tolist()


def test_least_lengths_fit_with_context():
  """The first window has the most noise, the others the longest sources."""
  data = _windows(8)
  least = {'source_length': 63, 'target_length': 14, 'vocab_size': 5004}
  batches = SpanCorruption(data, **least).eval_batches('valid', 64, 16)
  assert batches[0]['targets'][0].all()
  assert batches[0]['sources'][1].all()
  for name, value in least.items():
    corrupted = SpanCorruption(data, **least | {name: value - 1})
    message = (
      rf'SpanCorruption\.{name} = {value - 1}: must be at least {value} for '
      r'.*windows of 64 tokens, 16 apart'
    )
    with pytest.raises(ValueError, match=message):
      corrupted.eval_batches('valid', 64, 16)


def test_start_of_sequence_of_the_data_is_kept():
  def rows(index):
    tokens = np.ones((len(index), 8), np.int32)
    return tokens, tokens.astype(np.float32), index % 3 == 0

  data = DataSet(
    'Lanes', '', rows, lambda split, _: (rows, 4), _Numbers(), 'token', 4
  )
  corrupted = _corrupted(data)
  for batch in (corrupted.train_batch(0), corrupted.eval_batches('test')[0]):
    assert batch['start_of_sequence'].tolist() == [True, False, False, True]


def test_description():
  corrupted = _corrupted(_windows())
  assert corrupted.describe() == (
    'SpanCorruption: 10 of 64 tokens are noise, in 3 spans, of Text: here: '
    'train 3,000, valid 230, test 101 bytes in windows of 64; batches of 8 rows'
  )
  assert (corrupted.unit, corrupted.vocab.size) == ('token', _TOP + 1)
  assert corrupted.count_bytes('test') is None


def test_gin(tmp_path):
  (tmp_path / 'text').write_bytes(b'some text. ' * 100)
  gin.clear_config()
  gin.parse_config(f"""
    SpanCorruption.data = @TextFiles()
    SpanCorruption.source_length = 64
    SpanCorruption.target_length = 32
    SpanCorruption.vocab_size = 320
    TextFiles.path = '{tmp_path}/text'
    TextFiles.batch_size = 2
    TextFiles.length = 64
  """)
  try:
    batch = SpanCorruption().train_batch(0)
  finally:
    gin.clear_config()
  assert batch['sources'].shape == (2, 64)
  assert batch['targets'].shape == (2, 32)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (dict(data=TextFiles), r'data must be a data set such as @TextFiles\(\)'),
    (
      dict(data=SpanCorruption(_windows(), 57, 14, 5004)),
      r'data must be a data set without sources such as @TextFiles\(\), got '
      r'SpanCorruption: ',
    ),
    (dict(source_length=0), r'source_length = 0'),
    (dict(target_length=-1), r'target_length = -1'),
    (dict(vocab_size=0.5), r'vocab_size = 0\.5'),
    (dict(seed=-1), r'seed = -1'),
    (dict(density=0), r'density = 0: must be more than 0 and less than 1'),
    (dict(density=1.0), r'density = 1\.0: must be more than 0'),
    (dict(density=float('nan')), r'density = nan'),
    (dict(mean_span=0.5), r'mean_span = 0\.5: must be 1 or more'),
    (dict(mean_span=float('nan')), r'mean_span = nan'),
    (
      dict(source_length=56),
      r'source_length = 56: must be at least 57 for windows of 64 tokens\b',
    ),
    (
      dict(target_length=13),
      r'target_length = 13: must be at least 14 for windows of 64 tokens\b',
    ),
    (
      dict(vocab_size=5003),
      r'vocab_size = 5003: must be at least 5004 for the 5,000 ids of '
      r'SpanCorruption\.data and the 4 sentinels of windows of 64 tokens\b',
    ),
    (dict(data=_windows(1)), r'data: windows of 1 tokens: needs 2 or more'),
  ],
)
def test_bad_arguments_are_named(arguments, message):
  good = dict(
    data=_windows(), source_length=57, target_length=14, vocab_size=5004
  )
  SpanCorruption(**good)
  with pytest.raises(ValueError, match=rf'SpanCorruption\.{message}'):
    SpanCorruption(**good | arguments)


def test_bad_calls_are_named():
  corrupted = _corrupted(_windows(), 57, 14)
  with pytest.raises(ValueError, match=r'step = -1'):
    corrupted.train_batch(-1)
  with pytest.raises(ValueError, match=r'shard = 2 of n_shards = 2'):
    corrupted.train_batch(0, 2, 2)
  with pytest.raises(ValueError, match=r'Text\.batch_size = 8: .*3 shards'):
    corrupted.train_batch(0, 0, 3)
  with pytest.raises(ValueError, match=r"must be one of 'valid', 'test'"):
    corrupted.eval_batches('train')
  with pytest.raises(ValueError, match=r'of 40 tokens, 1 apart: needs 2'):
    corrupted.eval_batches('test', 40, 1)
  with pytest.raises(ValueError, match=r'target_length = 14.*least 26 for'):
    corrupted = _corrupted(_windows(eval_length=128), 700, 14)
    corrupted.eval_batches('test')
  with pytest.raises(ValueError, match=r'window and stride.*Synthetic'):
    corrupted = SpanCorruption(Synthetic('copy', 8, 32), 64, 64, 300)
    corrupted.eval_batches('test', window=16)
