"""Reading the user's files, and splitting them by name."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

# Between files stands the id that a model's own shift puts before a window, so
# that byte means "a text starts here" in both places. Text files hold no zero
# byte of their own.
SEPARATOR = b'\0'


def list_files(root: Path, skip: Callable[[str], bool]) -> list[Path]:
  """Lists the files below a folder, in an order that no machine changes.

  Args:
    root: the folder; links to folders are not followed.
    skip: says of a file or folder name whether to leave it out.

  Returns:
    Paths sorted by their parts relative to `root`.
  """
  found = []
  for path in root.iterdir():
    if skip(path.name):
      continue
    if path.is_dir() and not path.is_symlink():
      found += list_files(path, skip)
    elif path.is_file():
      found.append(path)
  return sorted(found, key=lambda path: path.relative_to(root).parts)


def is_text(content: bytes) -> bool:
  """Whether the bytes are UTF-8 without a zero byte."""
  if SEPARATOR in content:
    return False
  try:
    content.decode('utf-8')
  except UnicodeDecodeError:
    return False
  return True


def split_of(name: str, valid_fraction: float, test_fraction: float) -> str:
  """Which split a file belongs to: a hash of its name and nothing else.

  A file keeps its split when others come and go, but the shares of the bytes
  are only roughly the fractions, and only for many files.

  Args:
    name: path relative to the folder, with forward slashes.
    valid_fraction: chance of 'valid'.
    test_fraction: chance of 'test'.

  Returns:
    'train', 'valid' or 'test'.
  """
  draw = _draw(name)
  if draw < test_fraction:
    return 'test'
  return 'valid' if draw < test_fraction + valid_fraction else 'train'


def fill_splits(
  sizes: Mapping[str, int], valid_fraction: float, test_fraction: float
) -> dict[str, str]:
  """Fills test and then valid with whole files, up to their share of bytes.

  Files are taken in the order of a hash of their names; one that is larger
  than the room that is left goes to train.

  Args:
    sizes: bytes of each file by relative name.
    valid_fraction: share of all bytes that 'valid' may take.
    test_fraction: share of all bytes that 'test' may take.

  Returns:
    'train', 'valid' or 'test' by name.

  Example:
    >>> fill_splits({f'{i}.txt': 100 for i in range(4)}, 0.25, 0.25)
    {'1.txt': 'test', '2.txt': 'valid', '3.txt': 'train', '0.txt': 'train'}
  """
  total = sum(sizes.values())
  room = {'test': total * test_fraction, 'valid': total * valid_fraction}
  splits = {}
  for name in sorted(sizes, key=lambda name: (_draw(name), name)):
    fitting = (split for split in room if sizes[name] <= room[split])
    splits[name] = next(fitting, 'train')
    if splits[name] in room:
      room[splits[name]] -= sizes[name]
  return splits


def _draw(name):
  """A number in [0, 1) that is a pure function of a file's name."""
  digest = hashlib.sha256(name.encode('utf-8', 'surrogateescape')).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64


def join(contents: Iterable[bytes]) -> np.ndarray:
  """Returns files end to end as (n,) uint8, each followed by SEPARATOR."""
  joined = b''.join(content + SEPARATOR for content in contents)
  return np.frombuffer(joined, np.uint8)


def split_files(
  contents: Mapping[str, bytes], splits: Mapping[str, str]
) -> dict[str, np.ndarray]:
  """Joins the files of each split.

  Args:
    contents: bytes of each file by relative name, in the order to join them.
    splits: 'train', 'valid' or 'test' by name.

  Returns:
    (n,) uint8 arrays 'train', 'valid' and 'test'.
  """
  parts = {'train': [], 'valid': [], 'test': []}
  for name, content in contents.items():
    parts[splits[name]].append(content)
  return {split: join(part) for split, part in parts.items()}


def split_bytes(
  tokens: np.ndarray, valid_fraction: float, test_fraction: float
) -> dict[str, np.ndarray]:
  """Cuts (n,) tokens in order into 'train', 'valid' and 'test' views.

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
