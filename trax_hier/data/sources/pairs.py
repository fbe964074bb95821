"""TextPairs: documents and their summaries, for encoder-decoder models."""

import json
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import Vocab
from trax_hier.data.batching.permutation import shuffled
from trax_hier.data.batching.windows import Batch, example_indices, make_batch
from trax_hier.data.hashing import hash64
from trax_hier.data.sources.text import TEST_FRACTION, VALID_FRACTION
from trax_hier.data.vocabularies.vocab import ByteVocab, load_vocab

_SPLIT = 4  # names this use of the hash; see windows._OFFSET
_BLOCK = 1 << 24  # bytes of a file that are searched for line ends at a time
_N_CHECKED = 8  # pairs of each split that are read when the data set is made
_N_SAMPLED = 100  # pairs that `describe` reads

_EVAL_SPLITS = ('valid', 'test')
_SPLITS = ('train', *_EVAL_SPLITS)


class Pair(NamedTuple):
  """A document and its summary, as `TextPairs.pairs` gives them.

  Attributes:
    source: the text of the document, all of it.
    target: the text of the summary, all of it.
    ids: (n,) int32, what a model reads of the document: n is at most
      source_length.
  """

  source: str
  target: str
  ids: np.ndarray


def is_usable(text: str) -> bool:
  """Whether TextPairs takes a text: not blank, and without the character NUL.

  NUL would be taken for padding, or for the end of a text.
  """
  return bool(text.strip()) and '\0' not in text


