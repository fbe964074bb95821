"""Stacks of equal blocks, compiled as one loop."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from trax_hier.compat import base, signature, tl
from trax_hier.config import configurable
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.remat import Remat, RematPolicy
from trax_hier.layers.base.sharing import leaf_layers
from trax_hier.layers.base.slots import MisfitError


@configurable(module='trax_hier.layers')
def Repeat(block: Callable[[], base.Layer], n: int, remat: RematPolicy = False):
  """Applies `n` equal blocks one after another, as one compiled loop.

  (b, l, d) -> (b, l, d), or whatever else a block takes and returns.

  Weights and states of the blocks are stacked on a leading axis of size n.
  Compile time and program size do not grow with n. Each block has its own
  initial weights and its own dropout.

  Blocks that are `Alternating` have one block of each kind. These groups are
  stacked and repeated, so there are n blocks in all.

  A layer object that occurs in every block is shared, as in Trax. Its weights
  must be owned by a `ShareWeights` before the stack.

  Args:
    block: Factory of one block; its outputs have the shapes and dtypes of its
      inputs. Must return a new layer object at every call.
    n: Number of blocks; 0 is the identity.
    remat: What the backward pass recomputes in a block instead of keeping it:
      nothing (False); everything (True); everything except the results of
      projections, i.e. products with weights ('projections'); or everything
      except the results of all matrix products, including attention weights
      ('products').

  Raises:
    ValueError: `n` is negative, `remat` has another value, `block` returns one
      object twice, or the number of kinds does not divide `n`.

  Example:
    >>> from trax_hier.layers import FeedForward
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(Repeat(lambda: FeedForward(8, 16), n=3), (2, 12, 8)))
    layer               parameters   in            out
    Repeat(3)                  840   (2, 12, 8)    (2, 12, 8)
      3 x FeedForward          280   (2, 12, 8)    (2, 12, 8)
        Dense_16               144   (2, 12, 8)    (2, 12, 16)
        Dense_8                136   (2, 12, 16)   (2, 12, 8)
  """
  check_arguments('Repeat', n=n)
  if n == 0:
    return tl.Serial()
  template, other = block(), block()
  if template is other:
    raise ValueError(
      'Repeat.block must return a new layer at every call, got the same '
      f'{template.name} twice'
    )
  if isinstance(template, Alternating):
    n //= len(alternating(template.binding, template.sublayers, n))
    if remat:
      blocks = [Remat(block, remat) for block in template.sublayers]
      template = Alternating(template.binding, blocks)
  elif remat:
    template = Remat(template, remat)
  return Stack(template, other, n)


class Alternating(tl.Serial):
  """Blocks of several kinds, one after another, which `Repeat` repeats.

  Args:
    binding: The slot that takes several factories, such as
      'DecoderBlock.attention'.
    blocks: One block of each kind.

  Example: four blocks of two kinds.
    >>> from trax_hier.layers import FeedForward
    >>> from trax_hier.inspection.layer_tree import tree
    >>> def block():
    ...   kinds = FeedForward(8, 16), FeedForward(8, 24)
    ...   return Alternating('Block.feed_forward', kinds)
    >>> print(tree(Repeat(block, n=4), (2, 12, 8)).text(2))
    layer               parameters   in            out
    Repeat(2)                1,392   (2, 12, 8)    (2, 12, 8)
      2 x FeedForward          280   (2, 12, 8)    (2, 12, 8)
        Dense_16               144   (2, 12, 8)    (2, 12, 16)
        Dense_8                136   (2, 12, 16)   (2, 12, 8)
      2 x FeedForward          416   (2, 12, 8)    (2, 12, 8)
        Dense_24               216   (2, 12, 8)    (2, 12, 24)
        Dense_8                200   (2, 12, 24)   (2, 12, 8)
  """

  def __init__(self, binding: str, blocks: Sequence[base.Layer]):
    super().__init__(*blocks)
    self._binding = binding

  @property
  def binding(self) -> str:
    """The slot that takes several factories."""
    return self._binding


def alternating(binding: str, kinds: Any, n: int) -> tuple:
  """The kinds of n blocks that alternate: a tuple, also of a single kind.

  Args:
    binding: The slot that takes one kind, or a sequence of kinds.
    kinds: Its value.
    n: Number of blocks.

  Raises:
    MisfitError: there are no kinds, or their number does not divide n.

  Example:
    >>> alternating('Terraformer.attention', ('sparse', 'dense'), 6)
    ('sparse', 'dense')
  """
  if not isinstance(kinds, tuple | list):
    return (kinds,)
  if not kinds:
    raise MisfitError(f'{binding} = () must have at least one part')
  if n % len(kinds):
    raise MisfitError(
      f'{binding} has {len(kinds)} parts, which alternate over the blocks, so '
      f'their number must divide the number of blocks, {n}'
    )
  return tuple(kinds)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks:
  """The unstacked weights or states of a `Stack`, one tree for each block."""

  trees: tuple


class Stack(base.Layer):
  """One template layer applied n times; made by `Repeat`.

  Weights and state are 1-tuples of arrays stacked over the blocks, which run in
  one scan, or, in decoding programs, of `Blocks`, which run one after another.

  Args:
    template: The block.
    other: Another block, compared with `template` to find shared layers.
    n: Number of blocks.
  """

  keeps_documents_apart = True

  def __init__(self, template: base.Layer, other: base.Layer, n: int):
    super().__init__(template.n_in, template.n_out, name=f'Repeat({n})')
    if template.n_in != template.n_out:
      raise ValueError(
        'Repeat.block must return as many tensors as it takes, but '
        f'{template.name} takes {template.n_in} and returns {template.n_out}'
      )
    self._n = n
    self._sublayers = (template,)
    own, others = leaf_layers(template), leaf_layers(other)
    self._shared = [own[i] for i in own.keys() & others.keys()]

  @property
  def n(self) -> int:
    """The number of blocks."""
    return self._n

  # The setters of `Layer` would also set the weights and state of the template,
  # whose shapes are those of a single block.

  @property
  def weights(self):
    """A 1-tuple of the stacked weights, or of `Blocks`."""
    return self._weights

  @weights.setter
  def weights(self, weights):
    if not isinstance(weights, dict):  # Marker of a layer that occurs earlier.
      self._weights = weights

  @property
  def state(self):
    """A 1-tuple of the stacked states, or of `Blocks`."""
    return self._state

  @state.setter
  def state(self, state):
    if not isinstance(state, dict):
      self._state = state

  def init_weights_and_state(self, input_signature):
    (template,) = self.sublayers
    owned = {id(layer) for layer in self._shared if layer._init_cached}

    def init(rng):
      return template.init(input_signature, rng, use_cache=True)

    weights, state = jax.vmap(init)(jax.random.split(self.rng, self._n))
    for layer in self._shared:
      if id(layer) not in owned and jax.tree.leaves(layer.weights):
        raise ValueError(
          f'{layer.name} is shared between the blocks of {self.name}, so its '
          'weights must be owned outside: put ShareWeights(...) before it'
        )
    self.rng = self.rng  # Replaces the traced key in the template.
    self.weights, self.state = (weights,), (state,)

  def _forward_abstract(self, input_signature):
    # Trax would trace the template again for each layer around this one.
    (template,) = self.sublayers
    # The template has weights from `init`, but not if they were set later.
    own, stacked = map(jax.tree.structure, ((template.weights,), self.weights))
    if own == stacked:
      outputs, _ = template._forward_abstract(input_signature)
      if outputs == input_signature:
        return outputs, signature(self.state)
    # Raises an error if the template returns other shapes than it takes.
    return super()._forward_abstract(input_signature)

  def forward(self, x):
    (template,) = self.sublayers

    def body(x, block):
      weights, state, rng = block
      return template.pure_fn(x, weights, state, rng)

    rngs = jax.random.split(self.rng, self._n)
    (weights,), (state,) = self.weights, self.state
    x = tuple(x) if isinstance(x, list) else x
    if isinstance(weights, Blocks):
      states = []
      for block in zip(weights.trees, state.trees, rngs, strict=True):
        x, new = body(x, block)
        states.append(new)
      self.state = (Blocks(tuple(states)),)
      return x
    y, state = jax.lax.scan(body, x, (weights, state, rngs))
    self.state = (state,)
    return y


def unstack(tree: object, n: int) -> list:
  """The trees of n blocks, from one whose arrays are stacked (n, ..)."""
  return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(n)]
