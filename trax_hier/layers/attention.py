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

import itertools
import math
from collections.abc import Sequence

import gin
import jax
import jax.numpy as jnp

from trax_hier.layers.build import check_heads, check_mode
from trax_hier.layers.positions import Bias, Clock, NoPositions
from trax_hier.layers.stacking import Once
from trax_hier.trax_compat import base, tl


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
  dropout = dropout if mode == 'train' else 0.0
  return tl.Serial(  # x, context, mask
    tl.Select([0, 1, 1, 2]),
    tl.Parallel(
      Heads(d_model, n_heads),
      Once(Heads(d_model, n_heads), mode),
      Once(Heads(d_model, n_heads), mode),
      tl.Fn('OverHeads', lambda mask: mask[:, None, None]),
    ),  # q, k, v, mask
    _MaskedAttention(dropout),  # (b, h, l, d / h)
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
  bias = positions.bias(query_stride, key_stride, max_len, mode)

  def prepare(q, k, v):
    """q, k as the bias is to see them, then q, q, k, v."""
    keys = k
    if window is not None and q.shape[-2] > window:
      # As many rows as the blocks of `DotProductAttention` have keys.
      keys = jnp.pad(k, [(0, 0), (0, 0), (2 * window, 0), (0, 0)])
      keys = keys[..., -2 * window :, :]
    return q, keys, q, q, k, v

  return tl.Serial(  # q, k, v
    tl.Fn('Prepare', prepare, n_out=6),
    bias.layer,  # arrays, q, q, k, v
    tl.Parallel(*[None] * bias.n_arrays, Clock(mode))
    if bias.n_arrays
    else Clock(mode),  # arrays, t, q, k, v
    DotProductAttention(bias, query_stride, key_stride, window, dropout, mode),
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


class DotProductAttention(base.Layer):
  """Causal attention over heads: arrays, t, q, k, v -> (b, h, l, d / h).

  `arrays` are those of the position scheme's bias, t the number of queries in
  earlier predict calls. Keys are those of the same sequence or, in predict
  mode, a `KeyValueCache`'s output.

  Long sequences are cut, so that most of what causality or the window hides is
  not computed: with a window into blocks that attend to themselves and the
  block before, else into a few spans of queries that attend to the keys before
  their end.

  Source of the sizes: benchmarks/hourglass.py on CPU; 4 spans save 3 / 8 of the
  work, 8 would save 7 / 16 and double the program.
  """

  _MAX_SPANS = 4
  _MIN_SPAN = 128

  def __init__(
    self,
    bias: Bias,
    query_stride: int,
    key_stride: int,
    window: int | None,
    dropout: float,
    mode: str,
  ):
    super().__init__(n_in=bias.n_arrays + 4, n_out=1)
    self._bias = bias
    self._query_stride = query_stride
    self._key_stride = key_stride
    self._window = window
    self._dropout = dropout if mode == 'train' else 0.0
    self._mode = mode

  def forward(self, inputs):
    *arrays, t, q, k, v = inputs
    length = q.shape[-2]
    if self._window is not None and length > self._window:
      q = _blocks(q, self._window)
      k, v = (_block_pairs(x, self._window, length) for x in (k, v))
      y = self._attend(arrays, t, q, k, v, self.rng)
      b, n, h, w, d = y.shape
      return y.swapaxes(1, 2).reshape(b, h, n * w, d)[:, :, :length]
    if self._window is not None or self._mode == 'predict':
      return self._attend(arrays, t, q, k, v, self.rng)
    spans = self._spans(length, k.shape[-2])
    rngs = jax.random.split(self.rng, len(spans))
    outputs = [
      self._attend(arrays, t, q[..., a:b, :], k[..., :c, :], v[..., :c, :], rng)
      for (a, b, c), rng in zip(spans, rngs, strict=True)
    ]
    return jnp.concatenate(outputs, axis=-2)

  def _spans(self, n_queries, n_keys):
    """First query, end of queries and end of keys of each span."""
    if n_queries * self._query_stride != n_keys * self._key_stride:
      raise ValueError(
        f'{n_queries} queries {self._query_stride} tokens apart and {n_keys} '
        f'keys {self._key_stride} tokens apart do not cover the same tokens'
      )
    unit = max(1, self._key_stride // self._query_stride)
    n = min(self._MAX_SPANS, max(1, n_queries // self._MIN_SPAN))
    ends = [i * n_queries // (n * unit) * unit for i in range(n)] + [n_queries]
    return [
      (a, b, b * self._query_stride // self._key_stride)
      for a, b in itertools.pairwise(ends)
    ]

  def _attend(self, arrays, t, q, k, v, rng):
    offsets, seen = self._offsets(t, q, k)
    q, bias = self._bias.apply(arrays, offsets, q, k.shape[-2])
    return softmax_attention(q, k, v, bias, seen, self._dropout, rng)

  def _offsets(self, t, q, k):
    """Distances key minus query in tokens, and which keys a query may see.

    Queries and keys end together, unless the keys are a cache, which begins at
    position 0 or, with a window and one query, is a ring.
    """
    query_stride, key_stride = self._query_stride, self._key_stride
    window, predict = self._window, self._mode == 'predict'
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    queries = jnp.arange(n_queries)[:, None]
    keys = jnp.arange(n_keys)
    if window is None:
      start = n_queries * query_stride - n_keys * key_stride
      start = -t * query_stride if predict else start
      offsets = start + keys * key_stride - queries * query_stride
      return offsets, offsets < query_stride
    if predict and n_queries == 1 and q.ndim == 4:
      steps = -((t - keys[None]) % window)
    else:
      steps = n_queries - n_keys + keys - queries
    if q.ndim == 5:
      t = t + (jnp.arange(q.shape[1]) * window)[:, None, None, None]
    exists = t + queries + steps >= 0
    seen = (steps <= 0) & (steps > -window) & exists
    return steps * query_stride, seen


def softmax_attention(q, k, v, bias, seen, dropout, rng):
  """Weighted means of the values (.., h, q, d / h), in their dtype.

  The weights are the softmax, in float32, of (q.k + bias) / sqrt(d / h) over
  the keys where `seen`.
  """
  logits = bias + jnp.einsum(
    '...qd,...kd->...qk', q, k, preferred_element_type=jnp.float32
  )
  weights = _softmax(logits / math.sqrt(q.shape[-1]), seen).astype(v.dtype)
  if dropout:
    keep = jax.random.bernoulli(rng, 1 - dropout, weights.shape)
    weights = jnp.where(keep, weights / (1 - dropout), 0)
  return jnp.einsum('...qk,...kd->...qd', weights, v)


def _seen_softmax(logits, seen):
  """Softmax over the last axis of what is seen; uniform where nothing is."""
  logits = jnp.where(seen, logits, -1e9)
  y = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
  return y / jnp.sum(y, axis=-1, keepdims=True)


_softmax = jax.custom_jvp(_seen_softmax)


@_softmax.defjvp
def _softmax_jvp(primals, tangents):
  """Keeps the output alone for the gradient: autodiff keeps four arrays."""
  y = _seen_softmax(*primals)
  t, _ = tangents
  return y, y * (t - jnp.sum(y * t, axis=-1, keepdims=True))


class _MaskedAttention(base.Layer):
  """q, k, v, mask of the keys -> (b, h, l, d / h)."""

  def __init__(self, dropout):
    super().__init__(n_in=4, n_out=1)
    self._dropout = dropout

  def forward(self, inputs):
    q, k, v, mask = inputs
    return softmax_attention(q, k, v, 0.0, mask, self._dropout, self.rng)


def _blocks(x, window):
  """(b, h, l, d) -> (b, n, h, w, d), padded to n blocks of w rows."""
  x = jnp.pad(x, [(0, 0), (0, 0), (0, -x.shape[-2] % window), (0, 0)])
  b, h, length, d = x.shape
  return x.reshape(b, h, length // window, window, d).swapaxes(1, 2)


def _block_pairs(x, window, length):
  """Keys, with or without the window before them -> (b, n, h, 2 w, d)."""
  if x.shape[-2] == length:
    x = jnp.pad(x, [(0, 0), (0, 0), (window, 0), (0, 0)])
  blocks = _blocks(x, window)
  return jnp.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=-2)
