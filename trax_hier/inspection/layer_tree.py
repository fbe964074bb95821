"""The layers of a model as a tree, with shapes and numbers of parameters.

    print(tree(HourglassLM(vocab_size=256, mode='eval'), (1, 512)))

The model is traced on shapes and never run, so it may have any size.

Layers without weights are left out if they keep the shapes or only rearrange
axes. A `Serial` or `Parallel` directly inside the layer function that made it
is merged into the node of that function. The blocks of a `Repeat` are one node.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import ShapeDtype, base, tl
from trax_hier.compat.layer_hooks import intercept
from trax_hier.inspection import tables
from trax_hier.layers.base.random_choice import RandomChoice
from trax_hier.layers.base.repeat import Stack
from trax_hier.training.state import Batch, n_parameters, store_shapes
from trax_hier.training.step import apply_model

PyTree = object
Shapes = tuple[tuple[int, ...], ...]


@dataclasses.dataclass
class Node:
  """A call of a layer in a model.

  Attributes:
    name: Name of the layer, or of the layer function that composed it.
    inputs: Shapes of the inputs.
    outputs: Shapes of the outputs.
    n_parameters: Number of parameters of one repetition; 0 for a layer that
      shares the weights of another.
    n: Number of repetitions, one after another.
    children: The layers that it calls, in order.
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
    """Yields (level, node) from this node down, at most `depth` levels."""
    yield _level, self
    if depth is None or _level < depth:
      for child in self.children:
        yield from child.walk(depth, _level + 1)

  @property
  def title(self) -> str:
    """The name, with the number of repetitions if above 1."""
    return f'{self.n} x {self.name}' if self.n > 1 else self.name

  def text(self, depth: int | None = None) -> str:
    """A table of the layers down to `depth` levels; None means all levels."""
    rows = []
    for level, node in self.walk(depth):
      more = ' ...' if level == depth and node.children else ''
      n = f'{node.n_parameters:,}' if node.n_parameters else '-'
      shapes = map(_shape_text, (node.inputs, node.outputs))
      rows.append((f'{"  " * level}{node.title}{more}', n, *shapes))
    return tables.text(('layer', 'parameters', 'in', 'out'), rows, numbers=[1])

  def __str__(self) -> str:
    """The table of all levels."""
    return self.text()


def tree(layer: base.Layer, *inputs: tuple[int, ...] | ShapeDtype) -> Node:
  """The tree of the layers of a layer or model, for inputs of given shapes.

  Args:
    layer: A layer or a model, initialized or not.
    *inputs: Shapes of its inputs. A shape of at most two axes, such as (b, l),
      means int32 tokens; others, such as (b, l, d), mean float32 vectors. For
      other types pass a `ShapeDtype`.

  Raises:
    ValueError: The layer takes another number of inputs.

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
      f'{layer.name} takes {layer.n_in} inputs, got {len(inputs)} shapes'
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
  """The tree of the layers of a model, for a batch.

  Args:
    layer: An initialized model.
    weights: Its weights, or their shapes.
    model_state: Its state, or the shapes of its arrays.
    batch: A batch, or the shapes of its arrays.
  """
  return _trace(
    lambda *args: apply_model(layer, *args, jnp.float32),
    weights,
    model_state,
    batch,
    jax.random.PRNGKey(0),
  )


def _trace(call: Callable, *args: PyTree) -> Node:
  """The node of the outermost layer of a call, traced on shapes."""
  args = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
  observer = _Observer()
  with intercept(observer):
    jax.eval_shape(call, *args)
  (root,) = observer.root.children
  return root


class _Observer:
  """Intercepts calls of layers and builds their tree below `root`."""

  def __init__(self):
    self.root = Node('')
    self._open = [self.root]
    self._makers = ['']

  def __call__(self, pure_fn, layer, x, weights, *args):
    maker = _maker(layer) or self._makers[-1]
    is_inside = len(self._open) > 1
    is_merged = is_inside and _composes(layer) and maker == self._makers[-1]
    node = Node(
      _name(layer, maker, self._makers),
      _shapes(x),
      # A shared layer has a marker in place of weights.
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
      # The alternatives share one set of weights.
      for other in node.children[1:]:
        for _, below in other.walk():
          below.n_parameters = 0
    if is_merged:
      self._open[-1].children += node.children
    elif not is_inside or _is_shown(node):
      self._open[-1].children.append(node)
    return y, state


def _composes(layer):
  """Whether a layer only composes others."""
  return isinstance(layer, tl.Serial | tl.Parallel)


def _is_shown(node):
  """Whether a node has parameters or children, or reshapes its inputs."""
  ranks = {len(shape) for shape in node.inputs}
  reshapes = any(
    len(shape) in ranks and shape not in node.inputs for shape in node.outputs
  )
  return bool(node.n_parameters or node.children or reshapes)


def _name(layer, maker, makers):
  """The name of a layer that `maker` made, inside layers of `makers`.

  A composition is named after the layer function that made it, unless a node
  above it already has that name.
  """
  if _composes(layer) and maker not in makers:
    return maker
  return layer.name.lstrip('_')


def _maker(layer):
  """The name of a layer's class, or of the layer function that composed it.

  '' if another function composed it: layer functions have names in CapWords.
  """
  if not _composes(layer):
    return type(layer).__name__.lstrip('_')
  maker = getattr(layer, '_maker', '')
  return maker if maker[:1].isupper() else ''


def _shapes(x):
  return tuple(tuple(a.shape) for a in jax.tree.leaves(x))


def _shape_text(shapes):
  return ' '.join(f'({", ".join(map(str, shape))})' for shape in shapes)
