"""Stacks of equal blocks, and the weights and rematerialisation around them."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from trax_hier.compat import ShapeDtype, base, tl
from trax_hier.config import configurable

# What the backward pass recomputes; see `Repeat`.
RematPolicy = bool | Literal['projections', 'products']

_POLICIES = {
  True: jax.checkpoint_policies.nothing_saveable,
  'projections': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'products': jax.checkpoint_policies.dots_saveable,
}


@configurable(module='trax_hier.layers')
def Repeat(block: Callable[[], base.Layer], n: int, remat: RematPolicy = False):
  """Applies `n` equal blocks one after another, as one compiled loop.

  (b, l, d) -> (b, l, d), or whatever else a block takes and returns.

  The weights of the blocks are stacked on a leading axis of size n, and so are
  their states; compile time and program size do not grow with n. Each block
  draws its own initial weights and its own dropout.

  A layer object that occurs in every block is a shared layer in the sense of
  Trax. Its weights must be owned outside the stack, by a `ShareWeights` that
  runs before it; the blocks then read them from there.

  Args:
    block: Makes one block; its outputs have the shapes and dtypes of its
      inputs. Must return a new layer object at every call.
    n: Number of blocks; 0 is the identity.
    remat: What the backward pass recomputes of a block instead of keeping it:
      nothing (False), all (True), all but the results of projections, which are
      products with weights ('projections'), or all but those of any products of
      matrices, attention weights among them ('products').

  Raises:
    ValueError: `n` is negative, `remat` is none of these, or `block` returns
      one object twice.

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
  if n < 0:
    raise ValueError(f'Repeat.n = {n} must not be negative')
  if n == 0:
    return tl.Serial()
  template, other = block(), block()
  if template is other:
    raise ValueError(
      'Repeat.block must return a new layer at every call, got the same '
      f'{template.name} twice'
    )
  return Stack(Remat(template, remat) if remat else template, other, n)


def remat_of_each(
  remat: RematPolicy | Sequence[RematPolicy], n: int, name: str
) -> tuple[RematPolicy, ...]:
  """One policy for each of `n` stacks.

  Args:
    remat: One policy for all, or one for each.
    n: Number of stacks.
    name: What the argument is called, for the message.

  Raises:
    ValueError: `remat` is of another length.

  Example:
    >>> remat_of_each(True, 3, 'HourglassLM.remat')
    (True, True, True)
  """
  if not isinstance(remat, tuple | list):
    return (remat,) * n
  if len(remat) != n:
    raise ValueError(
      f'{name} = {remat!r} must be one policy, or one for each of {n} stacks'
    )
  return tuple(remat)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks:
  """The weights or the states of the blocks of a `Stack`, each on its own."""

  trees: tuple


class Stack(base.Layer):
  """One template layer applied n times; see `Repeat`, which makes it.

  Weights and state are 1-tuples, of arrays stacked over the blocks, which one
  scan then runs, or of `Blocks`, which a program for decoding runs in turn.
  """

  def __init__(self, template: base.Layer, other: base.Layer, n: int):
    super().__init__(template.n_in, template.n_out, name=f'Repeat({n})')
    if template.n_in != template.n_out:
      raise ValueError(
        'Repeat.block must return as many tensors as it takes, but '
        f'{template.name} takes {template.n_in} and returns {template.n_out}'
      )
    self._n = n
    self._sublayers = (template,)
    own, others = _leaves(template), _leaves(other)
    self._shared = [own[i] for i in own.keys() & others.keys()]

  @property
  def n(self) -> int:
    """The number of blocks."""
    return self._n

  # The template's own weights and state are those of one block.

  @property
  def weights(self):
    """A 1-tuple of the stacked weights, or of `Blocks`."""
    return self._weights

  @weights.setter
  def weights(self, weights):
    if not isinstance(weights, dict):  # The mark of a layer that ran before.
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
    self.rng = self.rng  # The template must not keep the traced one.
    self.weights, self.state = (weights,), (state,)

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


def _leaves(layer):
  """The layers at the bottom of `layer`, by identity."""
  if not layer.sublayers:
    return {id(layer): layer}
  return {i: x for sub in layer.sublayers for i, x in _leaves(sub).items()}


def _shapes_of_weights(layer, input_signature, rng):
  """The shapes of a layer's weights, without marking it as initialised."""
  shared = [x for x in _leaves(layer).values() if x._init_cached]
  weights, _ = jax.eval_shape(
    lambda: layer.init(input_signature, rng, use_cache=True)
  )
  layer._clear_init_cache()
  for x in shared:
    x._init_cached = True
  return jax.tree.map(lambda w: w.shape, weights)


