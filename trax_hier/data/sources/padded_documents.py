"""PaddedDocuments: padded rows, each with tokens of one document only."""

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.documents import DocumentRows
from trax_hier.data.batching.permutation import shuffled
from trax_hier.data.files import find_path
from trax_hier.data.named_splits import use_test_as_valid
from trax_hier.data.sources.prepared_documents import read_prepared
from trax_hier.data.vocabularies.byte_vocab import ByteVocab

_COMMAND = 'python -m trax_hier.data.prepare --name=wiki40b/en --output_dir=DIR'


@configurable(module='trax_hier.data')
def PaddedDocuments(
  path: str,
  batch_size: int,
  length: int,
  seed: int = 0,
  test_as_valid: bool = False,
) -> DataSet:
  """Documents, such as wiki40b's articles, cut into padded rows.

  A row has tokens of one document only. Memory-maps a folder that
  `python -m trax_hier.data.prepare` wrote. The vocabulary is the SentencePiece
  model that the folder was prepared with, or bytes.

  Args:
    path: Folder of the documents.
    batch_size: Rows of the global batch.
    length: Tokens in a row.
    seed: Seed of the shuffle.
    test_as_valid: Whether test is also used for validation. A set without a
      validation split can only be trained on with True.

  Raises:
    ValueError: naming the binding, if files are missing or do not fit
      together, or if a number is invalid.
  """
  binding = f'PaddedDocuments.path = {path!r}'
  checks.check_positive('PaddedDocuments.length', length)
  checks.check_seed('PaddedDocuments.seed', seed)
  hint = f'. To make one from a tfds data set: {_COMMAND}'
  root = find_path(path, binding, 'folder', hint)
  try:
    vocab, documents = read_prepared(root)
  except (OSError, ValueError) as error:
    raise ValueError(f'{binding}: {error}') from error
  hint = use_test_as_valid(
    documents, len(documents['valid'].ends), test_as_valid, 'PaddedDocuments'
  )
  unit = 'byte' if isinstance(vocab, ByteVocab) else 'token'
  rows = {
    split: DocumentRows(split_documents, length)
    for split, split_documents in documents.items()
  }
  train = rows['train']

  def train_rows(index):
    return train.rows(shuffled(index, train.n_rows, seed)[1])

  def eval_rows(split, _):
    return rows[split].rows, rows[split].n_rows

  def count_bytes(split):
    return documents[split].n_bytes(vocab)

  sizes = ', '.join(f'{split} {r.n_rows:,}' for split, r in rows.items())
  return DataSet(
    'PaddedDocuments',
    f'{path}: {sizes} rows of {length}',
    train_rows,
    eval_rows,
    vocab,
    unit,
    batch_size,
    count_bytes=count_bytes if unit == 'token' else None,
    content={split: d.content(unit) for split, d in documents.items()},
    empty_hint=hint,
    rows_per_epoch=train.n_rows,
  )
