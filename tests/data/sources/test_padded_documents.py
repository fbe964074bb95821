"""PaddedDocuments, and the command that prepares tfds data sets."""

import sys
import types

import numpy as np
import pytest
import tiny_vocabularies

from trax_hier.data import ImageBytes, PaddedDocuments, prepare

_TEXTS = {
  'train': ['a long first article', 'short', '', 'exactly8', 'naïve'],
  'validation': ['valid text'],
  'test': ['one', 'the test text'],
}


class _Builder:
  """Stub of a tfds builder."""

  data_dir = '/data/toy'

  def __init__(self, feature, splits, prepared=True):
    self.name = 'toy'
    self._feature = feature
    self._splits = splits
    self._prepared = prepared
    self.info = types.SimpleNamespace(
      features={feature: None},
      splits={
        split: types.SimpleNamespace(num_examples=len(examples))
        for split, examples in splits.items()
      },
    )

  def is_prepared(self):
    return self._prepared

  def download_and_prepare(self):
    self._prepared = True

  def as_dataset(self, split, shuffle_files):
    assert self._prepared
    assert not shuffle_files
    return [{self._feature: example} for example in self._splits[split]]


@pytest.fixture
def tfds(monkeypatch):
  """Stubs tensorflow_datasets, whose builder is its attribute `toy`."""
  module = types.ModuleType('tensorflow_datasets')
  module.as_numpy = lambda data: data
  module.builder = lambda name, data_dir: module.toy
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', module)
  return module


def _encoded(splits):
  return {
    split: [text.encode() for text in texts] for split, texts in splits.items()
  }


def _rows(batches):
  for batch in batches:
    for tokens, weights in zip(batch['inputs'], batch['weights'], strict=True):
      yield bytes(tokens[weights == 1].tolist()).decode()
      assert (tokens[weights == 0] == 0).all()


def test_text_from_tfds(tmp_path, tfds, capsys):
  tfds.toy = _Builder('text', _encoded(_TEXTS))
  arguments = ['--name=toy', f'--output_dir={tmp_path / "out"}']
  assert prepare.main(arguments) == 0
  assert 'out' in capsys.readouterr().out

  data = PaddedDocuments(str(tmp_path / 'out'), 2, 8)
  assert data.unit == 'byte'
  assert list(_rows(data.eval_batches('valid'))) == ['valid te', 'xt']
  assert list(_rows(data.eval_batches('test'))) == [
    'one',
    'the test',
    ' text',
    '',
  ]
  epoch = list(_rows(data.train_batch(step) for step in range(3)))
  assert sorted(epoch) == sorted(
    ['a long f', 'irst art', 'icle', 'short', 'exactly8', 'naïve']
  )
  assert 'train 6, valid 2, test 3 rows of 8' in data.describe()


def test_images_from_tfds_without_a_test_split(tmp_path, tfds, capsys):
  images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
  tfds.toy = _Builder('image', {'train': images[:3], 'validation': images[3:]})
  assert prepare.main(['--name=toy', f'--output_dir={tmp_path}']) == 0
  assert 'test: the validation split, because' in capsys.readouterr().out
  data = ImageBytes(str(tmp_path), 2)
  np.testing.assert_array_equal(
    data.eval_batches('test')[0]['inputs'], images[3:].reshape(2, -1)
  )
  assert {path.name for path in tmp_path.iterdir()} == {
    'train.npy',
    'test.npy',
  }


def test_download_needs_its_flag(tmp_path, tfds, capsys):
  tfds.toy = _Builder('text', _encoded(_TEXTS), prepared=False)
  arguments = ['--name=toy', f'--output_dir={tmp_path}']
  assert prepare.main(arguments) == 1
  assert 'toy: not prepared in /data/toy; add --download' in (
    capsys.readouterr().err
  )
  assert prepare.main([*arguments, '--download']) == 0


def test_a_set_without_images_or_text_is_named(tmp_path, tfds, capsys):
  tfds.toy = _Builder('audio', {'train': [], 'test': []})
  assert prepare.main(['--name=toy', f'--output_dir={tmp_path}']) == 1
  assert 'only audio' in capsys.readouterr().err


def test_a_set_without_training_data_is_named(tmp_path, tfds, capsys):
  tfds.toy = _Builder('text', {'test': []})
  assert prepare.main(['--name=toy', f'--output_dir={tmp_path}']) == 1
  message = capsys.readouterr().err
  assert 'toy has no split train; its splits are test' in message


