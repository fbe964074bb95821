"""Hashes of content: kept as long as a file is the same."""

import os

import pytest

from trax_hier.data.cache import content
from trax_hier.data.cache.content import content_hashes


@pytest.fixture(autouse=True)
def reads(tmp_path, monkeypatch):
  """Returns the files that are read, by block."""
  monkeypatch.setenv('TRAX_HIER_DATA_CACHE', str(tmp_path / 'cache'))
  found, read = [], content._hash_block
  monkeypatch.setattr(
    content, '_hash_block', lambda *a: found.append(a) or read(*a)
  )
  return found


def _write(path, text, age=100):
  path.write_bytes(text)
  seconds = path.stat().st_mtime - age
  os.utime(path, (seconds, seconds))
  return path


def _hash(*paths):
  return content_hashes({path.name: path for path in paths}, 'my files')


def test_a_file_is_read_once(tmp_path, reads):
  a, b = (_write(tmp_path / name, name.encode()) for name in 'ab')
  first = _hash(a, b)
  assert first.keys() == {'a', 'b'}
  assert first['a'] != first['b']
  assert len(reads) == 2
  assert _hash(a, b) == first
  assert len(reads) == 2


def test_equal_content_has_equal_hashes(tmp_path):
  a, b = (_write(tmp_path / name, b'same') for name in 'ab')
  assert len(set(_hash(a, b).values())) == 1


@pytest.mark.parametrize(
  'change', ['content', 'size', 'same size and time', 'time']
)
def test_a_changed_file_is_read_again(tmp_path, reads, change):
  a, b = (_write(tmp_path / name, b'text') for name in 'ab')
  first = _hash(a, b)
  time = a.stat().st_mtime_ns
  if change == 'time':
    os.utime(a, (1, 1))
  elif change == 'same size and time':
    # Replaced by another file: another inode.
    _write(tmp_path / 'c', b'next').replace(a)
    os.utime(a, ns=(time, time))
  else:
    _write(a, b'next' if change == 'content' else b'longer', age=50)
  assert (_hash(a, b)['a'] == first['a']) == (change == 'time')
  # Only that file is read.
  assert len(reads) == 3


def test_a_file_that_has_just_changed_is_read_again(tmp_path, reads):
  """It may change once more within a tick of the clock."""
  path = _write(tmp_path / 'a', b'text', age=0)
  first, time = _hash(path), path.stat().st_mtime_ns
  path.write_bytes(b'next')
  os.utime(path, ns=(time, time))
  assert _hash(path) != first


@pytest.mark.parametrize('text', ['', '[]', 'null', '{"a": 3}', 'record'])
def test_a_damaged_record_is_made_again(tmp_path, reads, text):
  path = _write(tmp_path / 'a', b'text')
  first = _hash(path)
  (record,) = (content.cache_folder() / 'files').iterdir()
  record.write_text(text.replace('record', f'{{"{path}": [1]}}'))
  assert _hash(path) == first
  assert len(reads) == 2
  assert _hash(path) == first
  assert len(reads) == 2


def test_a_read_only_cache_needs_no_record(tmp_path, reads, monkeypatch):
  path = _write(tmp_path / 'a', b'text')
  monkeypatch.setattr(content, 'why_not_writable', lambda folder: 'read-only')
  assert _hash(path) == _hash(path)
  assert len(reads) == 2
  assert not (content.cache_folder() / 'files').exists()


def test_blocks_of_a_large_file(tmp_path, monkeypatch, reads):
  path = _write(tmp_path / 'a', bytes(range(256)) * 40)
  whole = _hash(path)
  monkeypatch.setattr(content, '_BLOCK', 1000)
  monkeypatch.setattr(content, '_AT_ONCE', 4)
  other = _hash(_write(tmp_path / 'b', path.read_bytes()))
  assert len(reads) == 1 + 11
  assert len(other['b']) == len(whole['a']) == 32


def test_a_file_that_changes_while_it_is_read_is_an_error(
  tmp_path, monkeypatch
):
  path = _write(tmp_path / 'a', b'text')
  read = content._hash_block

  def change(*args):
    path.write_bytes(b'longer text')
    return read(*args)

  monkeypatch.setattr(content, '_hash_block', change)
  with pytest.raises(ValueError, match='has changed while it was read'):
    _hash(path)