@configurable(module='trax_hier.data')
class TextPairs:
  r"""Pairs of texts, such as articles and their summaries.

  They are fields of JSON objects, one a line, in UTF-8. `path` is one file, or
  a folder with train.jsonl, valid.jsonl and test.jsonl, such as
  `python -m trax_hier.data.prepare` writes; where valid.jsonl is missing, valid
  is test. The lines of one file are split by a hash of their number: a line
  keeps its split when others are added after it, and for many lines the shares
  are nearly those asked for.

  Files are mapped: memory holds where lines begin, and pairs are decoded and
  encoded when a batch asks for them.

  Batches have
    'sources', (b, source_length) int32, the document, padded with 0 on the
      right or cut off;
    'inputs' and 'targets', (b, target_length) int32, the summary and a 0 that
      ends it, padded with 0; a longer one is cut off, and has no end then;
    'weights', (b, target_length) float32, 1 for the summary and its end;
    'start_of_sequence', (b,) bool, all True.

  Attributes:
    vocab: the vocabulary of documents and summaries.
    unit: 'byte' or 'token'. The end of a summary counts as one.
    source_length: tokens in a row of sources.
    target_length: tokens in a row of targets.

  Example:
    >>> import tempfile
    >>> row = {'document': 'A long text.', 'summary': 'A text.'}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   file = Path(folder, 'pairs.jsonl')
    ...   _ = file.write_text(20 * f'{json.dumps(row)}\n')
    ...   data = TextPairs(str(file), 2, source_length=16, target_length=10)
    ...   batch = data.train_batch(step=0)
    >>> batch['sources'].shape
    (2, 16)
    >>> print(batch['targets'][0])
    [ 65  32 116 101 120 116  46   0   0   0]
    >>> print(batch['weights'][0].astype(int))
    [1 1 1 1 1 1 1 1 0 0]
  """

  def __init__(
    self,
    path: str,
    batch_size: int,
    source_length: int,
    target_length: int,
    source: str = 'document',
    target: str = 'summary',
    vocab: str | None = None,
    valid_fraction: float = VALID_FRACTION,
    test_fraction: float = TEST_FRACTION,
    seed: int = 0,
  ):
    """Finds the lines, and reads the first pairs of each split.

    Args:
      path: the file or folder; `~` is the home folder.
      batch_size: rows of the global batch.
      source_length: tokens in a row of sources.
      target_length: tokens in a row of targets, the end included.
      source: the field that has the document.
      target: the field that has the summary.
      vocab: a SentencePiece model file whose id 0 stands for no text, such as
        `python -m trax_hier.data.subwords` writes; None: tokens are bytes.
      valid_fraction: share of the lines of one file held out for validation.
      test_fraction: share of the lines of one file held out for the test.
      seed: which shuffle; it does not change the splits.

    Raises:
      ValueError: naming the binding, if the path is missing, unreadable or has
        nothing to train on, if the vocabulary is missing or uses id 0 for text,
        or if a number is not legal; naming file and line, if that is not an
        object of the two fields, or if one of them is no text, blank, or holds
        the character NUL. Later lines are checked when they are read, and raise
        the same.
    """
    checks.check_positive('TextPairs.batch_size', batch_size)
    checks.check_positive('TextPairs.source_length', source_length)
    checks.check_positive('TextPairs.target_length', target_length)
    checks.check_fractions('TextPairs', valid_fraction, test_fraction)
    checks.check_not_negative('TextPairs.seed', seed)
    self.source_length = source_length
    self.target_length = target_length
    self.vocab = (
      ByteVocab() if vocab is None else load_vocab(vocab, 'TextPairs.vocab')
    )
    self.unit = 'byte' if vocab is None else 'token'
    self._path = path
    self._batch_size = batch_size
    self._seed = seed
    fields = {'source': source, 'target': target}
    self._splits = {
      split: _Split(file, lines, fields, self.vocab)
      for split, (file, lines) in _find_splits(
        path, valid_fraction, test_fraction
      ).items()
    }
    if not len(self._splits['train']):
      raise ValueError(
        f'TextPairs.path = {path!r}: has no line in the training split'
      )
    for split in self._splits.values():
      for i in range(min(_N_CHECKED, len(split))):
        split.encoded(i)

  def train_batch(self, step: int, shard: int = 0, n_shards: int = 1) -> Batch:
    """Returns one shard of batch `step`: a pure function of its arguments.

    Args:
      step: which batch, from 0 without end.
      shard: which part of the global batch, in [0, n_shards).
      n_shards: in how many parts; must divide the batch size.

    Returns:
      The batch, as the class says; each epoch has each pair once.

    Raises:
      ValueError: if an argument is out of range, or for a line that is broken.
    """
    index = example_indices(
      'TextPairs', step, self._batch_size, shard, n_shards
    )
    split = self._splits['train']
    return self._batch(split, shuffled(index, len(split), self._seed)[1])

  def eval_batches(
    self, split: str, window: None = None, stride: None = None
  ) -> Sequence[Batch]:
    """Returns all of 'valid' or 'test', each pair once, in the file's order.

    Args:
      split: 'valid' or 'test'.
      window: not for this data set,
      stride: whose rows are not windows of a text.

    Raises:
      ValueError: if there is no such split or it is empty, or if window or
        stride is given; when a batch is read, for a line that is broken.
    """
    checks.check_choice('eval_batches: split', split, _EVAL_SPLITS)
    if window is not None or stride is not None:
      raise ValueError(
        'window and stride do not apply to TextPairs, whose rows are not '
        'windows of a text'
      )
    rows = self._splits[split]
    if not len(rows):
      raise ValueError(f'TextPairs: the {split} split is empty')
    return _PairBatches(
      lambda index: self._batch(rows, index), len(rows), self._batch_size
    )

  def pairs(self, split: str) -> Sequence[Pair]:
    """Returns the pairs of a split in the file's order, read when asked for.

    Args:
      split: 'train', 'valid' or 'test'.

    Raises:
      ValueError: if there is no such split; when a pair is read, for a line
        that is broken.
    """
    checks.check_choice('pairs: split', split, _SPLITS)
    return _Pairs(self._splits[split], self.source_length)

  def count_bytes(self, split: str) -> int | None:
    """Returns the bytes that the scored tokens of 'valid' or 'test' stand for.

    None where tokens are bytes. As there, the end of a summary counts as one;
    what was cut off does not count.
    """
    checks.check_choice('count_bytes: split', split, _EVAL_SPLITS)
    if self.unit == 'byte':
      return None
    rows, total = self._splits[split], 0
    for i in range(len(rows)):
      _, target = rows.texts(i)
      ids = rows.encode(i, 'target', target)[: self.target_length]
      total += len(self.vocab.decode(ids).encode('utf-8'))
      total += len(ids) < self.target_length
    return total

  def describe(self) -> str:
    """Returns one line: the source, the splits, what is cut off, the batch.

    Reads a sample of the training pairs to say how many are cut off.
    """
    rows = self._splits['train']
    n = min(_N_SAMPLED, len(rows))
    sample = np.linspace(0, len(rows) - 1, n).astype(np.int64)
    cut_sources = cut_targets = 0
    for i in sample.tolist():
      source, target = rows.encoded(i)
      cut_sources += len(source) > self.source_length
      # The end needs a place too.
      cut_targets += len(target) + 1 > self.target_length
    sizes = ', '.join(f'{s} {len(r):,}' for s, r in self._splits.items())
    return (
      f'TextPairs: {self._path}: {sizes} pairs; of {n:,} in train, '
      f'{cut_sources:,} are cut off at source_length = {self.source_length:,} '
      f'and {cut_targets:,} at target_length = {self.target_length:,}; batches '
      f'of {self._batch_size} rows'
    )

  def _batch(self, split, index):
    """Returns the batch of (b,) pairs by number; padding past the last one."""
    sources = np.zeros((len(index), self.source_length), np.int32)
    targets = np.zeros((len(index), self.target_length), np.int32)
    weights = np.zeros(targets.shape, np.float32)
    for row, i in enumerate(index.tolist()):
      if i < len(split):
        source, target = split.encoded(i)
        source = source[: self.source_length]
        target = np.append(target, 0)[: self.target_length]
        sources[row, : len(source)] = source
        targets[row, : len(target)] = target
        weights[row, : len(target)] = 1
    return {'sources': sources, **make_batch(targets, weights)}


