"""Attention: one core for causal, windowed and cross attention.

Every attention layer is made of the same pieces: projections to heads, a
key/value cache, dot products with a position scheme, an output projection.
Queries and keys may lie on grids of different stride: neighbours in a sequence
shortened k times are k tokens apart. A query at index i of stride s covers the
tokens before (i + 1) * s and sees the keys that start before that point.

In predict mode keys and values go to a cache of `max_len` tokens, and a call
takes any number of new tokens; calls together must not bring more than
`max_len`.

Letters: b batch, h heads, l length, d d_model; n blocks, w window.
"""

import math
from collections.abc import Sequence

import gin
import jax
import jax.numpy as jnp

from trax_hier.layers.build import check_heads, check_mode
from trax_hier.layers.positions import Clock, NoPositions
from trax_hier.layers.stacking import Once
from trax_hier.trax_compat import base, tl

_HIDDEN = 2**30  # The offset, in tokens, of a key that no query may see.


@gin.configurable(module='trax_hier.layers')
def SelfAttention(
  d_model: int,
  n_heads: int = 8,
  window: int | None = None,
  dropout: float = 0.0,
  mode: str = 'train',
  max_len: int = 2048,
  stride: int = 1,
  positions: NoPositions | None = None,
):
  """Causal self-attention: (b, l, d) -> (b, l, d).

  Args:
    d_model: Width of inputs and outputs.
    n_heads: Number of heads; divides d_model.
    window: Number of neighbours, itself included, that a position sees to its
      left; None is all of them. Cost is then linear in length.
    dropout: Rate of dropout on the attention weights.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity in tokens of the cache in predict mode.
    stride: Distance in tokens of neighbouring positions.
    positions: Position scheme; None is `NoPositions()`.

  Raises:
    ValueError: n_heads does not divide d_model, or window is not positive.
  """
  return tl.Serial(
    tl.Dup(),
    CausalAttention(
      d_model,
      n_heads,
      window=window,
      dropout=dropout,
      mode=mode,
      max_len=max_len,
      query_stride=stride,
      key_stride=stride,
      positions=positions,
    ),
  )


