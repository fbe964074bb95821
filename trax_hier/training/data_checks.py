"""Checks a data set before anything compiles, as it may be the user's own.

`trax_hier.data.TrainData` documents the interface.
"""

import inspect
import numbers
from collections.abc import Mapping

import numpy as np

_METHODS = 'train_batch', 'eval_batches', 'describe'
# {attribute: what it is}
_NEEDED = {
  'train_batch': 'a method of (step) that returns a batch',
  'eval_batches': 'a method of (split) that returns a sequence of batches',
  'describe': 'a method that returns a line of text',
  'unit': "what a token is: 'byte', 'dim' or 'token'",
  'vocab': 'a vocabulary, such as trax_hier.data.IdVocab(size)',
}
_UNITS = 'byte', 'dim', 'token'
# {name: (kinds of its dtype, what these are, letters of its shape)}
_ARRAYS = {
  'inputs': ('iu', 'integers', 'bl'),
  'targets': ('iu', 'integers', 'bl'),
  'weights': ('fiub', 'numbers', 'bl'),
  'start_of_sequence': ('b', 'booleans', 'b'),
  'sources': ('iu', 'integers', 'bs'),
  'documents': ('iu', 'integers', 'bl'),
}
_IDS = 'inputs', 'targets', 'sources'
_MAKE = 'trax_hier.data.make_batch(tokens) makes a batch of token ids (b, l)'


def check_data(data: object) -> None:
  """Raises ValueError unless the value of `train.data` is a data set."""
  if isinstance(data, type) or not (
    hasattr(data, 'train_batch') or hasattr(data, 'eval_batches')
  ):
    name = f'{getattr(data, "__name__", data)!s:.80}'
    raise ValueError(
      'train.data must be a data set such as @TextFiles() (with '
      f'parentheses), got {name}'
    )
  kind = type(data).__name__
  missing = [
    f'{name} ({what})'
    for name, what in _NEEDED.items()
    if not hasattr(data, name)
    or (name in _METHODS and not callable(getattr(data, name)))
  ]
  if missing:
    raise ValueError(f'train.data = {kind}: it has no {", no ".join(missing)}')
  if data.unit not in _UNITS:
    raise ValueError(
      f'train.data = {kind}: unit = {data.unit!r:.80} must be one of '
      f'{", ".join(map(repr, _UNITS))}'
    )
  size = getattr(data.vocab, 'size', None)
  if not isinstance(size, numbers.Integral) or size < 1:
    raise ValueError(
      f'train.data = {kind}: vocab.size must be the number of ids, got '
      f'{size!r:.80}'
    )


def takes_shards(data: object) -> bool:
  """Whether `train_batch` takes a shard and the number of shards."""
  try:
    inspect.signature(data.train_batch).bind(0, 0, 1)
  except TypeError:
    return False
  return True


def check_batch(batch: object, made_by: str, n_ids: int) -> None:
  """Checks the arrays of a batch, or their shapes.

  Args:
    batch: A batch.
    made_by: What made it, such as 'train_batch(0)'.
    n_ids: Number of ids of the vocabulary; 1 if it is not known.

  Raises:
    ValueError: naming the array, and what it must be.
  """
  where = f'train.data: {made_by}'
  if not isinstance(batch, Mapping):
    raise ValueError(
      f'{where} must be a dict of arrays, got {type(batch).__name__}; {_MAKE}'
    )
  missing = [x for x in ('inputs', 'targets', 'weights') if x not in batch]
  if missing:
    raise ValueError(
      f'{where} has no {", ".join(map(repr, missing))}, only '
      f'{", ".join(map(repr, batch)) or "nothing"}; {_MAKE}'
    )
  sizes = {}
  for name, (kinds, what, letters) in _ARRAYS.items():
    if name in batch:
      array = batch[name]
      _check_array(array, kinds, f'{where}[{name!r}]', what, letters, sizes)
      if name in _IDS and isinstance(array, np.ndarray):
        _check_ids(array, f'{where}[{name!r}]', n_ids)


def _check_array(array, kinds, name, what, letters, sizes):
  """Checks type and shape; adds the sizes of axes to `sizes`."""
  shape = getattr(array, 'shape', None)
  fits = shape is not None and len(shape) == len(letters)
  if fits and array.dtype.kind in kinds and 0 not in shape:
    for letter, n in zip(letters, shape, strict=True):
      fits = fits and sizes.setdefault(letter, n) == n
    if fits:
      return
  known = ''.join(f', {x} = {n}' for x, n in sizes.items())
  got = type(array).__name__ if shape is None else f'{array.dtype} {shape}'
  raise ValueError(
    f'{name} must be a numpy array of {what} ({", ".join(letters)}){known}, '
    f'got {got}'
  )


def _check_ids(array, name, n_ids):
  low, high = int(array.min()), int(array.max())
  if low < 0 or (high >= n_ids > 1):
    wrong = low if low < 0 else high
    raise ValueError(
      f'{name} has the id {wrong}: ids must be in [0, {n_ids}), the size of '
      'the vocabulary of train.data'
    )
