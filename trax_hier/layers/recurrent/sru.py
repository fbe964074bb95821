"""Simple recurrent units (SRU), a recurrence whose steps can be composed.

Source: SRU (arXiv 1709.02755), as in Terraformer (arXiv 2111.12763) and its
published code: the gates do not depend on the state, and the state has no
activation function.
"""

import math

import jax
import jax.numpy as jnp

from trax_hier.compat import tl
from trax_hier.config import configurable
from trax_hier.layers.base.checks import check_arguments, check_positive
from trax_hier.layers.base.dense import Dense
from trax_hier.layers.base.documents import ReadsDocuments
from trax_hier.layers.base.memory import Memory
from trax_hier.layers.base.observe import observe_gate

# Preserves the variance of the input while the gates are 1 / 2, as initially.
_SCALE = 3**0.5


class SRU(Memory, ReadsDocuments):
  """A simple recurrent unit: x (b, l, u) -> (b, l, u), causal.

  r, f, y = split(x W + b);  r = sigmoid(r), f = sigmoid(f)
  c_t = f c_(t-1) + (1 - f) y
  h = r c + (1 - r) sqrt(3) x

  The cells c start at zero, in each document of a row. A parallel scan of log l
  steps computes them in float32. In predict mode and with `carry`, the last
  cell is the layer's state.

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
    kept = f
    if self.documents is not None:
      positions = self.documents.of_rows(x.shape[1])
      kept = jnp.where(positions[..., None] > 0, f, 0)
    start = self.state if self._continues else jnp.zeros_like(y[:, 0])
    cells = _recur(kept, (1 - f) * y, start.astype(jnp.float32))
    if self._continues:
      self.state = cells[:, -1].astype(self.state.dtype)
    h = r * cells + (1 - r) * _SCALE * x.astype(jnp.float32)
    return h.astype(x.dtype)


@jax.custom_vjp
def _recur(factor, term, start):
  """c_t = factor_t c_(t-1) + term_t for all t, with c_0 = start (b, u)."""
  return factor * _cells_before(factor, term, start) + term


def _recur_forward(factor, term, start):
  before = _cells_before(factor, term, start)
  return factor * before + term, (factor, before)


def _recur_backward(kept, gradient):
  """The gradient that a cell gets from later cells is a recurrence too."""
  factor, before = kept
  rows = jnp.flip(factor, axis=1), jnp.flip(factor * gradient, axis=1)
  later = _cells_before(*rows, jnp.zeros_like(factor[:, 0]))
  of_cells = gradient + jnp.flip(later, axis=1)
  return of_cells * before, of_cells, factor[:, 0] * of_cells[:, 0]


_recur.defvjp(_recur_forward, _recur_backward)


def _cells_before(factor, term, start):
  """c_0 .. c_(l-1), (b, l, u), of the recurrence above.

  The rows are cut into about sqrt(l) blocks. A loop composes the rows of each
  block, for all blocks at once; another one goes from block to block; a third
  one computes the cells of all blocks. Each reads the rows at most once, unlike
  a parallel scan, which reads and writes them log l times.
  """
  b, length, u = factor.shape
  n = math.isqrt(length)

  def split(x):
    """The rows of all blocks: (b, l, u) -> (l / n, b, n, u)."""
    x = jnp.pad(x, [(0, 0), (0, -length % n), (0, 0)])
    return jnp.moveaxis(x.reshape(b, n, -1, u), 2, 0)

  def compose(span, row):
    (factor, term), (next_factor, next_term) = span, row
    return (next_factor * factor, next_factor * term + next_term), None

  def advance(cell, row):
    factor, term = row
    return factor * cell + term, cell

  rows = split(factor), split(term)
  one = jnp.ones((b, n, u), factor.dtype)
  spans, _ = jax.lax.scan(compose, (one, jnp.zeros_like(one)), rows)
  by_block = jax.tree.map(lambda x: x.swapaxes(0, 1), spans)
  _, starts = jax.lax.scan(advance, start, by_block)
  _, before = jax.lax.scan(advance, starts.swapaxes(0, 1), rows)
  return jnp.moveaxis(before, 0, 2).reshape(b, -1, u)[:, :length]


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
