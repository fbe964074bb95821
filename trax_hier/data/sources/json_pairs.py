"""Pairs of texts in memory-mapped JSON lines, read by number."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trax_hier.data.cache.content import hash_of
from trax_hier.data.cache.entries import open_entry
from trax_hier.data.cache.progress import Progress
from trax_hier.data.corpora.opening import open_file
from trax_hier.data.corpora.remote import fetch
from trax_hier.data.files import find_path, form_of
from trax_hier.data.folders import Notes
from trax_hier.data.hashing import LINE_SPLIT, hash64
from trax_hier.data.named_splits import find_split_files
from trax_hier.data.splits import SPLITS, hash_once
from trax_hier.data.vocabularies.vocab import TextVocab

_BLOCK = 1 << 24  # bytes searched for line ends at a time

# Names of the files of a folder; what they contain is read from their bytes.
_ENDINGS = tuple(f'.jsonl{x}' for x in ('', '.gz', '.xz', '.bz2', '.zst'))

_VERSION = 1  # of the entries of the cache; a change of what they hold adds one

_NAMES = 'source', 'target'


def is_usable(text: str) -> bool:
  """Returns whether TextPairs accepts a text: not blank, and without NUL.

  NUL has id 0, which is padding and the end of a text.
  """
  return bool(text.strip()) and '\0' not in text


class MappedLines:
  """The lines of a file, memory-mapped as it is or unpacked in the data cache.

  Attributes:
    path: Path of the file.
    content: Bytes of the lines, (n,) uint8.
    form: Form that they were unpacked from, such as 'gzip'; '' if mapped.
    numbers: Numbers of the lines from 0, (n,) int64, without blank lines of at
      most two bytes.
  """

  def __init__(self, path: Path):
    """Finds the lines, once; raises the errors of `open_file`."""
    self.path = path
    self.content, self.form = np.zeros(0, np.uint8), ''
    self._folder, self._edges = None, np.zeros(1, np.int64)
    if form_of(path) is not None:  # An empty file has no lines.
      text = open_file(path, str(path))
      self.content, self.form = text.text, ', '.join(text.converted.kinds())

      def build(folder):
        np.save(folder / 'edges.npy', _line_edges(self.content))

      key = hash_of(_VERSION, text.key())
      self._folder = open_entry(f'lines/{key}', build, str(path))
      self._edges = np.load(self._folder / 'edges.npy', mmap_mode='r')
    # A longer blank line is an error, like any line that is not a JSON object.
    short = np.flatnonzero(np.diff(self._edges) <= 2)
    blank = [line for line in short.tolist() if not self.read(line).strip()]
    self.numbers = np.delete(np.arange(len(self._edges) - 1), blank)

  def hash(self, lines: np.ndarray) -> str | None:
    """Returns the hash of the content and of line numbers, for a fingerprint.

    None if the content is the file of the user, of which samples are hashed.

    Args:
      lines: Line numbers, (n,).
    """
    if not self.form:
      return None
    return hash_once(self._folder, lines, lines, (self.content, lines))

  def check_once(self, name: str, check: Callable[[], int]) -> int:
    """Returns the number of bad lines; counts them until there are none.

    Args:
      name: All that determines whether a line is bad.
      check: Counts them.
    """
    if self._folder is None or self._folder.joinpath(name).exists():
      return 0
    n_bad = check()
    if not n_bad:
      with contextlib.suppress(OSError):  # The cache may be full.
        self._folder.joinpath(name).touch()
    return n_bad

  def read(self, line: int) -> bytes:
    """Returns a line by its number from 0, including its line end."""
    begin, end = self._edges[line : line + 2]
    return bytes(self.content[begin:end])


def _line_edges(content):
  """Returns where each line begins and the last one ends, (lines + 1,)."""
  ends = [np.zeros(1, np.int64)]
  for begin in range(0, len(content), _BLOCK):
    is_end = content[begin : begin + _BLOCK] == ord('\n')
    ends.append(np.flatnonzero(is_end) + (begin + 1))
  edges = np.concatenate(ends)
  # The last line may lack a line end.
  return edges if edges[-1] == len(content) else np.append(edges, len(content))


class PairReader:
  """The pairs of one split, read from their lines on demand."""

  def __init__(
    self,
    file: MappedLines,
    lines: np.ndarray,
    fields: dict[str, str],
    vocab: TextVocab,
  ):
    """Stores the arguments; reads nothing.

    Args:
      file: File of the pairs.
      lines: Line numbers of the pairs, (n,).
      fields: Name of the JSON field of 'source' and of 'target'.
      vocab: TextVocabulary of source and target.
    """
    self._file = file
    self._lines = lines
    self._fields = fields
    self._vocab = vocab

  def __len__(self) -> int:
    """Number of pairs."""
    return len(self._lines)

  def texts(self, i: int) -> tuple[str, str]:
    """Returns source and target i; ValueError if their line is malformed."""
    try:
      row = json.loads(self._file.read(self._lines[i]))
    except (ValueError, RecursionError) as error:
      raise ValueError(f'{self.location(i)}: not JSON: {error}') from error
    if not isinstance(row, dict):
      raise ValueError(f'{self.location(i)}: not a JSON object')
    return tuple(self._text(i, row, name) for name in _NAMES)

  def check(self, i: int) -> None:
    """Raises ValueError if pair i cannot be read; encodes few texts."""
    for name, text in zip(_NAMES, self.texts(i), strict=True):
      # Vocabularies encode UTF-8, and drop no letters and digits.
      if not any(map(str.isalnum, text)):
        self.encode(i, name, text)
      elif not text.isascii():
        try:
          text.encode('utf-8')
        except UnicodeEncodeError as error:
          raise self._error(i, name, f'cannot be encoded: {error}') from error

  def encoded(self, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of source and target i, (n,) and (m,) int32."""
    source, target = self.texts(i)
    return self.encode(i, 'source', source), self.encode(i, 'target', target)

  def encode(self, i: int, name: str, text: str) -> np.ndarray:
    """Returns the ids of a text of pair i, (n,) int32, all nonzero."""
    try:
      ids = self._vocab.encode(text)
    except ValueError as error:
      raise self._error(i, name, f'cannot be encoded: {error}') from error
    if not len(ids):
      raise self._error(i, name, 'the vocabulary has no token for its text')
    if not ids.all():
      raise self._error(i, name, 'has id 0, which is padding')
    return ids

  def location(self, i: int) -> str:
    """Returns file and line of pair i, for messages."""
    return f'{self._file.path}, line {self._lines[i] + 1}'

  def _text(self, i, row, name):
    """Returns the text of a field; ValueError if it is missing or unusable."""
    field = self._fields[name]
    if field not in row:
      fields = ', '.join(map(repr, row)) or 'none'
      raise self._error(i, name, f'no such field; the fields are: {fields}')
    text = row[field]
    if not isinstance(text, str):
      raise self._error(i, name, f'must be a string, got {text!r:.60}')
    if not is_usable(text):
      fault = 'contains the character NUL' if text.strip() else 'is blank'
      raise self._error(i, name, fault)
    return text

  def _error(self, i, name, fault):
    binding = f'TextPairs.{name} = {self._fields[name]!r}'
    return ValueError(f'{binding}: {self.location(i)}: {fault}')


