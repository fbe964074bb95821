"""StandardLibrary: the source of Python's standard library, as a corpus."""

import sysconfig

from trax_hier.config import configurable
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.windowed import windowed
from trax_hier.data.corpora.opening import open_corpus
from trax_hier.data.splits import TextSplits, file_parts, split_of
from trax_hier.data.vocabularies.byte_vocab import ByteVocab

_VALID_FRACTION = 0.03
_TEST_FRACTION = 0.05

# Folders without source of the library: tests, installed packages, examples and
# generated tables (character maps, help topics, build settings).
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
  """Bytes of the standard library of the running Python, split by file.

  About 8 MB in 400 files. A hash of its relative path assigns each file to a
  split, so a file is in the same split in every Python release; about 3 % of
  the files are valid and 5 % are test. The text and its bits per byte differ
  slightly between releases.

  Args:
    batch_size: Rows of the global batch.
    length: Bytes in a window.
    seed: Seed of the shuffle.

  Raises:
    ValueError: if this Python has no library source on disk, or if a number is
      invalid.

  Example:
    >>> data = StandardLibrary(batch_size=4, length=128)
    >>> data.train_batch(0)['inputs'].shape
    (4, 128)
  """
  root = sysconfig.get_path('stdlib')
  try:
    corpus = open_corpus(root, 'StandardLibrary', suffix='.py', skip=_skip)
  except ValueError as error:
    raise ValueError(
      f'StandardLibrary: no Python source in {root}; train on your own files '
      'with TextFiles'
    ) from error
  parts = file_parts(
    corpus,
    {
      name: split_of(name, _VALID_FRACTION, _TEST_FRACTION)
      for name in corpus.files
    },
  )
  text = TextSplits(parts, corpus.describe('split by name'), corpus)
  return windowed(
    'StandardLibrary',
    f'{root} ({text.how})',
    text.arrays(),
    ByteVocab(),
    batch_size,
    length,
    seed,
    hashes=text.hashes(),
  )


def _skip(name):
  return name in _SKIPPED or name.startswith(_SKIPPED_PREFIXES)
