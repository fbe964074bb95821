"""PaddedDocuments: padded rows, each with tokens of one document or several."""

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.padded_rows import padded_rows
from trax_hier.data.corpora.tfds_source import TfdsSource
from trax_hier.data.named_splits import use_test_as_valid
from trax_hier.data.sources.document_source import find_documents
from trax_hier.data.splits import TEST_FRACTION, VALID_FRACTION
from trax_hier.data.vocabularies.vocab import Vocab


@configurable(module='trax_hier.data')
def PaddedDocuments(
  path: str | TfdsSource,
  batch_size: int,
  length: int,
  seed: int = 0,
  test_as_valid: bool = False,
  packed: bool = False,
  multiple_of: int = 1,
  valid_fraction: float = VALID_FRACTION,
  test_fraction: float = TEST_FRACTION,
  vocab: str | Vocab | None = None,
  field: str | None = None,
) -> DataSet:
  """Documents, such as articles, in padded rows of a batch.

  A row has tokens of one document only, unless `packed`. A document that is
  longer than a row continues in other rows, which do not see its earlier
  tokens.

  With `packed`, documents share rows, so that few tokens are padding; models
  keep them apart: a document is computed as if it were alone in its row.
  Batches then have 'documents', (b, l) int32. Models can do this if their
  layers read other positions by attention, shortening, SRU or convolutions
  only: TransformerLM, HourglassLM, TopDownLM, BottomUpLM, RetinaLM,
  ScalingTransformerLM and ReversibleLM, without DynamicStack, SlidingAttention,
  recurrent cells, LSHAttention and MemorizingAttention.

  Args:
    path: Source of the documents; see `DocumentLanes`.
    batch_size: Rows of the global batch.
    length: Tokens in a row.
    seed: Seed of the shuffle.
    test_as_valid: Whether test is also used for validation. A set without a
      validation split can only be trained on with True.
    packed: Whether rows may hold several documents.
    multiple_of: With `packed`, number of which each document fills a multiple
      of tokens: a multiple of the largest shorten factor or scale of the model,
      or of the window of RetinaAttention, so that no group of neighboring
      tokens is of two documents.
    valid_fraction: See `DocumentLanes`.
    test_fraction: See `DocumentLanes`.
    vocab: Vocabulary that texts are encoded with; see `TextFiles`. A prepared
      folder has its own.
    field: See `DocumentLanes`.

  Raises:
    ValueError: naming the binding, if files are missing or do not fit
      together, or if a number is invalid.

  Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   for i in range(30):
    ...     text = 'An article. ' * (i % 7 + 1)
    ...     _ = Path(folder, f'{i}.txt').write_text(text)
    ...   data = PaddedDocuments(folder, 2, 96, packed=True, multiple_of=3)
    >>> print(data.train_batch(0)['documents'][:, ::12])
    [[1 2 2 2 2 2 2 2]
     [1 1 1 2 2 2 2 2]]
  """
  checks.check_positive('PaddedDocuments.length', length)
  checks.check_seed('PaddedDocuments.seed', seed)
  checks.check_fractions('PaddedDocuments', valid_fraction, test_fraction)
  fractions = valid_fraction, test_fraction
  found = find_documents('PaddedDocuments', path, fractions, field, vocab)
  documents = dict(found.splits)
  hint = use_test_as_valid(
    documents, len(documents['valid'].ends), test_as_valid, 'PaddedDocuments'
  )
  return padded_rows(
    'PaddedDocuments',
    f'{path}{found.how}',
    documents,
    found.vocab,
    found.vocab.unit,
    batch_size,
    length,
    seed,
    packed,
    multiple_of,
    found.token_bytes,
    decoded_bytes=True,
    empty_hint=hint,
    hashes=found.hashes,
  )
