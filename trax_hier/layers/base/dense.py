"""Dense layers, and int8 kernels for decoding."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.base.products import wide_einsum

# `_dot_by_rows` converts this many weights at a time, but at least _MIN_ROWS
# rows: 256 KB in float32, a fraction of a core's cache.
_CHUNK_SIZE = 1 << 16
_MIN_ROWS = 16
# With at most this many rows of x, conversion costs more than multiplication.
_FEW_ROWS = 16


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Kernel:
  """A matrix quantized to int8: values * scale.

  Attributes:
    values: int8 (d_in, d_out).
    scale: float32 (d_out,), the scale of each output channel.
  """

  values: jax.Array
  scale: jax.Array


def quantize(kernel: jax.Array) -> Int8Kernel:
  """Rounds a kernel (d_in, d_out) to 255 levels per output channel.

  Example:
    >>> print(quantize(jnp.array([[2.0, 0.1], [-1.3, 0.0]])).values)
    [[127 127]
     [-83   0]]
  """
  largest = jnp.max(jnp.abs(kernel), axis=0)
  scale = jnp.where(largest > 0, largest, 1.0).astype(jnp.float32) / 127
  return Int8Kernel(jnp.round(kernel / scale).astype(jnp.int8), scale)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
  """A matrix stored for gathering single rows: values * scale[:, None].

  Attributes:
    values: (n, d); each row is contiguous in memory.
    scale: float32 (n,), the scale of each row if values are int8, else None.
  """

  values: jax.Array
  scale: jax.Array | None = None

  @classmethod
  def of(cls, matrix: jax.Array, precision: str) -> 'Rows':
    """The rows of a matrix (n, d) in 'float32', 'bfloat16' or 'int8'."""
    if precision == 'int8':
      columns = quantize(matrix.T)
      return cls(columns.values.T, columns.scale)
    return cls(matrix.astype(precision))

  def take(self, indices: jax.Array) -> jax.Array:
    """Rows (.., d) at indices (..), in float32 for any stored dtype."""
    # Without 'clip', XLA for CPU checks bounds for every element.
    rows = jnp.take(self.values, indices, axis=0, mode='clip')
    rows = rows.astype(jnp.float32)
    if self.scale is None:
      return rows
    return rows * jnp.take(self.scale, indices, mode='clip')[..., None]

  def matrix(self, dtype: jnp.dtype) -> jax.Array:
    """All rows (n, d) in `dtype`."""
    rows = self.values.astype(dtype)
    return rows if self.scale is None else rows * self.scale[:, None]


@configurable(module='trax_hier.layers')
class Dense(tl.Dense):
  """A dense layer: x (.., d_in) -> x W + b (.., d_out); W may be int8.

  Args:
    d_out: Width of the output.
    kernel_initializer: Initializer of W, (shape, rng) -> array; None means
      Glorot uniform.
    use_bias: Whether to add b.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(Dense(4), (2, 6, 8)))
    layer     parameters   in          out
    Dense_4           36   (2, 6, 8)   (2, 6, 4)
  """

  def __init__(
    self,
    d_out: int,
    kernel_initializer: Callable | None = None,
    use_bias: bool = True,
  ):
    super().__init__(
      d_out,
      kernel_initializer or tl.GlorotUniformInitializer(),
      use_bias=use_bias,
    )
    self._product = _product

  def in_float32(self) -> 'Dense':
    """Makes the layer return float32 for inputs of 16 bits; returns it."""
    self._product = _wide_product
    return self

  def decoding_weights(self, weights: tuple | jax.Array, precision: str):
    """The weights, with an `Int8Kernel` if precision is 'int8'."""
    return quantize_dense(weights) if precision == 'int8' else weights

  def forward(self, x):
    return _affine(x, self.weights, self._product)


@configurable(module='trax_hier.layers')
def NoProjection():
  """The identity, in place of a projection: (.., d) -> (.., d).

  Example:
    >>> from trax_hier.layers import SelfAttention
    >>> from trax_hier.inspection.layer_tree import tree
    >>> attention = SelfAttention(d_model=8, n_heads=2, output=NoProjection)
    >>> [child.name for child in tree(attention, (2, 6, 8)).children]
    ['Heads']
  """
  return tl.Serial()


def Linear(d_out: int, variance: float = 1.0):
  """A dense layer without bias: x (.., d_in) -> x W (.., d_out).

  Args:
    d_out: Width of the output.
    variance: Variance of the output at initialization, for an input of variance
      1. The kernel is initialized from a truncated normal distribution.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(Linear(4), (2, 6, 8)))
    layer     parameters   in          out
    Dense_4           32   (2, 6, 8)   (2, 6, 4)
  """
  initialize = jax.nn.initializers.variance_scaling(
    variance, 'fan_in', 'truncated_normal', dtype=jnp.float32
  )
  return Dense(d_out, lambda shape, rng: initialize(rng, shape), use_bias=False)


class Projections(base.Layer):
  """n parallel dense layers: x (.., d_in) -> n tensors (.., d_out).

  The weights are those of the n layers. For decoding they are merged: with few
  rows of x, one large product reads its kernel faster than n small ones.

  Args:
    d_out: Width of each output.
    n: Number of layers.
    dense: Factory of a layer, called with d_out.
  """

  is_positionwise = True

  def __init__(
    self, d_out: int, n: int, dense: Callable[[int], base.Layer] = Dense
  ):
    super().__init__(n_in=1, n_out=n)
    self._d_out = d_out
    self._dense = dense

  def init_weights_and_state(self, input_signature):
    self.weights = tuple(
      self._dense(self._d_out).init(input_signature, rng)[0]
      for rng in jax.random.split(self.rng, self.n_out)
    )

  def decoding_weights(self, weights: tuple, precision: str) -> tuple:
    """The weights merged into one product, whose kernel may be int8."""
    merged = jax.tree.map(lambda *ws: jnp.concatenate(ws, -1), *weights)
    return (quantize_dense(merged) if precision == 'int8' else merged,)

  def forward(self, x):
    outputs = [_affine(x, weights, _product) for weights in self.weights]
    if len(outputs) < self.n_out:
      outputs = jnp.split(outputs[0], self.n_out, axis=-1)
    return outputs if self.n_out > 1 else outputs[0]


def quantize_dense(weights: tuple | jax.Array) -> tuple | Int8Kernel:
  """Quantizes the kernel of a `Dense` to int8.

  Args:
    weights: Kernel (d_in, d_out), or kernel and bias (d_out,).
  """
  if isinstance(weights, tuple):
    kernel, bias = weights
    return quantize(kernel), bias
  return quantize(weights)


def _affine(x, weights, product):
  if isinstance(weights, tuple):
    kernel, bias = weights
    return product(x, kernel) + bias
  return product(x, weights)


def _wide_product(x, kernel):
  if isinstance(kernel, Int8Kernel) or x.dtype.itemsize > 2:
    return _product(x, kernel)
  return wide_einsum('...d,de->...e', x, kernel)


def _product(x, kernel):
  if not isinstance(kernel, Int8Kernel):
    return jnp.dot(x, kernel)
  few = x.size <= _FEW_ROWS * x.shape[-1]
  y = jax.lax.platform_dependent(
    x, kernel.values, cpu=_dot_by_rows if few else _dot, default=_dot
  )
  return y * kernel.scale.astype(x.dtype)


def _dot(x, values):
  return jnp.dot(x, values.astype(x.dtype))


def _dot_by_rows(x, values):
  """`_dot` that converts a few rows at a time, which stay in the cache.

  In `_dot`, XLA for CPU writes the converted matrix to memory and reads it
  back.
  """
  d_in, d_out = values.shape
  n_rows = min(d_in, max(_MIN_ROWS, _CHUNK_SIZE // d_out))
  while d_in % n_rows:
    n_rows -= 1

  def add(i, y):
    rows = jax.lax.dynamic_slice_in_dim(values, i * n_rows, n_rows, 0)
    columns = jax.lax.dynamic_slice_in_dim(x, i * n_rows, n_rows, x.ndim - 1)
    return y + jnp.dot(columns, rows.astype(x.dtype))

  y = jnp.zeros((*x.shape[:-1], d_out), x.dtype)
  return jax.lax.fori_loop(0, d_in // n_rows, add, y)
