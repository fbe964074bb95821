"""Causal convolutions over time and over modules, equal slices of the width.

Source: Sparse is Enough in Scaling Transformers (arXiv 2111.12763), section 3.2
and its published code.

Letters: b batch, l length, S modules, n and M widths of a module of input and
output; L tokens and k modules spanned by the kernel.
"""

import functools

import jax
import jax.numpy as jnp

from trax_hier.compat import tl
from trax_hier.config import configurable
from trax_hier.layers.attention.cache import PastInputs
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.documents import ReadsDocuments
from trax_hier.layers.sparse.multiplicative_dense import check_modules


@configurable(module='trax_hier.layers', denylist=['masked', 'carry'])
def ModularConv(
  d_out: int,
  n_modules: int = 16,
  kernel_size: int = 3,
  length_kernel_size: int = 3,
  mode: str = 'train',
  masked: bool = False,
  carry: bool = False,
):
  """A causal convolution over modules and time: (b, l, d) -> (b, l, d_out).

  A module of the output depends on `kernel_size` neighboring modules of the
  last `length_kernel_size` tokens, including its own token.

  Args:
    d_out: Width of the output.
    n_modules: Number of modules; divides d_out and d.
    kernel_size: Size of the kernel in modules; odd.
    length_kernel_size: Size of the kernel in tokens.
    mode: 'train', 'eval' or 'predict'.
    masked: Whether the layer takes a second input, mask (b, l) bool. Rows where
      it is False are replaced by zeros, like rows before the start.
    carry: Whether a call in 'train' and 'eval' modes continues the sequence of
      the previous call.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = ModularConv(64, n_modules=8)
    >>> print(tree(layer, (2, 12, 64)).text(0))  # 3 * 3 * 8 * 8 + 8
    layer             parameters   in            out
    ModularConv ...          584   (2, 12, 64)   (2, 12, 64)
  """
  check_modules('ModularConv', n_modules, d_out)
  if kernel_size < 1 or not kernel_size % 2:
    raise ValueError(
      f'ModularConv.kernel_size = {kernel_size} must be odd and positive'
    )
  check_arguments('ModularConv', length_kernel_size=length_kernel_size)
  return tl.Serial(
    masked_past_inputs(length_kernel_size - 1, masked, mode, carry),
    Convolution(d_out, n_modules, kernel_size, length_kernel_size),
  )


def masked_past_inputs(n, masked, mode, carry=False):
  """`PastInputs` of masked rows: x (b, l, d)[, mask (b, l)] -> (b, n + l, d).

  Rows where the mask is False become zeros, like rows before the start.
  """
  hide = tl.Fn('Hide', lambda x, mask: jnp.where(mask[..., None], x, 0))
  return tl.Serial(hide if masked else [], PastInputs(n, mode, carry))


class Convolution(ReadsDocuments):
  """Convolution over modules and time: (b, L - 1 + l, S * n) -> (b, l, S * M).

  A module of the output depends on k modules of the last L tokens, centered on
  its own index and zero-padded at the edges. Weights: a kernel (L, k, n, M) and
  a bias (M,), shared by all modules.
  """

  def __init__(self, d_out, n_modules, kernel_size, length_kernel_size):
    super().__init__()
    self._n_modules = n_modules
    self._d_module = d_out // n_modules
    self._size = length_kernel_size, kernel_size

  def init_weights_and_state(self, input_signature):
    d_in = input_signature.shape[-1]
    check_modules('ModularConv', self._n_modules, d_in)
    rngs = jax.random.split(self.rng)
    shape = (*self._size, d_in // self._n_modules, self._d_module)
    self.weights = (
      jax.nn.initializers.glorot_uniform(dtype=jnp.float32)(rngs[0], shape),
      jax.nn.initializers.normal(1e-6, jnp.float32)(rngs[1], (self._d_module,)),
    )

  def forward(self, x):
    kernel, bias = self.weights
    b, length, _ = x.shape
    x = x.reshape(b, length, self._n_modules, -1)
    if self.documents is None:
      y = _convolve(x, kernel)
    else:
      n = length - len(kernel) + 1
      y = _convolve_by_products(x, kernel, self.documents.of_rows(n))
    return (y + bias).reshape(b, y.shape[1], -1)


@jax.custom_vjp
def _convolve(x, kernel):
  """Convolves x (b, L - 1 + l, S, n) by a kernel (L, k, n, M): (b, l, S, M)."""
  side = kernel.shape[1] // 2
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(1, 1),
    padding=((0, 0), (side, side)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _convolve_by_products(x, kernel, positions=None):
  """`_convolve` as a sum of matrix products, for the kernel's gradient.

  `positions` (b, l), those in documents, hides the tokens of other documents.

  Inside a loop, such as `Repeat`, XLA on CPU computes the gradient of a
  convolution many times more slowly than the gradient of these products.
  """
  n_tokens, n_modules, *_ = kernel.shape
  length = x.shape[1] - n_tokens + 1
  side = n_modules // 2
  x = jnp.pad(x, [(0, 0), (0, 0), (side, side), (0, 0)])
  s = x.shape[2] - n_modules + 1
  y = 0
  for i in range(n_tokens):
    tokens = x[:, i : i + length]
    if positions is not None:
      is_own = positions >= n_tokens - 1 - i
      tokens = jnp.where(is_own[..., None, None], tokens, 0)
    y += sum(tokens[:, :, j : j + s] @ kernel[i, j] for j in range(n_modules))
  return y


def _convolve_backward(inputs, gradient):
  x, kernel = inputs
  before = len(kernel) - 1
  padded = jnp.pad(gradient, [(0, 0), (before, before), (0, 0), (0, 0)])
  of_x = _convolve(padded, kernel[::-1, ::-1].swapaxes(2, 3))
  products = functools.partial(_convolve_by_products, x)
  _, transpose = jax.vjp(products, kernel)
  return of_x, *transpose(gradient)


_convolve.defvjp(
  lambda *inputs: (_convolve(*inputs), inputs), _convolve_backward
)
