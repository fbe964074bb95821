"""Sparse QKV: projections with few weights, in modules of the width.

The width d is cut into S modules of M = d / S. A multiplicative layer mixes all
inputs into every output with d S + d M weights; convolutions over neighbouring
modules and the last tokens then make queries, keys and values of its output.

Source: Sparse is Enough in Scaling Transformers (arXiv 2111.12763), section 3.2
and its published code.

Letters: b batch, l length, d d_model, S modules, M width of a module, L tokens
and k modules that a convolution sees.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.attention.attention import CrossAttention, SelfAttention
from trax_hier.layers.attention.cache import PastInputs
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.base.build import build
from trax_hier.layers.base.dense import NoProjection


def _check_modules(name, n_modules, d):
  if n_modules < 1 or d % n_modules:
    raise ValueError(
      f'{name}.n_modules = {n_modules} must divide {d}, the width that it cuts'
    )


def _with(factory, **modules):
  """A factory that is given these dimensions too, if it names them."""
  return lambda d_out, mode, masked=False: build(
    factory, d_out=d_out, mode=mode, masked=masked, **modules
  )


def _PastRows(n, masked, mode):
  """x (b, l, d)[, mask (b, l)] -> (b, n + l, d), as `PastInputs`.

  Rows where the mask is False are as those before the start.
  """
  hide = tl.Fn('Hide', lambda x, mask: jnp.where(mask[..., None], x, 0))
  return tl.Serial(hide if masked else [], PastInputs(n, mode))


@configurable(module='trax_hier.layers')
class MultiplicativeDense(base.Layer):
  """A dense layer of few weights: x (.., d_in) -> y (.., d_out).

  y[s, m] = sum_i x_i D[s, i] E[i, m] + b[s, m]

  The S modules of the output are one projection E (d_in, M) of the input, each
  seen through its own gates D (S, d_in). All permutations of the input are
  among what it can compute. As the last layer of a language model this is the
  paper's sparse loss layer.

  Weights: D, E and, with bias, b (d_out,).

  Args:
    d_out: Width of the output.
    n_modules: S; divides d_out.
    use_bias: Whether there is b.

  Raises:
    ValueError: n_modules does not divide d_out.

  Example:
    >>> from trax_hier.layers import Dense
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(MultiplicativeDense(64, n_modules=8), (2, 12, 64)))
    layer                 parameters   in            out
    MultiplicativeDense        1,088   (2, 12, 64)   (2, 12, 64)
    >>> tree(Dense(64), (2, 12, 64)).n_parameters
    4160
  """

  def __init__(self, d_out: int, n_modules: int = 16, use_bias: bool = True):
    super().__init__()
    _check_modules('MultiplicativeDense', n_modules, d_out)
    self._n_modules = n_modules
    self._d_module = d_out // n_modules
    self._use_bias = use_bias

  def init_weights_and_state(self, input_signature):
    d_in = input_signature.shape[-1]
    rngs = jax.random.split(self.rng, 3)
    self.weights = (
      jax.nn.initializers.normal(0.5)(rngs[0], (self._n_modules, d_in)),
      jax.nn.initializers.glorot_uniform()(rngs[1], (d_in, self._d_module)),
    )
    if self._use_bias:
      shape = (self._n_modules * self._d_module,)
      self.weights += (jax.nn.initializers.normal(1e-6)(rngs[2], shape),)

  def forward(self, x):
    gates, kernel, *bias = self.weights
    n_tokens = x.size // x.shape[-1]
    # Each way multiplies d_in * d_out times for a token. The first keeps S
    # copies of the tokens, the second the matrix that D and E stand for.
    if n_tokens < self._d_module:
      y = (x[..., None, :] * gates) @ kernel  # (.., S, M)
    else:
      matrix = gates.T[:, :, None] * kernel[:, None]  # (d_in, S, M)
      y = x @ matrix.reshape(x.shape[-1], -1)
    y = y.reshape(*x.shape[:-1], -1)
    return y + bias[0] if bias else y


class _Convolution(base.Layer):
  """x (b, L - 1 + l, S * n) -> y (b, l, S * M), over modules and time.

  A module of the output is made of k modules of the input, its own in the
  middle, of the last L tokens; modules that are not there are zeros. Weights: a
  kernel (L, k, n, M) and a bias (M,), the same for all modules.
  """

  def __init__(self, d_out, n_modules, kernel_size, length_kernel_size):
    super().__init__()
    self._n_modules = n_modules
    self._d_module = d_out // n_modules
    self._size = length_kernel_size, kernel_size

  def init_weights_and_state(self, input_signature):
    d_in = input_signature.shape[-1]
    _check_modules('ModularConv', self._n_modules, d_in)
    rngs = jax.random.split(self.rng)
    shape = (*self._size, d_in // self._n_modules, self._d_module)
    self.weights = (
      jax.nn.initializers.glorot_uniform()(rngs[0], shape),
      jax.nn.initializers.normal(1e-6)(rngs[1], (self._d_module,)),
    )

  def forward(self, x):
    kernel, bias = self.weights
    b, length, _ = x.shape
    y = _convolve(x.reshape(b, length, self._n_modules, -1), kernel)
    return (y + bias).reshape(b, y.shape[1], -1)


@jax.custom_vjp
def _convolve(x, kernel):
  """x (b, L - 1 + l, S, n), kernel (L, k, n, M) -> (b, l, S, M)."""
  side = kernel.shape[1] // 2
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(1, 1),
    padding=((0, 0), (side, side)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _convolve_by_products(x, kernel):
  """The same, as a sum of products.

  Inside a loop, such as that over blocks, XLA for CPU takes many times as long
  for the gradient of a convolution as for that of these.
  """
  n_tokens, n_modules, *_ = kernel.shape
  length = x.shape[1] - n_tokens + 1
  side = n_modules // 2
  x = jnp.pad(x, [(0, 0), (0, 0), (side, side), (0, 0)])
  s = x.shape[2] - n_modules + 1
  return sum(
    x[:, i : i + length, j : j + s] @ kernel[i, j]
    for i in range(n_tokens)
    for j in range(n_modules)
  )


def _convolve_backward(inputs, gradient):
  _, transpose = jax.vjp(_convolve_by_products, *inputs)
  return transpose(gradient)


_convolve.defvjp(
  lambda *inputs: (_convolve(*inputs), inputs), _convolve_backward
)


@configurable(module='trax_hier.layers', denylist=['masked'])
def ModularConv(
  d_out: int,
  n_modules: int = 16,
  kernel_size: int = 3,
  length_kernel_size: int = 3,
  mode: str = 'train',
  masked: bool = False,
):
  """A causal convolution over modules and time: (b, l, d) -> (b, l, d_out).

  A module of the output is made of `kernel_size` neighbouring modules of the
  input, in `length_kernel_size` tokens up to its own.

  Args:
    d_out: Width of the output.
    n_modules: Number of modules; divides d_out and d.
    kernel_size: Number of modules that one is made of; odd.
    length_kernel_size: Number of tokens that one is made of.
    mode: 'train', 'eval' or 'predict'.
    masked: Whether there is a second input, mask (b, l) bool: rows where it is
      False are taken for zeros, as those before the start.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = ModularConv(64, n_modules=8)
    >>> print(tree(layer, (2, 12, 64)).text(0))  # 3 * 3 * 8 * 8 + 8
    layer             parameters   in            out
    ModularConv ...          584   (2, 12, 64)   (2, 12, 64)
  """
  _check_modules('ModularConv', n_modules, d_out)
  if kernel_size < 1 or not kernel_size % 2:
    raise ValueError(
      f'ModularConv.kernel_size = {kernel_size} must be odd and positive'
    )
  _check_length_kernel('ModularConv', length_kernel_size)
  return tl.Serial(
    _PastRows(length_kernel_size - 1, masked, mode),
    _Convolution(d_out, n_modules, kernel_size, length_kernel_size),
  )


def _check_length_kernel(name, size):
  if size < 1:
    raise ValueError(f'{name}.length_kernel_size = {size} must be positive')


@configurable(module='trax_hier.layers', denylist=['masked'])
def SparseDense(
  d_out: int,
  n_modules: int = 16,
  kernel_size: int = 3,
  length_kernel_size: int = 3,
  mode: str = 'train',
  masked: bool = False,
):
  """A multiplicative layer, then a convolution: (b, l, d) -> (b, l, d_out).

  Arguments as in `ModularConv`.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(SparseDense(64, n_modules=8), (2, 12, 64)).text(0))
    layer             parameters   in            out
    SparseDense ...        1,672   (2, 12, 64)   (2, 12, 64)
  """
  _check_modules('SparseDense', n_modules, d_out)
  return tl.Serial(
    MultiplicativeDense(d_out, n_modules),
    ModularConv(
      d_out, n_modules, kernel_size, length_kernel_size, mode, masked
    ),
  )


@configurable(module='trax_hier.layers', denylist=['masked'])
def SparseQKV(
  d_out: int,
  n_modules: int = 16,
  length_kernel_size: int = 3,
  share_qk: bool = False,
  v_concat: bool = False,
  mode: str = 'train',
  masked: bool = False,
):
  """Queries, keys and values: (b, l, d) -> three of (b, l, d_out).

  All three are convolutions of one multiplicative layer's output. Those of
  queries and keys see three modules, that of values its own alone.

  Args:
    d_out: Width of each output, and of the input.
    n_modules: Number of modules; divides d_out.
    length_kernel_size: Number of tokens, up to its own, that one is made of.
    share_qk: Whether the queries are also the keys.
    v_concat: Whether the convolution of the values sees, in each module, the
      layer's input too. (The published code's other concatenation, of whole
      vectors across the borders of modules, is a mistake that it keeps for old
      checkpoints; it is not offered.)
    mode: 'train', 'eval' or 'predict'.
    masked: As in `ModularConv`.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> tree(SparseQKV(64, n_modules=8), (2, 12, 64)).outputs
    ((2, 12, 64), (2, 12, 64), (2, 12, 64))
  """
  _check_modules('SparseQKV', n_modules, d_out)
  _check_length_kernel('SparseQKV', length_kernel_size)

  def convolution(kernel_size):
    return _Convolution(d_out, n_modules, kernel_size, length_kernel_size)

  def past():
    return _PastRows(length_kernel_size - 1, masked, mode)

  def concatenate(z, x):
    parts = [y.reshape(*y.shape[:2], n_modules, -1) for y in (z, x)]
    return jnp.concatenate(parts, axis=-1).reshape(*x.shape[:2], -1)

  if v_concat:
    inputs = tl.Serial(  # x
      tl.Branch(MultiplicativeDense(d_out, n_modules), None),  # z, x
      tl.Branch(
        tl.Select([0], n_in=2), tl.Fn('ConcatenateModules', concatenate)
      ),  # z, values' input
      tl.Select([0, 2, 1, 2]) if masked else [],
      tl.Parallel(past(), past()),
    )
  else:
    inputs = tl.Serial(  # x
      MultiplicativeDense(d_out, n_modules),
      past(),
      tl.Dup(),  # z, values' input
    )
  n = 1 if share_qk else 2
  return tl.Serial(  # x[, mask]
    inputs,
    tl.Select([0] * n + [1]),
    tl.Parallel(*[convolution(3) for _ in range(n)], convolution(1)),
    tl.Select([0, 0, 1] if share_qk else [0, 1, 2]),  # q, k, v
  )


@configurable(module='trax_hier.layers', denylist=['masked'])
def SparseAttention(
  d_model: int,
  n_heads: int = 8,
  n_modules: int = 16,
  length_kernel_size: int = 3,
  share_qk: bool = False,
  v_concat: bool = False,
  output: Callable[..., base.Layer] = NoProjection,
  dropout: float = 0.0,
  mode: str = 'train',
  max_len: int = 2048,
  stride: int = 1,
  positions: NoPositions | None = None,
  masked: bool = False,
):
  """Causal self-attention with `SparseQKV`: (b, l, d) -> (b, l, d).

  This is `SelfAttention` with other projections.

  Args:
    d_model: Width of inputs and outputs.
    n_heads: Number of heads; divides d_model.
    n_modules: Number of modules; divides d_model. It need not be n_heads.
    length_kernel_size: As in `SparseQKV`, and in the output.
    share_qk: As in `SparseQKV`.
    v_concat: As in `SparseQKV`.
    output: Makes the projection of the output: @NoProjection, as in the paper,
      @MultiplicativeDense, @ModularConv, @SparseDense or @Dense, of as many
      modules.
    dropout: Rate of dropout on the attention weights.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity in tokens of the cache in predict mode.
    stride: Distance in tokens of neighbouring positions.
    positions: Position scheme; None is `NoPositions()`.
    masked: Whether there is a second input, mask (b, l) bool: rows where it is
      False are as if they were not there, before the first of the others.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = SparseAttention(64, n_heads=4, n_modules=8)
    >>> print(tree(layer, (2, 12, 64)).text(0))
    layer               parameters   in            out
    SelfAttention ...        2,456   (2, 12, 64)   (2, 12, 64)
  """
  _check_modules('SparseAttention', n_modules, d_model)
  modules = dict(n_modules=n_modules, length_kernel_size=length_kernel_size)
  return SelfAttention(
    d_model,
    n_heads,
    dropout=dropout,
    mode=mode,
    max_len=max_len,
    stride=stride,
    positions=positions,
    qkv=functools.partial(
      SparseQKV, share_qk=share_qk, v_concat=v_concat, **modules
    ),
    output=_with(output, **modules),
    masked=masked,
  )


@configurable(module='trax_hier.layers')
def SparseCrossAttention(
  d_model: int,
  n_heads: int = 8,
  n_modules: int = 16,
  length_kernel_size: int = 3,
  output: Callable[..., base.Layer] = NoProjection,
  dropout: float = 0.0,
  mode: str = 'train',
):
  """`CrossAttention` whose queries are a `SparseDense` of their input.

  x (b, l, d), context (b, m, d), mask (b, m) bool -> (b, l, d). Keys and
  values, which decoding computes once, stay dense. Arguments as in
  `SparseAttention`.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> from trax_hier.compat import ShapeDtype
    >>> layer = SparseCrossAttention(8, n_heads=4, n_modules=2)
    >>> mask = ShapeDtype((2, 5), bool)
    >>> print(tree(layer, (2, 12, 8), (2, 5, 8), mask).text(0))
    layer                parameters   in                            out
    CrossAttention ...          348   (2, 12, 8) (2, 5, 8) (2, 5)   (2, 12, 8)
  """
  _check_modules('SparseCrossAttention', n_modules, d_model)
  modules = dict(n_modules=n_modules, length_kernel_size=length_kernel_size)
  return CrossAttention(
    d_model,
    n_heads,
    dropout=dropout,
    mode=mode,
    query=_with(SparseDense, **modules),
    output=_with(output, **modules),
  )
