"""Sources of texts: files, folders, patterns, rows, and what is left out."""

import errno
import gzip
import json
import lzma
import sys

import numpy as np
import pytest

from trax_hier.data import (
  DocumentLanes,
  PaddedDocuments,
  TextFiles,
  TextPairs,
)
from trax_hier.data.corpora import documents, opening
from trax_hier.data.corpora.writer import DocumentWriter
from trax_hier.data.unpacking import unpacked

_TEXTS = [f'document {i}: naïve étude. ' * 5 for i in range(100)]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.mktemp('cache')
  monkeypatch.setenv('TRAX_HIER_DATA_CACHE', str(folder))


def _pack_zstd(content):
  if sys.version_info >= (3, 14):
    from compression import zstd

    return zstd.compress(content)
  return pytest.importorskip('zstandard').compress(content)


def _rows(texts, field='text'):
  rows = [json.dumps({'id': i, field: x}) for i, x in enumerate(texts)]
  return '\n'.join(rows).encode()


def _save_parquet(path, texts, field='text'):
  arrow = pytest.importorskip('pyarrow')
  from pyarrow import parquet

  table = arrow.table({'id': list(range(len(texts))), field: texts})
  parquet.write_table(table, path)


_WRITERS = {
  'x.jsonl': lambda path: path.write_bytes(_rows(_TEXTS)),
  'x.json.gz': lambda path: path.write_bytes(gzip.compress(_rows(_TEXTS))),
  'x.jsonl.xz': lambda path: path.write_bytes(lzma.compress(_rows(_TEXTS))),
  'x.jsonl.zst': lambda path: path.write_bytes(_pack_zstd(_rows(_TEXTS))),
  'x.parquet': lambda path: _save_parquet(path, _TEXTS),
}


def _scored(data, split):
  return b''.join(
    bytes(batch['targets'][batch['weights'] == 1].tolist())
    for batch in data.eval_batches(split)
  )


@pytest.mark.parametrize('name', _WRITERS)
def test_rows_are_documents_of_every_form(tmp_path, name):
  path = tmp_path / name
  _WRITERS[name](path)
  data = TextFiles(str(path), 2, 16, field='text', valid_fraction=0.1)
  assert '(100 documents, split in order' in data.describe()
  held_out = _scored(data, 'valid') + _scored(data, 'test')
  # No document is cut, and a zero byte follows each.
  texts = held_out.decode().split('\0')[:-1]
  assert texts == _TEXTS[-len(texts) :]
  assert 10 < len(texts) < 20
  lanes = DocumentLanes(str(path), 2, 16, field='text', valid_fraction=0.1)
  assert 'valid 10 documents' in lanes.describe()
  # The cache serves a second time.
  again = TextFiles(str(path), 2, 16, field='text', valid_fraction=0.1)
  assert again.describe() == data.describe()
  assert again.fingerprint() == data.fingerprint()


def test_rows_without_a_text_are_counted_and_named(tmp_path):
  path = tmp_path / 'x.jsonl'
  bad = (
    b'not JSON',
    b'[1]',
    b'{"id": 3}',
    b'{"text": 4}',
    b'{"text": " "}',
    b'{"text": "a\\u0000b"}',
    b'{"text": "\\ud800"}',
    b'',
  )
  path.write_bytes(b'\n'.join((_rows(_TEXTS), *bad)))
  described = TextFiles(str(path), 2, 16, field='text').describe()
  for part in (
    '(100 documents',
    '1 not JSON (x.jsonl line 101)',
    '1 not a JSON object (x.jsonl line 102)',
    "2 without a text in 'text' (x.jsonl line 103, x.jsonl line 104)",
    '1 blank (x.jsonl line 105)',
    '1 binary (x.jsonl line 106)',
    '1 not UTF-8 (x.jsonl line 107)',
  ):
    assert part in described


def test_documents_that_are_cut_are_said(tmp_path):
  (tmp_path / 'x.jsonl').write_bytes(_rows(['word ' * 400] * 2))
  found = TextFiles(str(tmp_path / 'x.jsonl'), 2, 16, field='text')
  assert 'split in order, within documents, as they are few' in found.describe()


