"""DocumentLanes: long documents, each read over consecutive batches."""

import json
from pathlib import Path

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.documents import Documents
from trax_hier.data.batching.lanes import LaneRows, epochs
from trax_hier.data.files import find_path, map_bytes
from trax_hier.data.named_splits import (
  SPLIT_NAMES,
  check_one_name,
  name_splits,
  use_test_as_valid,
)
from trax_hier.data.sources.prepared_documents import is_prepared, read_prepared
from trax_hier.data.splits import (
  SPLITS,
  TEST_FRACTION,
  VALID_FRACTION,
  fill_splits,
  read_text_folder,
)
from trax_hier.data.vocabularies.byte_vocab import ByteVocab


@configurable(module='trax_hier.data')
def DocumentLanes(
  path: str,
  batch_size: int,
  length: int,
  seed: int = 0,
  predict_first: bool = False,
  eval_batch_size: int | None = None,
  valid_fraction: float = VALID_FRACTION,
  test_fraction: float = TEST_FRACTION,
  test_as_valid: bool = False,
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
  `predict_first` is True. With a byte vocabulary, bits per byte average over
  the scored bytes. The bytes of single subwords are not defined, so
  `count_bytes` of a subword vocabulary is None unless `predict_first` is True.

  Args:
    path: One of
      a folder of text files, each a document; they are read into memory, and
        whole files are held out: those in folders valid (or validation, val or
        dev) and test beside a folder train, if these are all folders there;
      a file of concatenated documents, with a table in a file of the same name
        plus .json: a list of [name, split, offset, length], in bytes, or an
        object with this list as 'docs';
      a folder that `python -m trax_hier.data.prepare` wrote.
      The last two are memory-mapped.
    batch_size: Number of lanes.
    length: Tokens in a segment.
    seed: Seed of the shuffle.
    predict_first: Whether to score the first token of each segment. It is
      predicted from the BOS token in the first segment of a document, and from
      the state after the previous segment in other segments.
    eval_batch_size: Number of lanes in evaluation; None means `batch_size`.
    valid_fraction: Fraction of the bytes held out for validation; only for a
      folder of text files.
    test_fraction: Fraction of the bytes held out for the test; only for a
      folder of text files.
    test_as_valid: Whether test is also used for validation. If valid has no
      document, as with a `valid_fraction` of 0, the data can only be trained on
      with True.

  Raises:
    ValueError: naming the binding, if the path is missing, unreadable or
      malformed, if train or test has no document, or if a number is invalid.

  Example:
    >>> import tempfile
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
  checks.check_positive('DocumentLanes.batch_size', batch_size)
  checks.check_positive('DocumentLanes.length', length)
  checks.check_seed('DocumentLanes.seed', seed)
  checks.check_fractions('DocumentLanes', valid_fraction, test_fraction)
  if length == 1 and not predict_first:
    raise ValueError(
      'DocumentLanes.length = 1: must be 2 or more, or no token is scored with '
      'DocumentLanes.predict_first = False'
    )
  binding = f'DocumentLanes.path = {path!r}'
  found = find_path(path, binding)
  vocab, origin = ByteVocab(), path
  try:
    if is_prepared(found):
      vocab, splits = read_prepared(found)
    elif found.is_dir():
      splits, how = _read_folder(found, valid_fraction, test_fraction)
      origin = f'{path} ({how})'
    else:
      splits = _map_file(found)
    splits = _drop_empty(splits)
  except (OSError, ValueError) as error:
    raise ValueError(f'{binding}: {error}') from error
  hint = use_test_as_valid(
    splits, len(splits['valid'].ends), test_as_valid, 'DocumentLanes'
  )
  is_subwords = not isinstance(vocab, ByteVocab)
  unit = 'token' if is_subwords else 'byte'

  order = epochs(len(splits['train'].ends), seed)
  train = LaneRows(splits['train'], length, batch_size, order, predict_first)

  def eval_rows(split, _):
    documents = splits[split]
    order = np.argsort(documents.begins - documents.ends, kind='stable')
    lanes = LaneRows(
      documents, length, eval_batch_size, order.tolist(), predict_first
    )
    return lanes.rows, lanes.n_rows()

  def count_bytes(split):
    return splits[split].n_bytes(vocab, skip_zeros=True)

  sizes = ', '.join(
    f'{split} {len(splits[split].ends):,} documents of '
    f'{splits[split].n_tokens():,} {unit}s'
    for split in SPLITS
  )
  return DataSet(
    'DocumentLanes',
    f'{origin}: {sizes}, in segments of {length}',
    train.rows,
    eval_rows,
    vocab,
    unit,
    batch_size,
    count_bytes=count_bytes if is_subwords and predict_first else None,
    eval_batch_size=eval_batch_size,
    content={split: splits[split].content(unit) for split in SPLITS},
    empty_hint=hint,
    rows_per_epoch=train.n_segments,
  )


def _read_folder(root, valid_fraction, test_fraction):
  """Reads a folder of text files; returns its splits and how it was split."""
  folder = read_text_folder(root)
  how, split_by_name = 'split by their names', name_splits(folder)
  contents = folder.contents
  if split_by_name is None:
    how = 'split by file'
    split_by_name = _fill_splits(contents, valid_fraction, test_fraction)
  splits = {}
  for split in SPLITS:
    texts = [
      contents[name] for name in contents if split_by_name[name] == split
    ]
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    tokens = np.frombuffer(b''.join(texts), np.uint8)
    splits[split] = Documents.adjacent(tokens, ends)
  return splits, folder.describe(how)


def _fill_splits(contents, valid_fraction, test_fraction):
  """Holds out whole files, at least one for each fraction that is not 0."""
  sizes = {name: len(content) for name, content in contents.items()}
  split_by_name = fill_splits(sizes, valid_fraction, test_fraction)
  fractions = {'valid': valid_fraction, 'test': test_fraction}
  for split, fraction in fractions.items():
    if fraction and split not in split_by_name.values():
      smallest = min(sizes.values()) / sum(sizes.values())
      raise ValueError(
        f'DocumentLanes.{split}_fraction = {fraction:g}: no file fits into '
        f'this fraction of the bytes: the smallest of {len(sizes)} files has '
        f'{smallest:.3g} of all bytes'
      )
  return split_by_name


def _map_file(path):
  """Memory-maps a file of documents, split as its table says."""
  table = Path(f'{path}.json')
  if not table.is_file():
    raise ValueError(
      f'the file has no table of its documents, {table.name}; add it, or use a '
      'folder of text files, each a document'
    )
  tokens, form = map_bytes(path)
  if form:
    raise ValueError(
      f'the file is {form}: unpack or convert it, as the offsets in '
      f'{table.name} count its bytes'
    )
  spans = {split: [] for split in SPLITS}
  match json.loads(table.read_text(encoding='utf-8')):
    case {'docs': [*rows]} | [*rows]:
      checked = [_checked_row(row, len(tokens), table.name) for row in rows]
      check_one_name(label for label, *_ in checked)
      for label, *span in checked:
        spans[SPLIT_NAMES[label]].append(span)
    case _:
      raise ValueError(
        f"{table.name}: neither a list nor an object with 'docs'"
      )
  splits = {}
  for split in SPLITS:
    begins, ends = np.array(spans[split], np.int64).reshape(-1, 2).T
    splits[split] = Documents(tokens, begins, ends)
  return splits


def _checked_row(row, n_bytes, table):
  """Returns (name of the split, begin, end) of a row of the table."""
  match row:
    case [_, str(label), int(offset), int(length)] if label in SPLIT_NAMES:
      if offset < 0 or length < 0 or offset + length > n_bytes:
        raise ValueError(
          f'{table}: {row} is outside the file, which has {n_bytes:,} bytes'
        )
      return label, offset, offset + length
  raise ValueError(
    f'{table}: {row!r:.200} is not [name, split, offset, length] with a split '
    f'of {", ".join(map(repr, SPLIT_NAMES))}'
  )


def _drop_empty(splits):
  """Drops empty documents."""
  kept = {}
  for split, (tokens, begins, ends) in splits.items():
    full = ends > begins
    kept[split] = Documents(tokens, begins[full], ends[full])
  for split in ('train', 'test'):
    if not len(kept[split].ends):
      raise ValueError(f'no document for the {split} split')
  return kept
