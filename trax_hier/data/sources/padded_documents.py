"""PaddedDocuments: padded rows, each with tokens of one document only."""

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.padded_rows import padded_rows
from trax_hier.data.corpora.remote import fetch
from trax_hier.data.files import find_path
from trax_hier.data.named_splits import use_test_as_valid
from trax_hier.data.sources.prepared_documents import read_prepared

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
  `python -m trax_hier.data.prepare` wrote. The vocabulary is the one that the
  folder was prepared with, or bytes.

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
  root = find_path(fetch(path, binding), binding, 'folder', hint)
  try:
    vocab, documents, token_bytes = read_prepared(root)
  except (OSError, ValueError) as error:
    raise ValueError(f'{binding}: {error}') from error
  hint = use_test_as_valid(
    documents, len(documents['valid'].ends), test_as_valid, 'PaddedDocuments'
  )
  return padded_rows(
    'PaddedDocuments',
    path,
    documents,
    vocab,
    vocab.unit,
    batch_size,
    length,
    seed,
    token_bytes,
    decoded_bytes=True,
    empty_hint=hint,
  )