@pytest.mark.parametrize('name', ['x.jsonl', 'x.parquet'])
def test_an_unknown_field_is_named_with_those_there_are(tmp_path, name):
  _WRITERS[name](tmp_path / name)
  with pytest.raises(
    ValueError,
    match=r"TextFiles\.path = .*TextFiles\.field = 'txt': no text in this "
    r"field; the fields are 'id', 'text'",
  ):
    TextFiles(str(tmp_path / name), 2, 16, field='txt')


def test_parquet_needs_a_field_and_a_package(tmp_path, monkeypatch):
  path = tmp_path / 'x.parquet'
  _WRITERS['x.parquet'](path)
  with pytest.raises(ValueError, match=r'parquet: set TextFiles\.field to the'):
    TextFiles(str(path), 1, 8)
  with pytest.raises(ValueError, match=r'set DocumentLanes\.field to the'):
    DocumentLanes(str(path), 1, 8)
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  with pytest.raises(ValueError, match='pip install pyarrow'):
    TextFiles(str(path), 2, 16, field='text')


@pytest.mark.skipif(sys.version_info >= (3, 14), reason='reads zstd itself')
def test_zstd_needs_a_package(tmp_path, monkeypatch):
  path = tmp_path / 'x.txt.zst'
  path.write_bytes(_pack_zstd(b'text ' * 99))
  monkeypatch.setitem(sys.modules, 'zstandard', None)
  with pytest.raises(ValueError, match=r'path = .*pip install zstandard\n'):
    TextFiles(str(path), 1, 8)
  (tmp_path / 'y.txt').write_text('text ' * 99)
  with pytest.raises(ValueError, match=r'x\.txt\.zst is zstd-compressed'):
    TextFiles(str(tmp_path), 1, 8)
  monkeypatch.undo()
  assert '2 files' in TextFiles(str(tmp_path), 1, 8).describe()


def test_zstd_in_several_frames(tmp_path):
  path = tmp_path / 'x.zst'
  path.write_bytes(_pack_zstd(b'one ' * 999_999) + _pack_zstd(b'two'))
  with unpacked(path) as (chunks, form):
    assert b''.join(chunks) == b'one ' * 999_999 + b'two'
  assert form == 'zstd'


def _tree(root):
  for name in ('a/1.txt', 'a/2.txt', 'b/1.txt', 'b/note.md', 'top.txt'):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(f'{name} ' * 40)


@pytest.mark.parametrize(
  ('pattern', 'names'),
  [
    ('*/*.txt', ['a/1.txt', 'a/2.txt', 'b/1.txt']),
    ('a/*', ['1.txt', '2.txt']),
    ('**/*.txt', ['a/1.txt', 'a/2.txt', 'b/1.txt', 'top.txt']),
    ('?/[1]*', ['a/1.txt', 'b/1.txt']),
    ('top.*', ['top.txt']),
  ],
)
def test_patterns(tmp_path, pattern, names):
  _tree(tmp_path / 'my')
  corpus = opening.open_corpus(str(tmp_path / 'my' / pattern), 'My.path')
  assert list(corpus.files) == names


def test_patterns_that_fit_no_file_are_named(tmp_path):
  _tree(tmp_path / 'my')
  with pytest.raises(
    ValueError, match=r'path = .*no file matches this pattern\n'
  ):
    TextFiles(str(tmp_path / 'my' / '*.none'), 1, 8)
  with pytest.raises(ValueError, match=r'left out: 2 folders \(a, b\)'):
    TextFiles(str(tmp_path / 'my' / '[ab]'), 1, 8)
  # A file may have such a name.
  (tmp_path / 'x[1].txt').write_text('text ' * 99)
  assert 'x[1].txt' in TextFiles(str(tmp_path / 'x[1].txt'), 1, 8).describe()


def test_shards_of_splits(tmp_path):
  for split, n in (('train', 3), ('validation', 1), ('test', 2)):
    for i in range(n):
      name = f'{split}-{i:05}-of-{n:05}.jsonl'
      (tmp_path / name).write_bytes(_rows([f'{split} {i} '] * 50))
  data = TextFiles(str(tmp_path), 1, 16, field='text')
  assert '6 files, 300 documents, split by their names' in data.describe()
  for split, name in (('valid', b'validation'), ('test', b'test')):
    texts = _scored(data, split).split(b'\0')[:-1]
    assert {text.split()[0] for text in texts} == {name}


