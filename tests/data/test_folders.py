"""Text files of folders: what is read, converted and left out."""

import bz2
import functools
import gzip
import lzma
import pathlib
import sys

import pytest

from trax_hier.data import DocumentLanes, TextFiles
from trax_hier.data.cache import content
from trax_hier.data.corpora.opening import open_corpus


def _pack_zstd(content):
  if sys.version_info >= (3, 14):
    from compression import zstd

    return zstd.compress(content)
  import zstandard

  return zstandard.compress(content)


_TEXT = 'El niño comió una piña. ' * 20
_UTF8 = _TEXT.encode()
_PACK = {
  'gzip': gzip.compress,
  'xz': lzma.compress,
  'bzip2': bz2.compress,
  'zstd': _pack_zstd,
}

# Bytes of a file, by what becomes of it.
_CONVERTED = {
  **{form: pack(_UTF8) for form, pack in _PACK.items()},
  'gzip, UTF-16': gzip.compress(_TEXT.encode('utf-16')),
  'gzip, bzip2': gzip.compress(bz2.compress(_UTF8)),
  'UTF-16': b'\xfe\xff' + _TEXT.encode('utf-16-be'),
  'UTF-32': _TEXT.encode('utf-32'),
}
_NOT_TEXT = {
  'not UTF-8': _TEXT.encode('latin-1'),
  'binary': _TEXT.encode('utf-16-le'),
  'zip archive': b'PK\3\4...',
  'damaged zstd': _pack_zstd(_UTF8)[:-9],
  'tar archive': bytes(257) + b'ustar',
  'damaged gzip': gzip.compress(_UTF8)[:-9],
  'damaged xz': lzma.compress(_UTF8)[:-9],
  'damaged bzip2': bz2.compress(_UTF8)[:-9],
  'damaged UTF-16': b'\xff\xfea',
}


def _contents(corpus):
  """Returns the text of each file by name."""
  text = bytes(corpus.text)
  documents = zip(corpus.begins(), corpus.ends, strict=True)
  texts = [text[begin:end] for begin, end in documents]
  return dict(zip(corpus.files, texts, strict=True))


def _folder(root, n=30):
  root.mkdir()
  for i in range(n):
    (root / f'{i:02}.txt').write_bytes(b'%02d ' % i + _UTF8)
  return root


@pytest.mark.parametrize('form', _CONVERTED)
def test_a_converted_file_has_its_text(tmp_path, form):
  root = _folder(tmp_path / 'my', 2)
  (root / 'x.txt').write_bytes(_CONVERTED[form])
  folder = open_corpus(str(root), 'My.path')
  assert _contents(folder)['x.txt'] == _UTF8
  assert folder.describe('joined') == (
    f'3 files, joined; converted: 1 {form} (x.txt)'
  )
  # The same file alone.
  data = TextFiles(str(root / 'x.txt'), 1, 16)
  assert f'(converted from {form}, split in order)' in data.describe()
  batch = data.eval_batches('test')[0]
  assert bytes(batch['inputs'][0].tolist()) in _UTF8


@pytest.mark.parametrize('fault', _NOT_TEXT)
@pytest.mark.parametrize('source', [TextFiles, DocumentLanes])
def test_files_that_are_not_text_are_counted_and_named(tmp_path, source, fault):
  root = _folder(tmp_path / 'my')
  for name in 'abcd':
    (root / name).write_bytes(_NOT_TEXT[fault])
  described = source(str(root), 1, 16).describe()
  assert '30 files, split by file' in described
  assert f'left out: 4 {fault} (a, b, c, …)' in described
  assert '\n' not in described


