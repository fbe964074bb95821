"""Names of the arrays of a model, derived from its layer tree.

A name is the path from the model to the array, joined by dots:

    embedding.weights
    blocks.0.attention.query.weights
    blocks.0.feed_forward.dense_0.bias
    shortened.blocks.2.attention.output.weights
    logits.dense.weights

1. The name of a layer is its class in snake case (`LayerNorm`: `layer_norm`),
   or a role in the enclosing layer: `encoder`, `shorten`, `logits`.
2. Layers that only arrange others (`Serial`, `Branch`, `Remat`, `Lanes`, ...)
   have no name; their sublayers belong to the enclosing layer.
3. A residual layer is `attention` if it attends, else `feed_forward`; a
   residual around whole levels, as in Hourglass, has no name. `query`, `key`
   and `value` are projections; a dense layer at the end of an attention is its
   `output`.
4. Two or more residual layers in sequence form a block, and so does the layer
   that a `Repeat` repeats; stacked arrays are split into blocks. Blocks are
   named `blocks.0`, `blocks.1`, ..., whether one `Repeat`, several or none runs
   them.
5. Other sibling layers of the same name are numbered: `layer_norm_0`.
6. `ShareWeights` is `shared`: each shared array appears once.
7. The arrays of a layer are `weights` and `bias`, or as listed in `_ARRAYS`.

So a name depends neither on rematerialization nor on how blocks are run.
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
from trax_hier.layers.base.once import Once
from trax_hier.layers.base.random_choice import RandomChoice
from trax_hier.layers.base.remat import Remat
from trax_hier.layers.base.repeat import Alternating, Stack
from trax_hier.layers.base.sharing import ShareWeights
from trax_hier.layers.hierarchy.shortened_stack import ShortenedStack
from trax_hier.layers.recurrent.recurrent_states import Recurrence

_BLOCKS = 'blocks'
_UNNAMED = tl.Serial, tl.Parallel, Lanes, Once, RandomChoice, Remat

# Names of sublayers by their index.
_SUBLAYERS = {
  Prefixed: {0: 'encoder', 1: 'decoder'},
  Recurrence: {1: 'project', 2: 'advance'},
}
# Names of arrays by class. The arrays of other classes are named `weights`, or
# `weights_0`, `weights_1`, ... if there are several.
_ARRAYS = {
  'Dense': ('weights', 'bias'),
  'Digits': ('weights', 'first'),
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
  'Convolution': ('weights', 'bias'),
}
_PROJECTIONS = {
  1: ('query',),
  2: ('key', 'value'),
  3: ('query', 'key', 'value'),
}


@dataclasses.dataclass(frozen=True)
class Place:
  """The place of a named array in a tree of weights.

  Attributes:
    leaf: Index of the leaf, in the order of `jax.tree.leaves`.
    index: Index of the block in the leaf, one number per enclosing `Repeat`.
  """

  leaf: int
  index: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Node:
  """A named layer, or one of its arrays."""

  name: str
  content: 'list[_Node] | Place'


def tensor_names(layer: base.Layer, weights: Any) -> dict[str, Place]:
  """Names each array of a model; the module docstring has the rules.

  Args:
    layer: The model in 'train' or 'eval' mode, which give the same names.
    weights: Weights as nested tuples, or their shapes, as `init` returns them.

  Returns:
    The place of each array by its name; each block of a `Repeat` has its own.
  """
  leaves, tree = jax.tree.flatten(weights)
  places = [Place(leaf) for leaf in range(len(leaves))]
  return dict(_named(_nodes(layer, jax.tree.unflatten(tree, places))))


def _named(nodes: list[_Node]) -> Iterator[tuple[str, Place]]:
  """Yields the names and places of the arrays in sibling nodes."""
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
  """The nodes of a layer: itself, or its sublayers; none without weights."""
  if not jax.tree.leaves(weights):
    return []
  if isinstance(layer, Stack):
    return _blocks(layer, *weights)
  if isinstance(layer, Projections):
    return _projections(weights)
  if isinstance(weights, Place) or len(weights) != len(layer.sublayers):
    return [_Node(_snake_case(layer), _arrays(type(layer).__name__, weights))]
  pairs = list(zip(layer.sublayers, weights, strict=True))
  if isinstance(layer, ShortenedStack):
    return [_shortened(*pairs)]
  if isinstance(layer, ShareWeights):
    return [_Node('shared', _all_nodes(pairs))]
  if _is_residual(layer):
    return _residual(layer, _all_nodes(pairs))
  if isinstance(layer, _UNNAMED):
    return _unnamed(layer, pairs)
  nodes = _sublayers(layer, pairs)
  if isinstance(layer, Prefixed):
    return nodes
  return [_Node(_snake_case(layer), nodes)]


def _all_nodes(pairs):
  """The nodes of several layers, given as pairs (layer, weights)."""
  return [node for pair in pairs for node in _nodes(*pair)]


def _blocks(stack, weights):
  """The blocks of a stack, each with its slice of every array."""
  (template,) = stack.sublayers
  if isinstance(template, Remat):
    (template,), (weights,) = template.sublayers, weights

  def blocks(i):
    own = jax.tree.map(
      lambda place: Place(place.leaf, (*place.index, i)), weights
    )
    if not template.sublayers:
      return [_nodes(template, own)]
    pairs = list(zip(template.sublayers, own, strict=True))
    if isinstance(template, Alternating):
      return [_unwrap(_nodes(*pair)) for pair in pairs]
    if isinstance(template, _UNNAMED):
      return [_all_nodes(pairs)]
    # A reversible block adds the output of each sublayer, as a residual does.
    nodes = [_residual(pair[0], _nodes(*pair)) for pair in pairs]
    size = len(nodes) // getattr(template, 'n_kinds', 1)
    return [
      [node for inner in nodes[start : start + size] for node in inner]
      for start in range(0, len(nodes), size)
    ]

  return [_Node(_BLOCKS, block) for i in range(stack.n) for block in blocks(i)]


def _unnamed(layer, pairs):
  """The nodes of an unnamed layer; a block, encoder or logits is one node."""
  nodes = _all_nodes(pairs)
  weighted = [sub for sub, w in pairs if jax.tree.leaves(w)]
  if len(weighted) > 1 and all(_is_residual(x) and _role(x) for x in weighted):
    return [_Node(_BLOCKS, nodes)]
  if isinstance(layer, Once) and any(n.name == _BLOCKS for n in nodes):
    return [_Node('encoder', nodes)]
  if layer.sublayers[-1].name == 'Float32':
    return [_Node('logits', nodes)]
  return nodes


def _is_residual(layer):
  """Whether the layer is the result of `tl.Residual`."""
  return [sub.name for sub in layer.sublayers] == ['Branch', 'Add']


def _residual(layer, nodes):
  """Groups the nodes of a residual layer under its role."""
  role = _role(layer)
  if not role or [node.name for node in nodes] == [role]:
    return nodes
  if role == 'attention' and nodes[-1].name == 'dense':
    nodes = [*nodes[:-1], _Node('output', nodes[-1].content)]
  return [_Node(role, nodes)]


def _role(layer):
  """The role of a residual layer; '' for a residual around whole levels."""
  classes = {type(sub) for sub in _walk(layer)}
  if any(issubclass(c, Stack | ShortenedStack) for c in classes):
    return ''
  attends = any('Atten' in c.__name__ for c in classes)
  return 'attention' if attends else 'feed_forward'


def _walk(layer):
  yield layer
  for sub in layer.sublayers:
    yield from _walk(sub)


def _shortened(coarse, *fine):
  """The node of a `ShortenedStack`: its inner layers, then its two ends."""
  layer, weights = coarse
  shorten, *inner, expand = zip(layer.sublayers, weights, strict=True)
  ends = {'shorten': [shorten], 'upsample': [expand, *fine]}
  nodes = [_Node(name, _unwrap(_all_nodes(x))) for name, x in ends.items()]
  return _Node(
    'shortened', [*_all_nodes(inner), *(n for n in nodes if n.content)]
  )


def _unwrap(nodes):
  """Replaces each block by its nodes."""
  unwrapped = []
  for node in nodes:
    unwrapped += node.content if node.name == _BLOCKS else [node]
  return unwrapped


def _sublayers(layer, pairs):
  """The nodes of the sublayers, grouped under the names in `_SUBLAYERS`."""
  names = {}
  for kind, known in _SUBLAYERS.items():
    if isinstance(layer, kind):
      names = known
  nodes = []
  for i, pair in enumerate(pairs):
    inner = _nodes(*pair)
    nodes += [_Node(names[i], inner)] if i in names and inner else inner
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
  """The arrays of a layer of the class named `kind`."""
  places = jax.tree.leaves(weights)
  if kind == 'Weights':
    return places[0]
  names = _ARRAYS.get(kind, ())
  if len(places) > len(names):
    names = ('weights',) * len(places)
  # A layer without bias has fewer arrays than names.
  return [_Node(*pair) for pair in zip(names, places, strict=False)]


def _snake_case(layer):
  name = type(layer).__name__.lstrip('_')
  words = r'(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])'
  return re.sub(words, '_', name).lower()
