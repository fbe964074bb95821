"""Reversible residual stacks: activation memory of one block at any depth.

Each residual sublayer reads one of two streams and adds its output to the
other. The inputs of a block can therefore be computed from its outputs, and the
backward pass reconstructs them instead of storing them.

Source: RevNets (arXiv 1707.04585); Reformer (arXiv 2001.04451), section 3.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from trax_hier.compat import base
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.choices import record_choices, with_choices
from trax_hier.layers.base.repeat import Repeat, Stack, alternating


def ReversibleRepeat(
  sublayers: Callable[[], Sequence[base.Layer]]
  | Sequence[Callable[[], Sequence[base.Layer]]],
  n: int,
  mode: str = 'train',
):
  """`n` equal blocks of reversible residual sublayers, as one compiled loop.

  x1, x2 (b, l, d), *context -> y1, y2, *context. Each sublayer f in turn sets

  x1, x2 = x2, x1 + f(x2, *context)

  In 'train' mode, activation memory does not grow with n, even with dropout and
  noise: the backward pass samples the same random numbers again and replays the
  `Choices` of layers such as `SparseFF`. Gradients equal those of automatic
  differentiation up to rounding.

  Args:
    sublayers: Factory of the sublayers of one block, each of which maps
      x, *context to an array shaped like x. Must return new layers at every
      call; blocks must not share layers. With several factories, blocks of
      these kinds alternate, and the number of kinds must divide n.
    n: Number of blocks; 0 is the identity.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: an argument is out of range, or blocks share layers.

  Example:
    >>> from trax_hier.layers import FeedForward, SelfAttention
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = ReversibleRepeat(
    ...   lambda: [SelfAttention(8, n_heads=2), FeedForward(8, 16)], n=3
    ... )
    >>> print(tree(layer, (1, 9, 8), (1, 9, 8)).text(0))
    layer           parameters   in                    out
    Repeat(3) ...        1,704   (1, 9, 8) (1, 9, 8)   (1, 9, 8) (1, 9, 8)
  """
  check_arguments('ReversibleRepeat', n=n, mode=mode)

  kinds = alternating('ReversibleRepeat.sublayers', sublayers, n)

  def block():
    return _Block([make() for make in kinds])

  n //= len(kinds)
  if mode != 'train' or n < 1:
    return Repeat(block, n)
  return _ReversibleStack(block(), block(), n)


class _Block(base.Layer):
  """x1, x2, *context -> the same shapes, after all sublayers in turn."""

  keeps_documents_apart = True

  def __init__(self, kinds):
    sublayers = [layer for kind in kinds for layer in kind]
    if not all(kinds):
      raise ValueError(
        'ReversibleRepeat.sublayers must return at least one layer'
      )
    n = 1 + max(layer.n_in for layer in sublayers)
    super().__init__(n, n)
    self._n_kinds = len(kinds)
    self._sublayers = tuple(sublayers)
    self._weights = (None,) * len(sublayers)
    self._state = (None,) * len(sublayers)

  @property
  def n_kinds(self):
    """Number of equal parts of the sublayers, each of which is a block."""
    return self._n_kinds

  def init_weights_and_state(self, input_signature):
    _, x, *context = input_signature
    inits = [
      layer.init(_inputs(layer, x, context), rng, use_cache=True)
      for layer, rng in zip(self.sublayers, self._rngs(self.rng), strict=True)
    ]
    self.weights, self.state = map(tuple, zip(*inits, strict=True))

  def forward(self, x):
    y, self.state = self.run(x, self.weights, self.state, self.rng)
    return y

  def run(self, x, weights, state, rng):
    """The outputs and the new state."""
    x1, x2, *context = x
    states = []
    for layer, w, s, r in self._zip(weights, state, rng):
      f, s = layer.pure_fn(_inputs(layer, x2, context), w, s, r)
      x1, x2 = x2, x1 + f.astype(x1.dtype)
      states.append(s)
    return (x1, x2, *context), tuple(states)

  def run_back(self, y, gradients, weights, state, rng):
    """Reconstructs the inputs from the outputs y, and computes gradients.

    Args:
      y: The two streams and the context after the block.
      gradients: Gradients for the streams after the block, and those
        accumulated so far for the context; None for context that is not
        floating-point.
      weights: Weights of the block.
      state: State before the forward pass, with the choices recorded in it.
      rng: Random key of the forward pass.

    Returns:
      The streams and the context before the block, their gradients, and the
      gradients for the weights.
    """
    y1, y2, *context = y
    d1, d2, *d_context = gradients
    d_weights = []
    for layer, w, s, r in reversed(self._zip(weights, state, rng)):
      # In the forward pass, (y1, y2) = (x2, x1 + f(x2)).
      def f(x, w, *context, layer=layer, s=s, r=r):
        return layer.pure_fn(_inputs(layer, x, context), w, s, r)[0]

      z, transpose = jax.vjp(f, y1, w, *context)
      d, d_w, *d_more = transpose(d2.astype(z.dtype))
      y1, y2 = y2 - z.astype(y2.dtype), y1
      d1, d2 = d2, d1 + d
      d_context = [
        a if a is None else a + b
        for a, b in zip(d_context, d_more, strict=True)
      ]
      d_weights.append(d_w)
    return (y1, y2, *context), (d1, d2, *d_context), tuple(d_weights[::-1])

  def _zip(self, weights, state, rng):
    rngs = self._rngs(rng)
    return list(zip(self.sublayers, weights, state, rngs, strict=True))

  def _rngs(self, rng):
    return jax.random.split(rng, len(self.sublayers))


def _inputs(layer, x, context):
  return x if layer.n_in == 1 else (x, *context[: layer.n_in - 1])


class _ReversibleStack(Stack):
  """A stack of `_Block` in 'train' mode."""

  def __init__(self, template, other, n):
    super().__init__(template, other, n)
    if self._shared:
      raise ValueError(
        'the blocks of ReversibleRepeat cannot share layers, but all contain '
        f'the same {self._shared[0].name}: in attention, use positions that '
        'have separate weights in each layer'
      )

  def forward(self, x):
    (template,), (weights,), (state,) = self.sublayers, self.weights, self.state
    rngs = jax.random.split(self.rng, self.n)
    y, state = _run(template, tuple(x), weights, state, rngs)
    self.state = (state,)
    return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(block, x, weights, state, rngs):
  """The outputs of the last block, and the new states of all blocks."""
  return jax.lax.scan(
    lambda x, xs: block.run(x, *xs), x, (weights, state, rngs)
  )


def _run_forward(block, x, weights, state, rngs):
  y, after = _run(block, x, weights, record_choices(block, state), rngs)
  # The recomputation must start from the state before this pass: LSH attention,
  # for example, samples from a key in its state and advances it.
  recorded = with_choices(block, state, after)
  return (y, with_choices(block, after, state)), (y, weights, recorded, rngs)


def _run_backward(block, residuals, gradients):
  y, weights, state, rngs = residuals
  gradients, _ = gradients
  gradients = tuple(
    d if jnp.issubdtype(x.dtype, jnp.floating) else None
    for x, d in zip(y, gradients, strict=True)
  )

  def body(carry, xs):
    *carry, d_weights = block.run_back(*carry, *xs)
    return tuple(carry), d_weights

  (_, gradients), d_weights = jax.lax.scan(
    body, (y, gradients), (weights, state, rngs), reverse=True
  )
  return gradients, d_weights, None, None


_run.defvjp(_run_forward, _run_backward)
