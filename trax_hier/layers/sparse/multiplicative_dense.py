"""The multiplicative dense layer of Scaling Transformers.

Source: Sparse is Enough in Scaling Transformers (arXiv 2111.12763), section 3.2
and its published code.

Letters: d width, S modules, M = d_out / S width of a module.
"""

import jax
import jax.numpy as jnp

from trax_hier.compat import base
from trax_hier.config import configurable


@configurable(module='trax_hier.layers')
class MultiplicativeDense(base.Layer):
  """A dense layer with few parameters: x (.., d_in) -> y (.., d_out).

  y[s, m] = sum_i x_i D[s, i] E[i, m] + b[s, m]

  The S modules of the output share one projection E (d_in, M). Each module
  first multiplies the input by its own gates, a row of D (S, d_in). The layer
  can represent every permutation of the input. As the last layer of a language
  model, it is the paper's sparse loss layer.

  Weights: D, E and, with bias, b (d_out,).

  Args:
    d_out: Width of the output.
    n_modules: Number of modules S; divides d_out.
    use_bias: Whether to add the bias b.

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

  is_positionwise = True

  def __init__(self, d_out: int, n_modules: int = 16, use_bias: bool = True):
    super().__init__()
    check_modules('MultiplicativeDense', n_modules, d_out)
    self._n_modules = n_modules
    self._d_module = d_out // n_modules
    self._use_bias = use_bias

  def init_weights_and_state(self, input_signature):
    d_in = input_signature.shape[-1]
    rngs = jax.random.split(self.rng, 3)
    glorot = jax.nn.initializers.glorot_uniform(dtype=jnp.float32)
    normal = jax.nn.initializers.normal
    self.weights = (
      normal(0.5, jnp.float32)(rngs[0], (self._n_modules, d_in)),
      glorot(rngs[1], (d_in, self._d_module)),
    )
    if self._use_bias:
      shape = (self._n_modules * self._d_module,)
      self.weights += (normal(1e-6, jnp.float32)(rngs[2], shape),)

  def forward(self, x):
    gates, kernel, *bias = self.weights
    n_tokens = x.size // x.shape[-1]
    # Both cost d_in * d_out multiplications per token. The first one stores S
    # copies of the tokens; the second one stores a matrix (d_in, d_out).
    if n_tokens < self._d_module:
      y = (x[..., None, :] * gates) @ kernel  # (.., S, M)
    else:
      matrix = gates.T[:, :, None] * kernel[:, None]  # (d_in, S, M)
      y = x @ matrix.reshape(x.shape[-1], -1)
    y = y.reshape(*x.shape[:-1], -1)
    return y + bias[0] if bias else y


def check_modules(name: str, n_modules: int, d: int) -> None:
  """Raises ValueError unless `n_modules` divides the width d."""
  if n_modules < 1 or d % n_modules:
    raise ValueError(
      f'{name}.n_modules = {n_modules} must divide {d}, the width that is '
      'split into modules'
    )
