"""StandardLibrary: Python's own source, a corpus that every machine has."""

import sysconfig
from pathlib import Path

from trax_hier.config import configurable
from trax_hier.data import files
from trax_hier.data.batching.dataset import DataSet, windowed
from trax_hier.data.vocabularies.vocab import ByteVocab

_VALID_FRACTION = 0.03
_TEST_FRACTION = 0.05

# Tests, packages that pip put there, examples, and tables that a program wrote
# (character maps, help topics, build settings): not the library's own source.
_SKIPPED = frozenset(
  (
    '__pycache__',
    'dist-packages',
    'encodings',
    'ensurepip',
    'idlelib',
    'lib2to3',
    'pydoc_data',
    'site-packages',
    'test',
    'tests',
    'turtledemo',
  )
)
_SKIPPED_PREFIXES = ('.', '_sysconfigdata', 'config-')


@configurable(module='trax_hier.data')
def StandardLibrary(batch_size: int, length: int, seed: int = 0) -> DataSet:
  """Bytes of the standard library of the Python that runs, split by file.

  About 8 MB in 400 files, found at run time. About 3 % of the files are held
  out for validation and 5 % for the test, by a hash of the relative path: a
  file is in the same split in every Python release. The text itself differs
  between releases, and so do bits per byte on it, a little.

  Args:
    batch_size: rows of the global batch.
    length: bytes in a window.
    seed: which shuffle.

  Raises:
    ValueError: if this Python has no library source on disk, or if a number
      is not legal.

  Example:
    >>> data = StandardLibrary(batch_size=4, length=128)
    >>> data.train_batch(0)['inputs'].shape
    (4, 128)
  """
  root = Path(sysconfig.get_path('stdlib'))
  contents = _read(root) if root.is_dir() else {}
  if not contents:
    raise ValueError(
      f'StandardLibrary: no Python source in {root}; train on files of your '
      'own with TextFiles'
    )
  splits = {
    name: files.split_of(name, _VALID_FRACTION, _TEST_FRACTION)
    for name in contents
  }
  return windowed(
    'StandardLibrary',
    f'{root} ({len(contents):,} files)',
    files.split_files(contents, splits),
    ByteVocab(),
    batch_size,
    length,
    seed,
  )


def _skip(name):
  return name in _SKIPPED or name.startswith(_SKIPPED_PREFIXES)


def _read(root):
  """Returns the bytes of each source file by relative name."""
  contents = {}
  for path in files.list_files(root, _skip):
    if path.suffix == '.py':
      content = path.read_bytes()
      if content and files.is_text(content):
        contents[path.relative_to(root).as_posix()] = content
  return contents
