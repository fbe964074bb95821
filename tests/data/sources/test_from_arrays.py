"""FromArrays: streams, rows and documents of the user's own token ids."""

import numpy as np
import pytest
import tiny_vocabularies

from trax_hier import config
from trax_hier.data import ByteVocab, FromArrays

IDS = np.random.default_rng(0).integers(0, 50, 400)


def scored(data, split):
  batches = data.eval_batches(split)
  return np.concatenate([b['targets'][b['weights'] > 0] for b in batches])


@pytest.mark.parametrize('dtype', ['<u2', '>u2', '<i4', '<i8', 'u1'])
def test_a_stream(tmp_path, monkeypatch, dtype):
  monkeypatch.chdir(tmp_path)
  ids = IDS.astype(dtype)
  np.save('x.npy', ids)
  ids.tofile('x.bin')
  given = [ids, ids.tolist(), 'x.npy']
  found = [FromArrays(x, 2, 8) for x in given]
  found.append(FromArrays('x.bin', 2, 8, dtype=dtype))
  for data in found:
    assert 'train 360, valid 20, test 20 tokens in windows of 8' in (
      data.describe()
    )
    assert data.vocab.size == 50 and data.unit == 'token'
    assert data.count_bytes('valid') is None
    np.testing.assert_array_equal(scored(data, 'test'), IDS[-20:])
    batch = data.train_batch(3)
    np.testing.assert_array_equal(
      batch['inputs'], found[0].train_batch(3)['inputs']
    )
    assert batch['inputs'].dtype == np.int32
    shards = [data.train_batch(3, i, 2)['inputs'] for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(shards), batch['inputs'])
    assert set(data.fingerprint()) == {'train', 'valid', 'test'}


def test_rows_stay_whole():
  rows = IDS.reshape(40, 10)
  data = FromArrays(rows, 4, valid=rows[:3], vocab_size=60)
  assert data.vocab.size == 60 and data.rows_per_epoch == 40
  epoch = np.concatenate([data.train_batch(i)['inputs'] for i in range(10)])
  assert {*map(tuple, epoch)} == {*map(tuple, rows)}
  np.testing.assert_array_equal(scored(data, 'valid'), rows[:3].reshape(-1))
  with pytest.raises(ValueError, match=r'test split is empty$'):
    data.eval_batches('test')
  held_out = FromArrays(rows, 4, valid_fraction=0.1, test_fraction=0.2)
  np.testing.assert_array_equal(scored(held_out, 'valid'), IDS[280:320])
  np.testing.assert_array_equal(scored(held_out, 'test'), IDS[320:])


def test_documents_are_padded():
  documents = [[1, 2, 3, 4, 5], np.array([6], np.uint8), [], [7, 8]]
  data = FromArrays(documents, 1, 3, valid=[[9, 9, 9, 9]])
  found = sorted(tuple(data.train_batch(i)['inputs'][0]) for i in range(4))
  assert found == [(1, 2, 3), (4, 5, 0), (6, 0, 0), (7, 8, 0)]
  np.testing.assert_array_equal(scored(data, 'valid'), [9] * 4)
  cut = FromArrays(documents * 5, 1, 3, valid_fraction=0.2, test_fraction=0.2)
  np.testing.assert_array_equal(scored(cut, 'test'), [1, 2, 3, 4, 5, 6, 7, 8])


@pytest.mark.parametrize('kind', ['tiktoken', 'byte_level', 'sentencepiece'])
def test_ids_of_a_file_show_its_text(tmp_path, kind):
  """As other programs write them: without our shift, in raw files."""
  vocab = tiny_vocabularies.make(kind, tmp_path)
  text = 'the naïve 世界 ' * 30
  ids = vocab.encode(text) - getattr(vocab, 'shift', 0)
  ids.astype('<u2').tofile(tmp_path / 'train.bin')
  data = FromArrays(
    str(tmp_path / 'train.bin'), 2, 8, vocab=vocab, dtype='uint16'
  )
  assert data.vocab is vocab
  found = [data.train_batch(i)['inputs'] for i in range(3)]
  assert all(x.min() >= 1 for x in found)
  assert all(vocab.decode(row).strip('\ufffd') in text for row in found[0])
  ids = scored(data, 'test')
  assert vocab.decode(ids).lstrip('\ufffd') in text
  assert data.count_bytes('test') == vocab.byte_lengths[ids].sum()