class Remat(base.Layer):
  """Runs a layer without keeping its activations for the backward pass.

  Same inputs, outputs, weights and state as `layer`, such as one of (b, l, d)
  -> (b, l, d), whose forward pass is computed a second time when gradients are
  taken.

  Args:
    layer: The layer.
    policy: What is recomputed: True, 'projections' or 'products', as in
      `Repeat`.

  Raises:
    ValueError: `policy` is none of these.

  Example:
    >>> from trax_hier.layers import FeedForward
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = Remat(FeedForward(8, 16), 'projections')
    >>> print(tree(layer, (2, 12, 8)).text(0))
    layer       parameters   in           out
    Remat ...          280   (2, 12, 8)   (2, 12, 8)
  """

  def __init__(self, layer: base.Layer, policy: RematPolicy = True):
    super().__init__(layer.n_in, layer.n_out)
    if policy not in _POLICIES:
      raise ValueError(
        f'remat = {policy!r} must be False or one of '
        f'{", ".join(map(repr, _POLICIES))}'
      )
    self._policy = _POLICIES[policy]
    self._sublayers = (layer,)
    self._weights = (None,)
    self._state = (None,)

  def init_weights_and_state(self, input_signature):
    (layer,) = self.sublayers
    weights, state = layer.init(input_signature, self.rng, use_cache=True)
    self.weights, self.state = (weights,), (state,)

  def forward(self, x):
    (layer,), (weights,), (state,) = self.sublayers, self.weights, self.state
    run = jax.checkpoint(layer.pure_fn, policy=self._policy)
    y, state = run(x, weights, state, self.rng)
    self.state = (state,)
    return y


class ShareWeights(base.Layer):
  """Owns the weights of layers that occur at several places of a model.

  Takes and returns nothing. Trax keeps the weights of a layer object at its
  first occurrence and reads them from there at every other one; this makes the
  first occurrence explicit, outside any `Repeat` or `Remat`.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> table = tl.Weights(tl.RandomNormalInitializer(1.0), (256, 8))
    >>> model = tl.Serial(  # tokens
    ...   ShareWeights(table),
    ...   table,
    ...   tl.Fn('Embed', lambda table, tokens: table[tokens]),  # (b, l, d)
    ...   table,
    ...   tl.Fn('Logits', lambda table, x: x @ table.T),  # (b, l, v)
    ... )
    >>> print(tree(model, (2, 12)).text(1))
    layer                parameters   in                    out
    Serial                    2,048   (2, 12)               (2, 12, 256)
      ShareWeights ...        2,048
      Logits                      -   (256, 8) (2, 12, 8)   (2, 12, 256)
  """

  def __init__(self, *layers: base.Layer):
    super().__init__(n_in=0, n_out=0)
    self._sublayers = layers
    self._weights = (None,) * len(layers)
    self._state = (None,) * len(layers)

  def init_weights_and_state(self, input_signature):
    inits = [layer.init((), use_cache=True) for layer in self.sublayers]
    self.weights = tuple(weights for weights, _ in inits)
    self.state = tuple(state for _, state in inits)

  def forward(self, x):
    states = []
    parts = zip(self.sublayers, self.weights, self.state, strict=True)
    for layer, weights, state in parts:
      _, state = layer.pure_fn((), weights, state, self.rng, use_cache=True)
      states.append(state)
    self.state = tuple(states)
    return ()


