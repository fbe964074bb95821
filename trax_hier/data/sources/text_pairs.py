"""TextPairs: documents and their summaries, for encoder-decoder models."""

import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.permutation import shuffled
from trax_hier.data.named_splits import use_test_as_valid
from trax_hier.data.sources.json_pairs import (
  PairReader,
  check_lines,
  find_splits,
)
from trax_hier.data.splits import (
  SPLITS,
  TEST_FRACTION,
  VALID_FRACTION,
)
from trax_hier.data.vocabularies.text_vocabs import describe_vocab, open_vocab
from trax_hier.data.vocabularies.vocab import Vocab

_N_CHECKED = 8  # pairs of each split that the constructor checks
_N_SAMPLED = 100  # pairs that `describe` reads


class Pair(NamedTuple):
  """A document and its summary, as `TextPairs.pairs` returns them.

  Attributes:
    source: Full text of the document.
    target: Full text of the summary.
    ids: Ids of the document that a model reads, at most source_length, (n,)
      int32.
  """

  source: str
  target: str
  ids: np.ndarray


@configurable(module='trax_hier.data')
class TextPairs(DataSet):
  r"""Pairs of texts, such as articles and their summaries.

  A pair is two fields of a JSON object, one object a line, in UTF-8. `path` is
  one file, or a folder with train.jsonl, valid.jsonl (or validation, val or
  dev) and test.jsonl, such as `python -m trax_hier.data.prepare` writes. A
  single file is split by a hash of the line number: a line keeps its split when
  others are appended, and the fractions are nearly exact for many lines.

  Files are memory-mapped; those compressed by gzip, xz, bzip2 or zstd are
  unpacked in the data cache. All lines are checked once. Only their numbers are
  in memory, and a batch parses and encodes its pairs on demand.

  Batches have
    'sources', (b, source_length) int32, the document, padded with 0 on the
      right or truncated;
    'inputs' and 'targets', (b, target_length) int32, the summary and a 0 that
      ends it, padded with 0; a longer summary is truncated and has no end;
    'weights', (b, target_length) float32, 1 for the summary and its end;
    'start_of_sequence', (b,) bool, all True.

  Attributes:
    vocab: Vocabulary of documents and summaries.
    unit: 'byte' or 'token'. The end of a summary counts as one.
    source_length: Tokens in a row of sources.
    target_length: Tokens in a row of targets.

  Example:
    >>> import json, pathlib, tempfile
    >>> row = {'document': 'A long text.', 'summary': 'A text.'}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   file = pathlib.Path(folder, 'pairs.jsonl')
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
    vocab: str | Vocab | None = None,
    valid_fraction: float = VALID_FRACTION,
    test_fraction: float = TEST_FRACTION,
    seed: int = 0,
    test_as_valid: bool = False,
  ):
    """Finds and checks the lines.

    Args:
      path: File or folder, or the address of one, as `TextFiles.path`; `~` is
        the home folder.
      batch_size: Rows of the global batch.
      source_length: Tokens in a row of sources.
      target_length: Tokens in a row of targets, including the end.
      source: Field of the document.
      target: Field of the summary.
      vocab: Vocabulary of documents and summaries; see `TextFiles`. None means
        that tokens are bytes.
      valid_fraction: Fraction of the lines of one file held out for validation.
      test_fraction: Fraction of the lines of one file held out for the test.
      seed: Seed of the shuffle; the splits do not depend on it.
      test_as_valid: Whether test is also used for validation. If valid has no
        pair, it can only be evaluated with True.

    Raises:
      ValueError: naming the binding, if the path is missing, is unreadable or
        has no training pair, if the vocabulary is missing or encodes text as
        id 0, or if a number is invalid; naming file and line of the first, and
        the number of all, if lines are not objects with the two fields, or if
        a field is not text, is blank, or contains the character NUL.
    """
    checks.check_positive('TextPairs.batch_size', batch_size)
    checks.check_positive('TextPairs.source_length', source_length)
    checks.check_positive('TextPairs.target_length', target_length)
    checks.check_fractions('TextPairs', valid_fraction, test_fraction)
    checks.check_seed('TextPairs.seed', seed)
    self.source_length = source_length
    self.target_length = target_length
    vocabulary = open_vocab(vocab, 'TextPairs.vocab')
    of_vocab = describe_vocab(vocabulary, vocab)
    fields = {'source': source, 'target': target}
    found = find_splits(path, valid_fraction, test_fraction)
    n_valid = len(found.splits['valid'][1])
    hint = use_test_as_valid(found.splits, n_valid, test_as_valid, 'TextPairs')
    files = {file.path: file for file, _ in found.splits.values()}
    check_lines(files.values(), fields, vocabulary)
    self._splits = {
      split: PairReader(file, lines, fields, vocabulary)
      for split, (file, lines) in found.splits.items()
    }
    train = self._splits['train']
    if not len(train):
      raise ValueError(
        f'TextPairs.path = {path!r}: has no line in the training split'
      )
    for pairs in self._splits.values():
      for i in range(min(_N_CHECKED, len(pairs))):
        pairs.encoded(i)

    def train_rows(index):
      return self._rows(train, shuffled(index, len(train), seed)[1])

    def eval_rows(split, _):
      pairs = self._splits[split]
      return lambda index: self._rows(pairs, index), len(pairs)

    def byte_rows(split, _):
      pairs = self._splits[split]
      return lambda index: self._target_bytes(pairs, index)

    super().__init__(
      'TextPairs',
      path + found.describe() + (of_vocab and f', {of_vocab}'),
      train_rows,
      eval_rows,
      vocabulary,
      vocabulary.unit,
      batch_size,
      byte_rows=byte_rows if vocabulary.unit == 'token' else None,
      content={
        split: (
          f'{len(lines):,} pairs',
          (file.content, lines),
          file.hash(lines),
        )
        for split, (file, lines) in found.splits.items()
      },
      empty_hint=hint,
      rows_per_epoch=len(train),
    )

  def pairs(self, split: str) -> Sequence[Pair]:
    """Returns the pairs of a split in file order, each read on access.

    Args:
      split: 'train', 'valid' or 'test'.

    Raises:
      ValueError: if the split does not exist; on access, if the line of a pair
        is malformed.
    """
    checks.check_choice('pairs: split', split, SPLITS)
    return _Pairs(self._splits[split], self.source_length, self._check_files)

  def describe(self) -> str:
    """Returns one line: the source, split sizes, truncation and batch size.

    Reads a sample of the training pairs to count the truncated ones.
    """
    pairs = self._splits['train']
    n = min(_N_SAMPLED, len(pairs))
    sample = np.linspace(0, len(pairs) - 1, n).astype(np.int64)
    cut_sources = cut_targets = 0
    for i in sample.tolist():
      source, target = pairs.encoded(i)
      cut_sources += len(source) > self.source_length
      cut_targets += len(target) + 1 > self.target_length  # 1 for the end
    sizes = ', '.join(f'{s} {len(p):,}' for s, p in self._splits.items())
    return (
      f'TextPairs: {self._description}: {sizes} pairs; of {n:,} sampled in '
      f'train, {cut_sources:,} are truncated at source_length = '
      f'{self.source_length:,} and {cut_targets:,} at target_length = '
      f'{self.target_length:,}; batches of {self._batch_size} rows'
    )

  def _target_bytes(self, pairs, index):
    """Returns the bytes of each target token; the end counts as one."""
    counts = np.zeros((len(index), self.target_length), np.int64)
    for row, i in enumerate(index.tolist()):
      _, target = pairs.texts(i)
      n_bytes = self.vocab.encode_bytes(target.encode()).n_bytes
      n_bytes = np.append(n_bytes, 1)[: self.target_length]
      counts[row, : len(n_bytes)] = n_bytes
    return counts

  def _rows(self, pairs, index):
    """Returns rows by pair number; rows past the last pair are padding."""
    sources = np.zeros((len(index), self.source_length), np.int32)
    targets = np.zeros((len(index), self.target_length), np.int32)
    weights = np.zeros(targets.shape, np.float32)
    for row, i in enumerate(index.tolist()):
      if i < len(pairs):
        source, target = pairs.encoded(i)
        source = source[: self.source_length]
        target = np.append(target, 0)[: self.target_length]
        sources[row, : len(source)] = source
        targets[row, : len(target)] = target
        weights[row, : len(target)] = 1
    return targets, weights, None, sources


class _Pairs(Sequence[Pair]):
  """The pairs of a split, with document ids truncated to `length`."""

  def __init__(self, pairs: PairReader, length: int, check_files):
    self._pairs = pairs
    self._length = length
    self._check_files = check_files

  def __len__(self) -> int:
    return len(self._pairs)

  def __getitem__(self, i: int) -> Pair:
    i = range(len(self))[operator.index(i)]
    self._check_files()
    source, target = self._pairs.texts(i)
    ids = self._pairs.encode(i, 'source', source)
    return Pair(source, target, ids[: self._length])
