"""Converts arrays of Trax's models to the weights of ours.

Both use the same arrays in the same order, layer by layer, except that Trax

* owns shared biases where they first occur;
* projects relative positions before query, key and value;
* embeds the sources before the targets;
* keeps the units of a `SparseFF` in blocks;
* has an array for each digit of `FixedBasePositions`;
* has biases without effect in `RMSNorm`.

Ours are also stacked over the equal blocks of a `Repeat`.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from trax_hier.compat import base
from trax_hier.layers import RMSNorm, SparseFF
from trax_hier.layers.base.repeat import Stack
from trax_hier.storage.tensor_names import Place, tensor_names

# The projections of an attention layer in Trax's order. 'dense' is that of
# relative positions, whose biases, shared by all layers, follow 'value'.
_PROJECTIONS = 'dense', 'query', 'key', 'value'
_IS_PROJECTION = re.compile(
  r'\b(attention\.dense|(attention|upsample)\.(query|key|value))\.\w+$'
)


class MisfitError(ValueError):
  """Arrays of Trax do not fit a model of ours."""


@dataclasses.dataclass(frozen=True)
class Array:
  """An array of our model, or a part of it that is an array in Trax.

  Attributes:
    name: Its name, as in an export.
    place: Its place in the tree of weights; None for an array that Trax has
      without using it.
    shape: Its shape.
    trax_shape: Its shape in Trax.
    is_transposed: Whether Trax has the first two axes in the other order.
  """

  name: str
  place: Place | None
  shape: tuple[int, ...]
  trax_shape: tuple[int, ...]
  is_transposed: bool = False

  def fits(self, shape: Sequence[int]) -> bool:
    """Whether an array of Trax has the right shape."""
    return tuple(shape) == self.trax_shape or self._is_older(shape)

  def convert(self, x: np.ndarray) -> np.ndarray:
    """An array of Trax in our shape, such as (n, f / n, d) -> (f, d)."""
    return (x.swapaxes(0, 1) if self.is_transposed else x).reshape(self.shape)

  def _is_older(self, shape):
    # The positions of older versions of Trax, (1, n, d).
    is_table = self.name.endswith('position_table.weights')
    return is_table and tuple(shape) == (1, *self.shape)


def in_trax_order(layer: base.Layer, shapes: Any) -> list[Array]:
  """The arrays of one of our models in the order of Trax's.

  Args:
    layer: The model in 'train' or 'eval' mode.
    shapes: Shapes of its weights, as nested tuples.
  """
  leaves, tree = jax.tree.flatten(shapes)
  places = jax.tree.unflatten(tree, map(Place, range(len(leaves))))
  names = {place: name for name, place in tensor_names(layer, shapes).items()}
  arrays = []
  for owner, place in _in_order_of_use(layer, places, ()):
    shape = leaves[place.leaf].shape[len(place.index) :]
    arrays += _in_trax(owner, Array(names[place], place, shape, shape))
  return _move_relative(_move_positions(arrays))


def convert(arrays: Sequence[Any], layer: base.Layer, shapes: Any) -> Any:
  """Converts the arrays of a model of Trax to the weights of ours.

  Args:
    arrays: Arrays in the order of Trax's layers.
    layer: Our model with the same arguments, in 'train' or 'eval' mode.
    shapes: Shapes of its weights, as nested tuples.

  Returns:
    A tree of arrays like `shapes`.

  Raises:
    MisfitError: The number or the shapes of the arrays differ; the message
      names the first that does not fit.
  """
  ours = in_trax_order(layer, shapes)
  arrays = [np.asarray(x) for x in arrays]
  at = first_misfit(ours, [x.shape for x in arrays])
  if at is not None:
    raise MisfitError(_misfit(ours, arrays, at))
  leaves, tree = jax.tree.flatten(shapes)
  leaves = [np.empty(x.shape, x.dtype) for x in leaves]
  for array, x in zip(ours, arrays, strict=True):
    if array.place is not None:
      leaves[array.place.leaf][array.place.index] = array.convert(x)
  return jax.tree.unflatten(tree, leaves)


def first_misfit(
  ours: Sequence[Array], shapes: Sequence[Sequence[int]]
) -> int | None:
  """The index of the first shape in Trax that does not fit our array.

  It is the smaller number if their numbers differ; None if all fit.
  """
  for n, (array, shape) in enumerate(zip(ours, shapes, strict=False)):
    if not array.fits(shape):
      return n
  return None if len(ours) == len(shapes) else min(len(ours), len(shapes))


def _misfit(ours, arrays, at):
  """Says which array does not fit."""
  count = f'train.model has {len(ours)} arrays, the file has {len(arrays)}'
  if at >= len(arrays):
    return f'{count}: {ours[at].name} and those after it are missing'
  shape = _text(arrays[at].shape)
  if at >= len(ours):
    return f'{count}; the first that is left over has shape {shape}'
  return (
    f'{count}; number {at + 1} of the file has shape {shape}, but '
    f'{ours[at].name} of train.model has {_text(ours[at].trax_shape)}'
  )


def _text(shape):
  return f'({", ".join(map(str, shape))})'


def _in_order_of_use(
  layer: base.Layer, places: Any, index: tuple[int, ...]
) -> Iterator[tuple[base.Layer, Place]]:
  """Yields the arrays block by block, each with the layer that owns it."""
  if isinstance(places, dict):  # Marker of a layer that occurs earlier.
    return
  if isinstance(layer, Stack):
    (block,), (places,) = layer.sublayers, places
    for i in range(layer.n):
      yield from _in_order_of_use(block, places, (*index, i))
  elif layer.sublayers and len(layer.sublayers) == len(places):
    for inner, own in zip(layer.sublayers, places, strict=True):
      yield from _in_order_of_use(inner, own, index)
  else:
    for place in jax.tree.leaves(places):
      yield layer, Place(place.leaf, index)


def _in_trax(layer, array):
  """The arrays that Trax has for an array of a layer of ours."""
  if type(layer).__name__ == '_Digits':
    return _digits(array)
  if isinstance(layer, RMSNorm):
    unused = array.name.replace('.scale', '.bias')
    return [array, Array(unused, None, array.shape, array.shape)]
  if not isinstance(layer, SparseFF):
    return [array]
  n, shape, is_transposed = layer.n_elements_in_block, array.shape, False
  part = array.name.rpartition('sparse_ff.')[2]
  if part == 'weights_1':
    f, d = shape
    shape, is_transposed = (n, f // n, d), True
  elif part in ('controller.weights_1', 'controller.bias', 'weights_0'):
    *rest, f = shape
    shape = *rest, f // n, n
  return [
    dataclasses.replace(array, trax_shape=shape, is_transposed=is_transposed)
  ]


def _digits(array):
  """The arrays for the digits of positions, one for each base and digit."""
  *n, width = array.shape
  if not n:  # The vector of the first row.
    return [dataclasses.replace(array, trax_shape=(1, 1, width))]
  return [
    Array(
      f'{array.name}.{".".join(map(str, part))}',
      Place(array.place.leaf, (*array.place.index, *part)),
      (width,),
      (1, width),
    )
    for part in np.ndindex(*n)
  ]


def _move_positions(arrays):
  """Moves the positions of the sources to those of the embedding."""
  shared, sources, others = [], [], []
  for array in arrays:
    if array.name.startswith('shared.'):
      shared.append(array)
    elif re.match(r'encoder\.(position_table|digits)\.', array.name):
      sources.append(array)
    else:
      others.append(array)
  return shared + sources + others


def _move_relative(arrays):
  """Orders the projections of relative attention, and its shared biases."""
  shared = [a for a in arrays if a.name.startswith('shared.')]
  biases, moved = shared, []
  for are_projections, group in itertools.groupby(
    arrays[len(shared) :], lambda a: bool(_IS_PROJECTION.search(a.name))
  ):
    group = list(group)
    if are_projections and 'dense' in map(_role, group):
      group.sort(key=lambda a: _PROJECTIONS.index(_role(a)))
      group, biases = group + biases, []
    moved += group
  return arrays if biases else moved


def _role(array):
  return array.name.split('.')[-2]
