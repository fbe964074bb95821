"""Causal dot-product attention over heads: the core of the attention layers.

A stride is the distance in tokens between neighbors: k in a sequence shortened
k times. Queries and keys may have different strides. Query i of stride s covers
the tokens before (i + 1) * s and attends to the keys that start before that
token.

Letters: b batch, h heads, l length, d d_model; n blocks, w window.
"""

import functools
import itertools

import jax
import jax.numpy as jnp

from trax_hier.layers.attention import flash
from trax_hier.layers.attention.positions import Bias
from trax_hier.layers.attention.softmax import softmax_attention
from trax_hier.layers.base.documents import ReadsDocuments
from trax_hier.layers.base.rows import largest_of_rows

# Maximum number of queries whose attention weights are in memory at a time.
MAX_ROWS = 1024


class DotProductAttention(ReadsDocuments):
  """Causal attention over heads: arrays, t, q, k, v, .. -> (b, h, l, d / h).

  `arrays` are the outputs of `bias.layer`; t is the number of queries in
  earlier predict calls. Keys and values come from the same sequence or, in
  predict mode, from a `KeyValueCache`.

  A window is the number of keys that a position attends to, up to and including
  its own key or, if `past_only`, the key before its own. With `past_only`, keys
  begin with `window` rows for the positions before the first (see
  `cache.PastRows`). These rows are not masked, so every position attends to the
  same number of keys.

  If `masked`, the last input is a mask (b, 1, l, 1) bool, which predict mode
  caches like keys; keys where it is False are not attended to.

  Long sequences are cut to skip most of the products that the causal mask or
  the window discards. With a window, each block of queries attends to its own
  block of keys and the window before. Without a window, queries are cut into a
  few spans. Each span attends to the keys before its end, in chunks if it is
  long (see `in_chunks`).

  Source of the sizes: benchmarks/hourglass.py on CPU. 4 spans save 3 / 8 of the
  products; 8 spans would save 7 / 16 but double the size of the program.

  In a row of several documents, queries attend to keys of their document.

  Where the kernels of `flash` fit, they compute all of this.

  A call reads only the filled rows of a cache, rounded up to capacity / 2^n, so
  time per token grows with the tokens so far and not with the capacity.

  Example: four queries of zero, and two keys of stride 2.
    >>> from trax_hier.layers import NoPositions
    >>> bias = NoPositions().bias(1, 2, max_len=4, mode='eval')
    >>> attend = jax.jit(DotProductAttention(bias, 1, 2, None, 0.0, 'eval'))
    >>> q, v = jnp.zeros((1, 1, 4, 1)), jnp.array([[[[0.0], [1.0]]]])
    >>> print(attend((0, q, v, v), rng=jax.random.PRNGKey(0)).ravel())
    [0.  0.  0.5 0.5]
  """

  _N_SPANS = 4  # Maximum.
  _MIN_SPAN = 128  # Minimum number of queries of a span.
  _MIN_CACHE = 128  # Smaller caches are read whole.

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
    self._masked = masked
    self._pattern = flash.Pattern(
      True, query_stride, key_stride, window, past_only
    )

  def forward(self, inputs):
    n = self._bias.n_arrays
    arrays, (t, q, *keys) = inputs[:n], inputs[n:]  # keys: k, v[, mask]
    if self._fits_flash(arrays, q, keys[0]):
      q, bias = self._apply_bias(arrays, q, keys[0])
      return flash.attend(q, *keys, self._pattern, bias)
    length = q.shape[-2]
    begins = self._begins(length)
    if self._window is not None and length > self._window:
      return self._attend_in_blocks(arrays, t, q, begins, keys)
    if self._window is not None:
      return self._attend(arrays, t, q, begins, keys, self.rng)
    if self._mode == 'predict':
      return self._attend_to_filled(arrays, t, q, keys)
    spans = self._spans(length, keys[0].shape[-2])
    rngs = jax.random.split(self.rng, len(spans))
    outputs = [
      self._attend_in_chunks(
        arrays, t, *_rows([q, begins], a, b), _rows(keys, 0, c), rng
      )
      for (a, b, c), rng in zip(spans, rngs, strict=True)
    ]
    return jnp.concatenate(outputs, axis=-2)

  def _begins(self, length):
    """Offset from each query to the begin of its document, (b, 1, l, 1).

    None if a row is one sequence.
    """
    if self.documents is None:
      return None
    positions = self.documents.of_rows(length)
    return -self._query_stride * positions[:, None, :, None]

  def _attend_in_blocks(self, arrays, t, q, begins, keys):
    """Attends from each block of queries to its keys and the window before."""
    b, h, length, _ = q.shape
    size = block_size(self._window)
    n = -(-length // size)
    q, begins = (x if x is None else blocks(x, size) for x in (q, begins))
    keys = [x.reshape(b, -1, *x.shape[-2:]) for x in keys]
    keys = [
      overlapping_blocks(x, size, self._window + size, length) for x in keys
    ]
    q, begins, *keys = (
      x if x is None else x.reshape(b * n, *x.shape[2:])
      for x in (q, begins, *keys)
    )
    first = t + size * jnp.tile(jnp.arange(n), b)[:, None, None, None]
    y = self._attend(arrays, first, q, begins, keys, self.rng, in_blocks=True)
    y = y.reshape(b, n, h, size, -1).swapaxes(1, 2)
    return y.reshape(b, h, n * size, -1)[:, :, :length]

  def _fits_flash(self, arrays, q, k):
    """Whether `flash` computes the attention, which decoding does without."""
    if self._mode == 'predict' or not flash.available(q, k):
      return False
    length, window = q.shape[-2], self._window

    def bias(arrays, q, k):
      if window and length > window:  # The arrays hold a window of distances.
        q, k = q[..., -window:, :], k[..., -2 * window :, :]
      return self._apply_bias(arrays, q, k)[1]

    bias = jax.eval_shape(bias, arrays, q, k)
    return flash.fits(
      q,
      k,
      self._pattern,
      bias,
      self._masked,
      self._dropout,
      in_documents=self.documents is not None,
    )

  def _apply_bias(self, arrays, q, k):
    """Queries for the products, and the bias, for queries and keys at once."""
    offsets, _ = self._offsets(0, q, k, False)
    return self._bias.apply(arrays, offsets, q, k.shape[-2])

  def _spans(self, n_queries, n_keys):
    """Returns (first query, end of queries, end of keys) of each span."""
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

  def _attend_in_chunks(self, arrays, t, q, begins, keys, rng):
    """Attends a chunk of queries at a time; q and keys end at one token."""
    n_queries, n_keys = q.shape[-2], keys[0].shape[-2]
    if n_queries <= MAX_ROWS or self._query_stride != self._key_stride:
      return self._attend(arrays, t, q, begins, keys, rng)
    if len(keys) == 2:
      keys = [*keys, jnp.ones((len(q), 1, n_keys, 1), bool)]
    # Padding, which is masked, gives each chunk n_keys keys that end where its
    # queries end.
    before = (-(-n_queries // MAX_ROWS) - 1) * MAX_ROWS
    padded = [_pad(x, before) for x in keys]
    if begins is not None:
      begins = _pad(begins, -n_queries % MAX_ROWS)

    def attend(q, start, rng):
      cut = functools.partial(
        jax.lax.dynamic_slice_in_dim, start_index=start, axis=-2
      )
      keys = [cut(x, slice_size=n_keys) for x in padded]
      own = None if begins is None else cut(begins, slice_size=MAX_ROWS)
      return self._attend(arrays, t, q, own, keys, rng)

    return in_chunks(attend, q, rng)

  def _attend_to_filled(self, arrays, t, q, keys):
    """Attends to the rows of a cache up to the last query's position."""
    sizes = read_sizes(keys[0].shape[-2], self._MIN_CACHE)
    end = (t + q.shape[-2]) * self._query_stride
    filled = -(-end // self._key_stride)
    branches = [
      lambda arrays, t, q, keys, n=n: self._attend(
        arrays, t, q, None, _rows(keys, 0, n), self.rng
      )
      for n in sizes
    ]
    choice = index_of_size(sizes, filled)
    return jax.lax.switch(choice, branches, arrays, t, q, keys)

  def _attend(self, arrays, t, q, begins, keys, rng, in_blocks=False):
    k, v, *mask = keys
    offsets, visible = self._offsets(t, q, k, in_blocks)
    if begins is not None:
      visible &= offsets >= begins
    if mask:
      visible &= mask[0].reshape(*q.shape[: q.ndim - 3], 1, 1, -1)
    q, bias = self._bias.apply(arrays, offsets, q, k.shape[-2])
    return softmax_attention(q, k, v, bias, visible, self._dropout, rng)

  def _offsets(self, t, q, k, in_blocks):
    """Distances in tokens, key minus query, and the mask of visible keys.

    Queries and keys end at one token, unless the keys are a cache. A cache
    begins at token 0 or, with a window and one query, is a ring buffer.
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
    if predict and n_queries == 1 and not in_blocks:
      steps = -((t - keys[None]) % n_keys)
    else:
      steps = n_queries - n_keys + keys - queries
    if self._past_only:
      return steps * query_stride, (steps < 0) & (steps >= -window)
    visible = (steps <= 0) & (steps > -window)
    if not self._masked:  # The mask hides rows before the start.
      visible &= t + queries + steps >= 0
    return steps * query_stride, visible


def in_chunks(attend, q, rng):
  """Attends `MAX_ROWS` queries at a time, so that memory is linear in length.

  The backward pass recomputes the attention weights of each chunk.

  Args:
    attend: (q (b, h, MAX_ROWS, d / h), start, rng) -> an array of the shape of
      q, where start is the index of the first query after left-padding all
      queries with zeros to a multiple of MAX_ROWS. If l <= MAX_ROWS, one call
      gets all queries.
    q: All queries, (b, h, l, d / h).
    rng: PRNG key.
  """
  *lead, length, d = q.shape
  if length <= MAX_ROWS:
    return attend(q, 0, rng)
  padding = -length % MAX_ROWS
  q = _pad(q, padding)
  n = q.shape[-2] // MAX_ROWS
  chunks = jnp.moveaxis(q.reshape(*lead, n, MAX_ROWS, d), 2, 0)
  y = jax.lax.map(
    jax.checkpoint(lambda x: attend(*x)),
    (chunks, jnp.arange(n) * MAX_ROWS, jax.random.split(rng, n)),
  )
  y = jnp.moveaxis(y, 0, 2).reshape(*lead, n * MAX_ROWS, -1)
  return y[..., padding:, :]


def _rows(arrays, begin, end):
  return [x if x is None else x[..., begin:end, :] for x in arrays]


def _pad(x, n):
  """Prepends n rows of zeros to x (b, h, l, d)."""
  return jnp.pad(x, [(0, 0), (0, 0), (n, 0), (0, 0)])


def read_sizes(capacity, smallest):
  """Numbers of cache rows that a call may read, ascending: capacity / 2^n.

  Only the first number may be less than or equal to `smallest`.
  """
  sizes = [capacity]
  while sizes[0] > smallest:
    sizes.insert(0, -(-sizes[0] // 2))
  return sizes


def index_of_size(sizes, n):
  """Index of the first of ascending sizes that is at least n, a scalar."""
  n = largest_of_rows(n)
  # Unlike `searchsorted`, this is no loop.
  return jnp.sum(jnp.array(sizes) < n, dtype=jnp.int32)


def blocks(x, window):
  """Cuts rows into zero-padded blocks: (b, h, l, d) -> (b, n, h, w, d)."""
  x = jnp.pad(x, [(0, 0), (0, 0), (0, -x.shape[-2] % window), (0, 0)])
  b, h, length, d = x.shape
  return x.reshape(b, h, length // window, window, d).swapaxes(1, 2)


def block_size(window: int) -> int:
  """Number of queries of a block that attends to a window.

  A block attends to window + size keys, so small blocks waste few products, but
  products of few rows are slow.

  Example:
    >>> [block_size(window) for window in (100, 128, 512, 2048)]
    [100, 128, 128, 512]
  """
  return next(
    size
    for size in range(max(window // 4, min(window, 128)), window + 1)
    if window % size == 0
  )


def overlapping_blocks(x, size, width, length):
  """Cuts the last `length` rows of x (b, h, .., d) into blocks of `size` rows.

  Each block begins with the width - size rows before it, or zeros if x has
  none; size divides width. -> (b, n, h, width, d).
  """
  n, before = -(-length // size), width - size
  x = x[..., -(length + before) :, :]
  missing = length + before - x.shape[-2]
  x = jnp.pad(x, [(0, 0), (0, 0), (missing, n * size - length), (0, 0)])
  b, h, _, d = x.shape
  x = x.reshape(b, h, -1, size, d)
  parts = [x[:, :, i : i + n] for i in range(width // size)]
  y = jnp.concatenate(parts, axis=-2)  # (b, h, n, width, d)
  return y.swapaxes(1, 2)