def test_bytes():
  data = FromArrays(np.arange(256).repeat(2), 2, 8, vocab=ByteVocab())
  assert data.unit == 'byte' and data.count_bytes('test') is None


def test_from_gin(tmp_path, monkeypatch):
  import trax_hier.storage.configurables  # noqa: F401

  monkeypatch.chdir(tmp_path)
  np.save('train.npy', IDS)
  config.clear()
  bindings = [
    'train.data = @FromArrays()',
    "FromArrays.train = 'train.npy'",
    'FromArrays.batch_size = 2',
    'FromArrays.length = 8',
  ]
  config.parse([], bindings)
  assert config.value('train.data').vocab.size == 50
  config.clear()
  with pytest.raises(config.ConfigError, match=r'FromArrays\.train'):
    config.parse([], [*bindings, 'FromArrays.train = 3'])
  config.clear()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'train': 'none.npy'}, r"FromArrays\.train = 'none\.npy': no such file"),
    ({'train': 'x.bin'}, r"train = 'x\.bin': .*FromArrays\.dtype = 'uint16'"),
    ({'train': 'x.bin', 'dtype': 'uint32'}, '7 bytes are not a whole number'),
    ({'train': 'x.bin', 'dtype': 'words'}, r"dtype = 'words': must be a type"),
    ({'train': 'x.bin', 'dtype': 'float8'}, r"dtype = 'float8': must be"),
    ({'train': 'bad.npy'}, r"train = 'bad\.npy': bad\.npy: not a \.npy file"),
    (
      {'train': 'float.npy'},
      r"'float\.npy' must be integer ids .*float64 \(3,",
    ),
    ({'train': np.ones((2, 2, 2), int)}, r'train must be .* int64 \(2, 2, 2\)'),
    ({'train': np.zeros(0, int)}, r'train must be integer ids'),
    ({'train': None, 'valid': IDS}, 'FromArrays.train must be .* got None'),
    ({'train': [[1], [[2]]]}, r'train\[1\] must be integer ids \(n,\), got'),
    ({'train': [[1], [0.5]]}, r'train\[1\] must be .* got float64 \(1,\)'),
    ({'train': [[], []]}, r'FromArrays\.train: has no token'),
    ({'train': IDS - 1}, r'FromArrays\.train: token \d+ is -1: ids must be 0'),
    (
      {'vocab_size': 49},
      r'token \d+ is 49: .* below 49, FromArrays\.vocab_size',
    ),
    ({'valid': IDS + 9, 'vocab_size': 50}, r'FromArrays\.valid: token \d+ is'),
    ({'vocab_size': 0}, r'FromArrays\.vocab_size = 0: must be'),
    ({'vocab': 'x', 'vocab_size': 9}, r"FromArrays\.vocab = 'x': no such file"),
    ({'length': None}, r'FromArrays\.length must be given'),
    ({'length': 0}, r'FromArrays\.length = 0'),
    (
      {'length': 999},
      r'FromArrays\.length = 999: the training split of arrays',
    ),
    ({'train': IDS.reshape(-1, 4)}, r'length = 8: must be the length of the r'),
    ({'valid': [[1]]}, r'one form, got train: a stream \(n,\), valid: docum'),
    ({'seed': -1}, r'FromArrays\.seed = -1'),
    ({'batch_size': 0}, r'FromArrays\.batch_size = 0'),
    ({'packed': True}, r'FromArrays\.packed = True: .* is a stream'),
    ({'multiple_of': 2}, r'FromArrays\.multiple_of = 2: .* is a stream'),
    ({'valid_fraction': 1.0}, r'FromArrays\.valid_fraction = 1\.0'),
  ],
)
def test_errors_name_the_binding(tmp_path, monkeypatch, arguments, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'x.bin').write_bytes(bytes(7))
  (tmp_path / 'bad.npy').write_bytes(b'text')
  np.save('float.npy', np.ones(3))
  with pytest.raises(ValueError, match=message):
    FromArrays(**{'train': IDS, 'batch_size': 2, 'length': 8} | arguments)