def check_lines(
  files: Iterable[MappedLines], fields: dict[str, str], vocab: TextVocab
) -> None:
  """Reads each line once, so that training does not stop at a bad one.

  Later calls with files that are good do not read them.

  Args:
    files: Files of the pairs.
    fields: Name of the JSON field of 'source' and of 'target'.
    vocab: TextVocabulary of source and target.

  Raises:
    ValueError: naming the first bad line and the number of bad lines.
  """
  errors, n_bad, n_lines = [], 0, 0
  for file in files:
    pairs = PairReader(file, file.numbers, fields, vocab)
    n_lines += len(pairs)
    name = f'good-{hash_of(_VERSION, fields, vocab.key)}'
    check = functools.partial(_count_bad, file, pairs, errors)
    n_bad += file.check_once(name, check)
  if errors:
    raise ValueError(
      f'{errors[0]} (bad lines: {n_bad:,} of {n_lines:,})'
    ) from errors[0]


def _count_bad(file, pairs, errors):
  """Returns the number of bad pairs; adds the first error to `errors`."""
  n_bad, size = 0, len(file.content)
  progress = Progress(f'checking {file.path}', size)
  for i in range(len(pairs)):
    try:
      pairs.check(i)
    except ValueError as error:
      n_bad += 1
      if not errors:
        errors.append(error)
    progress.add(size // len(pairs))
  progress.end('checked')
  return n_bad


class PairFiles(NamedTuple):
  """The files of the pairs, and their lines by split.

  Attributes:
    splits: File and line numbers, (n,), of 'train', 'valid' and 'test'.
    left_out: Other files of the folder.
    converted: Files that were unpacked.
  """

  splits: dict[str, tuple[MappedLines, np.ndarray]]
  left_out: Notes
  converted: Notes

  def describe(self) -> str:
    """Returns what was converted and left out, in brackets, or ''."""
    notes = (('converted', self.converted), ('left out', self.left_out))
    text = '; '.join(f'{what}: {note}' for what, note in notes if str(note))
    return text and f' ({text})'


def find_splits(
  path: str, valid_fraction: float, test_fraction: float
) -> PairFiles:
  """Finds the files and lines of each split.

  Args:
    path: A file, or a folder with a file per split; `~` is the home folder.
    valid_fraction: Fraction of the lines of one file held out for validation.
    test_fraction: Fraction of the lines of one file held out for the test.

  Raises:
    ValueError: naming the binding, if the path is missing or unreadable, or has
      two files of a split.
  """
  binding = f'TextPairs.path = {path!r}'
  found = find_path(fetch(path, binding), binding)
  left_out, converted = Notes(), Notes()
  try:
    if found.is_dir():
      splits, left_out = _map_folder(found)
    else:
      splits = _map_file(found, valid_fraction, test_fraction)
  except (OSError, ValueError) as error:
    raise ValueError(f'{binding}: cannot be read: {error}') from error
  for file in {file.path: file for file, _ in splits.values()}.values():
    if file.form:
      converted.add(file.form, file.path.name)
  return PairFiles(splits, left_out, converted)


def _map_folder(root):
  paths, left_out = find_split_files(root, _ENDINGS)
  for split in ('train', 'test'):
    if split not in paths:
      others = str(left_out)
      raise ValueError(
        f'the folder has no {split}.jsonl' + (others and f'; it has {others}')
      )
  files = {
    split: MappedLines(paths[split]) for split in SPLITS if split in paths
  }
  splits = {split: (file, file.numbers) for split, file in files.items()}
  splits.setdefault('valid', (files['test'], np.zeros(0, np.int64)))
  return {split: splits[split] for split in SPLITS}, left_out


def _map_file(path, valid_fraction, test_fraction):
  file = MappedLines(path)
  uniform = hash64(0, LINE_SPLIT, file.numbers) / 2**64
  is_test = uniform < test_fraction
  is_valid = ~is_test & (uniform < test_fraction + valid_fraction)
  masks = {'train': ~(is_test | is_valid), 'valid': is_valid, 'test': is_test}
  return {split: (file, file.numbers[mask]) for split, mask in masks.items()}