def CausalAttention(
  d_model: int,
  n_heads: int,
  query_stride: int,
  key_stride: int,
  window: int | None = None,
  dropout: float = 0.0,
  mode: str = 'train',
  max_len: int = 2048,
  positions: NoPositions | None = None,
):
  """Causal attention between two resolutions of one sequence.

  x (b, l, d) with stride `query_stride`, y (b, m, d) with stride `key_stride`
  -> (b, l, d). Arguments as in `SelfAttention`.
  """
  scheme = positions or NoPositions()
  return tl.Serial(  # x, y
    tl.Select([0, 1, 1]),
    tl.Parallel(
      Heads(d_model, n_heads, scheme.rotate(query_stride, mode)),
      Heads(d_model, n_heads, scheme.rotate(key_stride, mode)),
      Heads(d_model, n_heads),
    ),  # q, k, v
    tl.Parallel(None, KeyValueCache(-(-max_len // key_stride), window, mode)),
    Attend(scheme, query_stride, key_stride, window, dropout, mode, max_len),
    tl.Dense(d_model),
  )


@gin.configurable(module='trax_hier.layers')
def CrossAttention(
  d_model: int,
  n_heads: int = 8,
  dropout: float = 0.0,
  mode: str = 'train',
):
  """Attention of all positions to all of another sequence, without positions.

  x (b, l, d), context (b, m, d), mask (b, m) bool -> (b, l, d); rows of
  `context` where the mask is False are not attended to.

  Args:
    d_model: Width of inputs and outputs.
    n_heads: Number of heads; divides d_model.
    dropout: Rate of dropout on the attention weights.
    mode: 'train', 'eval' or 'predict'. In predict mode the keys and values of
      the first call's context are kept for all later calls.
  """
  return tl.Serial(  # x, context, mask
    tl.Select([2, 0, 1, 1]),
    tl.Parallel(
      tl.Fn('Hide', lambda mask: jnp.where(mask, 0, _HIDDEN)[:, None, None]),
      Heads(d_model, n_heads),
      Once(Heads(d_model, n_heads), mode),
      Once(Heads(d_model, n_heads), mode),
    ),  # offsets, q, k, v
    NoPositions().logits(1, 1, 0, mode),  # bias, offsets, q, k, v
    SoftmaxAttention(dropout, mode),  # (b, h, l, d_head)
    MergeHeads(),
    tl.Dense(d_model),
  )


def Heads(
  d_model: int, n_heads: int, rotate: Sequence[base.Layer] = ()
) -> base.Layer:
  """Projects to heads: (b, l, d) -> (b, h, l, d / h), rotated if asked to."""
  check_heads(d_model, n_heads)

  def split(x):
    b, l, _ = x.shape
    return x.reshape(b, l, n_heads, -1).swapaxes(1, 2)

  return tl.Serial(tl.Dense(d_model), tl.Fn('SplitHeads', split), *rotate)


def MergeHeads() -> base.Layer:
  """(b, h, l, d / h) -> (b, l, d)."""

  def merge(x):
    b, _, l, _ = x.shape
    return x.swapaxes(1, 2).reshape(b, l, -1)

  return tl.Fn('MergeHeads', merge)


def Attend(
  positions: NoPositions,
  query_stride: int,
  key_stride: int,
  window: int | None,
  dropout: float,
  mode: str,
  max_len: int,
) -> base.Layer:
  """Causal dot-product attention: q, k, v (b, h, l, d / h) -> (b, l, d).

  `window` counts keys of the queries' own sequence, so strides must be equal
  if it is given.
  """
  check_mode(mode)
  if window is not None and window < 1:
    raise ValueError(f'window = {window} must be positive, or None')
  attend = tl.Serial(  # t, q, k, v
    _Offsets(query_stride, key_stride, window, mode),  # offsets, q, k, v
    positions.logits(
      query_stride, key_stride, max_len, mode
    ),  # bias, offsets, q, k, v
    SoftmaxAttention(dropout, mode),
  )
  return tl.Serial(  # q, k, v
    tl.Select([0, 0, 1, 2]),
    Clock(mode),  # t, q, k, v
    _InBlocks(attend, window) if window else attend,  # (b, h, l, d / h)
    MergeHeads(),
  )


def append(buffer, rows, index):
  """Writes `rows` (.., l, d) into `buffer` (.., n, d) from row `index` on."""
  start = [0] * buffer.ndim
  start[-2] = index
  return jax.lax.dynamic_update_slice(buffer, rows.astype(buffer.dtype), start)


class KeyValueCache(base.Layer):
  """Keeps keys and values over predict calls: (k, v) -> (k, v).

  In 'train' and 'eval' modes the identity. In 'predict' mode the new rows
  (b, h, l, d_head) join those of earlier calls:

  * without a window, the output is the whole buffer of `max_len` rows;
  * with a window and one new row, it is a ring of `window` rows in which
    position p has row p mod window;
  * with a window and more new rows, it is the last `window` rows before them
    followed by the new ones.

  Args:
    max_len: Capacity in rows, if there is no window.
    window: Number of rows to keep, or None for all.
    mode: 'train', 'eval' or 'predict'.
  """

  def __init__(self, max_len: int, window: int | None, mode: str):
    super().__init__(n_in=2, n_out=2)
    self._n_rows = window or max_len
    self._window = window
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    if self._mode != 'predict':
      return
    buffers = tuple(
      jnp.zeros((*s.shape[:-2], self._n_rows, s.shape[-1]), s.dtype)
      for s in input_signature
    )
    self.state = jnp.zeros((), jnp.int32), buffers

  def forward(self, rows):
    if self._mode != 'predict':
      return rows
    t, buffers = self.state
    n_new = rows[0].shape[-2]
    if self._window is None:
      if n_new > self._n_rows:
        raise ValueError(
          f'{n_new} new positions exceed the cache of {self._n_rows}: raise '
          'max_len'
        )
      outputs = buffers = tuple(
        append(old, new, t) for old, new in zip(buffers, rows, strict=True)
      )
    elif n_new == 1:
      outputs = buffers = tuple(
        append(old, new, t % self._window)
        for old, new in zip(buffers, rows, strict=True)
      )
    else:
      outputs = tuple(
        jnp.concatenate(
          [jnp.roll(old, -t, axis=-2), new.astype(old.dtype)], axis=-2
        )
        for old, new in zip(buffers, rows, strict=True)
      )
      buffers = tuple(
        jnp.roll(x[..., -self._window :, :], t + n_new, axis=-2)
        for x in outputs
      )
    self.state = t + n_new, buffers
    return outputs


def _Offsets(query_stride, key_stride, window, mode):
  """Distances of keys from queries: t, q, k -> offsets, q, k.

  t counts the queries of earlier predict calls. Offsets (.., n_queries, n_keys)
  are key minus query in tokens, `_HIDDEN` where the query must not see the key
  or the row holds none. Queries and keys end together, unless the keys are a
  cache, which begins at position 0 or, with a window and one query, is a ring.
  """

  def offsets(t, q, k):
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    queries = jnp.arange(n_queries)[:, None]
    keys = jnp.arange(n_keys)
    if window is None:
      start = n_queries * query_stride - n_keys * key_stride
      start = -t * query_stride if mode == 'predict' else start
      y = start + keys * key_stride - queries * query_stride
      return jnp.where(y < query_stride, y, _HIDDEN), q, k
    if mode == 'predict' and n_queries == 1 and q.ndim == 4:
      y = -((t - keys[None]) % window)
    else:
      y = n_queries - n_keys + keys - queries
    if q.ndim == 5:
      t = t + (jnp.arange(q.shape[1]) * window)[:, None, None, None]
    seen = (y <= 0) & (y > -window) & (t + queries + y >= 0)
    return jnp.where(seen, y * query_stride, _HIDDEN), q, k

  return tl.Fn('Offsets', offsets, n_out=3)


class SoftmaxAttention(base.Layer):
  """Weighted means of the values: bias, offsets, q, k, v -> (.., h, q, d_head).

  Weights are the softmax, in float32, of (q.k + bias) / sqrt(d_head) over the
  keys that the offsets do not hide; output in the dtype of v.
  """

  def __init__(self, dropout: float, mode: str):
    super().__init__(n_in=5, n_out=1)
    self._dropout = dropout if mode == 'train' else 0.0

  def forward(self, inputs):
    bias, offsets, q, k, v = inputs
    logits = bias + jnp.einsum(
      '...qd,...kd->...qk', q, k, preferred_element_type=jnp.float32
    )
    logits = logits / math.sqrt(q.shape[-1])
    logits = jnp.where(offsets < _HIDDEN, logits, -1e9)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    if self._dropout:
      keep = jax.random.bernoulli(self.rng, 1 - self._dropout, weights.shape)
      weights = jnp.where(keep, weights / (1 - self._dropout), 0)
    return jnp.einsum('...qk,...kd->...qd', weights, v)


class _InBlocks(base.Layer):
  """Windowed attention a block at a time: t, q, k, v -> (b, h, l, d_head).

  Cuts queries longer than the window into blocks of window rows; each attends
  to its own and the previous block of keys, so cost is linear in length.
  """

  def __init__(self, attend, window):
    super().__init__(n_in=4, n_out=1)
    self._sublayers = (attend,)
    self._weights = (None,)
    self._state = (None,)
    self._window = window

  def init_weights_and_state(self, input_signature):
    (attend,) = self.sublayers
    weights, state = attend.init(input_signature, self.rng, use_cache=True)
    self.weights, self.state = (weights,), (state,)

  def forward(self, inputs):
    (attend,), (weights,), (state,) = self.sublayers, self.weights, self.state
    t, q, k, v = inputs
    length = q.shape[-2]
    if length > self._window:
      q, k, v = (
        self._cut(q, length),
        self._pair(k, length),
        self._pair(v, length),
      )
    y, state = attend.pure_fn((t, q, k, v), weights, state, self.rng)
    self.state = (state,)
    if length > self._window:
      b, n, h, w, d = y.shape
      y = y.swapaxes(1, 2).reshape(b, h, n * w, d)[:, :, :length]
    return y

  def _cut(self, x, length):
    """(b, h, l, d) -> (b, n, h, w, d), padded to n blocks of w rows."""
    w = self._window
    pad = -length % w
    x = jnp.pad(x, [(0, 0), (0, 0), (0, pad), (0, 0)])
    b, h, padded, d = x.shape
    return x.reshape(b, h, padded // w, w, d).swapaxes(1, 2)

  def _pair(self, x, length):
    """Keys, with or without the window before them -> (b, n, h, 2 w, d)."""
    if x.shape[-2] == length:
      x = jnp.pad(x, [(0, 0), (0, 0), (self._window, 0), (0, 0)])
    blocks = self._cut(x, x.shape[-2])
    return jnp.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=-2)
