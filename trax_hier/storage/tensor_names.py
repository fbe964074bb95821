"""Names for the weights of a model, made of its tree of layers.

A name is the way from the model to the array, outermost first, joined by dots:

    embedding.weights
    blocks.0.attention.query.weights
    blocks.0.feed_forward.dense_0.bias
    shortened.blocks.2.attention.output.weights
    logits.dense.weights

1. A layer is called by its class in snake case (`LayerNorm`: `layer_norm`), or
   by its place in the layer around it where that says more: `encoder`,
   `shorten`, `logits`.
2. Layers that only arrange others (`Serial`, `Branch`, `Remat`, `Lanes`, ...)
   have no name: their parts stand in the layer around them.
3. A residual part is `attention` if it attends, else `feed_forward`; one around
   whole levels, as in Hourglass, has no name. `query`, `key` and `value` are
   projections, and a dense layer that ends an attention is its `output`.
4. Several residual parts in turn are a block, and so is what a `Repeat`
   repeats; its stacked arrays are taken apart. The blocks of a layer are
   `blocks.0`, `blocks.1`, ..., whether in one `Repeat`, in several, or in none.
5. Of other neighbours that share a name, each has a number: `layer_norm_0`.
6. `ShareWeights` is `shared`: an array stands there once, however often used.
7. The arrays of one layer are `weights` and `bias`, or what `_ARRAYS` says.

So names depend neither on remat nor on how the blocks are run.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import jax

from trax_hier.compat import base, tl
from trax_hier.layers.attention.prefix import Prefixed
from trax_hier.layers.base.dense import Projections
from trax_hier.layers.base.memory import Lanes
from trax_hier.layers.base.stacking import (
  Once,
  RandomChoice,
  Remat,
  ShareWeights,
  Stack,
)
from trax_hier.layers.hierarchy.shortened_stack import ShortenedStack
from trax_hier.layers.recurrent.recurrent_states import Recurrence

_BLOCKS = 'blocks'
_ARRANGE = tl.Serial, tl.Parallel, Lanes, Once, RandomChoice, Remat

# Names of sublayers by their place.
_PARTS = {
  Prefixed: {0: 'encoder', 1: 'decoder'},
  Recurrence: {1: 'project', 2: 'advance'},
}
# By class; otherwise one array is `weights`, several are `weights_0` and so on.
_ARRAYS = {
  'Dense': ('weights', 'bias'),
  'FixedGate': ('bias',),
  'LayerNorm': ('scale', 'bias'),
  'LSTMGate': ('forget.weights', 'forget.bias', 'input.weights', 'input.bias'),
  'MultiplicativeDense': ('gates', 'weights', 'bias'),
  'RMSNorm': ('scale',),
  'SRU': ('weights', 'bias'),
  'ScaledAttention': ('scale',),
  'SparseFF': (
    'controller.weights_0',
    'controller.weights_1',
    'controller.bias',
    'weights_0',
    'weights_1',
    'bias',
  ),
  '_Convolution': ('weights', 'bias'),
}
_PROJECTIONS = {
  1: ('query',),
  2: ('key', 'value'),
  3: ('query', 'key', 'value'),
}


@dataclasses.dataclass(frozen=True)
class Place:
  """Where an array lies in a tree of weights.

  Attributes:
    leaf: which leaf of the tree, in the order of `jax.tree.leaves`.
    index: which block of it, a number for each `Repeat` around the layer.
  """

  leaf: int
  index: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Node:
  """A named layer, or an array of one."""

  name: str
  content: 'list[_Node] | Place'


def tensor_names(layer: base.Layer, weights: Any) -> dict[str, Place]:
  """Names each array of a model; see the module.

  Args:
    layer: the model in 'train' or 'eval' mode, which have the same names.
    weights: as nested tuples, or their shapes, as `init` gives them.

  Returns:
    The place of each array by its name; the blocks of a `Repeat` have one each.
  """
  leaves, tree = jax.tree.flatten(weights)
  places = [Place(leaf) for leaf in range(len(leaves))]
  return dict(_named(_nodes(layer, jax.tree.unflatten(tree, places))))


def _named(nodes: list[_Node]) -> Iterator[tuple[str, Place]]:
  """The arrays in neighbouring nodes, by their names."""
  counts = collections.Counter(node.name for node in nodes)
  seen = collections.Counter()
  for node in nodes:
    name = node.name
    if name == _BLOCKS:
      name += f'.{seen[_BLOCKS]}'
    elif counts[name] > 1:
      name += f'_{seen[name]}'
    seen[node.name] += 1
    if isinstance(node.content, Place):
      yield name, node.content
    else:
      for inner, place in _named(node.content):
        yield f'{name}.{inner}', place


def _nodes(layer, weights) -> list[_Node]:
  """A layer, its name or its parts'; nothing if it has no weights itself."""
  if not jax.tree.leaves(weights):
    return []
  if isinstance(layer, Stack):
    return _blocks(layer, *weights)
  if isinstance(layer, Projections):
    return _projections(weights)
  if isinstance(weights, Place) or len(weights) != len(layer.sublayers):
    return [_Node(_snake_case(layer), _arrays(type(layer).__name__, weights))]
  parts = list(zip(layer.sublayers, weights, strict=True))
  if isinstance(layer, ShortenedStack):
    return [_shortened(*parts)]
  if isinstance(layer, ShareWeights):
    return [_Node('shared', _all(parts))]
  if _is_residual(layer):
    return _residual(layer, _all(parts))
  if isinstance(layer, _ARRANGE):
    return _arranged(layer, parts)
  nodes = _in_places(layer, parts)
  if isinstance(layer, Prefixed):
    return nodes
  return [_Node(_snake_case(layer), nodes)]