@pytest.mark.parametrize('fault', _NOT_TEXT)
def test_a_file_that_is_not_text_is_refused_or_said(tmp_path, fault):
  path = tmp_path / 'x'
  path.write_bytes(_NOT_TEXT[fault])
  if fault in ('not UTF-8', 'binary'):
    described = TextFiles(str(path), 1, 16).describe()
    assert f'{fault}: each of its bytes is read as it is' in described
    return
  with pytest.raises(ValueError, match=rf'TextFiles\.path = .*{fault}: unpack'):
    TextFiles(str(path), 1, 16)


def test_the_end_of_a_large_file_is_checked_too(tmp_path):
  path = tmp_path / 'x'
  path.write_bytes('naïve '.encode() * (1 << 20))
  assert 'not UTF-8' not in TextFiles(str(path), 1, 16).describe()
  with path.open('ab') as file:
    file.write('naïve'.encode('latin-1'))
  assert 'not UTF-8' in TextFiles(str(path), 1, 16).describe()


def test_links_are_followed_and_read_once(tmp_path):
  outside = _folder(tmp_path / 'outside', 2)
  (outside / 'sub').mkdir()
  (outside / 'sub' / 'deep.txt').write_bytes(_UTF8)
  root = _folder(tmp_path / 'my', 2)
  (root / 'real').mkdir()
  (root / 'real' / 'r.txt').write_bytes(_UTF8)
  links = {
    'a_link': root / 'real',
    'file_link': root / '00.txt',
    'loop': root,
    'nowhere': root / 'none',
    'out': outside,
    'parent': tmp_path,
    'twice': outside / 'sub',
    'zz_file': outside / 'sub' / 'deep.txt',
  }
  for name, target in links.items():
    (root / name).symlink_to(target)
  (outside / 'back').symlink_to(root)
  folder = open_corpus(str(root), 'My.path')
  assert (
    list(folder.files)
    == [
      '00.txt',
      '01.txt',
      'out/00.txt',
      'out/01.txt',
      'real/r.txt',
      'twice/deep.txt',
    ]
    or list(folder.files)[-1] == 'real/r.txt'
  )
  assert sum('deep.txt' in name for name in folder.files) == 1
  left_out = str(folder.left_out)
  for name in links.keys() - {'out', 'twice', 'zz_file'}:
    assert name in left_out, name
  assert 'linked to a folder around it (loop, out/back, parent)' in left_out


def test_hidden_empty_unreadable_and_special_files_are_named(
  tmp_path, monkeypatch
):
  import os

  root = _folder(tmp_path / 'my', 2)
  (root / '.git').mkdir()
  (root / '.notes').write_text('hidden')
  (root / 'empty.txt').write_text('')
  (root / 'empty.gz').write_bytes(gzip.compress(b''))
  (root / 'secret.txt').write_text('text')
  (root / 'closed').mkdir()
  os.mkfifo(root / 'pipe')
  iterate = pathlib.Path.iterdir

  def refuse(path, call):
    if pathlib.Path(path).name in ('secret.txt', 'closed'):
      raise PermissionError('Permission denied')
    return call()

  monkeypatch.setattr(
    content,
    'open',
    lambda path, *a, **k: refuse(path, functools.partial(open, path, *a, **k)),
    raising=False,
  )
  monkeypatch.setattr(
    pathlib.Path, 'iterdir', lambda path: refuse(path, lambda: iterate(path))
  )
  folder = open_corpus(str(root), 'My.path')
  assert list(folder.files) == ['00.txt', '01.txt']
  left_out = str(folder.left_out)
  for part in (
    '2 hidden (.git, .notes)',
    '2 empty (empty.gz, empty.txt)',
    '2 unreadable (closed, secret.txt)',
    '1 not a file (pipe)',
  ):
    assert part in left_out


def test_a_folder_without_text_says_what_it_has(tmp_path):
  (tmp_path / 'x.txt').write_bytes(_NOT_TEXT['not UTF-8'])
  with pytest.raises(ValueError, match=r'no UTF-8 .*left out: 1 not UTF-8 \(x'):
    TextFiles(str(tmp_path), 1, 16)
