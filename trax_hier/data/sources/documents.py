"""PaddedDocuments: one document a row, as prepared from a tfds data set."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet, Vocab
from trax_hier.data.batching.permutation import shuffled
from trax_hier.data.vocabularies.vocab import ByteVocab, SentencePieceVocab

# The files of a prepared folder. `{split}.tokens` holds the ids of all
# documents end to end, `{split}.ends.npy` where each one ends, int64.
VOCAB_FILE = 'sentencepiece.model'
COMMAND = 'python -m trax_hier.data.prepare --name=wiki40b/en --output_dir=DIR'


def token_type(vocab: Vocab) -> np.dtype:
  """The smallest unsigned integer that holds every id, on disk."""
  return np.dtype(np.min_scalar_type(vocab.size - 1)).newbyteorder('<')


class Documents(NamedTuple):
  """Documents in one array.

  Attributes:
    tokens: (n,) integers, in memory or mapped.
    begins: (documents,) int64, where each document begins.
    ends: (documents,) int64, where it ends.

  Example:
    >>> documents = Documents.end_to_end(np.arange(10), np.array([3, 10]))
    >>> print(documents.begins, documents.n_tokens())
    [0 3] 10
  """

  tokens: np.ndarray
  begins: np.ndarray
  ends: np.ndarray

  @classmethod
  def end_to_end(cls, tokens: np.ndarray, ends: np.ndarray) -> 'Documents':
    """Documents that each begin where the one before ends."""
    return cls(tokens, np.insert(ends, 0, 0)[:-1], ends)

  def n_tokens(self) -> int:
    """Tokens of all documents."""
    return int((self.ends - self.begins).sum())

  def n_bytes(self, vocab: Vocab, skip_zeros: bool = False) -> int:
    """UTF-8 bytes of the documents' text, each decoded as a whole.

    A row may begin in the middle of a sentence, where vocabularies of subwords
    drop a space, so rows are not decoded one by one. Bytes that the vocabulary
    normalised away when the set was prepared do not count, and a piece that it
    does not know counts as the mark it decodes to.

    Args:
      vocab: of the tokens.
      skip_zeros: whether to leave out tokens of id 0.
    """
    total = 0
    for begin, end in zip(self.begins, self.ends, strict=True):
      ids = self.tokens[begin:end]
      text = vocab.decode(ids[ids != 0] if skip_zeros else ids)
      total += len(text.encode('utf-8'))
    return total


class DocumentRows:
  """Rows that each begin a document or go on with one, never two in a row.

  A document longer than a row goes on in the next one, so no token is lost.
  What a document leaves of its last row is padding of weight 0.

  Example:
    >>> documents = Documents.end_to_end(np.arange(1, 8), np.array([2, 7]))
    >>> tokens, weights = DocumentRows(documents, length=3).rows(np.arange(3))
    >>> print(tokens)
    [[1 2 0]
     [3 4 5]
     [6 7 0]]
  """

  def __init__(self, documents: Documents, length: int):
    """Counts the rows.

    Args:
      documents: what to cut into rows.
      length: tokens in a row.
    """
    self._tokens, self._begins, self._ends = documents
    self._length = length
    n_rows = -(-(self._ends - self._begins) // length)
    self._row_ends = np.cumsum(n_rows)
    self._first_rows = self._row_ends - n_rows
    self.n_rows = int(n_rows.sum())

  def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows by number; those past the last are all padding.

    Args:
      index: (b,) row numbers, 0 or more.

    Returns:
      (b, l) int32 tokens, padded with 0, and (b, l) float32 weights.
    """
    tokens = np.zeros((len(index), self._length), np.int32)
    weights = np.zeros((len(index), self._length), np.float32)
    documents = np.searchsorted(self._row_ends, index, side='right')
    for row, (i, document) in enumerate(zip(index, documents, strict=True)):
      if i < self.n_rows:
        skipped = (i - self._first_rows[document]) * self._length
        begin = self._begins[document] + skipped
        end = min(begin + self._length, self._ends[document])
        text = self._tokens[begin:end]
        tokens[row, : len(text)] = text
        weights[row, : len(text)] = 1
    return tokens, weights


@configurable(module='trax_hier.data')
def PaddedDocuments(
  path: str, batch_size: int, length: int, seed: int = 0
) -> DataSet:
  """Documents such as wiki40b's articles, each in rows of its own.

  Reads what `python -m trax_hier.data.prepare` writes, mapped. The vocabulary
  is the SentencePiece model that the folder was prepared with, or bytes. Where
  the set has no validation split, valid is test.

  Args:
    path: the folder.
    batch_size: rows of the global batch.
    length: tokens in a row.
    seed: which shuffle.

  Raises:
    ValueError: naming the binding, if files are missing or do not fit
      together, or if a number is not legal.
  """
  binding = f'PaddedDocuments.path = {path!r}'
  checks.check_positive('PaddedDocuments.length', length)
  checks.check_not_negative('PaddedDocuments.seed', seed)
  root = Path(path).expanduser()
  if not path or not root.is_dir():
    raise ValueError(
      f'{binding}: no such folder (looked for {root.absolute()}). To make '
      f'one from a tfds data set: {COMMAND}'
    )
  try:
    vocab, documents = read_prepared(root)
  except (OSError, ValueError) as error:
    raise ValueError(f'{binding}: {error}') from error
  is_subwords = not isinstance(vocab, ByteVocab)
  rows = {
    split: DocumentRows(split_documents, length)
    for split, split_documents in documents.items()
  }
  train = rows['train']

  def train_rows(index):
    return train.rows(shuffled(index, train.n_rows, seed)[1])

  def eval_rows(split, _):
    return rows[split].rows, rows[split].n_rows

  def n_bytes(split):
    return documents[split].n_bytes(vocab)

  sizes = ', '.join(f'{split} {r.n_rows:,}' for split, r in rows.items())
  return DataSet(
    'PaddedDocuments',
    f'{path}: {sizes} rows of {length}',
    train_rows,
    eval_rows,
    vocab,
    'token' if is_subwords else 'byte',
    batch_size,
    n_bytes=n_bytes if is_subwords else None,
  )


def is_prepared(path: Path) -> bool:
  """Whether a path is a folder that `read_prepared` is to read."""
  return (path / 'train.tokens').is_file()


def read_prepared(root: Path) -> tuple[Vocab, dict[str, Documents]]:
  """Maps the documents that `python -m trax_hier.data.prepare` wrote.

  Args:
    root: the folder.

  Returns:
    The vocabulary and 'train', 'valid' and 'test'; where the set has no
    validation split, valid is test.

  Raises:
    OSError: if a file is missing or cannot be read.
    ValueError: if files do not fit together, or if the vocabulary cannot be
      loaded.
  """
  model = root / VOCAB_FILE
  vocab = SentencePieceVocab(str(model)) if model.exists() else ByteVocab()
  splits = {
    split: _read(root, split, token_type(vocab))
    for split in ('train', 'valid', 'test')
    if split != 'valid' or (root / 'valid.tokens').exists()
  }
  splits.setdefault('valid', splits['test'])
  return vocab, splits


def _read(root, split, dtype):
  """Maps one split."""
  ends = np.load(root / f'{split}.ends.npy', allow_pickle=False)
  tokens = np.memmap(root / f'{split}.tokens', dtype, mode='r')
  if not len(ends) or ends[-1] != len(tokens):
    raise ValueError(f'{split}.ends.npy does not fit {split}.tokens')
  return Documents.end_to_end(tokens, ends)
