"""TextFiles: byte-level text from any file or folder of the user's."""

from pathlib import Path

import gin
import numpy as np

from trax_hier.data import checks, files
from trax_hier.data.dataset import DataSet, windowed
from trax_hier.data.vocab import ByteVocab


@gin.configurable(module='trax_hier.data')
def TextFiles(
  path: str,
  batch_size: int,
  length: int,
  valid_fraction: float = 0.05,
  test_fraction: float = 0.05,
  seed: int = 0,
  eval_length: int | None = None,
  eval_stride: int | None = None,
) -> DataSet:
  """Bytes of a file, or of the text files below a folder.

  A file may hold any bytes; it is mapped, not read, and cut in order into
  train, valid and test. A folder is read into memory: its UTF-8 files, hidden
  and binary ones left out, sorted by path, a zero byte after each. Whole files,
  in the order of a hash of their relative path, fill test and valid up to the
  share asked for; if either stays less than half full, as with few or very
  unequal files, the joined bytes are cut in order instead.

  Args:
    path: the file or folder; `~` is the home folder.
    batch_size: rows of the global batch.
    length: bytes in a training window.
    valid_fraction: share of the bytes held out for validation.
    test_fraction: share of the bytes held out for the test.
    seed: which shuffle.
    eval_length: bytes in an evaluation window; None: `length`.
    eval_stride: bytes that an evaluation window scores; None: all of them.

  Raises:
    ValueError: naming the binding, if the path is missing, unreadable, empty,
      holds no text, or is shorter than a window, or if a number is not legal.
  """
  checks.check_fractions('TextFiles', valid_fraction, test_fraction)
  found = Path(path).expanduser()
  binding = f'TextFiles.path = {path!r}'
  if not path or not found.exists():
    raise ValueError(
      f'{binding}: no such file or folder (looked for {found.absolute()})'
    )
  fractions = valid_fraction, test_fraction
  try:
    if found.is_dir():
      splits, how = _read_folder(found, binding, fractions)
    else:
      splits, how = _map_file(found, binding, fractions)
  except OSError as error:
    raise ValueError(f'{binding}: cannot be read: {error}') from error
  return windowed(
    'TextFiles',
    f'{path} ({how})',
    splits,
    ByteVocab(),
    batch_size,
    length,
    seed,
    eval_length=eval_length,
    eval_stride=eval_stride,
  )


def read_texts(root: Path) -> dict[str, bytes]:
  """Reads the UTF-8 files below a folder, leaving out hidden and empty ones.

  Returns:
    Their bytes by path relative to `root`, sorted by path.

  Raises:
    OSError: if a file cannot be read.
  """
  contents = {}
  for path in files.list_files(root, skip=lambda name: name.startswith('.')):
    content = path.read_bytes()
    if content and files.is_text(content):
      contents[path.relative_to(root).as_posix()] = content
  return contents


def _map_file(path, binding, fractions):
  """Returns the splits of one file, and a word on how it was split."""
  if not path.is_file():
    raise ValueError(f'{binding}: neither a file nor a folder')
  if not path.stat().st_size:
    raise ValueError(f'{binding}: the file is empty')
  tokens = np.memmap(path, np.uint8, mode='r')
  return files.split_bytes(tokens, *fractions), 'split in order'


def _read_folder(root, binding, fractions):
  """Returns the splits of a folder, and a word on how it was split."""
  contents = read_texts(root)
  if not contents:
    raise ValueError(f'{binding}: the folder holds no UTF-8 text file')
  sizes = {name: len(content) for name, content in contents.items()}
  splits = files.split_files(contents, files.fill_splits(sizes, *fractions))
  if _filled(splits, fractions):
    return splits, f'{len(contents):,} files, split by file'
  splits = files.split_bytes(files.join(contents.values()), *fractions)
  return splits, f'{len(contents):,} files, split in order'


def _filled(splits, fractions):
  """Whether train is not empty and the others have half of their share."""
  total = sum(map(len, splits.values()))
  return len(splits['train']) > 0 and all(
    len(splits[split]) >= fraction / 2 * total
    for split, fraction in zip(('valid', 'test'), fractions, strict=True)
  )
