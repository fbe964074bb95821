"""Dot-product attention over heads: the core of every attention layer.

Queries and keys may lie on grids of different stride: neighbours in a sequence
shortened k times are k tokens apart. A query at index i of stride s covers the
tokens before (i + 1) * s and sees the keys that start before that point.

Letters: b batch, h heads, l length, d d_model; n blocks, w window.
"""

import functools
import itertools
import math
import operator

import jax
import jax.numpy as jnp

from trax_hier.compat import base
from trax_hier.layers.attention.positions import Bias

# The most queries whose attention weights are held at a time: see `in_parts`.
MAX_ROWS = 1024


class DotProductAttention(base.Layer):
  """Causal attention over heads: arrays, t, q, k, v, .. -> (b, h, l, d / h).

  `arrays` are those of the position scheme's bias, t the number of queries in
  earlier predict calls. Keys are those of the same sequence or, in predict
  mode, a `KeyValueCache`'s output.

  With a window, a position sees so many keys up to its own or, if `past_only`,
  up to the one before its own. In the latter case all positions have as many:
  the keys begin with rows for what would come before the first (see
  `cache.PastRows`), which are not masked.

  If `masked`, there is a last input, mask (b, 1, l, 1) bool, in predict mode
  kept like keys: those where it is False are not seen.

  Long sequences are cut, so that most of what causality or the window hides is
  not computed: with a window into blocks that attend to themselves and the
  block before, else into a few spans of queries that attend to the keys before
  their end.

  Source of the sizes: benchmarks/hourglass.py on CPU; 4 spans save 3 / 8 of the
  work, 8 would save 7 / 16 and double the program. Of long spans some queries
  are taken at a time (see `in_parts`).

  Of a cache, a call reads as many rows as are filled, rounded up to the
  capacity or a half, a quarter, .. of it: time per token grows with the tokens
  so far, not with the capacity.

  Example: four queries of zero, and two keys that stand for two tokens each.
    >>> from trax_hier.layers import NoPositions
    >>> bias = NoPositions().bias(1, 2, max_len=4, mode='eval')
    >>> attend = jax.jit(DotProductAttention(bias, 1, 2, None, 0.0, 'eval'))
    >>> q, v = jnp.zeros((1, 1, 4, 1)), jnp.array([[[[0.0], [1.0]]]])
    >>> print(attend((0, q, v, v), rng=jax.random.PRNGKey(0)).ravel())
    [0.  0.  0.5 0.5]
  """

  _N_SPANS = 4
  _MIN_SPAN = 128
  _MIN_CACHE = 128

  def __init__(
    self,
    bias: Bias,
    query_stride: int,
    key_stride: int,
    window: int | None,
    dropout: float,
    mode: str,
    past_only: bool = False,
    masked: bool = False,
  ):
    super().__init__(n_in=bias.n_arrays + 4 + masked, n_out=1)
    self._bias = bias
    self._query_stride = query_stride
    self._key_stride = key_stride
    self._window = window
    self._dropout = dropout if mode == 'train' else 0.0
    self._mode = mode
    self._past_only = past_only

  def forward(self, inputs):
    n = self._bias.n_arrays
    arrays, (t, q, *keys) = inputs[:n], inputs[n:]  # keys: k, v[, mask]
    length = q.shape[-2]
    if self._window is not None and length > self._window:
      b = q.shape[0]
      keys = [x.reshape(b, -1, *x.shape[-2:]) for x in keys]
      keys = [block_pairs(x, self._window, length) for x in keys]
      y = self._attend(arrays, t, blocks(q, self._window), keys, self.rng)
      b, n, h, w, d = y.shape
      return y.swapaxes(1, 2).reshape(b, h, n * w, d)[:, :, :length]
    if self._window is not None:
      return self._attend(arrays, t, q, keys, self.rng)
    if self._mode == 'predict':
      return self._attend_to_filled(arrays, t, q, keys)
    spans = self._spans(length, keys[0].shape[-2])
    rngs = jax.random.split(self.rng, len(spans))
    outputs = [
      self._attend_in_parts(
        arrays, t, q[..., a:b, :], _first_rows(keys, c), rng
      )
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
    n = min(self._N_SPANS, n_queries // self._MIN_SPAN, n_queries // unit)
    n = max(1, n)
    ends = [i * n_queries // (n * unit) * unit for i in range(n)] + [n_queries]
    return [
      (a, b, b * self._query_stride // self._key_stride)
      for a, b in itertools.pairwise(ends)
    ]

  def _attend_in_parts(self, arrays, t, q, keys, rng):
    """Attends some queries at a time; queries and keys end together."""
    n_queries, n_keys = q.shape[-2], keys[0].shape[-2]
    if n_queries <= MAX_ROWS or self._query_stride != self._key_stride:
      return self._attend(arrays, t, q, keys, rng)
    if len(keys) == 2:
      keys = [*keys, jnp.ones((len(q), 1, n_keys, 1), bool)]
    # So that each part too ends with the last of as many keys. What is padded
    # is masked.
    before = (-(-n_queries // MAX_ROWS) - 1) * MAX_ROWS
    padded = [jnp.pad(x, [(0, 0), (0, 0), (before, 0), (0, 0)]) for x in keys]

    def attend(q, start, rng):
      keys = [
        jax.lax.dynamic_slice_in_dim(x, start, n_keys, axis=-2) for x in padded
      ]
      return self._attend(arrays, t, q, keys, rng)

    return in_parts(attend, q, rng)

  def _attend_to_filled(self, arrays, t, q, keys):
    """Attends to the rows of a cache up to those of the last query."""
    sizes = filled_sizes(keys[0].shape[-2], self._MIN_CACHE)
    end = (t + q.shape[-2]) * self._query_stride
    filled = -(-end // self._key_stride)
    branches = [
      lambda arrays, t, q, keys, n=n: self._attend(
        arrays, t, q, _first_rows(keys, n), self.rng
      )
      for n in sizes
    ]
    choice = jnp.searchsorted(jnp.asarray(sizes), filled)
    return jax.lax.switch(choice, branches, arrays, t, q, keys)

  def _attend(self, arrays, t, q, keys, rng):
    k, v, *mask = keys
    offsets, seen = self._offsets(t, q, k)
    if mask:
      seen &= mask[0].reshape(*q.shape[: q.ndim - 3], 1, 1, -1)
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
      steps = -((t - keys[None]) % n_keys)
    else:
      steps = n_queries - n_keys + keys - queries
    if self._past_only:
      return steps * query_stride, (steps < 0) & (steps >= -window)
    if q.ndim == 5:
      t = t + (jnp.arange(q.shape[1]) * window)[:, None, None, None]
    exists = t + queries + steps >= 0
    seen = (steps <= 0) & (steps > -window) & exists
    return steps * query_stride, seen


def in_parts(attend, q, rng):
  """Attends `MAX_ROWS` queries at a time, so that memory is linear in length.

  The backward pass computes the weights of each part anew.

  Args:
    attend: q (b, h, rows, d / h), number of the first, rng -> the same shape.
      Queries are numbered with the zeros that are put before them, so that all
      parts are as long.
    q: All queries, (b, h, l, d / h).
    rng: A key.
  """
  *lead, length, d = q.shape
  if length <= MAX_ROWS:
    return attend(q, 0, rng)
  zeros = -length % MAX_ROWS
  q = jnp.pad(q, [(0, 0), (0, 0), (zeros, 0), (0, 0)])
  n = q.shape[-2] // MAX_ROWS
  parts = jnp.moveaxis(q.reshape(*lead, n, MAX_ROWS, d), 2, 0)
  y = jax.lax.map(
    jax.checkpoint(lambda x: attend(*x)),
    (parts, jnp.arange(n) * MAX_ROWS, jax.random.split(rng, n)),
  )
  return jnp.moveaxis(y, 0, 2).reshape(*lead, n * MAX_ROWS, -1)[..., zeros:, :]


def _first_rows(arrays, n):
  return [x[..., :n, :] for x in arrays]


def filled_sizes(capacity, least):
  """A capacity, a half, a quarter, .. of it, down to `least`; ascending."""
  sizes = [capacity]
  while sizes[0] > least:
    sizes.insert(0, -(-sizes[0] // 2))
  return sizes


def softmax_attention(q, k, v, bias, seen, dropout, rng):
  """Weighted means of the values (.., h, q, d / h), in their dtype.

  The weights are the softmax, in float32, of (q.k + bias) / sqrt(d / h) over
  the keys where `seen`.
  """
  keys = scores(q, k, bias), seen, functools.partial(means, v=v)
  return softmax_means([keys], v.dtype, dropout, rng)


def scores(q, k, bias):
  """(q.k + bias) / sqrt(d / h), float32 (.., h, q, k)."""
  # A buffer of keys has batch and heads as one axis: see `cache.empty`.
  q_like_k = q.reshape(*k.shape[:-2], *q.shape[-2:]) if q.ndim != k.ndim else q
  products = jnp.einsum(
    '...qd,...kd->...qk', q_like_k, k, preferred_element_type=jnp.float32
  )
  return (bias + products.reshape(*q.shape[:-1], -1)) / math.sqrt(q.shape[-1])


def means(weights, v):
  """(.., h, q, k) x (.., h, k, d / h) -> (.., h, q, d / h)."""
  shape = *weights.shape[:-1], v.shape[-1]
  if weights.ndim != v.ndim:
    weights = weights.reshape(*v.shape[:-2], *weights.shape[-2:])
  return jnp.einsum('...qk,...kd->...qd', weights, v).reshape(shape)


def softmax_means(sets, dtype, dropout, rng):
  """Means of values under one softmax over several sets of keys.

  Args:
    sets: For each its scores, float32 (.., h, q, k); which of them are seen;
      and a function from weights (.., h, q, k) to the sum of so much of the
      values, (.., h, q, d / h).
    dtype: That of the weights.
    dropout: Rate of dropout on the weights.
    rng: Its key.
  """
  logits, seen, parts = zip(*sets, strict=True)
  rngs = jax.random.split(rng, len(sets)) if len(sets) > 1 else [rng]
  y = []
  for weights, part, rng in zip(
    _softmax(logits, seen), parts, rngs, strict=True
  ):
    weights = weights.astype(dtype)
    if dropout:
      weights = _drop(weights, dropout, rng)
    y.append(part(weights))
  return functools.reduce(operator.add, y)


def _drop(x, rate, rng):
  """Dropout by 16 bits for each number: half as many as uniform draws need."""
  *lead, n = x.shape
  words = jax.random.bits(rng, (*lead, -(-n // 2)))
  bits = jax.lax.bitcast_convert_type(words, jnp.uint16)  # (.., n / 2, 2)
  dropped = min(round(rate * 2**16), 2**16 - 1)
  keep = bits.reshape(*lead, -1)[..., :n] >= dropped
  return jnp.where(keep, x / (1 - dropped / 2**16), 0)


def _seen_softmax(logits, seen):
  """Softmax over all keys that are seen; uniform where none is.

  Over the last axes of several arrays, which are not joined: the gradient would
  keep them joined and apart.
  """
  logits = [jnp.where(s, x, -1e9) for x, s in zip(logits, seen, strict=True)]
  tops = [jnp.max(x, axis=-1, keepdims=True) for x in logits]
  top = functools.reduce(jnp.maximum, tops)
  y = [jnp.exp(x - top) for x in logits]
  total = _sum(y)
  return tuple(x / total for x in y)


def _sum(arrays):
  """The sum over the last axes of all arrays."""
  return functools.reduce(
    operator.add, (jnp.sum(x, axis=-1, keepdims=True) for x in arrays)
  )


_softmax = jax.custom_jvp(_seen_softmax)


@_softmax.defjvp
def _softmax_jvp(primals, tangents):
  """Keeps the outputs alone for the gradient: autodiff keeps four arrays."""
  ys = _seen_softmax(*primals)
  ts, _ = tangents
  mean = _sum([y * t for y, t in zip(ys, ts, strict=True)])
  return ys, tuple(y * (t - mean) for y, t in zip(ys, ts, strict=True))


def blocks(x, window):
  """(b, h, l, d) -> (b, n, h, w, d), padded to n blocks of w rows."""
  x = jnp.pad(x, [(0, 0), (0, 0), (0, -x.shape[-2] % window), (0, 0)])
  b, h, length, d = x.shape
  return x.reshape(b, h, length // window, window, d).swapaxes(1, 2)


def block_pairs(x, window, length):
  """Each block of keys and the one before it: (b, n, h, 2 w, d).

  Of the keys (b, h, .., d) the last `length` are to be cut into blocks. What
  comes before them is the block before, or nothing, which stands for zeros.
  """
  if x.shape[-2] == length:
    x = jnp.pad(x, [(0, 0), (0, 0), (window, 0), (0, 0)])
  parts = blocks(x[..., -(length + window) :, :], window)
  return jnp.concatenate([parts[:, :-1], parts[:, 1:]], axis=-2)