class _PairBatches(Sequence[Batch]):
  """A split as batches of constant shape; the last is filled with weight 0.

  Attributes:
    context: None: rows are not windows of a text.
  """

  context = None

  def __init__(
    self, batch: Callable[[np.ndarray], Batch], n_rows: int, batch_size: int
  ):
    self._batch = batch
    self._starts = range(0, n_rows, batch_size)

  def __len__(self) -> int:
    return len(self._starts)

  def __getitem__(self, i: int) -> Batch:
    try:
      start = self._starts[operator.index(i)]
    except IndexError as error:
      raise IndexError(f'batch {i} of {len(self)}') from error
    return self._batch(np.arange(start, start + self._starts.step))


class _Pairs(Sequence[Pair]):
  """The pairs of a split, documents cut to `length` tokens."""

  def __init__(self, split: '_Split', length: int):
    self._split = split
    self._length = length

  def __len__(self) -> int:
    return len(self._split)

  def __getitem__(self, i: int) -> Pair:
    i = range(len(self))[operator.index(i)]
    source, target = self._split.texts(i)
    ids = self._split.encode(i, 'source', source)
    return Pair(source, target, ids[: self._length])


class _Lines:
  """The lines of a file, mapped.

  Attributes:
    path: of the file.
    numbers: (n,) int64, of the lines that are not empty, from 0.
  """

  def __init__(self, path: Path):
    """Finds the lines; raises OSError for a file that cannot be read."""
    self.path = path
    # An empty file cannot be mapped.
    empty = not path.stat().st_size
    self._content = b'' if empty else np.memmap(path, np.uint8, mode='r')
    self._edges = _line_edges(self._content)
    # Two bytes are no object with a field, but may be the end of a line.
    short = np.flatnonzero(np.diff(self._edges) <= 2)
    blank = [line for line in short.tolist() if not self.read(line).strip()]
    self.numbers = np.delete(np.arange(len(self._edges) - 1), blank)

  def read(self, line: int) -> bytes:
    """Returns a line by its number, from 0, with the mark of its end."""
    begin, end = self._edges[line : line + 2]
    return bytes(self._content[begin:end])


