"""Dot-product attention to tokens and blocks of tokens, with one softmax.

Letters: b batch, h heads, l length; w window, n windows, m keys.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from trax_hier.compat import base
from trax_hier.layers.attention.cache import empty_buffer, join_rows, write_rows
from trax_hier.layers.attention.dot_product import (
  blocks,
  index_of_size,
  read_sizes,
)
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.attention.softmax import (
  joint_softmax_attention,
  scores,
  weighted_sum,
)
from trax_hier.layers.base.documents import ReadsDocuments, documents_in
from trax_hier.layers.hierarchy.groups import as_tuple
from trax_hier.layers.hierarchy.scales import n_complete


class AttendToScales(base.Layer):
  """Attends to tokens and blocks: q, k and v by scale -> (b, h, l, d_head).

  q is (b, h, l, d_head); for each scale S, keys and values are (b, h, l / S,
  d_head), and their last row may belong to an incomplete block. In predict
  mode, the keys and values of tokens are the output of a `KeyValueCache`. For
  the other scales they are the new rows of a `Coarse`, which this layer caches.

  Without a window, a token attends to all complete blocks. With a window, the
  sequence is cut into windows, and a token attends to each scale within a band
  of windows. The band of tokens is the token's own window and the window
  before. The band of a further scale S begins where the band before ends, and
  has S windows; the band of the last scale has all remaining windows. In
  'train' and 'eval' modes, few masked scores are computed: see
  `RetinaAttention`.

  Args:
    scales: (1, S_1, ..), in rows of the sequence.
    window: Number of rows in a window, a multiple of every scale; or None.
    stride: Distance in tokens of the model between neighboring rows; the rest
      of this class calls a row a token.
    positions: Position scheme. Queries and the keys of tokens already have
      their positions encoded.
    dropout: Dropout rate of the attention weights.
    mode: 'train', 'eval' or 'predict'.
    n_rows: Capacity in predict mode, in rows.
  """

  _MIN_CACHE = 128  # See `DotProductAttention`.

  keeps_documents_apart = True

  def __init__(
    self,
    scales: Sequence[int],
    window: int | None,
    stride: int,
    positions: NoPositions,
    dropout: float,
    mode: str,
    n_rows: int,
  ):
    super().__init__(n_in=1 + 2 * len(scales), n_out=1)
    self._scales = scales
    self._window = window
    self._stride = stride
    # Number of windows back to the end of each band; None if it has no end.
    self._ends = [
      sum(scales[: j + 1]) + 1 if window and j < len(scales) - 1 else None
      for j in range(len(scales))
    ]
    self._positions = positions
    self._dropout = dropout if mode == 'train' else 0.0
    self._mode = mode
    # Number of tokens back to the end of each band.
    extents = [n_rows if end is None else end * window for end in self._ends]
    self._biases = [
      positions.bias(stride, scale * stride, n * stride, mode)
      for scale, n in zip(scales, extents, strict=True)
    ]
    self._n_rows = [
      -(-n // scale) for scale, n in zip(scales, extents, strict=True)
    ]
    self._sublayers = (
      *(bias.layer for bias in self._biases),
      ReadsDocuments(name='Memory'),
    )
    self._weights = (None,) * len(self.sublayers)
    self._state = (None,) * len(self.sublayers)

  @property
  def document_multiple(self) -> int:
    """The number of which documents in a row must fill a multiple."""
    return self._window or self._scales[-1]

  def init_weights_and_state(self, input_signature):
    q, *rows = input_signature
    *layers, _ = self.sublayers
    inits = [
      layer.init((q, k), use_cache=True)
      for layer, k in zip(layers, rows[::2], strict=True)
    ]
    memory = ()
    if self._mode == 'predict':
      kept = tuple(
        tuple(empty_buffer(signature, n) for signature in pair)
        for pair, n in zip(_pairs(rows)[1:], self._n_rows[1:], strict=True)
      )
      memory = jnp.zeros((), jnp.int32), kept
    self.weights = (*(weights for weights, _ in inits), ())
    self.state = (*(state for _, state in inits), memory)

  def forward(self, inputs):
    q, *rows = inputs
    if self._mode == 'predict':
      tokens, keys = self._update_caches(q.shape[-2], _pairs(rows))
      arrays = [self._arrays(j, q, k) for j, (k, _, _) in enumerate(keys)]
      if self._ends[0] is None:
        return self._attend_to_filled(arrays, q, tokens, keys)
      return self._attend(arrays, q, tokens, keys)
    length, coarsest = q.shape[-2], self._scales[-1]
    w = min(self._window or length, length + -length % coarsest)
    n_tokens = length + -length % (w if self._window else coarsest)
    q = _pad(q, n_tokens)
    tokens = jnp.arange(n_tokens)
    sets = []
    for j, (k, v) in enumerate(_pairs(rows)):
      scale, end = self._scales[j], self._ends[j]
      k, v = (_pad(x, n_tokens // scale) for x in (k, v))
      starts = jnp.arange(k.shape[-2]) * scale
      if j:
        k = self._positions.encode(k, starts * self._stride)
      if self._window is None:
        arrays = self._arrays(j, q, k)
        sets.append(self._score(j, arrays, q, tokens, k, v, starts))
      elif end is not None and end * w < n_tokens:
        sets.append(self._score_band(j, q, tokens, k, v))
      elif self._begin(j) * w < n_tokens:
        arrays, v = self._arrays(j, q, k), v[:, None]
        logits, mask, weighted = self._score(j, arrays, q, tokens, k, v, starts)
        mask = mask.reshape(*mask.shape[:-3], -1, 1, w, mask.shape[-1])
        sets.append((blocks(logits, w), mask, weighted))
    y = joint_softmax_attention(sets, q.dtype, self._dropout, self.rng)
    if y.ndim == 5:  # (b, n, h, w, d_head)
      y = y.swapaxes(1, 2).reshape(q.shape)
    return y[:, :, :length]

  def _attend_to_filled(self, arrays, q, tokens, keys):
    """Attends to the rows of the caches up to the last query."""
    sizes = read_sizes(self._n_rows[0], self._MIN_CACHE)

    def attend_to(n):
      ends = [-(-n // scale) for scale in self._scales]
      filled = [
        (k[:, :end], v[:, :end], starts[:end])
        for end, (k, v, starts) in zip(ends, keys, strict=True)
      ]
      return self._attend(arrays, q, tokens, filled)

    choice = index_of_size(sizes, tokens[-1] + 1)
    branches = [functools.partial(attend_to, n) for n in sizes]
    return jax.lax.switch(choice, branches)

  def _attend(self, arrays, q, tokens, keys):
    sets = [
      self._score(j, arrays[j], q, tokens, *x) for j, x in enumerate(keys)
    ]
    return joint_softmax_attention(sets, q.dtype, 0.0, self.rng)

  def _score(self, j, arrays, q, tokens, k, v, starts):
    """The keys of scale j, as a set for `joint_softmax_attention`.

    q (b, h, l, d_head), tokens (l,), k and v (.., m, d_head); `starts` (m,) are
    the first tokens of the blocks.
    """
    tokens = tokens[:, None]
    q, bias = self._bias(j, arrays, q, k, starts - tokens)
    mask = self._mask(j, tokens, starts)[..., None, :, :]
    return scores(q, k, bias), mask, functools.partial(weighted_sum, v=v)

  def _score_band(self, j, q, tokens, k, v):
    """As `_score`, for queries in windows (b, n, h, w, ..) with a band each.

    Bands of different windows copy the same keys, so the backward pass
    recomputes the copies.
    """
    scale, end, w = self._scales[j], self._ends[j], self._window
    n_keys = end * w // scale
    bands = functools.partial(_bands, n=end, size=w // scale)
    tokens = tokens.reshape(-1, w, 1)
    begins = tokens[:, :1] + w - end * w
    starts = begins + jnp.arange(n_keys) * scale
    q = blocks(q, w)
    arrays = self._arrays(j, q, k[:, :, :n_keys])
    q, bias = self._bias(j, arrays, q, k[:, :, :n_keys], (starts - tokens)[0])

    @jax.checkpoint
    def logits(q, k, bias):
      return scores(q, bands(k), bias)

    @jax.checkpoint
    def weighted(weights, v):
      return weighted_sum(weights, bands(v))

    mask = self._mask(j, tokens, starts)[..., None, :, :]
    return logits(q, k, bias), mask, functools.partial(weighted, v=v)

  def _begin(self, j):
    """Number of windows back at which the band of scale j begins."""
    return self._ends[j - 1] if j else 0

  def _mask(self, j, tokens, starts):
    """True where a token attends to the block of scale j at each start."""
    scale = self._scales[j]
    mask = (starts >= 0) & (starts // scale < n_complete(tokens, scale))
    if (documents := documents_in(self.state[-1])) is not None:
      n = documents.positions.shape[1] // self._stride
      mask = mask & (starts >= tokens - documents.of_rows(n)[:, tokens])
    if self._window is None:
      return mask
    back = tokens // self._window - starts // self._window
    if self._ends[j] is not None:
      mask &= back < self._ends[j]
    return mask & (back >= self._begin(j))

  def _arrays(self, j, q, k):
    """The arrays that the position scheme's layer returns for scale j."""
    arrays, state = self.sublayers[j].pure_fn(
      (q, k), self.weights[j], self.state[j], self.rng, use_cache=True
    )
    self.state = (*self.state[:j], state, *self.state[j + 1 :])
    return as_tuple(arrays)

  def _bias(self, j, arrays, q, k, offsets):
    """The queries and the term added to dot products; see `Bias.apply`.

    `offsets` (l, m) are distances from queries to blocks, in rows.
    """
    offsets = offsets * self._stride
    return self._biases[j].apply(arrays, offsets, q, k.shape[-2])

  def _update_caches(self, length, pairs):
    """Adds the new rows of all scales but the first to the caches.

    Returns:
      The positions of the queries (l,). For each scale, keys and values (b h,
      m, d_head) and the positions of the first tokens of their blocks (m,).
    """
    *states, (t, kept) = self.state
    (k, v), *pairs = pairs
    keys, memory = [(k, v, self._cached(t, length, k.shape[-2]))], []
    for j, (new, old) in enumerate(zip(pairs, kept, strict=True), start=1):
      k, v = new
      scale, n_rows = self._scales[j], self._n_rows[j]
      first, end = (n_complete(i - 1, scale) for i in (t, t + length))
      numbers = first + jnp.arange(k.shape[-2])
      starts = numbers * scale * self._stride
      new = self._positions.encode(k, starts), v
      if self._ends[j] is None:
        # Undefined rows come last and are masked until the next call
        # overwrites them.
        rows = [write_rows(*x, first) for x in zip(old, new, strict=True)]
        kept_rows, numbers = rows, jnp.arange(n_rows)
      else:
        rows = [join_rows(*x) for x in zip(old, new, strict=True)]
        kept_rows = [
          jax.lax.dynamic_slice_in_dim(x, end - first, n_rows, 1) for x in rows
        ]
        numbers = first - n_rows + jnp.arange(rows[0].shape[1])
      # The state's dtype may be wider than the compute dtype.
      keys.append((*(x.astype(v.dtype) for x in rows), numbers * scale))
      memory.append(tuple(kept_rows))
    self.state = (*states, (t + length, tuple(memory)))
    return t + jnp.arange(length), keys

  def _cached(self, t, length, n_keys):
    """The position of the token in each row of a `KeyValueCache`."""
    rows = jnp.arange(n_keys)
    if self._ends[0] is None:
      return rows
    if length == 1:
      return t - (t - rows) % n_keys  # A ring buffer.
    return t + length - n_keys + rows


def _pairs(rows):
  """Keys and values of each scale."""
  return list(zip(rows[::2], rows[1::2], strict=True))


def _pad(x, length):
  """(b, h, l, d_head) -> (b, h, length, d_head)."""
  return jnp.pad(x, [(0, 0), (0, 0), (0, length - x.shape[-2]), (0, 0)])


def _bands(x, n, size):
  """For each window, the n windows that end with it, padded with zeros.

  (b, h, l, d_head) -> (b, windows, h, n size, d_head), `size` rows per window.
  """
  b, h, length, d = x.shape
  n_windows = length // size
  x = jnp.pad(x, [(0, 0), (0, 0), ((n - 1) * size, 0), (0, 0)])
  windows = x.reshape(b, h, -1, size, d).swapaxes(1, 2)
  # The gradient of slices is a sum of slices; the gradient of a gather is slow.
  runs = [windows[:, i : i + n_windows] for i in range(n)]
  return jnp.concatenate(runs, axis=-2)
