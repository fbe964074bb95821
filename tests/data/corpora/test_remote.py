"""Remote files: copied once, and again when they have changed."""

import gzip
import sys

import pytest

from trax_hier.data import DocumentLanes, TextFiles
from trax_hier.data.corpora import remote

fsspec = pytest.importorskip('fsspec')


@pytest.fixture
def store(tmp_path, monkeypatch):
  monkeypatch.setenv('TRAX_HIER_DATA_CACHE', str(tmp_path / 'cache'))
  system = fsspec.filesystem('memory')
  system.store.clear()
  system.pipe('/bucket/x.txt', b'remote text ' * 99)
  for i in range(40):
    system.pipe(f'/bucket/books/{i:02}.txt', b'book %02d ' % i * 30)
  system.pipe('/bucket/books/more/x.gz', gzip.compress(b'packed ' * 40))
  yield system
  system.store.clear()


def test_a_file(store, capsys):
  data = TextFiles('memory://bucket/x.txt', 1, 8)
  assert data.describe().startswith('TextFiles: memory://bucket/x.txt (split')
  assert 'copying memory://bucket/x.txt: 1 files copied' in (
    capsys.readouterr().err
  )
  again = TextFiles('memory://bucket/x.txt', 1, 8)
  assert again.fingerprint() == data.fingerprint()
  assert not capsys.readouterr().err


@pytest.mark.parametrize(
  ('path', 'n'), [('bucket/books', 41), ('bucket/books/*.txt', 40)]
)
def test_folders_and_patterns(store, path, n):
  data = TextFiles(f'memory://{path}', 1, 8)
  assert f'({n} files, split by file' in data.describe()
  lanes = DocumentLanes(f'memory://{path}', 1, 8)
  assert 'split by file' in lanes.describe()


def test_changed_files_are_copied_again(store):
  before = TextFiles('memory://bucket/x.txt', 1, 8)
  store.pipe('/bucket/x.txt', b'another text ' * 120)
  after = TextFiles('memory://bucket/x.txt', 1, 8)
  assert before.fingerprint() != after.fingerprint()


def test_the_last_copy_serves_while_the_store_is_away(
  store, monkeypatch, capsys
):
  def fail(*_):
    raise TimeoutError('no answer')

  data = TextFiles('memory://bucket/books', 1, 8)
  capsys.readouterr()
  monkeypatch.setattr(remote, '_list', fail)
  again = TextFiles('memory://bucket/books', 1, 8)
  assert again.fingerprint() == data.fingerprint()
  error = capsys.readouterr().err
  assert 'cannot be reached (TimeoutError: no answer): the copy of' in error
  with pytest.raises(ValueError, match=r'path = .*cannot be read: Timeout'):
    TextFiles('memory://bucket/other', 1, 8)


def test_a_copy_that_was_interrupted_is_continued(store, monkeypatch):
  opened, read = [], type(store).open

  def fail(self, path, *args, **kwargs):
    opened.append(path)
    if len(opened) > 5:
      raise OSError('connection lost')
    return read(self, path, *args, **kwargs)

  monkeypatch.setattr(remote, '_AT_ONCE', 1)
  monkeypatch.setattr(type(store), 'open', fail)
  with pytest.raises(ValueError, match='connection lost'):
    TextFiles('memory://bucket/books', 1, 8)
  opened.clear()
  monkeypatch.setattr(
    type(store), 'open', lambda *a, **k: opened.append(a[1]) or read(*a, **k)
  )
  TextFiles('memory://bucket/books', 1, 8)
  assert len(opened) == 41 - 5


@pytest.mark.parametrize(
  ('path', 'message'),
  [
    ('memory://bucket/none', 'no such file or folder'),
    ('xyz://bucket/x', 'Protocol not known'),
    ('gs://bucket/x', 'needs packages for gs://: pip install fsspec gcsfs'),
    ('s3://bucket/x', 'needs packages for s3://: pip install fsspec s3fs'),
  ],
)
def test_addresses_that_cannot_be_read_are_named(
  store, monkeypatch, path, message
):
  for name in ('gcsfs', 's3fs'):
    monkeypatch.setitem(sys.modules, name, None)
  binding = rf"TextFiles\.path = '{path}'"
  with pytest.raises(ValueError, match=f'{binding}: {message}'):
    TextFiles(path, 1, 8)


def test_without_fsspec(monkeypatch):
  monkeypatch.setitem(sys.modules, 'fsspec', None)
  with pytest.raises(ValueError, match='pip install fsspec huggingface_hub'):
    TextFiles('hf://datasets/x', 1, 8)
