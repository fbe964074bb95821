"""Normalization layers, which compute in float32 for any input dtype."""

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable


@configurable(module='trax_hier.layers')
class RMSNorm(base.Layer):
  """x / sqrt(mean(x^2) + epsilon) times a learned scale, over the last axis.

  (.., d) -> (.., d), in the dtype of the input.

  Example:
    >>> from trax_hier.compat import signature
    >>> x = jnp.array([[0.0, 0.0, 0.0, 4.0]])
    >>> layer = RMSNorm()
    >>> _ = layer.init(signature(x))
    >>> print(layer(x).round())
    [[0. 0. 0. 2.]]

  Source: Root mean square layer normalization (arXiv 1910.07467).
  """

  is_positionwise = True

  def __init__(self, epsilon: float = 1e-6):
    super().__init__()
    self._epsilon = epsilon

  def init_weights_and_state(self, input_signature):
    self.weights = jnp.ones(input_signature.shape[-1], jnp.float32)

  def forward(self, x):
    y = x.astype(jnp.float32)
    mean = jnp.mean(y * y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(mean + self._epsilon)
    return (y * self.weights.astype(jnp.float32)).astype(x.dtype)


@configurable(module='trax_hier.layers')
class LayerNorm(base.Layer):
  """Layer normalization over the last axis, with learned scale and bias.

  (.., d) -> (.., d), in the dtype of the input; mean and variance are computed
  in float32. Equals `trax.layers.LayerNorm` in float32.

  Example:
    >>> from trax_hier.compat import signature
    >>> x = jnp.array([[1.0, 1.0, 5.0, 5.0]])
    >>> layer = LayerNorm()
    >>> _ = layer.init(signature(x))
    >>> print(layer(x).round())
    [[-1. -1.  1.  1.]]
  """

  is_positionwise = True

  def __init__(self, epsilon: float = 1e-6):
    super().__init__()
    self._epsilon = epsilon

  def init_weights_and_state(self, input_signature):
    d = input_signature.shape[-1]
    self.weights = jnp.ones(d, jnp.float32), jnp.zeros(d, jnp.float32)

  def forward(self, x):
    scale, bias = (w.astype(jnp.float32) for w in self.weights)
    y = _standardize(x.astype(jnp.float32), self._epsilon)
    return (y * scale + bias).astype(x.dtype)


def Standardize(epsilon: float = 1e-6):
  """Layer normalization without weights: (.., d) -> (.., d), same dtype."""

  def standardize(x):
    return _standardize(x.astype(jnp.float32), epsilon).astype(x.dtype)

  return tl.Fn('Standardize', standardize)


def _standardize(x, epsilon):
  x = x - jnp.mean(x, axis=-1, keepdims=True)
  variance = jnp.mean(x * x, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(variance + epsilon)
