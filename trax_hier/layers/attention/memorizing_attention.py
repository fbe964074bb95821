"""Attention to a window and to the nearest of many earlier keys.

The keys and values of earlier tokens are kept in a memory without gradients. A
query attends to the `window` keys before it and, apart from that, to the
`n_neighbors` keys of the memory with the largest dot products. A learned gate
in each head mixes the two results.

A sequence is cut into blocks of `segment` tokens. The tokens of a block read
the keys of earlier blocks, so the memory changes at the edges of blocks only.

Letters: b batch, h heads, l length, d d_model; m keys in a slice of memory.
"""

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.attention.cache import PastRows
from trax_hier.layers.attention.causal_attention import Attend
from trax_hier.layers.attention.dot_product import blocks
from trax_hier.layers.attention.heads import Heads, MergeHeads
from trax_hier.layers.attention.positions import (
  Clock,
  NoPositions,
  check_carry,
)
from trax_hier.layers.attention.qk_normalization import (
  HeadScale,
  Normalize,
  QKNormalization,
)
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.dense import Linear
from trax_hier.layers.base.products import wide_einsum


@configurable(module='trax_hier.layers', denylist=['carry'])
def MemorizingAttention(
  d_model: int,
  n_heads: int = 8,
  window: int = 512,
  memory: int = 8192,
  n_neighbors: int = 32,
  segment: int = 512,
  dropout: float = 0.0,
  mode: str = 'train',
  stride: int = 1,
  positions: NoPositions | None = None,
  d_head: int | None = None,
  carry: bool = False,
):
  """Sliding-window attention with an external memory: (b, l, d) -> (b, l, d).

  The window is that of `SlidingAttention`. The memory has no positions. Its
  empty rows are zeros, which are not masked: the memory of the first block
  gives zeros, and the gate mixes these in.

  Args:
    d_model: Width of inputs and outputs.
    n_heads: Number of heads.
    window: Number of positions before its own that a position attends to.
    memory: Number of keys in the memory of a sequence, in each head. The newest
      are kept. A training step keeps keys and values of this length for each
      row of the batch.
    n_neighbors: Number of keys that a query selects from the memory. On
      accelerators the selection is approximate (`jax.lax.approx_max_k`).
    segment: Number of tokens of a block.
    dropout: Dropout rate of the attention weights of the window.
    mode: 'train', 'eval' or 'predict'.
    stride: Distance in tokens between neighboring positions.
    positions: Position scheme of the window; None means `NoPositions()`.
    d_head: Width of a head; None means d_model / n_heads.
    carry: Whether a call in 'train' and 'eval' modes continues the sequence of
      the previous call. Its length must then be a multiple of `segment`.

  Raises:
    ValueError: window, memory, n_neighbors or segment is not positive,
      n_neighbors exceeds memory, n_heads does not divide d_model, or `carry` is
      combined with positions that count from the start of a call.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = MemorizingAttention(
    ...   8, n_heads=2, window=4, memory=8, n_neighbors=2, segment=4
    ... )
    >>> print(tree(layer, (2, 12, 8)).text(0))
    layer                     parameters   in           out
    MemorizingAttention ...          260   (2, 12, 8)   (2, 12, 8)

  Source: Memorizing Transformers (arXiv 2203.08913) and the published code of
  Block-Recurrent Transformers, which has this layer as well.
  """
  positions = positions or NoPositions()
  check_arguments(
    'MemorizingAttention',
    window=window,
    memory=memory,
    n_neighbors=n_neighbors,
    segment=segment,
    mode=mode,
  )
  check_carry('MemorizingAttention', positions, carry)
  scale = HeadScale()  # Window and memory share its weights.
  rotate_q, rotate_k = (positions.rotate(stride, mode) for _ in range(2))
  scheme = QKNormalization(positions, scale)
  attend_to_window = [
    tl.Parallel(None, PastRows(window, carry, mode)),
    Attend(
      scheme, stride, stride, window, dropout, mode, window, past_only=True
    ),
  ]
  if rotate_q:
    rotate = tl.Parallel(tl.Serial(*rotate_q), tl.Serial(*rotate_k))
    attend_to_window.insert(0, rotate)
  attend_to_memory = [
    tl.Parallel(None, PastRows(memory, carry, mode, memory + segment)),
    tl.Select([0, 0, 0, 1, 2]),
    tl.Parallel(scale, Clock(mode)),  # scale, t, q, k, v
    _Retrieve(memory, n_neighbors, segment, mode, carry),
    MergeHeads(),
  ]
  return tl.Serial(  # x
    Heads(
      d_model,
      n_heads,
      *([Normalize()], [Normalize()], []),
      d_head=d_head,
      dense=Linear,
    ),  # q, k, v
    tl.Select([0, 1, 2, 0, 1, 2]),
    tl.Parallel(tl.Serial(*attend_to_window), tl.Serial(*attend_to_memory)),
    _Mix(n_heads),
    Linear(d_model),
  )


