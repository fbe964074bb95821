"""FromArrays: token ids in arrays, in memory or in files."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.documents import Documents
from trax_hier.data.batching.padded_rows import padded_rows
from trax_hier.data.batching.windowed import windowed
from trax_hier.data.sources.token_arrays import count_ids, read_tokens
from trax_hier.data.splits import SPLITS, TEST_FRACTION, VALID_FRACTION
from trax_hier.data.vocabularies.id_vocab import IdVocab
from trax_hier.data.vocabularies.text_vocabs import describe_vocab, open_vocab
from trax_hier.data.vocabularies.vocab import Vocab

_HINT = '; give FromArrays.valid'


@configurable(module='trax_hier.data')
def FromArrays(
  train: str | np.ndarray | Sequence[Any],
  batch_size: int,
  length: int | None = None,
  valid: str | np.ndarray | Sequence[Any] | None = None,
  test: str | np.ndarray | Sequence[Any] | None = None,
  vocab: str | Vocab | None = None,
  vocab_size: int | None = None,
  dtype: str | None = None,
  valid_fraction: float = VALID_FRACTION,
  test_fraction: float = TEST_FRACTION,
  seed: int = 0,
  eval_length: int | None = None,
  eval_stride: int | None = None,
  packed: bool = False,
  multiple_of: int = 1,
) -> DataSet:
  """Token ids from arrays in memory, or from .npy and raw files.

      train.data = @FromArrays()
      FromArrays.train = 'train.npy'
      FromArrays.valid = 'valid.npy'

  The tokens of a split are one of
    an array (n,): a stream of tokens, which is cut into windows of `length`;
    an array (n, l): rows of a batch;
    a sequence of arrays, each (n,): documents, of which a row has tokens of one
      only, padded with id 0, and a long one continues in the next row;
    the path of a .npy file of an array (n,) or (n, l), or of a raw file of ids
      of type `dtype`, (n,); both are memory-mapped.
  All splits have the same form.

  Args:
    train: Tokens of the training split.
    batch_size: Rows of the global batch.
    length: Tokens in a row; may be left out for rows (n, l), whose length is l.
    valid: Tokens of the validation split. If neither this nor `test` is given,
      the ends of `train` are held out.
    test: Tokens of the test split; None leaves it empty if `valid` is given.
    vocab: Vocabulary of the ids, to read texts and samples; see `TextFiles`.
      Ids of a tokenizer.json or of a .tiktoken file are those of the file, to
      which 1 is added, as id 0 is padding. None shows ids as numbers.
    vocab_size: Number of ids; None means that of `vocab`, or else 1 + the
      largest id. All arrays are read once, to check it.
    dtype: Type of the ids in raw files, such as 'uint16'.
    valid_fraction: Fraction held out for validation, if only `train` is given.
    test_fraction: Fraction held out for the test, if only `train` is given.
    seed: Seed of the shuffle.
    eval_length: Tokens in an evaluation window of a stream; None means
      `length`.
    eval_stride: Tokens that an evaluation window of a stream scores; None means
      all.
    packed: Whether rows may hold several documents; see `PaddedDocuments`.
    multiple_of: See `PaddedDocuments`.

  Raises:
    ValueError: naming the binding, if a file is missing, or if an array has the
      wrong shape or type, or an id that the vocabulary lacks.

  Example:
    >>> tokens = np.arange(1000) % 7
    >>> data = FromArrays(tokens, batch_size=2, length=8)
    >>> data.vocab.size
    7
    >>> data.train_batch(0)['inputs'].shape
    (2, 8)
    >>> data = FromArrays([[1, 2], [3]], 1, 4, valid=[[4, 5, 6]])
    >>> print(data.eval_batches('valid')[0]['inputs'])
    [[4 5 6 0]]
  """
  if train is None:
    raise ValueError('FromArrays.train must be tokens or a file, got None')
  given = {'train': train, 'valid': valid, 'test': test}
  splits = _read(given, dtype, valid_fraction, test_fraction)
  if vocab_size is not None:
    checks.check_positive('FromArrays.vocab_size', vocab_size)
  vocabulary, shift, text = _open(vocab, vocab_size, splits)
  splits = {split: part.shifted(shift) for split, part in splits.items()}
  files = [repr(x) for x in given.values() if isinstance(x, str)]
  origin = f'{", ".join(files) or "arrays"} ({text})'
  _, row, ends = splits['train']
  if row is not None and length not in (None, row):
    raise ValueError(
      f'FromArrays.length = {length}: must be the length of the rows, {row}, '
      'or be left out'
    )
  length = row if length is None else length
  if length is None:
    raise ValueError('FromArrays.length must be given, except for rows (n, l)')
  unit = getattr(vocabulary, 'unit', 'token')
  if ends is not None:
    return padded_rows(
      'FromArrays',
      origin,
      {
        split: Documents.adjacent(part.tokens, part.ends)
        for split, part in splits.items()
      },
      vocabulary,
      unit,
      batch_size,
      length,
      seed,
      packed,
      multiple_of,
      empty_hint=_HINT,
    )
  if packed:
    raise ValueError(
      'FromArrays.packed = True: packs documents, but FromArrays.train is '
      f'{splits["train"].form}; give a sequence of arrays, each a document'
    )
  return windowed(
    'FromArrays',
    origin,
    {split: part.tokens for split, part in splits.items()},
    vocabulary,
    batch_size,
    length,
    seed,
    unit,
    eval_length=eval_length,
    eval_stride=eval_stride,
    move_edges=row is None,
    empty_hint=_HINT,
  )


def _read(given, dtype, valid_fraction, test_fraction):
  """Reads the splits that are given, and cuts or leaves empty the others."""
  splits = {
    split: read_tokens(tokens, f'FromArrays.{split}', dtype)
    for split, tokens in given.items()
    if tokens is not None
  }
  if len({part.form for part in splits.values()}) > 1:
    forms = ', '.join(f'{split}: {x.form}' for split, x in splits.items())
    raise ValueError(f'FromArrays: all splits must have one form, got {forms}')
  checks.check_fractions('FromArrays', valid_fraction, test_fraction)
  if len(splits) == 1:
    parts = splits['train'].cut(valid_fraction, test_fraction)
    return dict(zip(SPLITS, parts, strict=True))
  _, empty = splits['train'].cut(0)
  return {split: splits.get(split, empty) for split in SPLITS}


def _open(vocab, vocab_size, splits):
  """Opens the vocabulary and checks the ids.

  Returns:
    The vocabulary, what is to be added to each id, and a text for `describe`.
  """
  if vocab is None:
    size = count_ids(splits, vocab_size, 'FromArrays.vocab_size')
    return IdVocab(size), 0, f'{size:,} ids'
  vocabulary = open_vocab(vocab, 'FromArrays.vocab')
  shift = getattr(vocabulary, 'shift', 0)
  size = vocabulary.size - shift
  if vocab_size not in (None, vocabulary.size):
    raise ValueError(
      f'FromArrays.vocab_size = {vocab_size}: FromArrays.vocab has '
      f'{vocabulary.size} ids; leave it out'
    )
  count_ids(splits, size, 'the ids of FromArrays.vocab')
  text = describe_vocab(vocabulary, vocab) or 'bytes'
  return vocabulary, shift, text + (f', ids + {shift}' if shift else '')