def _line_edges(content):
  """Where lines begin, and where the last one ends: (lines + 1,) int64."""
  ends = [np.zeros(1, np.int64)]
  for begin in range(0, len(content), _BLOCK):
    is_end = content[begin : begin + _BLOCK] == ord('\n')
    ends.append(np.flatnonzero(is_end) + (begin + 1))
  edges = np.concatenate(ends)
  # The last line may go on to the end of the file.
  return edges if edges[-1] == len(content) else np.append(edges, len(content))


class _Split:
  """The pairs of one split, read from their lines when asked for."""

  def __init__(
    self, file: _Lines, lines: np.ndarray, fields: dict[str, str], vocab: Vocab
  ):
    """Takes what to read.

    Args:
      file: has the lines.
      lines: (n,) their numbers.
      fields: of the objects, for 'source' and 'target'.
      vocab: encodes both.
    """
    self._file = file
    self._lines = lines
    self._fields = fields
    self._vocab = vocab

  def __len__(self) -> int:
    return len(self._lines)

  def texts(self, i: int) -> tuple[str, str]:
    """Returns document and summary i; ValueError if its line is broken."""
    try:
      row = json.loads(self._file.read(self._lines[i]))
    except (ValueError, RecursionError) as error:
      raise ValueError(f'{self._where(i)}: not JSON: {error}') from error
    if not isinstance(row, dict):
      raise ValueError(f'{self._where(i)}: not a JSON object')
    return self._text(i, row, 'source'), self._text(i, row, 'target')

  def encoded(self, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of document and summary i, (n,) and (m,) int32."""
    source, target = self.texts(i)
    return self.encode(i, 'source', source), self.encode(i, 'target', target)

  def encode(self, i: int, name: str, text: str) -> np.ndarray:
    """Returns the ids of a text of pair i, (n,) int32, of which none is 0."""
    try:
      ids = self._vocab.encode(text)
    except ValueError as error:
      raise self._error(i, name, f'cannot be encoded: {error}') from error
    if not len(ids):
      raise self._error(i, name, 'the vocabulary has no token for its text')
    if not ids.all():
      raise self._error(i, name, 'has id 0, which is padding')
    return ids

  def _text(self, i, row, name):
    """The text of a field; ValueError if there is none or it is unusable."""
    field = self._fields[name]
    if field not in row:
      there = ', '.join(map(repr, row)) or 'none'
      raise self._error(i, name, f'no such field; there are: {there}')
    text = row[field]
    if not isinstance(text, str):
      raise self._error(i, name, f'must be a string, got {text!r:.60}')
    if not is_usable(text):
      fault = 'holds the character NUL' if text.strip() else 'has no text'
      raise self._error(i, name, fault)
    return text

  def _error(self, i, name, fault):
    binding = f'TextPairs.{name} = {self._fields[name]!r}'
    return ValueError(f'{binding}: {self._where(i)}: {fault}')

  def _where(self, i):
    return f'{self._file.path}, line {self._lines[i] + 1}'


def _find_splits(path, valid_fraction, test_fraction):
  """Returns the file and the numbers of the lines of each split."""
  binding = f'TextPairs.path = {path!r}'
  found = Path(path).expanduser()
  if not path or not found.exists():
    raise ValueError(
      f'{binding}: no such file or folder (looked for {found.absolute()})'
    )
  try:
    if found.is_dir():
      return _read_folder(found)
    return _read_file(found, valid_fraction, test_fraction)
  except OSError as error:
    raise ValueError(f'{binding}: cannot be read: {error}') from error


def _read_folder(root):
  files = {
    split: _Lines(root / f'{split}.jsonl')
    for split in _SPLITS
    if split != 'valid' or (root / 'valid.jsonl').exists()
  }
  files.setdefault('valid', files['test'])
  return {split: (files[split], files[split].numbers) for split in _SPLITS}


def _read_file(path, valid_fraction, test_fraction):
  file = _Lines(path)
  draw = hash64(0, _SPLIT, file.numbers) / 2**64
  is_test = draw < test_fraction
  is_valid = ~is_test & (draw < test_fraction + valid_fraction)
  masks = {'train': ~(is_test | is_valid), 'valid': is_valid, 'test': is_test}
  return {split: (file, file.numbers[mask]) for split, mask in masks.items()}
