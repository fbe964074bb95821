"""What a model is made of: its layers as a tree, with shapes and weights.

    weights, model_state = abstract_init(layer, batch)
    root = layer_tree(layer, weights, model_state, batch)
    for depth, node in root.walk():
      print('  ' * depth, node.name, node.n_weights)

The model is traced on shapes, never run: one of any size can be looked at.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from trax_hier._layer_calls import around
from trax_hier.layers.stacking import RandomChoice, Stack
from trax_hier.training.state import Batch, n_weights
from trax_hier.training.step import apply_model
from trax_hier.trax_compat import base, tl

PyTree = object
Shapes = tuple[tuple[int, ...], ...]


@dataclasses.dataclass
class Node:
  """A layer as it is called in a model.

  Attributes:
    name: the layer's, or of layers in series the function that composes them.
    inputs: shapes of its inputs, and
    outputs: of its outputs.
    n_weights: how many weights it has; of a layer that takes those of another,
      0.
    n: how many equal ones there are, one after another; all else is of one.
    children: the layers that it calls, in order.
  """

  name: str
  inputs: Shapes = ()
  outputs: Shapes = ()
  n_weights: int = 0
  n: int = 1
  children: list['Node'] = dataclasses.field(default_factory=list)

  def walk(
    self, depth: int | None = None, _level: int = 0
  ) -> Iterator[tuple[int, 'Node']]:
    """Yields (level, node) from here down, at most `depth` levels."""
    yield _level, self
    if depth is None or _level < depth:
      for child in self.children:
        yield from child.walk(depth, _level + 1)


def layer_tree(
  layer: base.Layer, weights: PyTree, model_state: PyTree, batch: Batch
) -> Node:
  """The layers of a model and what they make of the shapes of a batch.

  Left out are layers without weights that leave the shapes as they are, or only
  arrange axes; layers in series within one function count as one layer. The
  blocks of a `Repeat` are there once.

  Args:
    layer: a model, initialised.
    weights: its weights, or their shapes, and
    model_state: its state, likewise.
    batch: a batch, or the shapes of its arrays.
  """
  observer = _Observer()
  with around(observer):
    jax.eval_shape(
      lambda *args: apply_model(layer, *args, jnp.float32),
      weights,
      model_state,
      batch,
      jax.random.PRNGKey(0),
    )
  (root,) = observer.root.children
  return root


class _Observer:
  """Makes a tree of the calls of layers; `root` is above the outermost ones."""

  def __init__(self):
    self.root = Node('')
    self._open = [self.root]
    self._makers = ['']

  def __call__(self, pure_fn, layer, x, weights, *args):
    maker = _maker(layer) or self._makers[-1]
    is_inside = len(self._open) > 1
    is_part = is_inside and _composes(layer) and maker == self._makers[-1]
    node = Node(
      _name(layer, maker, self._makers),
      _shapes(x),
      # A layer that ran before has a mark in the place of weights.
      n_weights=n_weights(weights),
    )
    self._open.append(node)
    self._makers.append(maker)
    y, state = pure_fn(layer, x, weights, *args)
    self._open.pop()
    self._makers.pop()
    node.outputs = _shapes(y)
    if isinstance(layer, Stack):
      for child in node.children:
        child.n = layer.n
    if isinstance(layer, RandomChoice):
      # The alternatives have one set of weights.
      for other in node.children[1:]:
        for _, below in other.walk():
          below.n_weights = 0
    self._open[-1].children += node.children if is_part else _shown(node)
    return y, state


def _composes(layer):
  """Whether a layer does nothing but compose others."""
  return isinstance(layer, tl.Serial | tl.Parallel)


def _shown(node):
  """The node, in a list, unless there is nothing to see."""
  ranks = {len(shape) for shape in node.inputs}
  reshapes = any(
    len(shape) in ranks and shape not in node.inputs for shape in node.outputs
  )
  return [node] * bool(node.n_weights or node.children or reshapes)


def _name(layer, maker, makers):
  """What a layer is called that is made by `maker`, inside those of `makers`.

  What composes has the name of the layer function that made it, and where such
  a name stands above it already, its own again.
  """
  if _composes(layer) and maker not in makers:
    return maker
  return layer.name.lstrip('_')


def _maker(layer):
  """The class of a layer, or the layer function, in CapWords, that composed it.

  '' where it is a function of another kind.
  """
  if not _composes(layer):
    return type(layer).__name__.lstrip('_')
  maker = getattr(layer, '_maker', '')
  return maker if maker[:1].isupper() else ''


def _shapes(x):
  return tuple(tuple(a.shape) for a in jax.tree.leaves(x))