class FromWeights(base.Layer):
  """A layer whose output follows from its weights; it ignores its inputs.

  A program for decoding computes the output once: see `decoding_state`.

  Args:
    layer: A layer without inputs and without state; its weights are this one's.
    n_in: Number of inputs to take.
  """

  def __init__(self, layer: base.Layer, n_in: int):
    super().__init__(n_in, layer.n_out)
    self._layer = layer

  def init_weights_and_state(self, input_signature):
    self.weights, _ = self._layer.init((), self.rng)
    # Not kept a second time, in a layer that no one else sees.
    self._layer.weights = jax.tree.map(
      lambda w: ShapeDtype(w.shape, w.dtype), self.weights
    )

  def forward(self, x):
    return (
      self.state[0] if self.state else self._compute(self.weights, self.rng)
    )

  def remember(self, weights):
    """The state in which the output for these weights is remembered."""
    return (self._compute(weights, jax.random.PRNGKey(0)),)

  def _compute(self, weights, rng):
    return self._layer.pure_fn((), weights, self._layer.state, rng)[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Computed:
  """What a `Once` remembers, in programs that need not ask whether it does."""

  value: Any


class Once(base.Layer):
  """In predict mode, computes a layer in the first call and remembers it.

  For what later calls do not change, such as the keys of another sequence, made
  of (b, m, d).
  `layer` must be without state. In 'train' and 'eval' modes this is `layer`.

  A program for decoding computes it before the first call: see
  `decoding_state`.

  Example:
    >>> from trax_hier.compat import signature
    >>> layer = Once(tl.Fn('Double', lambda x: 2 * x), 'predict')
    >>> _ = layer.init(signature(jnp.ones(3)))
    >>> print(layer(jnp.arange(3.0)), layer(jnp.zeros(3)))
    [0. 2. 4.] [0. 2. 4.]
  """

  def __init__(self, layer: base.Layer, mode: str):
    super().__init__(layer.n_in, layer.n_out)
    self._mode = mode
    self._sublayers = (layer, base.Layer(name='Memory'))
    self._weights = (None, None)
    self._state = (None, None)

  def init_weights_and_state(self, input_signature):
    layer, _ = self.sublayers
    weights, state = layer.init(input_signature, self.rng, use_cache=True)
    self.weights, self.state = (weights, ()), (state, ())
    if self._mode == 'predict':
      output = layer.output_signature(input_signature)
      value = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), output)
      self.state = state, (jnp.zeros((), bool), value)

  def forward(self, x):
    layer, (weights, _), (state, memory) = (
      self.sublayers[0],
      self.weights,
      self.state,
    )
    if not memory:
      y, state = layer.pure_fn(x, weights, state, self.rng)
      self.state = state, ()
      return y
    if isinstance(memory, Computed):
      return memory.value

    def compute():
      return layer.pure_fn(x, weights, state, self.rng)[0]

    def cast(tree, like):
      return jax.tree.map(lambda a, b: a.astype(b.dtype), tree, like)

    known, value = memory
    value = apply_if(~known, lambda value: cast(compute(), value), value)
    self.state = state, (jnp.ones((), bool), value)
    # The state may be wider than the dtype of compute.
    return cast(value, jax.eval_shape(compute))


def apply_if(condition: jax.Array, fn: Callable, x):
  """fn(x) where the scalar `condition` is true, else x; not for gradients.

  A loop of one turn or none, whose carry XLA updates in place. Decoding is 8 %
  faster on CPU than with `lax.cond` (benchmarks/generation.py, part coarse).

  Example:
    >>> print(apply_if(jnp.bool_(True), lambda x: x + 1, jnp.zeros(2)))
    [1. 1.]
  """
  return jax.lax.fori_loop(
    0, condition.astype(jnp.int32), lambda _, x: fn(x), x
  )


class RandomChoice(base.Layer):
  """Applies one of several layers with the same weights, drawn at each call.

  Inputs and outputs are those of each layer, such as (b, l, d) -> (b, l, d). In
  'train' mode each of `layers` is equally likely; in other modes it is always
  the first. All must have weights and states of the same shapes.

  Args:
    layers: The alternatives; equal in inputs, outputs and weights.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: at `init`, if the weights of the alternatives differ in shape.

  Example:
    >>> from trax_hier.layers import AverageShorten, RepeatUpsample
    >>> from trax_hier.layers import FeedForward, ShortenedStack
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layers = [
    ...   ShortenedStack(
    ...     k, AverageShorten(k), FeedForward(8, 16), RepeatUpsample(k)
    ...   )
    ...   for k in (2, 3)
    ... ]
    >>> print(tree(RandomChoice(layers, 'train'), (2, 12, 8)).text(1))
    layer                     parameters   in           out
    RandomChoice                     280   (2, 12, 8)   (2, 12, 8)
      ShortenedStack(2) ...          280   (2, 12, 8)   (2, 12, 8)
      ShortenedStack(3) ...            -   (2, 12, 8)   (2, 12, 8)
  """

  def __init__(self, layers: Sequence[base.Layer], mode: str):
    super().__init__(layers[0].n_in, layers[0].n_out)
    self._sublayers = (layers[0],)
    self._weights = (None,)
    self._state = (None,)
    self._choices = tuple(layers) if mode == 'train' else (layers[0],)

  def init_weights_and_state(self, input_signature):
    first, *others = self._choices
    weights, state = first.init(input_signature, self.rng, use_cache=True)
    self.weights, self.state = (weights,), (state,)
    for other in others:
      shapes = _shapes_of_weights(other, input_signature, self.rng)
      if shapes != jax.tree.map(jnp.shape, weights):
        raise ValueError(
          f'the alternatives {first.name} and {other.name} must have weights '
          'of the same shapes, so none may depend on what is drawn'
        )

  def forward(self, x):
    (weights,), (state,) = self.weights, self.state
    choice_rng, rng = jax.random.split(self.rng)
    choice = jax.random.randint(choice_rng, (), 0, len(self._choices))
    branches = [
      functools.partial(layer.pure_fn, x, weights, state, rng)
      for layer in self._choices
    ]
    y, state = jax.lax.switch(choice, branches)
    self.state = (state,)
    return y
