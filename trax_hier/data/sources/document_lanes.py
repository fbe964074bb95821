"""DocumentLanes: long documents, each read over consecutive batches."""

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet, table_bytes
from trax_hier.data.batching.documents import Documents
from trax_hier.data.batching.lanes import LaneRows, epochs
from trax_hier.data.corpora.tfds_source import TfdsSource
from trax_hier.data.named_splits import use_test_as_valid
from trax_hier.data.sources.document_source import find_documents
from trax_hier.data.splits import SPLITS, TEST_FRACTION, VALID_FRACTION
from trax_hier.data.vocabularies.vocab import Vocab


@configurable(module='trax_hier.data')
def DocumentLanes(
  path: str | TfdsSource,
  batch_size: int,
  length: int,
  seed: int = 0,
  predict_first: bool = False,
  eval_batch_size: int | None = None,
  valid_fraction: float = VALID_FRACTION,
  test_fraction: float = TEST_FRACTION,
  test_as_valid: bool = False,
  vocab: str | Vocab | None = None,
  field: str | None = None,
) -> DataSet:
  """Documents, such as books, for models that carry state between batches.

  Each row of the batch is a lane. It reads a document to its end, one segment
  of `length` tokens per batch, and then takes the next document in the order of
  the epoch. 'start_of_sequence', (b,) bool, is True for rows that begin a
  document. Within an epoch, no two lanes read the same document. At the
  boundary of two epochs they may; with fewer documents than lanes, some always
  do.

  Evaluation reads each document once, the longest first: a long document that
  began last would leave the other lanes padding.

  Id 0 is padding and never scored. The first token of a segment is not scored
  either, as in Block-Recurrent Transformers (arXiv 2203.07852), unless
  `predict_first` is True. Bits per byte average over the bytes of the scored
  tokens. Where these are not known, as in prepared folders of older versions
  with a vocabulary that loses text, `count_bytes` is None, or with
  `predict_first` the bytes that the tokens decode to.

  Args:
    path: One of
      a folder of text files, each a document, or a pattern or an address of
        such files, as `TextFiles.path`; whole files are held out: those in
        folders valid (or validation, val or dev) and test beside a folder
        train, if these are all folders there;
      with `field`, JSON lines or parquet, of which each row is a document;
      @TfdsText(), of which each example is a document;
      a file of concatenated documents, with a table in a file of the same name
        plus .json: a list of [name, split, offset, length], in bytes, or an
        object with this list as 'docs';
      a folder that `python -m trax_hier.data.prepare` wrote.
      All are memory-mapped; what must be unpacked, joined or encoded is kept in
      the data cache, as by `TextFiles`.
    batch_size: Number of lanes.
    length: Tokens in a segment.
    seed: Seed of the shuffle.
    predict_first: Whether to score the first token of each segment. It is
      predicted from the BOS token in the first segment of a document, and from
      the state after the previous segment in other segments.
    eval_batch_size: Number of lanes in evaluation; None means `batch_size`.
    valid_fraction: Fraction of the bytes held out for validation, unless the
      source has splits.
    test_fraction: Fraction of the bytes held out for the test, unless the
      source has splits.
    test_as_valid: Whether test is also used for validation. If valid has no
      document, as with a `valid_fraction` of 0, the data can only be trained on
      with True.
    vocab: Vocabulary that texts are encoded with; see `TextFiles`. A prepared
      folder has its own.
    field: Field of JSON lines, or column of parquet files, that has the
      documents; None reads each file as a document.

  Raises:
    ValueError: naming the binding, if the path is missing, unreadable or
      malformed, if the vocabulary is missing or the folder has one, if train or
      test has no document, or if a number is invalid.

  Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   for i in range(30):
    ...     _ = Path(folder, f'{i}.txt').write_text('A long book. ' * 40)
    ...   lanes = DocumentLanes(folder, batch_size=2, length=128)
    >>> lanes.train_batch(0)['inputs'].shape
    (2, 128)
    >>> [lanes.train_batch(i)['start_of_sequence'].tolist() for i in (0, 1)]
    [[True, True], [False, False]]
  """
  if eval_batch_size is None:
    eval_batch_size = batch_size
  fractions = valid_fraction, test_fraction
  _check(batch_size, length, seed, fractions, predict_first)
  found = find_documents('DocumentLanes', path, fractions, field, vocab)
  splits, counted = _documents(found, path)
  vocabulary = found.vocab
  hint = use_test_as_valid(
    splits, len(splits['valid'].ends), test_as_valid, 'DocumentLanes'
  )
  unit = vocabulary.unit

  def train_lanes(n_lanes):
    order = epochs(len(splits['train'].ends), seed)
    return LaneRows(splits['train'], length, n_lanes, order, predict_first)

  train = train_lanes(batch_size)

  def eval_lanes(documents):
    order = np.argsort(documents.begins - documents.ends, kind='stable')
    return LaneRows(
      documents, length, eval_batch_size, order.tolist(), predict_first
    )

  def eval_rows(split, _):
    lanes = eval_lanes(splits[split])
    return lanes.rows, lanes.n_rows()

  def byte_rows(split, _):
    split = 'test' if splits[split] is splits['test'] else split
    lanes = eval_lanes(counted[split])
    return lambda index: lanes.rows(index)[0]

  def count_bytes(split):
    return splits[split].n_bytes(vocabulary, skip_zeros=True)

  if unit == 'token' and vocabulary.byte_lengths is not None:
    byte_rows = table_bytes(eval_rows, vocabulary.byte_lengths)
  elif not counted:
    byte_rows = None
  sizes = ', '.join(
    f'{split} {len(splits[split].ends):,} documents of '
    f'{splits[split].n_tokens():,} {unit}s'
    for split in SPLITS
  )
  return DataSet(
    'DocumentLanes',
    f'{path}{found.how}: {sizes}, in segments of {length}',
    train.rows,
    eval_rows,
    vocabulary,
    unit,
    batch_size,
    byte_rows=byte_rows,
    count_bytes=count_bytes if unit == 'token' and predict_first else None,
    eval_batch_size=eval_batch_size,
    content={
      split: (*splits[split].content(unit), (found.hashes or {}).get(split))
      for split in SPLITS
    },
    empty_hint=hint,
    rows_per_epoch=train.n_segments,
    train_lanes=lambda n_lanes: train_lanes(n_lanes).rows,
  )


def _check(batch_size, length, seed, fractions, predict_first):
  """Checks arguments of `DocumentLanes`."""
  checks.check_positive('DocumentLanes.batch_size', batch_size)
  checks.check_positive('DocumentLanes.length', length)
  checks.check_seed('DocumentLanes.seed', seed)
  checks.check_fractions('DocumentLanes', *fractions)
  if length == 1 and not predict_first:
    raise ValueError(
      'DocumentLanes.length = 1: must be 2 or more, or no token is scored with '
      'DocumentLanes.predict_first = False'
    )


def _documents(found, path):
  """Returns the documents of each split that have tokens, and their bytes."""
  splits = _drop_empty(found.splits)
  counted = {
    split: found.splits[split]._replace(tokens=array)
    for split, array in found.token_bytes.items()
  }
  for split in ('train', 'test'):
    if not len(splits[split].ends):
      raise ValueError(
        f'DocumentLanes.path = {path!r}: no document for the {split} split'
      )
  return splits, _drop_empty(counted)


def _drop_empty(splits):
  """Drops empty documents."""
  kept = {}
  for split, (tokens, begins, ends) in splits.items():
    full = ends > begins
    kept[split] = Documents(tokens, begins[full], ends[full])
  return kept
