"""Splits texts into training, validation and test."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trax_hier.data.cache.content import array_hash
from trax_hier.data.cache.entries import remember
from trax_hier.data.corpora.corpus import Corpus
from trax_hier.data.corpora.opening import open_corpus
from trax_hier.data.corpora.tfds_source import TfdsSource
from trax_hier.data.fingerprints import whole_hash
from trax_hier.data.joined import Joined
from trax_hier.data.named_splits import name_splits

EVAL_SPLITS = ('valid', 'test')
SPLITS = ('train', *EVAL_SPLITS)

# Defaults of the data sets and of Subwords. They must be equal, so that a
# vocabulary is trained on the training split of its data set.
VALID_FRACTION = 0.05
TEST_FRACTION = 0.05


class TextSplits(NamedTuple):
  """The splits of a text.

  Attributes:
    parts: Parts of the text that are 'train', 'valid' and 'test'.
    how: How the text was read and split, such as '7 files, split by file'.
    corpus: The text.
  """

  parts: dict[str, Joined]
  how: str
  corpus: Corpus

  def arrays(self) -> dict[str, np.ndarray | Joined]:
    """Returns the bytes of the splits, (n,) uint8 each, memory-mapped."""
    return {split: part.plain() for split, part in self.parts.items()}

  def hashes(self) -> dict[str, str] | None:
    """Returns the hash of each split, for a fingerprint, computed once.

    None if the text is the file of the user, of which samples are hashed.
    """
    return (
      {
        split: hash_once(self.corpus.folder, part.begins, part.ends, (part,))
        for split, part in self.parts.items()
      }
      if self.corpus.folder
      else None
    )


def hash_once(
  folder: Path,
  begins: np.ndarray,
  ends: np.ndarray,
  arrays: tuple[np.ndarray | Joined, ...],
) -> str:
  """Returns the hash of arrays that are made of an entry of the data cache.

  Args:
    folder: Folder of the entry.
    begins: Where the parts of the arrays begin in the entry, (parts,).
    ends: Where they end, exclusive, (parts,).
    arrays: The arrays, (n,) each.
  """
  name = f'hash-{len(arrays)}-{array_hash(begins, ends)}'
  return remember(folder, name, lambda: whole_hash(arrays))


def read_splits(
  path: str | TfdsSource,
  valid_fraction: float,
  test_fraction: float,
  name: str,
  field: str | None = None,
  keep_files: bool = False,
) -> TextSplits:
  """Reads a text and splits it.

  One file is cut in train, valid and test, in this order: at a document if it
  has rows. The files of a folder are assigned to splits as a whole, by
  `name_splits` if their names are those of splits, and otherwise by
  `fill_splits`. If that leaves train empty, or valid or test less than half
  full, the joined files are cut instead.

  Args:
    path: See `open_corpus`.
    valid_fraction: Fraction of the bytes held out for validation.
    test_fraction: Fraction of the bytes held out for the test.
    name: Argument that sets the path, such as 'TextFiles.path'.
    field: See `open_corpus`.
    keep_files: Whether to refuse to cut a text file of a folder.

  Raises:
    ValueError: naming the binding, if the path does not exist, is unreadable
      or empty, or contains no text; or if a text file would have to be cut.
  """
  corpus = open_corpus(path, name, field)
  fractions = valid_fraction, test_fraction
  by_name, how = _split_files(corpus, *fractions)
  if by_name is None and keep_files and not corpus.has_rows:
    by_name, how = _fill_each(corpus, fractions, name), 'split by file'
  if by_name is None:
    parts, is_whole = _cut(corpus, *fractions)
    if not is_whole:
      how += ', within documents, as they are few or very unequal'
  else:
    parts = file_parts(corpus, by_name)
    if isinstance(path, TfdsSource):
      parts, how = _complete(corpus, parts, valid_fraction)
  return TextSplits(parts, corpus.describe(how), corpus)


def _split_files(corpus, valid_fraction, test_fraction):
  """Assigns the files of a corpus to splits.

  Returns:
    'train', 'valid' or 'test' by name, or None if the text is to be cut in
    order; and how it is split.
  """
  if corpus.is_file:
    return None, 'split in order'
  fractions = valid_fraction, test_fraction
  if named := name_splits(corpus.files):
    for name in corpus.files.keys() - named.keys():
      corpus.left_out.add('in no split', name)
    return named, 'split by their names'
  by_name = fill_splits(corpus.file_sizes(), *fractions)
  sizes = {s: len(part) for s, part in file_parts(corpus, by_name).items()}
  if _are_filled(sizes, fractions):
    return by_name, 'split by file'
  return None, 'split in order'


def _fill_each(corpus, fractions, name):
  """Holds out whole files, at least one for each fraction that is not 0."""
  sizes = corpus.file_sizes()
  by_name = fill_splits(sizes, *fractions)
  for split, fraction in zip(EVAL_SPLITS, fractions, strict=True):
    if fraction and split not in by_name.values():
      smallest = min(sizes.values()) / sum(sizes.values())
      raise ValueError(
        f'{name}: {name.partition(".")[0]}.{split}_fraction = {fraction:g}: no '
        'file fits into this fraction of the bytes: the smallest of '
        f'{len(sizes)} files has {smallest:.3g} of all bytes'
      )
  return by_name


def file_parts(corpus: Corpus, splits: Mapping[str, str]) -> dict[str, Joined]:
  """Returns the parts of a corpus that are 'train', 'valid' and 'test'.

  Args:
    corpus: The corpus.
    splits: Split of each file by name; other files are in none.
  """
  edges, found = corpus.file_edges(), {split: [] for split in SPLITS}
  for i, name in enumerate(corpus.files):
    if name in splits:
      found[splits[name]].append(i)
  return {
    split: Joined(corpus.text, edges[:-1][files], edges[1:][files])
    for split, files in found.items()
  }


def _complete(corpus, parts, valid_fraction):
  """Makes valid and test of a set of tfds that lacks one of them."""
  how = 'split as the set is'
  if not len(parts['test']):
    how += '; test is its validation split, because it has no test split'
    return parts | {'test': parts['valid']}, how
  if not len(parts['valid']) and valid_fraction:
    train = parts['train']
    begin, end = train.begins[:1], train.ends[-1:]
    wanted = end - ((end - begin) * valid_fraction).astype(np.int64)
    begins = np.append(corpus.begins(), len(corpus.text))
    cut = begins[np.searchsorted(begins, wanted)]
    how += f'; valid is the last {valid_fraction:g} of its train split'
    parts = parts | {
      'train': Joined(corpus.text, begin, cut),
      'valid': Joined(corpus.text, cut, end),
    }
  return parts, how


def documents_in(corpus: Corpus, part: Joined) -> tuple[np.ndarray, np.ndarray]:
  """Returns where the documents of a part of a corpus begin and end, (n,)."""
  begins = corpus.begins()
  first = np.searchsorted(begins, part.begins).tolist()
  last = np.searchsorted(begins, part.ends).tolist()
  slices = [slice(*pair) for pair in zip(first, last, strict=True)]
  none = np.zeros(0, np.int64)
  return (
    np.concatenate([none, *(begins[each] for each in slices)]),
    np.concatenate([none, *(corpus.ends[each] for each in slices)]),
  )


def _are_filled(sizes, fractions):
  """Returns whether train has bytes, and valid and test are half full."""
  total = sum(sizes.values())
  return sizes['train'] > 0 and all(
    sizes[split] >= fraction / 2 * total
    for split, fraction in zip(EVAL_SPLITS, fractions, strict=True)
  )


def _cut(
  corpus, valid_fraction, test_fraction
) -> tuple[dict[str, Joined], bool]:
  """Cuts a text in train, valid and test, in this order.

  Returns:
    The parts, and whether rows were left whole as far as the text has rows.
  """
  edges = cut_edges(len(corpus.text), valid_fraction, test_fraction)
  is_whole = True
  if corpus.has_rows:
    # Where documents begin; the last one ends at the end of the text.
    begins = np.append(corpus.begins(), len(corpus.text))
    whole = begins[np.searchsorted(begins, edges)]
    is_whole = ((np.diff(whole) > 0) == (np.diff(edges) > 0)).all()
    edges = whole if is_whole else edges
  parts = {
    split: Joined(corpus.text, edges[i : i + 1], edges[i + 1 : i + 2])
    for i, split in enumerate(SPLITS)
  }
  return parts, is_whole


def cut_edges(
  n: int, valid_fraction: float, test_fraction: float
) -> np.ndarray:
  """Returns where train, valid and test begin, and test ends, (4,).

  Args:
    n: Number of items to cut.
    valid_fraction: Fraction of the items for 'valid'.
    test_fraction: Fraction of the items for 'test'.

  Returns:
    (n,) int64 with n = 4.

  Example:
    >>> print(cut_edges(100, 0.05, 0.1))
    [  0  85  90 100]
  """
  n_valid, n_test = int(n * valid_fraction), int(n * test_fraction)
  return np.array([0, n - n_valid - n_test, n - n_test, n])


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