class _Retrieve(base.Layer):
  """Attention to the nearest keys: scale, t, q, k, v -> (b, h, l, d_head).

  `scale` (h,) multiplies the scores. `k` and `v` begin with the rows of earlier
  tokens, as `PastRows` returns them; `t` counts these tokens in predict mode.
  """

  def __init__(self, memory, n_neighbors, segment, mode, carry):
    super().__init__(n_in=5, n_out=1)
    self._memory = memory
    self._n_neighbors = n_neighbors
    self._segment = segment
    self._mode = mode
    self._carry = carry

  def forward(self, inputs):
    scale, t, q, k, v = inputs
    # Without gradients, the memory can hold more than a step can differentiate.
    k, v = (
      jax.lax.stop_gradient(x.reshape(*q.shape[:2], -1, x.shape[-1]))
      for x in (k, v)
    )
    q = q * jnp.abs(scale.astype(q.dtype))[:, None, None]
    if self._mode != 'predict':
      return self._attend(q, k, v)
    if q.shape[-2] == 1:
      return self._decode(t, q, k, v)
    return self._read(t, q, k, v)

  def _attend(self, q, k, v):
    """Each block attends to the `memory` rows before its first token."""
    n, m = q.shape[-2], self._memory
    if self._carry and n % self._segment:
      raise ValueError(
        f'MemorizingAttention.segment = {self._segment} must divide the {n} '
        'positions of a segment (such as DocumentLanes.length)'
      )

    def attend(start, q):
      return self._nearest(q, *(_slice(x, start, m) for x in (k, v)), True)

    return self._in_blocks(attend, q)

  def _read(self, t, q, k, v):
    """New tokens of which the first may stand anywhere in a block."""
    m, w = self._memory, self._segment
    # The last chunk may read rows behind the end.
    k, v = (jnp.pad(x, [(0, 0), (0, 0), (0, w), (0, 0)]) for x in (k, v))

    def attend(start, q):
      # A chunk has tokens of two blocks at most.
      queries = t + start + jnp.arange(q.shape[-2])
      first = queries[0] // w * w - m
      rows = first + jnp.arange(m + w)
      # The first row of k is that of token t - memory - segment.
      k_, v_ = (_slice(x, first - t + m + w, m + w) for x in (k, v))
      return self._nearest(q, k_, v_, self._is_visible(queries, rows))

    return self._in_blocks(attend, q)

  def _decode(self, t, q, k, v):
    """One token, with ring buffers as keys and values."""
    n = k.shape[-2]
    rows = t - (t - jnp.arange(n)) % n
    return self._nearest(q, k, v, self._is_visible(t[None], rows))

  def _is_visible(self, queries, rows):
    """The mask (q, m) of the memory of each query, given positions."""
    ends = (queries // self._segment * self._segment)[:, None]
    return (rows < ends) & (rows >= ends - self._memory)

  def _in_blocks(self, attend, q):
    """Maps attend(start, q) over blocks; the backward pass recomputes them."""
    *_, n, d = q.shape
    w = min(self._segment, n)
    chunks = jnp.moveaxis(blocks(q, w), 1, 0)  # (n, b, h, w, d)
    starts = w * jnp.arange(len(chunks))
    y = jax.lax.map(jax.checkpoint(lambda x: attend(*x)), (starts, chunks))
    y = jnp.moveaxis(y, 0, 2)
    return y.reshape(*y.shape[:2], -1, d)[:, :, :n]

  def _nearest(self, q, k, v, visible):
    """Attention to the nearest of the keys (b, h, m, d_head)."""
    # Keys have length 1, apart from those of empty rows.
    visible = visible & (k != 0).any(-1)[:, :, None]
    scores = jnp.einsum(
      'bhqd,bhmd->bhqm',
      *jax.lax.stop_gradient((q, k)),
      preferred_element_type=jnp.float32,
    )
    scores = jnp.where(visible, scores, -jnp.inf)
    n = min(self._n_neighbors, k.shape[-2])
    highest, nearest = jax.lax.approx_max_k(scores, n)
    is_filled = jnp.isfinite(highest)  # (b, h, q, n)
    take = jax.vmap(jax.vmap(lambda rows, i: rows[i]))
    # Zeros in place of missing keys, as in the memory of the published code.
    k, v = (
      jnp.where(is_filled[..., None], take(x, nearest), 0) for x in (k, v)
    )
    logits = wide_einsum('bhqd,bhqnd->bhqn', q, k)
    weights = jax.nn.softmax(logits).astype(v.dtype)
    return jnp.einsum('bhqn,bhqnd->bhqd', weights, v)


class _Mix(base.Layer):
  """Mixes window and memory: two (b, l, h d_head) -> (b, l, h d_head).

  The gate of a head is the share of the memory, initially one half.
  """

  def __init__(self, n_heads):
    super().__init__(n_in=2, n_out=1)
    self._n_heads = n_heads

  def init_weights_and_state(self, input_signature):
    self.weights = jnp.zeros(self._n_heads, jnp.float32)

  def forward(self, inputs):
    window, memory = inputs
    gate = jax.nn.sigmoid(self.weights).astype(window.dtype)
    gate = jnp.repeat(gate, window.shape[-1] // self._n_heads)
    return (1 - gate) * window + gate * memory


def _slice(x, start, n):
  return jax.lax.dynamic_slice_in_dim(x, start, n, axis=-2)
