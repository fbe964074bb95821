"""Data sets of documents in padded rows, of one document each or of several."""

import functools
from collections.abc import Mapping

import numpy as np

from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet, table_bytes
from trax_hier.data.batching.documents import DocumentRows, Documents
from trax_hier.data.batching.packed_rows import PackedRows
from trax_hier.data.batching.permutation import shuffled
from trax_hier.data.vocabularies.vocab import Vocab


def padded_rows(
  name: str,
  origin: str,
  documents: Mapping[str, Documents],
  vocab: Vocab,
  unit: str,
  batch_size: int,
  length: int,
  seed: int,
  packed: bool = False,
  multiple_of: int = 1,
  token_bytes: Mapping[str, np.ndarray] | None = None,
  decoded_bytes: bool = False,
  empty_hint: str = '',
  hashes: Mapping[str, str] | None = None,
) -> DataSet:
  """Returns a data set that cuts documents into rows.

  See `DocumentRows`, or `PackedRows` if `packed`.

  Args:
    name: Name of the configurable that has these arguments, for messages.
    origin: Source of the data, for `describe`.
    documents: Documents of 'train', 'valid' and 'test'.
    vocab: Vocabulary of the ids.
    unit: Unit of a token.
    batch_size: Rows of the global batch.
    length: Tokens in a row.
    seed: Seed of the shuffle.
    packed: Whether a row may hold several documents; batches then have
      'documents', (b, l) int32.
    multiple_of: Number of which each document in a packed row fills a multiple
      of tokens.
    token_bytes: Bytes of text of each token of 'valid' and 'test', (n,)
      integers; None if they are not known, or `vocab.byte_lengths` tells them.
    decoded_bytes: Whether the bytes that the tokens decode to count where those
      of the text are not known.
    empty_hint: See `DataSet`.
    hashes: Hash of each split, for a fingerprint; None samples the tokens.

  Raises:
    ValueError: naming the binding, if a number is invalid or no row is left to
      train on.
  """
  checks.check_positive(f'{name}.length', length)
  checks.check_seed(f'{name}.seed', seed)
  make_rows, batch_rows = _cutting(name, length, packed, multiple_of)
  rows = {split: make_rows(part) for split, part in documents.items()}
  train = rows['train']
  if not train.n_rows:
    raise ValueError(f'{name}.train: has no token in the training split')

  def train_rows(index):
    return batch_rows(train, shuffled(index, train.n_rows, seed)[1])

  def eval_rows(split, _):
    part = rows[split]
    return functools.partial(batch_rows, part), part.n_rows

  def byte_rows(split, _):
    split = 'test' if documents[split] is documents['test'] else split
    counted = documents[split]._replace(tokens=token_bytes[split])
    counted = make_rows(counted)
    return lambda index: counted.rows(index)[0]

  def count_bytes(split):
    return documents[split].n_bytes(vocab)

  lengths = getattr(vocab, 'byte_lengths', None)
  if unit == 'token' and lengths is not None:
    byte_rows = table_bytes(eval_rows, lengths)
  elif not token_bytes:
    byte_rows = None

  sizes = ', '.join(f'{split} {part.n_rows:,}' for split, part in rows.items())
  what = f'{sizes} rows of {length}'
  if packed:
    n = documents['train'].n_tokens()
    what += (
      f', which hold several documents: {train.n_pieces / train.n_rows:.1f} on '
      f'average in train, {1 - n / (train.n_rows * length):.1%} of it padding'
    )
  return DataSet(
    name,
    f'{origin}: {what}',
    train_rows,
    eval_rows,
    vocab,
    unit,
    batch_size,
    byte_rows=byte_rows,
    count_bytes=count_bytes if decoded_bytes and unit == 'token' else None,
    content={
      split: (*part.content(unit), (hashes or {}).get(split))
      for split, part in documents.items()
    },
    empty_hint=empty_hint,
    rows_per_epoch=train.n_rows,
  )


def _cutting(name, length, packed, multiple_of):
  """How documents are cut into rows.

  Returns:
    A function from `Documents` to rows, and one from rows and their numbers to
    the arguments of `make_batch`.
  """
  checks.check_positive(f'{name}.multiple_of', multiple_of)
  if not packed and multiple_of != 1:
    raise ValueError(
      f'{name}.multiple_of = {multiple_of} has no effect without '
      f'{name}.packed = True'
    )
  if length % multiple_of:
    raise ValueError(
      f'{name}.multiple_of = {multiple_of}: must divide {name}.length = '
      f'{length}'
    )
  if not packed:
    make_rows = functools.partial(DocumentRows, length=length)
    return make_rows, lambda rows, index: rows.rows(index)

  def batch_rows(rows, index):
    tokens, weights, ids = rows.rows(index)
    return tokens, weights, None, None, ids

  make_rows = functools.partial(PackedRows, length=length, multiple=multiple_of)
  return make_rows, batch_rows
