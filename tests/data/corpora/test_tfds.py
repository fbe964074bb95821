"""Sets of tensorflow-datasets: read in another process, once."""

import subprocess
import sys
import types

import pytest

from trax_hier import config
from trax_hier.data import DocumentLanes, Mixture, TextFiles, TfdsText
from trax_hier.data.corpora import tfds_process, tfds_source


class _Text:
  pass


class _Builder:
  """Stub of a builder of tensorflow-datasets."""

  name = 'toy'

  def __init__(self, root, splits, is_prepared=True):
    self.data_dir = self.data_path = root
    self._splits = splits
    self._is_prepared = is_prepared
    self.info = types.SimpleNamespace(
      features={'title': _Text(), 'text': _Text(), 'year': object()},
      splits=splits,
      file_format=types.SimpleNamespace(value='array_record'),
    )
    root.mkdir(exist_ok=True)
    (root / 'dataset_info.json').write_text('{}')

  def is_prepared(self):
    return self._is_prepared

  def download_and_prepare(self):
    self._is_prepared = True

  def as_data_source(self, split):
    return [{'text': text, 'title': b'x'} for text in self._splits[split]]


@pytest.fixture
def toy(tmp_path, monkeypatch):
  """Returns a function that makes the set `toy`, and what is asked of it."""
  monkeypatch.setenv('TRAX_HIER_DATA_CACHE', str(tmp_path / 'cache'))
  module = types.ModuleType('tensorflow_datasets')
  module.features = types.SimpleNamespace(Text=_Text)
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', module)
  asked = []

  def run(action, source, feature, folder=''):
    asked.append(action)
    request = source._asdict() | dict(
      action=action, feature=feature, folder=folder
    )
    found = tfds_process.main(request)
    if 'error' in found:
      raise ValueError(found['error'])
    return found

  monkeypatch.setattr(tfds_source, '_run', run)

  def make(splits, **arguments):
    builder = _Builder(tmp_path / 'toy', splits, **arguments)
    module.builder = lambda name, data_dir: builder
    return asked

  return make


def _texts(split, n):
  return [f'{split} {i} naïve. '.encode() * 9 for i in range(n)]


_SPLITS = {
  'train': [*_texts('train', 40), b' ', b'a\0b'],
  'validation': _texts('validation', 3),
  'test': _texts('test', 4),
}


def _held_out(data, split):
  """Returns the first words of the documents of a split."""
  scored = b''.join(
    bytes(batch['targets'][batch['weights'] == 1].tolist())
    for batch in data.eval_batches(split)
  )
  return [text.split()[0].decode() for text in scored.split(b'\0')[:-1]]


def test_the_splits_are_those_of_the_set(toy):
  asked = toy(_SPLITS)
  data = TextFiles(TfdsText('toy'), 2, 16)
  assert data.describe().startswith(
    'TextFiles: toy of tensorflow-datasets (3 files, 47 documents, split as '
    'the set is; left out: 1 blank (train example 40), 1 binary (train example '
    '41)): '
  )
  assert _held_out(data, 'valid') == ['validation'] * 3
  assert _held_out(data, 'test') == ['test'] * 4
  lanes = DocumentLanes(TfdsText('toy'), 2, 16)
  assert 'train 40 documents' in lanes.describe()
  assert 'valid 3 documents' in lanes.describe()
  # tfds is asked once.
  assert asked == ['find', 'read']


@pytest.mark.parametrize(
  ('missing', 'valid', 'test', 'how'),
  [
    ('test', ['validation'] * 3, ['validation'] * 3, 'test is its validation'),
    ('validation', ['train'] * 3, ['test'] * 4, 'valid is the last 0.1 of its'),
  ],
)
def test_a_set_without_a_split(toy, missing, valid, test, how):
  toy({name: texts for name, texts in _SPLITS.items() if name != missing})
  data = TextFiles(TfdsText('toy'), 2, 16, valid_fraction=0.1)
  assert how in data.describe()
  assert _held_out(data, 'valid') == valid
  assert _held_out(data, 'test') == test


def test_nothing_is_downloaded_unless_asked_for(toy):
  toy(_SPLITS, is_prepared=False)
  with pytest.raises(ValueError, match=r'not prepared in .*download = True'):
    TextFiles(TfdsText('toy'), 2, 16)
  assert TextFiles(TfdsText('toy', download=True), 2, 16)


def test_the_text_of_an_example_must_be_known(toy):
  toy(_SPLITS)
  with pytest.raises(ValueError, match=r'set TfdsText\.feature .*title, text'):
    TextFiles(TfdsText('toy', feature='none'), 2, 16)


def test_another_version_of_the_set_is_read_again(toy, tmp_path):
  asked = toy(_SPLITS)
  before = TextFiles(TfdsText('toy'), 2, 16).fingerprint()
  toy(_SPLITS | {'test': _texts('other', 4)})
  (tmp_path / 'toy' / 'dataset_info.json').write_text('{"version": 2}')
  assert TextFiles(TfdsText('toy'), 2, 16).fingerprint() != before
  assert asked == ['find', 'read'] * 2


def test_gin(toy):
  toy(_SPLITS)
  bindings = [
    'TextFiles.path = @TfdsText()',
    "TfdsText.name = 'toy'",
    'TextFiles.batch_size = 2',
    'a/TextFiles.length = 16',
    'b/TextFiles.length = 16',
    'Mixture.sources = (@a/TextFiles(), @b/TextFiles())',
    'Mixture.weights = (3, 1)',
  ]
  config.clear()
  config.parse([], bindings, True)
  try:
    assert Mixture().train_batch(0)['inputs'].shape == (2, 16)
    with pytest.raises(config.ConfigError, match=r'TextFiles\.path takes str'):
      config.parse([], ['TextFiles.path = 3'], True)
  finally:
    config.clear()


_PREPARE = """
import sys
import tensorflow_datasets as tfds

class toy_books(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = tfds.features.FeaturesDict({'text': tfds.features.Text()})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {s: self._generate_examples(s) for s in ('train', 'test')}

  def _generate_examples(self, split):
    for i in range(30):
      yield i, {'text': f'{split} {i} ' * 30}

folder, file_format = sys.argv[1:]
toy_books(data_dir=folder, file_format=file_format).download_and_prepare()
"""


@pytest.mark.slow
@pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
def test_a_real_set(tmp_path, monkeypatch, file_format):
  monkeypatch.setenv('TRAX_HIER_DATA_CACHE', str(tmp_path / 'cache'))
  arguments = [sys.executable, '-c', _PREPARE, str(tmp_path), file_format]
  subprocess.run(arguments, check=True)
  source = TfdsText('toy_books', data_dir=str(tmp_path))
  data = TextFiles(source, 2, 16)
  assert '2 files, 60 documents' in data.describe()
  assert set(_held_out(data, 'test')) == {'test'}
  with pytest.raises(ValueError, match=r"TfdsText\.name = 'none'.*not found"):
    TextFiles(TfdsText('none', data_dir=str(tmp_path)), 2, 16)