def test_missing_tfds_is_named(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  assert prepare.main(['--name=toy', f'--output_dir={tmp_path}']) == 1
  assert 'pip install tensorflow tensorflow-datasets' in capsys.readouterr().err


@pytest.mark.parametrize(
  'kind', [kind for kind in tiny_vocabularies.KINDS if kind != 'bytes']
)
def test_any_vocabulary(tmp_path, tfds, kind):
  tfds.toy = _Builder('text', _encoded(_TEXTS))
  vocab = tiny_vocabularies.make(kind, tmp_path)
  prepare.prepare(tfds.toy, tmp_path / 'out', vocab)
  data = PaddedDocuments(str(tmp_path / 'out'), 1, 8)
  assert data.unit == 'token' and data.vocab.key == vocab.key
  batches = data.eval_batches('valid')
  ids = np.concatenate([b['inputs'][b['weights'] > 0] for b in batches])
  np.testing.assert_array_equal(ids, vocab.encode('valid text'))
  # All bytes of the text, also of characters without a token.
  assert data.count_bytes('test') == len('one' + 'the test text')
  n = len(data.eval_batches('test'))
  assert 0 < data.count_bytes('test', 1) <= data.count_bytes('test', n) == 16
  assert data.eval_batches('test').context is None
  with pytest.raises(ValueError, match=r'window and stride.*PaddedDocuments'):
    data.eval_batches('test', stride=4)
  for file in (tmp_path / 'out').glob('valid.*'):
    file.unlink()
  same = PaddedDocuments(str(tmp_path / 'out'), 1, 8, test_as_valid=True)
  assert same.count_bytes('valid') == same.count_bytes('test') == 16


def test_a_vocabulary_of_the_command(tmp_path, tfds, monkeypatch):
  tfds.toy = _Builder('text', _encoded(_TEXTS))
  model = tiny_vocabularies.write('t5', tmp_path)
  out = tmp_path / 'out'
  arguments = ['--name=toy', f'--output_dir={out}', f'--sentencepiece={model}']
  assert prepare.main(arguments) == 0
  (out / 'test.bytes.npy').unlink()  # As in a folder of an older version.
  data = PaddedDocuments(str(out), 1, 8)
  ids = [data.vocab.encode(text) for text in _TEXTS['test']]
  decoded = ''.join(map(data.vocab.decode, ids))
  assert data.count_bytes('test') == len(decoded.encode())
  assert data.count_bytes('test', 1) is None

  np.save(out / 'test.bytes.npy', np.ones(3, np.uint8))
  with pytest.raises(ValueError, match=r'test\.bytes\.npy does not fit'):
    PaddedDocuments(str(out), 1, 8)
  (out / 'sentencepiece.model').write_text('broken')
  with pytest.raises(ValueError, match='not a SentencePiece model'):
    PaddedDocuments(str(out), 1, 8)
  monkeypatch.setitem(sys.modules, 'sentencepiece', None)
  with pytest.raises(ValueError, match='pip install sentencepiece'):
    PaddedDocuments(str(out), 1, 8)


def test_bad_folders_are_named(tmp_path):
  with pytest.raises(ValueError, match=r'PaddedDocuments\.path.*no such file'):
    PaddedDocuments(str(tmp_path / 'none'), 1, 8)
  (tmp_path / 'train.tokens').write_bytes(b'abc')
  for ends in ([2], [2, 1, 3], [-1, 3], 3, [[3]], [3.0]):
    np.save(tmp_path / 'train.ends.npy', np.array(ends))
    with pytest.raises(ValueError, match=r'train\.ends\.npy does not fit'):
      PaddedDocuments(str(tmp_path), 1, 8)


@pytest.mark.parametrize(
  'kind', [kind for kind in tiny_vocabularies.KINDS if kind != 'bytes']
)
def test_texts_in_shared_rows_count_all_bytes(tmp_path, kind, monkeypatch):
  monkeypatch.setenv('TRAX_HIER_DATA_CACHE', str(tmp_path / 'cache'))
  folder = tmp_path / 'texts'
  folder.mkdir()
  texts = ['a long first article', 'short', 'naïve ☂', 'exactly8'] * 5
  for i, text in enumerate(texts):
    (folder / f'{i:02}.txt').write_text(text)
  vocab = tiny_vocabularies.make(kind, tmp_path)
  arguments = dict(
    batch_size=3, length=16, valid_fraction=0.3, test_fraction=0.3, vocab=vocab
  )
  packed = PaddedDocuments(str(folder), packed=True, **arguments)
  apart = PaddedDocuments(str(folder), **arguments)
  assert packed.rows_per_epoch < apart.rows_per_epoch
  for split in ('valid', 'test'):
    ids = [
      np.sort(np.concatenate([b['inputs'][b['weights'] > 0] for b in batches]))
      for batches in (packed.eval_batches(split), apart.eval_batches(split))
    ]
    np.testing.assert_array_equal(*ids)
    assert packed.count_bytes(split) == apart.count_bytes(split) > 0
    batches = list(packed.eval_batches(split))
    assert max(batch['documents'].max() for batch in batches) > 1
    assert all(
      batch['documents'][batch['weights'] > 0].all() for batch in batches
    )


def test_bad_numbers_are_named(tmp_path):
  with pytest.raises(ValueError, match=r'PaddedDocuments\.length = 0'):
    PaddedDocuments(str(tmp_path), 1, 0)
  with pytest.raises(ValueError, match=r'PaddedDocuments\.seed = -1'):
    PaddedDocuments(str(tmp_path), 1, 8, -1)
  for i in range(30):
    (tmp_path / f'{i}.txt').write_text('text')
  for sizes, message in (
    (dict(multiple_of=2), 'multiple_of = 2 has no effect without .*packed'),
    (dict(multiple_of=3, packed=True), 'multiple_of = 3: must divide'),
    (dict(multiple_of=0, packed=True), 'multiple_of = 0'),
  ):
    with pytest.raises(ValueError, match=rf'PaddedDocuments\.{message}'):
      PaddedDocuments(str(tmp_path), 1, 8, **sizes)
