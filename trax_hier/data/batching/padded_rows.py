"""Data sets of documents in padded rows, each with tokens of one document."""

from collections.abc import Mapping

import numpy as np

from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet, table_bytes
from trax_hier.data.batching.documents import DocumentRows, Documents
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
  token_bytes: Mapping[str, np.ndarray] | None = None,
  decoded_bytes: bool = False,
  empty_hint: str = '',
) -> DataSet:
  """Returns a data set that cuts documents into rows; see `DocumentRows`.

  Args:
    name: Name of the configurable that has these arguments, for messages.
    origin: Source of the data, for `describe`.
    documents: Documents of 'train', 'valid' and 'test'.
    vocab: Vocabulary of the ids.
    unit: Unit of a token.
    batch_size: Rows of the global batch.
    length: Tokens in a row.
    seed: Seed of the shuffle.
    token_bytes: Bytes of text of each token of 'valid' and 'test', (n,)
      integers; None if they are not known, or `vocab.byte_lengths` tells them.
    decoded_bytes: Whether the bytes that the tokens decode to count where those
      of the text are not known.
    empty_hint: See `DataSet`.

  Raises:
    ValueError: naming the binding, if a number is invalid or no row is left to
      train on.
  """
  checks.check_positive(f'{name}.length', length)
  checks.check_seed(f'{name}.seed', seed)
  rows = {
    split: DocumentRows(part, length) for split, part in documents.items()
  }
  train = rows['train']
  if not train.n_rows:
    raise ValueError(f'{name}.train: has no token in the training split')

  def train_rows(index):
    return train.rows(shuffled(index, train.n_rows, seed)[1])

  def eval_rows(split, _):
    return rows[split].rows, rows[split].n_rows

  def byte_rows(split, _):
    split = 'test' if documents[split] is documents['test'] else split
    counted = documents[split]._replace(tokens=token_bytes[split])
    return lambda index: DocumentRows(counted, length).rows(index)[0]

  def count_bytes(split):
    return documents[split].n_bytes(vocab)

  lengths = getattr(vocab, 'byte_lengths', None)
  if unit == 'token' and lengths is not None:
    byte_rows = table_bytes(eval_rows, lengths)
  elif not token_bytes:
    byte_rows = None

  sizes = ', '.join(f'{split} {part.n_rows:,}' for split, part in rows.items())
  return DataSet(
    name,
    f'{origin}: {sizes} rows of {length}',
    train_rows,
    eval_rows,
    vocab,
    unit,
    batch_size,
    byte_rows=byte_rows,
    count_bytes=count_bytes if decoded_bytes and unit == 'token' else None,
    content={split: part.content(unit) for split, part in documents.items()},
    empty_hint=empty_hint,
    rows_per_epoch=train.n_rows,
  )
