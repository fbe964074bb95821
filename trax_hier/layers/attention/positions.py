"""The interface of position schemes for attention.

A scheme says how the distance between a query and a key enters attention. A
model makes one scheme and passes it to all its attention layers, which call:

* `rotate(stride)`: layers that encode positions into queries or keys, (b, h,
  l, d_head) -> same, for neighbors `stride` tokens apart; keys are rotated
  before they are cached;
* `bias(...)`: a `Bias`, a term added to the dot products.

The model itself calls `embed(mode)`: layers that add positions to its
embeddings and to the inputs of its coarser scales. `shared` lists layers whose
weights all attention layers of the model share.

To add a scheme, subclass `NoPositions` in a new module and export the class
from `trax_hier.layers`.

Letters: b batch, h heads, l length.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import base, tl
from trax_hier.config import configurable


class Clock(base.Layer):
  """Counts the rows of earlier predict calls.

  x (.., l, d) -> number of rows in earlier calls (int32 scalar); 0 in 'train'
  and 'eval' modes, where a call gets a whole sequence.
  """

  is_positionwise = True

  def __init__(self, mode: str):
    super().__init__()
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    if self._mode == 'predict':
      self.state = jnp.zeros((), jnp.int32)

  def forward(self, x):
    if self._mode != 'predict':
      return jnp.zeros((), jnp.int32)
    t = self.state
    self.state = t + x.shape[-2]
    return t


@dataclasses.dataclass(frozen=True)
class Bias:
  """The term that a position scheme adds to an attention layer's dot products.

  Attributes:
    layer: q, k -> `n_arrays` arrays computed from weights, such as a table.
    n_arrays: Number of arrays.
    apply: (arrays, offsets, q, n_keys) -> (q, bias): the queries for the dot
      products, and the term added to the products before they are scaled: a
      number or float32 (.., h, n_queries, n_keys). `offsets` (n_queries,
      n_keys) are distances in tokens, key minus query. q may hold any rows of
      the queries that `layer` got; the keys are the first n_keys that it got.
      Queries and keys must end at the same token.
  """

  layer: base.Layer
  n_arrays: int
  apply: Callable[[Sequence[jax.Array], jax.Array, jax.Array, int], tuple]


@configurable(module='trax_hier.layers')
class NoPositions:
  """No positions: attention knows the order only from its causal mask.

  Queries and keys (.., l, d_head) stay unchanged. All other schemes inherit
  from this class.

  Example:
    >>> from trax_hier.layers import SelfAttention
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = SelfAttention(8, n_heads=2, positions=NoPositions())
    >>> print(tree(layer, (2, 12, 8)).text(0))
    layer               parameters   in           out
    SelfAttention ...          288   (2, 12, 8)   (2, 12, 8)
  """

  shared = ()

  def embed(self, mode: str, stride: int = 1) -> list[base.Layer]:
    """Returns the layers that add positions to embeddings (b, l, d).

    Args:
      mode: 'train', 'eval' or 'predict'.
      stride: Distance in tokens between neighboring embeddings.
    """
    del mode, stride
    return []

  def encode(self, x: jax.Array, positions: jax.Array) -> jax.Array:
    """Encodes `positions` (l,) in tokens into queries or keys (.., l, d_head).

    For callers that know positions; otherwise the same as `rotate`'s layers.
    """
    del positions
    return x

  def rotate(self, stride: int, mode: str) -> list[base.Layer]:
    """Returns the layers that encode positions into queries or keys."""
    del stride, mode
    return []

  def bias(
    self, query_stride: int, key_stride: int, max_len: int, mode: str
  ) -> Bias:
    """Returns the term added to dot products.

    Args:
      query_stride: Distance in tokens between neighboring queries.
      key_stride: Distance in tokens between neighboring keys.
      max_len: Capacity in tokens in predict mode.
      mode: 'train', 'eval' or 'predict'.
    """
    del query_stride, key_stride, max_len, mode
    return Bias(
      tl.Select([], n_in=2), 0, lambda arrays, offsets, q, n_keys: (q, 0.0)
    )


def check_carry(name: str, positions: NoPositions, carry: bool) -> None:
  """Raises ValueError if `positions` cannot be combined with carried keys.

  Absolute positions count from the start of a call, so a key from the previous
  call would have a wrong one.
  """
  if carry and (positions.rotate(1, 'train') or positions.embed('train')):
    raise ValueError(
      f'BlockRecurrentLM.positions = @{type(positions).__name__}: keys that '
      f'{name} carries from one call to the next cannot have positions that '
      'rotate or that are added to embeddings: legal are @T5Positions, '
      '@RelativePositions and @NoPositions'
    )


def sinusoid(positions, d_model: int):
  """Sines, then cosines, of positions (n,): float32 (n, d_model).

  An odd d_model gives d_model + 1 columns.
  """
  frequencies = 10000.0 ** (-np.arange(0, d_model, 2) / d_model)
  angles = positions[:, None] * frequencies.astype(np.float32)
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
