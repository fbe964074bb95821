"""Splits files, or their bytes, into training, validation and test."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from trax_hier.data.files import (
  NotTextError,
  find_path,
  map_bytes,
  why_not_text_sampled,
)
from trax_hier.data.folders import Folder, read_texts
from trax_hier.data.named_splits import name_splits

EVAL_SPLITS = ('valid', 'test')
SPLITS = ('train', *EVAL_SPLITS)

# Defaults of the data sets and of Subwords. They must be equal, so that a
# vocabulary is trained on the training split of its data set.
VALID_FRACTION = 0.05
TEST_FRACTION = 0.05

# The byte after each joined file. Models shift their inputs right and so put id
# 0 before each window: in both places, 0 means "a text starts here". Text files
# contain no zero byte.
SEPARATOR = b'\0'


def read_splits(
  path: str, valid_fraction: float, test_fraction: float, binding: str
) -> tuple[dict[str, np.ndarray], str]:
  """Reads a file or folder and splits it.

  A file is memory-mapped, or unpacked as `files.map_bytes` does, and cut by
  `split_bytes`. The text files of a folder are assigned to splits as a whole,
  by `name_splits` if their names are those of splits, and otherwise by
  `fill_splits`. If that leaves train empty, or valid or test less than half
  full, the joined files are cut instead.

  Args:
    path: File or folder; `~` is the home folder.
    valid_fraction: Fraction of the bytes held out for validation.
    test_fraction: Fraction of the bytes held out for the test.
    binding: Argument that sets the path, for messages.

  Returns:
    'train', 'valid' and 'test', (n,) uint8, and the way they were read and
    split, such as '7 files, split by file', for `describe`.

  Raises:
    ValueError: naming the binding, if the path does not exist, is unreadable
      or empty, or contains no text.
  """
  found = find_path(path, binding)
  fractions = valid_fraction, test_fraction
  try:
    if found.is_dir():
      return _split_folder(read_text_folder(found), fractions)
    return _map_file(found, fractions)
  except NotTextError as error:
    raise ValueError(
      f'{binding}: not text but {error}: unpack or convert it to UTF-8'
    ) from error
  except (OSError, ValueError) as error:
    reason = 'cannot be read: ' if isinstance(error, OSError) else ''
    raise ValueError(f'{binding}: {reason}{error}') from error


def _map_file(path: Path, fractions):
  if not path.is_file():
    raise ValueError('neither a file nor a folder')
  array, form = map_bytes(path)
  if not len(array):
    raise ValueError('the file is empty')
  how = 'split in order'
  if form:
    how = f'converted from {form}, {how}'
  if fault := why_not_text_sampled(array):
    how += f'; {fault}: each of its bytes is read as it is'
  return split_bytes(array, *fractions), how


def read_text_folder(root: Path) -> Folder:
  """Reads the text files of a folder.

  Raises:
    OSError: if the folder cannot be read.
    ValueError: if it contains no text file.
  """
  folder = read_texts(root)
  if not folder.contents:
    left_out = str(folder.left_out)
    raise ValueError(
      'the folder contains no UTF-8 text file'
      + (left_out and f'; left out: {left_out}')
    )
  return folder


def _split_folder(folder: Folder, fractions):
  if named := name_splits(folder):
    splits = split_files(folder.contents, named)
    return splits, folder.describe('split by their names')
  sizes = {name: len(content) for name, content in folder.contents.items()}
  splits = split_files(folder.contents, fill_splits(sizes, *fractions))
  if _are_filled(splits, fractions):
    return splits, folder.describe('split by file')
  splits = split_bytes(join(folder.contents.values()), *fractions)
  return splits, folder.describe('split in order')


def _are_filled(splits, fractions):
  """Returns whether train has bytes, and valid and test are half full."""
  total = sum(map(len, splits.values()))
  return len(splits['train']) > 0 and all(
    len(splits[split]) >= fraction / 2 * total
    for split, fraction in zip(EVAL_SPLITS, fractions, strict=True)
  )


def split_of(name: str, valid_fraction: float, test_fraction: float) -> str:
  """Assigns a file to a split by a hash of its name alone.

  A file keeps its split when other files are added or removed. The splits match
  the fractions of the bytes only roughly, and only for many files.

  Args:
    name: Path relative to the folder, with forward slashes.
    valid_fraction: Probability of 'valid'.
    test_fraction: Probability of 'test'.

  Returns:
    'train', 'valid' or 'test'.
  """
  uniform = _uniform(name)
  if uniform < test_fraction:
    return 'test'
  return 'valid' if uniform < test_fraction + valid_fraction else 'train'


def fill_splits(
  sizes: Mapping[str, int], valid_fraction: float, test_fraction: float
) -> dict[str, str]:
  """Fills test and valid with whole files, up to their fractions of the bytes.

  Each file, in the order of a hash of the names, goes to test if it fits there,
  otherwise to valid if it fits there, and otherwise to train.

  Args:
    sizes: Bytes of each file, by relative name.
    valid_fraction: Largest fraction of all bytes for 'valid'.
    test_fraction: Largest fraction of all bytes for 'test'.

  Returns:
    'train', 'valid' or 'test' by name.

  Example:
    >>> fill_splits({f'{i}.txt': 100 for i in range(4)}, 0.25, 0.25)
    {'1.txt': 'test', '2.txt': 'valid', '3.txt': 'train', '0.txt': 'train'}
  """
  total = sum(sizes.values())
  room = {'test': total * test_fraction, 'valid': total * valid_fraction}
  splits = {}
  for name in sorted(sizes, key=lambda name: (_uniform(name), name)):
    fitting = (split for split in room if sizes[name] <= room[split])
    splits[name] = next(fitting, 'train')
    if splits[name] in room:
      room[splits[name]] -= sizes[name]
  return splits


def _uniform(name):
  """Hashes a file name to a number in [0, 1)."""
  digest = hashlib.sha256(name.encode('utf-8', 'surrogateescape')).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64


def join(contents: Iterable[bytes]) -> np.ndarray:
  """Concatenates files as (n,) uint8, each followed by SEPARATOR."""
  joined = b''.join(content + SEPARATOR for content in contents)
  return np.frombuffer(joined, np.uint8)


def split_files(
  contents: Mapping[str, bytes], splits: Mapping[str, str]
) -> dict[str, np.ndarray]:
  """Joins the files of each split.

  Args:
    contents: Bytes of each file by relative name, in the order of joining.
    splits: 'train', 'valid' or 'test' by name.

  Returns:
    (n,) uint8 arrays 'train', 'valid' and 'test'.
  """
  files = {split: [] for split in SPLITS}
  for name, content in contents.items():
    files[splits[name]].append(content)
  return {split: join(content) for split, content in files.items()}


def split_bytes(
  tokens: np.ndarray, valid_fraction: float, test_fraction: float
) -> dict[str, np.ndarray]:
  """Cuts (n,) tokens into 'train', 'valid' and 'test' views, in this order.

  Example:
    >>> splits = split_bytes(np.arange(100), 0.05, 0.1)
    >>> {name: len(tokens) for name, tokens in splits.items()}
    {'train': 85, 'valid': 5, 'test': 10}
  """
  n_valid = int(len(tokens) * valid_fraction)
  n_test = int(len(tokens) * test_fraction)
  n_train = len(tokens) - n_valid - n_test
  return {
    'train': tokens[:n_train],
    'valid': tokens[n_train : n_train + n_valid],
    'test': tokens[n_train + n_valid :],
  }
