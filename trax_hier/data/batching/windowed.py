"""windowed: a data set of windows of three token arrays."""

from collections.abc import Mapping

import numpy as np

from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet, table_bytes
from trax_hier.data.batching.windows import (
  EvalWindows,
  TrainWindows,
  checked_context,
)
from trax_hier.data.splits import SPLITS
from trax_hier.data.vocabularies.vocab import Vocab


def windowed(
  name: str,
  origin: str,
  splits: Mapping[str, np.ndarray],
  vocab: Vocab,
  batch_size: int,
  length: int,
  seed: int,
  unit: str = 'byte',
  eval_length: int | None = None,
  eval_stride: int | None = None,
  move_edges: bool = True,
  token_bytes: Mapping[str, np.ndarray] | None = None,
  hashes: Mapping[str, str] | None = None,
  empty_hint: str = '',
) -> DataSet:
  """Returns a data set that cuts three token arrays into windows.

  Args:
    name: Name of the configurable that has these arguments, for messages.
    origin: Source of the data, for `describe`.
    splits: 'train', 'valid' and 'test', each (n,) integers.
    vocab: Vocabulary of the ids.
    batch_size: Rows of the global batch.
    length: Tokens in a training window.
    seed: Seed of the shuffle.
    unit: Unit of a token.
    eval_length: Tokens in an evaluation window; None means `length`.
    eval_stride: Tokens that an evaluation window scores; None means all.
    move_edges: Whether training windows shift from epoch to epoch. False keeps
      natural rows, such as images, whole in training and evaluation.
    token_bytes: Bytes of text of each token of 'valid' and 'test', (n,)
      integers; None if tokens are bytes, encode no text, or have the bytes that
      `vocab.byte_lengths` tells.
    hashes: Hash of each split, for the fingerprint; None hashes the arrays.
    empty_hint: See `DataSet`.

  Raises:
    ValueError: naming the binding, if a number is invalid or a window is
      longer than the training split.
  """
  eval_length = length if eval_length is None else eval_length
  eval_stride = eval_length if eval_stride is None else eval_stride
  checks.check_positive(f'{name}.length', length)
  default_context = checked_context(
    f'{name}.eval_length', eval_length, f'{name}.eval_stride', eval_stride
  )
  checks.check_seed(f'{name}.seed', seed)
  if len(splits['train']) < length:
    raise ValueError(
      f'{name}.length = {length}: the training split of {origin} has only '
      f'{len(splits["train"]):,} {unit}s, less than one window'
    )
  train = TrainWindows(splits['train'], length, seed, move_edges)

  def eval_rows(split, context):
    windows = EvalWindows(splits[split], *(context or default_context))
    return windows.rows, windows.n_windows

  def byte_rows(split, context):
    context = context or default_context
    windows = EvalWindows(token_bytes[split], *context)
    return lambda index: windows.rows(index)[0]

  if token_bytes is None:
    lengths = getattr(vocab, 'byte_lengths', None)
    is_known = unit == 'token' and lengths is not None
    byte_rows = table_bytes(eval_rows, lengths) if is_known else None

  sizes = ', '.join(f'{split} {len(splits[split]):,}' for split in SPLITS)
  return DataSet(
    name,
    f'{origin}: {sizes} {unit}s in windows of {length}',
    train.rows,
    eval_rows,
    vocab,
    unit,
    batch_size,
    default_context if move_edges else None,
    byte_rows,
    content={
      split: (
        f'{len(splits[split]):,} {unit}s',
        (splits[split],),
        hashes and hashes[split],
      )
      for split in SPLITS
    },
    empty_hint=empty_hint,
    rows_per_epoch=train.n_windows,
  )
