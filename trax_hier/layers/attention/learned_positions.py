"""Learned absolute positions: a table of vectors added to embeddings."""

import jax
import jax.numpy as jnp

from trax_hier.compat import base
from trax_hier.config import configurable
from trax_hier.layers.attention.positions import NoPositions, sinusoid
from trax_hier.layers.base.documents import ReadsDocuments


@configurable(module='trax_hier.layers')
class LearnedPositions(NoPositions):
  """A learned vector for each position, added to embeddings (b, l, d).

  Args:
    n_positions: Number of positions: the maximum sequence length in tokens.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> (layer,) = LearnedPositions(n_positions=512).embed('eval')
    >>> print(tree(layer, (2, 12, 8)))
    layer           parameters   in           out
    PositionTable        4,096   (2, 12, 8)   (2, 12, 8)

  Source: Attention Is All You Need (arXiv 1706.03762), section 3.5. Sinusoids
  initialize the table, as in Scaling Transformers' published code.
  """

  def __init__(self, n_positions: int = 2048):
    if n_positions < 1:
      raise ValueError(
        f'LearnedPositions.n_positions = {n_positions} must be positive'
      )
    self._n_positions = n_positions

  def embed(self, mode: str, stride: int = 1) -> list[base.Layer]:
    """Returns a layer that adds its own table to (b, l, d)."""
    return [_PositionTable(self._n_positions, stride, mode)]


class _PositionTable(ReadsDocuments):
  """Adds table[t : t + l] to x (b, l, d) after t rows in earlier calls."""

  def __init__(self, n_positions, stride, mode):
    super().__init__()
    self._n_positions = n_positions
    self._stride = stride
    self._mode = mode

  @property
  def n_positions(self):
    """Maximum sequence length in tokens."""
    return self._n_positions

  def init_weights_and_state(self, input_signature):
    d_model = input_signature.shape[-1]
    tokens = jnp.arange(0, self._n_positions, self._stride)
    # An odd d_model has one sine more than cosines.
    self.weights = sinusoid(tokens, d_model)[:, :d_model]
    if self._mode == 'predict':
      self.state = jnp.zeros((), jnp.int32)

  def forward(self, x):
    length = x.shape[1]
    if length > len(self.weights):
      raise ValueError(
        f'a sequence of {length * self._stride} tokens exceeds '
        f'LearnedPositions.n_positions = {self._n_positions}'
      )
    if self.documents is not None:
      return x + self.weights[self.documents.of_rows(length)]
    if self._mode != 'predict':
      return x + self.weights[:length]
    t = self.state
    self.state = t + length
    return x + jax.lax.dynamic_slice_in_dim(self.weights, t, length)


def longest_sequence(layer: base.Layer) -> int | None:
  """Maximum sequence length of a model in tokens; None means no limit.

  Example:
    >>> from trax_hier.compat import tl
    >>> from trax_hier.layers import RotaryPositions
    >>> longest_sequence(tl.Serial(LearnedPositions(512).embed('eval')))
    512
    >>> print(longest_sequence(tl.Serial(RotaryPositions().embed('eval'))))
    None
  """
  if n_positions := getattr(layer, 'n_positions', None):
    return n_positions
  return min(
    (n for n in map(longest_sequence, layer.sublayers) if n), default=None
  )
