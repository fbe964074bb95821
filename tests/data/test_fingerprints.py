"""Fingerprints: equal for equal data, and different after every change."""

import gzip
import json
import sys

import numpy as np
import pytest

from trax_hier.data import (
  DataSet,
  DocumentLanes,
  Enwik8,
  ImageBytes,
  PaddedDocuments,
  SpanCorruption,
  StandardLibrary,
  Synthetic,
  TextFiles,
  TextPairs,
)
from trax_hier.data.sources import enwik8, standard_library

_TEXT = ''.join(f'line {i} of the text.\n' for i in range(300)).encode()


def _save_pairs(root, text):
  lines = [{'document': x, 'summary': x} for x in text.decode().splitlines()]
  (root / 'x.jsonl').write_text('\n'.join(map(json.dumps, lines)))


def _save_file(root, text):
  (root / 'x.txt').write_bytes(text)


def _save_folder(root, text):
  for i in range(30):
    end = i * 200 + 200 if i < 29 else None
    (root / f'{i}.py').write_bytes(text[i * 200 : end])


def _save_images(root, text):
  array = np.frombuffer(text, np.uint8)
  array = array[: len(text) // 12 * 12].reshape(-1, 2, 2, 3)
  for name in ('train', 'valid', 'test'):
    np.save(root / f'{name}.npy', array)


def _save_prepared(root, text):
  for name in ('train', 'valid', 'test'):
    (root / f'{name}.tokens').write_bytes(text)
    np.save(root / f'{name}.ends.npy', np.array([7, len(text)]))


def _save_table(root, text):
  (root / 'x').write_bytes(text)
  n = len(text) - 200
  rows = [['a', 'train', 0, n], ['b', 'valid', n, 99], ['c', 'test', n, 200]]
  (root / 'x.json').write_text(json.dumps(rows))


def _standard_library(root, monkeypatch):
  monkeypatch.setattr(
    standard_library.sysconfig, 'get_path', lambda _: str(root)
  )
  return StandardLibrary(1, 8)


def _enwik8(root, monkeypatch):
  monkeypatch.setattr(enwik8, 'SIZE', (root / 'x.txt').stat().st_size)
  monkeypatch.setattr(enwik8, '_HELD_OUT', 500)
  return Enwik8(str(root / 'x.txt'), 1, 8)


_SOURCES = {
  'pairs': (_save_pairs, lambda r, _: TextPairs(str(r / 'x.jsonl'), 1, 8, 8)),
  'file': (_save_file, lambda r, _: TextFiles(str(r / 'x.txt'), 1, 8)),
  'folder': (_save_folder, lambda r, _: TextFiles(str(r), 1, 8)),
  'spans': (
    _save_file,
    lambda r, _: SpanCorruption(
      TextFiles(str(r / 'x.txt'), 1, 8), 9, 9, vocab_size=300
    ),
  ),
  'books': (_save_folder, lambda r, _: DocumentLanes(str(r), 1, 8)),
  'table': (_save_table, lambda r, _: DocumentLanes(str(r / 'x'), 1, 8)),
  'prepared lanes': (_save_prepared, lambda r, _: DocumentLanes(str(r), 1, 8)),
  'prepared': (_save_prepared, lambda r, _: PaddedDocuments(str(r), 1, 8)),
  'images': (_save_images, lambda r, _: ImageBytes(str(r), 1)),
  'library': (_save_folder, _standard_library),
  'enwik8': (_save_file, _enwik8),
}
_CHANGES = {
  'shorter': lambda text: text[:-24],
  'longer': lambda text: text + b'one more line of text..\n',
  'one byte': lambda text: text[:90] + b'#' + text[91:],
  'another order': lambda text: text[200:400] + text[:200] + text[400:],
}


@pytest.mark.parametrize('change', _CHANGES)
@pytest.mark.parametrize('source', _SOURCES)
def test_every_change_shows(tmp_path, monkeypatch, source, change):
  save, read = _SOURCES[source]
  found = []
  for name, text in (
    ('a', _TEXT),
    ('copy', _TEXT),
    ('b', _CHANGES[change](_TEXT)),
  ):
    root = tmp_path / name
    root.mkdir()
    save(root, text)
    found.append(read(root, monkeypatch).fingerprint())
  assert found[0] == found[1] != found[2]
  assert found[0].keys() == {'train', 'valid', 'test'}
  assert json.loads(json.dumps(found[0])) == found[0]


def _compress(path, text):
  path.write_bytes(gzip.compress(text))
  return str(path)


# Hashes that versions without the data cache have written into checkpoints.
_SAVED = {
  'folder': (
    lambda root: TextFiles(str(root / 'my'), 1, 8),
    ('cbefa8f581ac25e5', 'de38ba331b5accff', 'ab44860e1063d8d5'),
  ),
  'folder cut in order': (
    lambda root: TextFiles(str(root / 'my'), 1, 8, 0.01, 0.01),
    ('dda9570ad431e463', '11a21fa0f476c451', 'bac580541900cf2d'),
  ),
  'compressed file': (
    lambda root: TextFiles(_compress(root / 'x.gz', _TEXT), 1, 8),
    ('461548c5f09fbedd', 'bf8dcb881b5349db', '101157d35119c6e6'),
  ),
  'books': (
    lambda root: DocumentLanes(str(root / 'my'), 1, 8),
    ('60e4f3e182f3ff94', '13a00e38f11e174c', '60c1a55cb403def3'),
  ),
}


@pytest.mark.parametrize('source', _SAVED)
def test_runs_of_older_versions_can_resume(tmp_path, source):
  (tmp_path / 'my').mkdir()
  _save_folder(tmp_path / 'my', _TEXT)
  read, hashes = _SAVED[source]
  found = read(tmp_path).fingerprint()
  assert tuple(text.split()[-1] for text in found.values()) == hashes


def test_generated_rows_have_none():
  """`training.data_changes` hashes batches instead."""
  assert Synthetic('copy', 1, 8).fingerprint() == {}
  assert DataSet('My', '', None, None, None, 'token', 1).fingerprint() == {}


def test_a_change_of_the_vocabulary_shows(tmp_path):
  _save_pairs(tmp_path, _TEXT)
  data = TextPairs(str(tmp_path / 'x.jsonl'), 1, 8, 8)
  bare = data.fingerprint()
  for content in (b'one model', b'another'):
    data.vocab = type('Vocab', (), dict(size=9, content=content))
    assert data.fingerprint() not in (bare, found := bare | {'vocab': ''})
    assert found.keys() == data.fingerprint().keys()


def test_a_large_file_is_not_read_whole(tmp_path):
  path = tmp_path / 'sparse.txt'
  with path.open('wb') as file:
    file.truncate(1 << 40)
  data = TextFiles(str(path), 1, 8)
  before = data.fingerprint()
  with path.open('r+b') as file:
    file.seek((1 << 40) * 9 // 10 - 1)
    file.write(b'the last byte of train')
  assert sys.getsizeof(before) < 10_000
  assert TextFiles(str(path), 1, 8).fingerprint() != before