def test_other_files_beside_rows_are_left_out(tmp_path):
  for i in range(30):
    (tmp_path / f'{i}.jsonl').write_bytes(_rows(_TEXTS[i : i + 3]))
  (tmp_path / 'readme.txt').write_text('text')
  (tmp_path / 'cut.jsonl.gz').write_bytes(gzip.compress(_rows(_TEXTS))[:-99])
  described = TextFiles(str(tmp_path), 1, 16, field='text').describe()
  assert '(30 files, 90 documents, split by file; left out: ' in described
  assert '1 neither JSON lines nor parquet (readme.txt)' in described
  assert '1 damaged gzip (cut.jsonl.gz)' in described


def test_lines_do_not_depend_on_how_they_are_read():
  content = b'one\n\ntwo three\n' * 50 + b'four'
  pieces = [content[i : i + 7] for i in range(0, len(content), 7)]
  assert list(documents._lines(pieces)) == content.split(b'\n')


def test_a_text_is_neither_copied_nor_converted_twice(tmp_path, monkeypatch):
  path = tmp_path / 'my.txt'
  path.write_bytes(b'plain text ' * 99)
  plain = opening.open_corpus(str(path), 'My.path')
  assert plain.folder is None
  assert plain.text.filename == path
  (tmp_path / 'my').mkdir()
  (tmp_path / 'my' / 'x.gz').write_bytes(gzip.compress(path.read_bytes()))
  first = opening.open_corpus(str(tmp_path / 'my'), 'My.path')
  monkeypatch.setattr(opening, '_write_files', None)
  again = opening.open_corpus(str(tmp_path / 'my'), 'My.path')
  assert isinstance(again.text, np.memmap)
  np.testing.assert_array_equal(first.text, again.text)
  assert str(again.converted) == '1 gzip (x.gz)'


def test_pairs_in_zstd(tmp_path):
  rows = [{'document': x, 'summary': x[:9]} for x in _TEXTS]
  path = tmp_path / 'x.jsonl.zst'
  path.write_bytes(_pack_zstd('\n'.join(map(json.dumps, rows)).encode()))
  assert 'converted: 1 zstd' in TextPairs(str(path), 2, 16, 16).describe()


def _folder(tmp_path, n=4):
  (tmp_path / 'in').mkdir()
  for i in range(n):
    (tmp_path / 'in' / f'{i}.txt').write_text(f'text {i} ' * 100)
  return tmp_path / 'in'


def test_a_disk_that_is_full_for_a_moment_leaves_no_file_out(
  tmp_path, monkeypatch
):
  """Neither in this run nor, from the cache, in later ones."""
  folder, write = _folder(tmp_path), DocumentWriter.write

  def full(self, content):
    if b'text 2' in content:
      raise OSError(errno.ENOSPC, 'No space left on device')
    write(self, content)

  with monkeypatch.context() as patch:
    patch.setattr(DocumentWriter, 'write', full)
    with pytest.raises(ValueError, match='no space left in'):
      TextFiles(str(folder), 2, 16)
  found = TextFiles(str(folder), 2, 16).describe()
  assert '4 files' in found
  assert 'left out' not in found


@pytest.mark.parametrize('name', ['in', 'x.gz'])
def test_a_file_that_changes_before_it_is_read_is_an_error(
  tmp_path, monkeypatch, name
):
  _folder(tmp_path)
  (tmp_path / 'x.gz').write_bytes(gzip.compress(b'text ' * 100))
  changed = {'in': tmp_path / 'in' / '3.txt', 'x.gz': tmp_path / 'x.gz'}[name]
  write_text = opening.write_text

  def change(*args, **settings):
    form = write_text(*args, **settings)
    changed.write_bytes(changed.read_bytes() + gzip.compress(b'more'))
    return form

  monkeypatch.setattr(opening, 'write_text', change)
  with pytest.raises(ValueError, match='has changed while it was read'):
    TextFiles(str(tmp_path / name), 2, 16)


@pytest.mark.parametrize('data', [TextFiles, DocumentLanes, PaddedDocuments])
@pytest.mark.parametrize('path', [None, 3, ('a.txt',)])
def test_paths_are_strings(data, path):
  with pytest.raises(ValueError, match=rf'{data.__name__}\.path = .*string'):
    data(path, 1, 8)