def _all(parts):
  return [node for part in parts for node in _nodes(*part)]


def _blocks(stack, weights):
  """The blocks of a stack, each with its part of every array."""
  (template,) = stack.sublayers
  if isinstance(template, Remat):
    (template,), (weights,) = template.sublayers, weights

  def block(i):
    own = jax.tree.map(
      lambda place: Place(place.leaf, (*place.index, i)), weights
    )
    if not template.sublayers:
      return _nodes(template, own)
    parts = list(zip(template.sublayers, own, strict=True))
    if isinstance(template, _ARRANGE):
      return _all(parts)
    # The parts of a reversible block are residual without saying so.
    return [n for p in parts for n in _residual(p[0], _nodes(*p))]

  return [_Node(_BLOCKS, block(i)) for i in range(stack.n)]


def _arranged(layer, parts):
  """The parts of a layer that has no name of its own, but for some."""
  nodes = _all(parts)
  weighty = [part for part, w in parts if jax.tree.leaves(w)]
  if len(weighty) > 1 and all(_is_residual(p) and _role(p) for p in weighty):
    return [_Node(_BLOCKS, nodes)]
  if isinstance(layer, Once) and any(n.name == _BLOCKS for n in nodes):
    return [_Node('encoder', nodes)]
  if layer.sublayers[-1].name == 'Float32':
    return [_Node('logits', nodes)]
  return nodes


def _is_residual(layer):
  """Whether `layer` is what `tl.Residual` makes."""
  return [part.name for part in layer.sublayers] == ['Branch', 'Add']


def _residual(layer, nodes):
  """The parts of a residual part, in one that says what it does."""
  role = _role(layer)
  if not role or [node.name for node in nodes] == [role]:
    return nodes
  if role == 'attention' and nodes[-1].name == 'dense':
    nodes = [*nodes[:-1], _Node('output', nodes[-1].content)]
  return [_Node(role, nodes)]


def _role(layer):
  """What a residual part does; '' if it is around whole levels."""
  classes = {type(part) for part in _layers(layer)}
  if any(issubclass(c, Stack | ShortenedStack) for c in classes):
    return ''
  attends = any('Atten' in c.__name__ for c in classes)
  return 'attention' if attends else 'feed_forward'


def _layers(layer):
  yield layer
  for part in layer.sublayers:
    yield from _layers(part)


def _shortened(coarse, *fine):
  """A `ShortenedStack`: what it is around, then its two ends."""
  layer, weights = coarse
  shorten, *inner, expand = zip(layer.sublayers, weights, strict=True)
  ends = {'shorten': [shorten], 'upsample': [expand, *fine]}
  nodes = [_Node(name, _opened(_all(parts))) for name, parts in ends.items()]
  return _Node('shortened', [*_all(inner), *(n for n in nodes if n.content)])


def _opened(nodes):
  """Nodes, of which what looks like a block gives its parts."""
  opened = []
  for node in nodes:
    opened += node.content if node.name == _BLOCKS else [node]
  return opened


def _in_places(layer, parts):
  """The parts of a layer, by their places if these have names."""
  names = {}
  for kind, known in _PARTS.items():
    if isinstance(layer, kind):
      names = known
  nodes = []
  for i, part in enumerate(parts):
    inside = _nodes(*part)
    nodes += [_Node(names[i], inside)] if i in names and inside else inside
  return nodes


def _projections(weights):
  roles = _PROJECTIONS.get(len(weights))
  if roles is None:
    roles = [f'projection_{i}' for i in range(len(weights))]
  return [
    _Node(role, _arrays('Dense', own))
    for role, own in zip(roles, weights, strict=True)
  ]


def _arrays(kind, weights):
  """The arrays of a layer whose class is called `kind`."""
  places = jax.tree.leaves(weights)
  if kind == 'Weights':
    return places[0]
  names = _ARRAYS.get(kind, ())
  if len(places) > len(names):
    names = ('weights',) * len(places)
  # Without bias there are fewer arrays than names.
  return [_Node(*pair) for pair in zip(names, places, strict=False)]


def _snake_case(layer):
  name = type(layer).__name__.lstrip('_')
  words = r'(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])'
  return re.sub(words, '_', name).lower()
