"""Dot products with tokens and with blocks of tokens, under one softmax.

Letters: b batch, h heads, l length; w window, n windows, m keys.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from trax_hier.layers.cache import append, empty
from trax_hier.layers.dot_product import blocks, scores, softmax_means
from trax_hier.layers.positions import NoPositions
from trax_hier.layers.scales import as_tuple, n_complete
from trax_hier.trax_compat import base


class AttendToScales(base.Layer):
  """q, then k and v of each scale -> (b, h, l, d_head).

  q (b, h, l, d_head) and, for each scale S, keys and values (b, h, l / S,
  d_head), the last row of which may be that of an incomplete block. In predict
  mode the keys and values of tokens are the output of a `KeyValueCache`; those
  of the other scales are the new rows of a `Coarse`, and are kept here.

  Without a window, a token sees all blocks that are complete. With one, tokens
  lie in windows side by side, and blocks of each scale are seen in a band of
  windows only, which begins where that of the scale before ends: the token's
  own window and the one before for tokens, S windows for blocks of S, and all
  the rest for the last scale. In training, each window gets the keys of its
  band only.

  Args:
    scales: (1, S_1, ..).
    window: A multiple of every scale, or None.
    positions: Position scheme. Queries and the keys of tokens come with their
      positions encoded.
    dropout: Rate of dropout on the attention weights.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity in tokens in predict mode.
  """

  def __init__(
    self,
    scales: Sequence[int],
    window: int | None,
    positions: NoPositions,
    dropout: float,
    mode: str,
    max_len: int,
  ):
    super().__init__(n_in=1 + 2 * len(scales), n_out=1)
    self._scales = scales
    self._window = window
    # Windows back at which each band ends; None is the end of no band.
    self._ends = [
      sum(scales[: j + 1]) + 1 if window and j < len(scales) - 1 else None
      for j in range(len(scales))
    ]
    self._positions = positions
    self._dropout = dropout if mode == 'train' else 0.0
    self._mode = mode
    reach = [max_len if end is None else end * window for end in self._ends]
    self._biases = [
      positions.bias(1, scale, n, mode)
      for scale, n in zip(scales, reach, strict=True)
    ]
    # One row more than there are blocks: see `_remember`.
    self._n_rows = [
      -(-n // scale) + (end is None)
      for scale, n, end in zip(scales, reach, self._ends, strict=True)
    ]
    self._sublayers = (
      *(bias.layer for bias in self._biases),
      base.Layer(name='Memory'),
    )
    self._weights = (None,) * len(self.sublayers)
    self._state = (None,) * len(self.sublayers)

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
        tuple(empty(signature, n) for signature in pair)
        for pair, n in zip(_pairs(rows)[1:], self._n_rows[1:], strict=True)
      )
      memory = jnp.zeros((), jnp.int32), kept
    self.weights = (*(weights for weights, _ in inits), ())
    self.state = (*(state for _, state in inits), memory)

  def forward(self, inputs):
    q, *rows = inputs
    if self._mode == 'predict':
      tokens, keys = self._remember(q.shape[-2], _pairs(rows))
      return self._means(
        [self._look(j, q, tokens, *x) for j, x in enumerate(keys)]
      )
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
        k = self._positions.encode(k, starts)
      if self._window is None:
        sets.append(self._look(j, q, tokens, k, v, starts))
      elif end is not None and end * w < n_tokens:
        sets.append(self._look_at_band(j, q, tokens, k, v))
      elif self._begin(j) * w < n_tokens:
        logits, seen, v = self._look(j, q, tokens, k, v, starts)
        seen = seen.reshape(-1, 1, w, seen.shape[-1])
        sets.append((blocks(logits, w), seen, v[:, None]))
    y = self._means(sets)
    if y.ndim == 5:  # (b, n, h, w, d_head)
      y = y.swapaxes(1, 2).reshape(q.shape)
    return y[:, :, :length]

  def _look(self, j, q, tokens, k, v, starts):
    """Scores (b, h, l, m) of blocks by their first tokens; seen; values."""
    tokens = tokens[:, None]
    return (
      self._scores(j, q, k, starts - tokens),
      self._seen(j, tokens, starts),
      v,
    )

  def _look_at_band(self, j, q, tokens, k, v):
    """Scores (b, n, h, w, m), for each window of its own band, likewise."""
    scale, end, w = self._scales[j], self._ends[j], self._window
    k, v = (_bands(x, end, w // scale) for x in (k, v))
    tokens = tokens.reshape(-1, w, 1)
    begins = tokens[:, :1] + w - end * w
    starts = begins + jnp.arange(k.shape[-2]) * scale
    return (
      self._scores(j, blocks(q, w), k, (starts - tokens)[0]),
      self._seen(j, tokens, starts)[:, None],
      v,
    )

  def _begin(self, j):
    """How many windows back the band of scale j begins."""
    return self._ends[j - 1] if j else 0

  def _seen(self, j, tokens, starts):
    """Which of the blocks of scale j that start there the tokens see."""
    scale = self._scales[j]
    seen = (starts >= 0) & (starts // scale < n_complete(tokens, scale))
    if self._window is None:
      return seen
    back = tokens // self._window - starts // self._window
    if self._ends[j] is not None:
      seen &= back < self._ends[j]
    return seen & (back >= self._begin(j))

  def _scores(self, j, q, k, offsets):
    layer, bias = self.sublayers[j], self._biases[j]
    arrays, state = layer.pure_fn(
      (q, k), self.weights[j], self.state[j], self.rng, use_cache=True
    )
    self.state = (*self.state[:j], state, *self.state[j + 1 :])
    q, bias = bias.apply(as_tuple(arrays), offsets, q, k.shape[-2])
    return scores(q, k, bias)

  def _means(self, sets):
    """The values' means under one softmax over all sets of keys."""
    logits, seen, values = zip(*sets, strict=True)
    seen = jnp.concatenate(seen, axis=-1)
    return softmax_means(logits, values, seen, self._dropout, self.rng)

  def _remember(self, length, pairs):
    """Adds new rows of all scales but the first to those of earlier calls.

    Returns:
      The queries' tokens, and for each scale keys, values and first tokens.
    """
    *states, (t, kept) = self.state
    (k, v), *pairs = pairs
    keys, memory = [(k, v, self._cached(t, length, k.shape[-2]))], []
    for j, (new, old) in enumerate(zip(pairs, kept, strict=True), start=1):
      k, v = new
      scale, n_rows = self._scales[j], self._n_rows[j]
      first, end = (n_complete(i - 1, scale) for i in (t, t + length))
      numbers = first + jnp.arange(k.shape[-2])
      new = self._positions.encode(k, numbers * scale), v
      if self._ends[j] is None:
        # Rows that mean nothing lie behind all others, unseen, until the next
        # call overwrites them.
        rows = [append(*x, first) for x in zip(old, new, strict=True)]
        kept_rows, numbers = rows, jnp.arange(n_rows)
      else:
        rows = [_join(*x) for x in zip(old, new, strict=True)]
        kept_rows = [
          jax.lax.dynamic_slice_in_dim(x, end - first, n_rows, 1) for x in rows
        ]
        numbers = first - n_rows + jnp.arange(rows[0].shape[1])
      # The state may be wider than the dtype of compute.
      keys.append((*(x.astype(v.dtype) for x in rows), numbers * scale))
      memory.append(tuple(kept_rows))
    self.state = (*states, (t + length, tuple(memory)))
    return t + jnp.arange(length), keys

  def _cached(self, t, length, n_keys):
    """The tokens of a `KeyValueCache`'s rows."""
    rows = jnp.arange(n_keys)
    if self._ends[0] is None:
      return rows
    if length == 1:
      return t - (t - rows) % n_keys  # A ring.
    return t + length - n_keys + rows


def _pairs(rows):
  """Keys and values of each scale."""
  return list(zip(rows[::2], rows[1::2], strict=True))


def _pad(x, length):
  """(b, h, l, d_head) -> (b, h, length, d_head)."""
  return jnp.pad(x, [(0, 0), (0, 0), (0, length - x.shape[-2]), (0, 0)])


def _bands(x, n, size):
  """For each window the run of n windows that ends with it, zeros in front.

  (b, h, l, d_head) -> (b, windows, h, n size, d_head), `size` rows a window.
  """
  n_windows = x.shape[2] // size
  x = jnp.pad(x, [(0, 0), (0, 0), ((n - 1) * size, 0), (0, 0)])
  rows = jnp.arange(n_windows)[:, None] * size + jnp.arange(n * size)
  return jnp.take(x, rows, axis=2).swapaxes(1, 2)


def _join(old, new):
  """Rows (b h, n, d_head) of a buffer, then new ones (b, h, l, d_head)."""
  new = new.reshape(-1, *new.shape[-2:]).astype(old.dtype)
  return jnp.concatenate([old, new], axis=1)
