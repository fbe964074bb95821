"""Layers whose output is computed once in decoding, then reused."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from trax_hier.compat import ShapeDtype, base
from trax_hier.layers.base.conditional import apply_if


class FromWeights(base.Layer):
  """A layer whose output depends only on its weights; it ignores its inputs.

  A decoding program computes the output once: see `decoding_state`.

  Args:
    layer: The layer that computes the output, without inputs or state. Its
      weights become those of `FromWeights`.
    n_in: Number of inputs, which are ignored.
  """

  is_positionwise = True

  def __init__(self, layer: base.Layer, n_in: int):
    super().__init__(n_in, layer.n_out)
    self._layer = layer

  def init_weights_and_state(self, input_signature):
    self.weights, _ = self._layer.init((), self.rng)
    # Drops the second reference to the weights.
    self._layer.weights = jax.tree.map(
      lambda w: ShapeDtype(w.shape, w.dtype), self.weights
    )

  def forward(self, x):
    return (
      self.state[0] if self.state else self._compute(self.weights, self.rng)
    )

  def remember(self, weights):
    """The state that holds the output for these weights."""
    return (self._compute(weights, jax.random.PRNGKey(0)),)

  def _compute(self, weights, rng):
    return self._layer.pure_fn((), weights, self._layer.state, rng)[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Computed:
  """The output of a `Once`, for programs that run after it was computed."""

  value: Any


class Once(base.Layer):
  """In predict mode, computes a layer in the first call and keeps its output.

  For values that later calls do not change, for example the keys of another
  sequence (b, m, d). `layer` must have no state. In 'train' and 'eval' modes,
  equals `layer`.

  A decoding program computes it before the first call: see `decoding_state`.

  Example:
    >>> from trax_hier.compat import signature, tl
    >>> layer = Once(tl.Fn('Double', lambda x: 2 * x), 'predict')
    >>> _ = layer.init(signature(jnp.ones(3)))
    >>> print(layer(jnp.arange(3.0)), layer(jnp.zeros(3)))
    [0. 2. 4.] [0. 2. 4.]
  """

  def __init__(self, layer: base.Layer, mode: str):
    super().__init__(layer.n_in, layer.n_out)
    self._mode = mode
    # The second sublayer only provides a state, which holds the output.
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
    # The state may have a wider dtype than the output of this call.
    return cast(value, jax.eval_shape(compute))
