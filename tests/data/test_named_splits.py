"""Splits whose files or folders have the usual names."""

import gzip
import json
import pathlib

import numpy as np
import pytest

from trax_hier.data import (
  DocumentLanes,
  ImageBytes,
  PaddedDocuments,
  TextFiles,
  TextPairs,
)

_VALID = ('valid', 'validation', 'val', 'dev', 'Validation')
_SIZES = {'train': 9, 'valid': 4, 'test': 2}


def _text(name, n):
  return ''.join(f'{name} {i}. Some text.\n' for i in range(n))


def _pairs(root, name, n):
  rows = [{'document': f'{name} {i}', 'summary': name} for i in range(n)]
  text = '\n'.join(map(json.dumps, rows))
  (root / f'{name}.jsonl').write_text(text)


def _packed_pairs(root, name, n):
  _pairs(root, name, n)
  path = root / f'{name}.jsonl'
  path.with_suffix('.jsonl.gz').write_bytes(gzip.compress(path.read_bytes()))
  path.unlink()


def _images(root, name, n):
  np.save(root / f'{name}.npy', np.full((n, 2, 2, 3), n, np.uint8))


def _prepared(root, name, n):
  content = _text(name, n).encode()
  (root / f'{name}.tokens').write_bytes(content)
  np.save(root / f'{name}.ends.npy', np.array([len(content)]))


def _folders(root, name, n):
  (root / name).mkdir()
  (root / name / 'book.txt').write_text(_text(name, n))


def _files(root, name, n):
  (root / f'wiki.{name}.txt').write_text(_text(name, n))


def _lanes(root):
  return DocumentLanes(str(root), 1, 8)


def _windows(root):
  return TextFiles(str(root), 1, 8)


# Function that writes a split, and function that reads the folder.
_SOURCES = {
  'pairs': (_pairs, lambda root: TextPairs(str(root), 1, 8, 8)),
  'packed pairs': (_packed_pairs, lambda root: TextPairs(str(root), 1, 8, 8)),
  'images': (_images, lambda root: ImageBytes(str(root), 1)),
  'padded': (_prepared, lambda root: PaddedDocuments(str(root), 1, 8)),
  'prepared lanes': (_prepared, _lanes),
  'lanes': (_folders, _lanes),
  'text in folders': (_folders, _windows),
  'text in files': (_files, _windows),
  'lanes in files': (_files, _lanes),
}
each_source = pytest.mark.parametrize('source', _SOURCES)


def _write(root, write, valid='valid', sizes=_SIZES):
  for split, n in sizes.items():
    write(root, valid if split == 'valid' else split, n)


def _scored(data, split):
  return np.concatenate(
    [b['targets'][b['weights'] > 0] for b in data.eval_batches(split)]
  ).tolist()


@each_source
def test_usual_names_are_understood(tmp_path, source):
  write, read = _SOURCES[source]
  found = {}
  for valid in _VALID:
    root = tmp_path / valid
    root.mkdir()
    _write(root, write, valid)
    data = read(root)
    found[valid] = len(_scored(data, 'valid')), len(_scored(data, 'test'))
    assert found[valid][0] > found[valid][1] > 0
  # `name` is a part of the texts, so only equal names have equal lengths.
  assert found['validation'] == found['Validation']


@each_source
def test_two_names_of_a_split_are_an_error(tmp_path, source):
  write, read = _SOURCES[source]
  _write(tmp_path, write)
  write(tmp_path, 'val', 3)
  with pytest.raises(ValueError, match=r'both val(id)?\b.* and val(id)?\b'):
    read(tmp_path)


@each_source
def test_no_split_stands_in_for_another(tmp_path, source):
  write, read = _SOURCES[source]
  _write(tmp_path, write, sizes={'train': 9, 'test': 2})
  data = read(tmp_path)
  assert _scored(data, 'test')
  with pytest.raises(ValueError, match='the valid split is empty'):
    data.eval_batches('valid')


@pytest.mark.parametrize(
  'source', [TextPairs, ImageBytes, PaddedDocuments, DocumentLanes]
)
def test_test_as_valid_needs_an_empty_valid_split(tmp_path, source):
  write = {TextPairs: _pairs, ImageBytes: _images}.get(source, _prepared)
  sizes = {ImageBytes: (1,), TextPairs: (1, 8, 8)}.get(source, (1, 8))
  _write(tmp_path, write, sizes={'train': 9, 'test': 2})
  data = source(str(tmp_path), *sizes, test_as_valid=True)
  assert _scored(data, 'valid') == _scored(data, 'test')
  write(tmp_path, 'dev', 3)
  with pytest.raises(ValueError, match=r'test_as_valid = True: must be False'):
    source(str(tmp_path), *sizes, test_as_valid=True)


@pytest.mark.parametrize('source', ['pairs', 'images', 'lanes'])
def test_other_files_are_named(tmp_path, source):
  write, read = _SOURCES[source]
  _write(tmp_path, write)
  (tmp_path / 'holdout.jsonl').write_text('some text')
  described = read(tmp_path).describe()
  assert 'left out: 1 ' in described and '(holdout.jsonl)' in described


def test_other_names_are_split_by_hash(tmp_path):
  for i, name in enumerate(('train', 'test', 'model', 'data') * 10):
    (tmp_path / f'{i}').mkdir()
    (tmp_path / f'{i}' / f'{name}.py').write_text(_text(name, 9))
  assert 'split by file' in TextFiles(str(tmp_path), 1, 8).describe()


def test_tables_may_use_the_usual_names(tmp_path):
  path = pathlib.Path(tmp_path, 'my.docs')
  path.write_text(_text('x', 9))
  rows = [['a', 'train', 0, 50], ['b', 'validation', 50, 20]]
  rows.append(['c', 'test', 70, 20])
  pathlib.Path(f'{path}.json').write_text(json.dumps(rows))
  described = DocumentLanes(str(path), 1, 8).describe()
  assert 'valid 1 documents of 20 bytes, test 1' in described
