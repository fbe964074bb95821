"""Simple recurrent units (SRU), a recurrence that a parallel scan can compute.

Source: SRU (arXiv 1709.02755), as in Terraformer (arXiv 2111.12763) and its
published code: the gates do not depend on the state, and the state has no
activation function.
"""

import jax
import jax.numpy as jnp

from trax_hier.compat import tl
from trax_hier.config import configurable
from trax_hier.layers.base.checks import check_arguments, check_positive
from trax_hier.layers.base.dense import Dense
from trax_hier.layers.base.memory import Memory
from trax_hier.layers.base.observe import observe_gate

# Preserves the variance of the input while the gates are 1 / 2, as initially.
_SCALE = 3**0.5


class SRU(Memory):
  """A simple recurrent unit: x (b, l, u) -> (b, l, u), causal.

  r, f, y = split(x W + b);  r = sigmoid(r), f = sigmoid(f)
  c_t = f c_(t-1) + (1 - f) y
  h = r c + (1 - r) sqrt(3) x

  The cells c start at zero. A parallel scan of log l steps computes them in
  float32. In predict mode and with `carry`, the last cell is the layer's state.

  Weights: W (u, 3 u), b (3 u,).

  Args:
    masked: Whether there is a second input, mask (b, l) bool: rows with a False
      mask do not change the cells.
    mode: 'train', 'eval' or 'predict'.
    carry: Whether a call in 'train' and 'eval' modes continues the sequence of
      the previous call.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(SRU(), (2, 12, 8)))
    layer   parameters   in           out
    SRU            216   (2, 12, 8)   (2, 12, 8)
  """

  def __init__(
    self, masked: bool = False, mode: str = 'train', carry: bool = False
  ):
    super().__init__(n_in=1 + masked)
    check_arguments('', mode=mode)
    self._continues = carry or mode == 'predict'

  def init_weights_and_state(self, input_signature):
    x = input_signature if self.n_in == 1 else input_signature[0]
    b, _, u = x.shape
    kernel_rng, bias_rng = jax.random.split(self.rng)
    self.weights = (
      jax.nn.initializers.glorot_uniform(dtype=jnp.float32)(
        kernel_rng, (u, 3 * u)
      ),
      jax.nn.initializers.normal(1e-6, jnp.float32)(bias_rng, (3 * u,)),
    )
    if self._continues:
      self.state = jnp.zeros((b, u), jnp.float32)

  def forward(self, inputs):
    x, mask = (inputs, None) if self.n_in == 1 else inputs
    kernel, bias = self.weights
    r, f, y = jnp.split((x @ kernel + bias).astype(jnp.float32), 3, axis=-1)
    r, f = jax.nn.sigmoid(r), jax.nn.sigmoid(f)
    observe_gate('reset', r)
    observe_gate('forget', f)
    if mask is not None:
      f = jnp.where(mask[..., None], f, 1)
    kept, cells = _scan(f, (1 - f) * y)
    if self._continues:
      cells += kept * self.state[:, None].astype(jnp.float32)
      self.state = cells[:, -1].astype(self.state.dtype)
    h = r * cells + (1 - r) * _SCALE * x.astype(jnp.float32)
    return h.astype(x.dtype)


def _scan(factor, term):
  """c_t = factor_t c_(t-1) + term_t for all t in parallel; arrays (b, l, u).

  Returns the factor of the initial cell in each cell, and the cells for an
  initial cell of 0. Each iteration doubles the span of rows that a result
  covers. `jax.lax.associative_scan` does less work, but unrolls its log l
  steps, which takes long to compile.
  """
  length = factor.shape[1]
  rows = jnp.arange(length)[:, None]

  def join(spans, shift):
    factor, term = spans
    inside = rows >= shift
    before = jnp.where(inside, jnp.roll(factor, shift, axis=1), 1)
    start = jnp.where(inside, jnp.roll(term, shift, axis=1), 0)
    return (factor * before, factor * start + term), None

  shifts = 2 ** jnp.arange((length - 1).bit_length())
  spans, _ = jax.lax.scan(join, (factor, term), shifts)
  return spans


@configurable(module='trax_hier.layers', denylist=['masked', 'carry'])
def SRUBranch(
  d_model: int,
  d_sru: int = 32,
  n_layers: int = 1,
  masked: bool = False,
  mode: str = 'train',
  carry: bool = False,
):
  """Narrow SRUs, as a branch beside a feed-forward layer: (b, l, d) -> same.

  Args:
    d_model: Width of inputs and outputs.
    d_sru: Width of the SRUs.
    n_layers: Number of SRUs in series.
    masked: As in `SRU`.
    mode: 'train', 'eval' or 'predict'.
    carry: As in `SRU`.

  Raises:
    ValueError: d_sru or n_layers is not positive.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(SRUBranch(8, d_sru=4, n_layers=2), (2, 12, 8)))
    layer       parameters   in           out
    SRUBranch          196   (2, 12, 8)   (2, 12, 8)
      Dense_4           36   (2, 12, 8)   (2, 12, 4)
      SRU               60   (2, 12, 4)   (2, 12, 4)
      SRU               60   (2, 12, 4)   (2, 12, 4)
      Dense_8           40   (2, 12, 4)   (2, 12, 8)
  """
  check_positive('SRUBranch', d_sru=d_sru, n_layers=n_layers)
  units = [
    tl.Serial(tl.Select([0, 1, 1]) if masked else [], SRU(masked, mode, carry))
    for _ in range(n_layers)
  ]
  return tl.Serial(  # x[, mask]
    Dense(d_sru),  # (b, l, u)
    *units,
    tl.Select([0], n_in=1 + masked),
    Dense(d_model),  # (b, l, d)
  )
