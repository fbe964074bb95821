"""The dense feed-forward part of a block."""

import math
from collections.abc import Callable

import gin
import jax
import jax.numpy as jnp

from trax_hier.layers.dense import Dense, Linear
from trax_hier.trax_compat import base, tl


@gin.configurable(module='trax_hier.layers')
def Gelu():
  """GELU in its tanh approximation, elementwise; Trax's FastGelu.

  Source: GELUs (arXiv 1606.08415), section 2.
  """
  return tl.Fn('Gelu', lambda x: _gelu(x))


@gin.configurable(module='trax_hier.layers')
def Relu():
  """max(x, 0), elementwise."""
  return tl.Relu()


_SLOPE, _CUBIC = math.sqrt(2 / math.pi), 0.044715


@jax.custom_jvp
def _gelu(x):
  return 0.5 * x * (1 + jnp.tanh(_SLOPE * (x + _CUBIC * x**3)))


@_gelu.defjvp
def _gelu_jvp(primals, tangents):
  """Keeps one array for the gradient, the derivative; autodiff keeps nine."""
  (x,), (t,) = primals, tangents
  tanh = jnp.tanh(_SLOPE * (x + _CUBIC * x**3))
  inner = _SLOPE * (1 + 3 * _CUBIC * x**2)
  derivative = 0.5 * (1 + tanh + x * (1 - tanh**2) * inner)
  return 0.5 * x * (1 + tanh), derivative * t


@gin.configurable(module='trax_hier.layers')
def FeedForward(
  d_model: int,
  d_ff: int = 2048,
  activation: Callable[[], base.Layer] = Gelu,
  dropout: float = 0.0,
  mode: str = 'train',
):
  """Two dense layers with an activation between: (b, l, d) -> (b, l, d).

  Args:
    d_model: Width of inputs and outputs.
    d_ff: Width between the two layers.
    activation: Makes the activation layer.
    dropout: Rate of dropout after the activation.
    mode: 'train', 'eval' or 'predict'.
  """
  return tl.Serial(
    Dense(d_ff),  # (b, l, f)
    activation(),
    tl.Dropout(dropout, mode=mode),
    Dense(d_model),  # (b, l, d)
  )


@gin.configurable(module='trax_hier.layers')
def ReluFeedForward(d_model: int, d_ff: int = 2048):
  """Two dense layers without bias, a ReLU between: (b, l, d) -> (b, l, d).

  Args:
    d_model: Width of inputs and outputs.
    d_ff: Width between the two layers.
  """
  return tl.Serial(
    Linear(d_ff),  # (b, l, f)
    Relu(),
    Linear(d_model),  # (b, l, d)
  )
