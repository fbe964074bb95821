"""What a model is made of: its layers as a tree, with shapes and weights.

    print(tree(HourglassLM(vocab_size=256, mode='eval'), (1, 512)))

The model is traced on shapes, never run: one of any size can be looked at.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import ShapeDtype, base, tl
from trax_hier.compat.layer_hooks import intercept
from trax_hier.inspection import tables
from trax_hier.layers.base.stacking import RandomChoice, Stack
from trax_hier.training.state import Batch, n_parameters, store_shapes
from trax_hier.training.step import apply_model

PyTree = object
Shapes = tuple[tuple[int, ...], ...]


@dataclasses.dataclass
class Node:
  """A layer as it is called in a model.

  Attributes:
    name: the layer's, or of layers in series the function that composes them.
    inputs: shapes of its inputs, and
    outputs: of its outputs.
    n_parameters: number of parameters; 0 for a layer that takes those of
      another.
    n: how many equal ones there are, one after another; all else is of one.
    children: the layers that it calls, in order.
  """

  name: str
  inputs: Shapes = ()
  outputs: Shapes = ()
  n_parameters: int = 0
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

  @property
  def title(self) -> str:
    """The name, and how many there are if there are more than one."""
    return f'{self.n} x {self.name}' if self.n > 1 else self.name

  def text(self, depth: int | None = None) -> str:
    """A table of the layers, `depth` levels below this one; None: all."""
    rows = []
    for level, node in self.walk(depth):
      more = ' ...' if level == depth and node.children else ''
      n = f'{node.n_parameters:,}' if node.n_parameters else '-'
      shapes = (_text_of(shapes) for shapes in (node.inputs, node.outputs))
      rows.append((f'{"  " * level}{node.title}{more}', n, *shapes))
    return tables.text(('layer', 'parameters', 'in', 'out'), rows, numbers=[1])

  def __str__(self) -> str:
    """All of `text`."""
    return self.text()


def tree(layer: base.Layer, *inputs: tuple[int, ...] | ShapeDtype) -> Node:
  """The layers within a layer, with the shapes that inputs of a shape get.

  Args:
    layer: a layer or a model; it need not be initialised.
    *inputs: for each of its inputs its shape. One of two axes or fewer, as
      (b, l), is of int32 tokens, others, as (b, l, d), are of float32 vectors;
      for other types give a `ShapeDtype`.

  Raises:
    ValueError: the layer takes another number of inputs.

  Example:
    >>> from trax_hier.layers import LinearShorten
    >>> print(tree(LinearShorten(shorten_factor=3, d_model=8), (2, 12, 8)))
    layer              parameters   in           out
    LinearShorten             200   (2, 12, 8)   (2, 4, 8)
      GroupTokens(3)            -   (2, 12, 8)   (2, 4, 24)
      Dense_8                 200   (2, 4, 24)   (2, 4, 8)
  """
  if len(inputs) != layer.n_in:
    raise ValueError(
      f'{layer.name} takes {layer.n_in} inputs: got shapes of {len(inputs)}'
    )
  shapes = tuple(map(_signature, inputs))
  x = shapes if layer.n_in != 1 else shapes[0]
  rng = jax.random.PRNGKey(0)
  weights, state = jax.eval_shape(lambda rng: layer.init(x, rng=rng), rng)
  store_shapes(layer, weights, state)
  return _trace(layer.pure_fn, x, weights, state, rng)


def _signature(shape):
  if isinstance(shape, ShapeDtype):
    return shape
  return ShapeDtype(shape, np.int32 if len(shape) <= 2 else np.float32)


def model_tree(
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
  return _trace(
    lambda *args: apply_model(layer, *args, jnp.float32),
    weights,
    model_state,
    batch,
    jax.random.PRNGKey(0),
  )


def _trace(call: Callable, *args: PyTree) -> Node:
  """The outermost layer of a call, traced on shapes."""
  args = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
  observer = _Observer()
  with intercept(observer):
    jax.eval_shape(call, *args)
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
      n_parameters=n_parameters(weights),
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
          below.n_parameters = 0
    if is_part:
      self._open[-1].children += node.children
    elif not is_inside or _tells(node):
      self._open[-1].children.append(node)
    return y, state


def _composes(layer):
  """Whether a layer does nothing but compose others."""
  return isinstance(layer, tl.Serial | tl.Parallel)


def _tells(node):
  """Whether there is something to see of it."""
  ranks = {len(shape) for shape in node.inputs}
  reshapes = any(
    len(shape) in ranks and shape not in node.inputs for shape in node.outputs
  )
  return bool(node.n_parameters or node.children or reshapes)


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


def _text_of(shapes):
  return ' '.join(f'({", ".join(map(str, shape))})' for shape in shapes)
