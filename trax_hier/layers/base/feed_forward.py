"""Dense feed-forward layers and their activations."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.base.dense import Dense, Linear, Projections
from trax_hier.layers.base.slots import ACTIVATION, build_part


@configurable(module='trax_hier.layers')
def Gelu():
  """GELU in the tanh approximation: (.., f) -> (.., f); Trax's FastGelu.

  x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, elementwise.

  Example:
    >>> print(Gelu()(jnp.array([-1.0, 0.0, 1.0])).round(2))
    [-0.16  0.    0.84]

  Source: GELUs (arXiv 1606.08415), section 2.
  """
  return tl.Fn('Gelu', lambda x: _gelu(x))


@configurable(module='trax_hier.layers')
def Relu():
  """max(x, 0), elementwise: (.., f) -> (.., f).

  Example:
    >>> print(Relu()(jnp.array([-1.0, 0.0, 1.0])))
    [0. 0. 1.]
  """
  return tl.Relu()


_SLOPE, _CUBIC = math.sqrt(2 / math.pi), 0.044715


@jax.custom_jvp
def _gelu(x):
  return 0.5 * x * (1 + jnp.tanh(_SLOPE * (x + _CUBIC * x**3)))


@_gelu.defjvp
def _gelu_jvp(primals, tangents):
  """Keeps one array, the derivative, for the backward pass, instead of 9."""
  (x,), (t,) = primals, tangents
  tanh = jnp.tanh(_SLOPE * (x + _CUBIC * x**3))
  inner = _SLOPE * (1 + 3 * _CUBIC * x**2)
  derivative = 0.5 * (1 + tanh + x * (1 - tanh**2) * inner)
  return 0.5 * x * (1 + tanh), derivative * t


@configurable(module='trax_hier.layers')
def FeedForward(
  d_model: int,
  d_ff: int = 2048,
  activation: Callable[[], base.Layer] = Gelu,
  dropout: float = 0.0,
  mode: str = 'train',
):
  """Two dense layers with an activation in between: (b, l, d) -> (b, l, d).

  Args:
    d_model: Width of inputs and outputs.
    d_ff: Width of the hidden layer.
    activation: Factory of the activation.
    dropout: Dropout rate after the activation.
    mode: 'train', 'eval' or 'predict'.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(FeedForward(d_model=8, d_ff=16), (2, 6, 8)))
    layer         parameters   in           out
    FeedForward          280   (2, 6, 8)    (2, 6, 8)
      Dense_16           144   (2, 6, 8)    (2, 6, 16)
      Dense_8            136   (2, 6, 16)   (2, 6, 8)
  """
  return tl.Serial(
    Dense(d_ff),  # (b, l, f)
    build_part('FeedForward.activation', activation, ACTIVATION),
    tl.Dropout(dropout, mode=mode),
    Dense(d_model),  # (b, l, d)
  )


@configurable(module='trax_hier.layers')
def ReluFeedForward(d_model: int, d_ff: int = 2048):
  """Two dense layers without bias, ReLU in between: (b, l, d) -> (b, l, d).

  Args:
    d_model: Width of inputs and outputs.
    d_ff: Width of the hidden layer.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(ReluFeedForward(d_model=8, d_ff=16), (2, 6, 8)))
    layer             parameters   in           out
    ReluFeedForward          256   (2, 6, 8)    (2, 6, 8)
      Dense_16               128   (2, 6, 8)    (2, 6, 16)
      Dense_8                128   (2, 6, 16)   (2, 6, 8)
  """
  return tl.Serial(
    Linear(d_ff),  # (b, l, f)
    Relu(),
    Linear(d_model),  # (b, l, d)
  )


@configurable(module='trax_hier.layers')
def SwiGLU(d_model: int, d_ff: int = 2048):
  """Gated linear units: (silu(x W) * x V) U, (b, l, d) -> (b, l, d).

  Args:
    d_model: Width of inputs and outputs.
    d_ff: Width of the hidden layer; W and V are (d, f), U is (f, d).

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(SwiGLU(d_model=8, d_ff=16), (2, 6, 8)))
    layer           parameters   in           out
    SwiGLU                 384   (2, 6, 8)    (2, 6, 8)
      Projections          256   (2, 6, 8)    (2, 6, 16) (2, 6, 16)
      Dense_8              128   (2, 6, 16)   (2, 6, 8)

  Source: GLU variants improve Transformer (arXiv 2002.05202).
  """
  return tl.Serial(
    Projections(d_ff, 2, Linear),  # (b, l, f), (b, l, f)
    tl.Fn('Gate', lambda x, y: jax.nn.silu(x) * y),
    Linear(d_model),  # (b, l, d)
  )
