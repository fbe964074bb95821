"""Reversible residual stacks: activations of one block, whatever the depth.

Two streams take turns: a part of a block reads one and is added to the other.
Hence a block's inputs follow from its outputs, and the backward pass
reconstructs them in place of keeping them.

Source: RevNets (arXiv 1707.04585); Reformer (arXiv 2001.04451), section 3.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from trax_hier.compat import base
from trax_hier.layers.base.build import check_mode
from trax_hier.layers.base.stacking import Repeat, Stack
from trax_hier.layers.sparse.sparse_ff import remember_choices, with_choices


def ReversibleRepeat(
  parts: Callable[[], Sequence[base.Layer]],
  n: int,
  mode: str = 'train',
):
  """`n` equal blocks of reversible residual parts, as one compiled loop.

  x1, x2 (b, l, d), *context -> y1, y2, *context. Of each part f in turn:

  x1, x2 = x2, x1 + f(x2, *context)

  In 'train' mode the memory for the backward pass does not grow with n, with
  dropout and noise too: it draws the same numbers again, and each `SparseFF`
  takes the units that it chose the first time. Gradients are those of automatic
  differentiation, to rounding.

  Args:
    parts: Makes the parts of one block, new layers at every call: layers
      x, *context -> f of the shape of x. They must not share layers with other
      blocks.
    n: Number of blocks; 0 is the identity.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: an argument is out of its range, or blocks share layers.

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
  check_mode(mode)
  if n < 0:
    raise ValueError(f'ReversibleRepeat.n = {n} must not be negative')

  def block():
    return _Block(parts())

  if mode != 'train' or n < 1:
    return Repeat(block, n)
  return _ReversibleStack(block(), block(), n)


class _Block(base.Layer):
  """x1, x2, *context -> the same, after all parts in turn."""

  def __init__(self, parts):
    if not parts:
      raise ValueError('ReversibleRepeat.parts must make one part or more')
    n = 1 + max(part.n_in for part in parts)
    super().__init__(n, n)
    self._sublayers = tuple(parts)
    self._weights = (None,) * len(parts)
    self._state = (None,) * len(parts)

  def init_weights_and_state(self, input_signature):
    _, x, *context = input_signature
    inits = [
      part.init(_inputs(part, x, context), rng, use_cache=True)
      for part, rng in zip(self.sublayers, self._rngs(self.rng), strict=True)
    ]
    self.weights, self.state = map(tuple, zip(*inits, strict=True))

  def forward(self, x):
    y, self.state = self.run(x, self.weights, self.state, self.rng)
    return y

  def run(self, x, weights, state, rng):
    """The outputs and the new state."""
    x1, x2, *context = x
    states = []
    for part, w, s, r in self._parts(weights, state, rng):
      f, s = part.pure_fn(_inputs(part, x2, context), w, s, r)
      x1, x2 = x2, x1 + f.astype(x1.dtype)
      states.append(s)
    return (x1, x2, *context), tuple(states)

  def run_back(self, y, gradients, weights, state, rng):
    """The inputs whose outputs are y, and gradients.

    Args:
      y: The two streams and the context after the block.
      gradients: For the two streams, and those so far for the context; None
        for context that is not of floating numbers.
      weights: The block's.
      state: That before the first pass, with the choices made in it.
      rng: That of the first pass.

    Returns:
      The streams and the context before the block, gradients for them, and
      those for the weights.
    """
    y1, y2, *context = y
    d1, d2, *d_context = gradients
    d_weights = []
    for part, w, s, r in reversed(self._parts(weights, state, rng)):
      # The part made (y1, y2) = (x2, x1 + f(x2)).
      def f(x, w, *context, part=part, s=s, r=r):
        return part.pure_fn(_inputs(part, x, context), w, s, r)[0]

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

  def _parts(self, weights, state, rng):
    parts = self.sublayers, weights, state, self._rngs(rng)
    return list(zip(*parts, strict=True))

  def _rngs(self, rng):
    return jax.random.split(rng, len(self.sublayers))


def _inputs(part, x, context):
  return x if part.n_in == 1 else (x, *context[: part.n_in - 1])


class _ReversibleStack(Stack):
  """A stack of `_Block` in 'train' mode."""

  def __init__(self, template, other, n):
    super().__init__(template, other, n)
    if self._shared:
      raise ValueError(
        'the blocks of ReversibleRepeat cannot share layers, such as '
        f'{self._shared[0].name}: in attention, use positions whose weights '
        'each layer has to itself'
      )

  def forward(self, x):
    (template,), (weights,), (state,) = self.sublayers, self.weights, self.state
    rngs = jax.random.split(self.rng, self.n)
    y, state = _run(template, tuple(x), weights, state, rngs)
    self.state = (state,)
    return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(block, x, weights, state, rngs):
  """The outputs and the new state of all blocks in turn."""
  return jax.lax.scan(
    lambda x, xs: block.run(x, *xs), x, (weights, state, rngs)
  )


def _run_forward(block, x, weights, state, rngs):
  y, after = _run(block, x, weights, remember_choices(block, state), rngs)
  # Anew, the backward pass begins with the state that this pass began with:
  # hashed attention, for one, draws from a key in it, and changes it.
  known = with_choices(block, state, after)
  return (y, with_choices(block, after, state)), (y, weights, known, rngs)


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
