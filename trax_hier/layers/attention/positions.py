"""Position schemes for attention.

A scheme says how the distance between a query and a key enters attention. It is
made once per model and handed to every attention layer, which asks it for:

* `rotate(stride)`: layers for queries or keys whose neighbours lie `stride`
  tokens apart, (b, h, l, d_head) -> same; keys are rotated before caching;
* `bias(...)`: a `Bias`, what it adds to the dot products.

A model asks it for `embed(mode)`: layers that add positions to its embeddings,
and to the inputs of its coarser scales.
`shared` lists layers whose weights all attention layers of the model share.
Letters: b batch, h heads, l length, q queries, k keys, c rows of a table.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.base.build import check_heads
from trax_hier.layers.base.dense import Dense
from trax_hier.layers.base.stacking import FromWeights


class Clock(base.Layer):
  """Counts the tokens seen in earlier predict calls.

  x (..., l, d) -> the number of positions (int32 scalar) that earlier calls
  brought; 0 in 'train' and 'eval' modes, where a call is a whole sequence.
  """

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
  """What a position scheme adds to the dot products of one attention layer.

  Attributes:
    layer: q, k -> `n_arrays` arrays made of weights, such as a table.
    n_arrays: Their number.
    apply: (arrays, offsets, q, n_keys) -> (q, bias): the queries to take dot
      products with, and what to add to the products before they are scaled, a
      number or float32 (.., h, n_queries, n_keys). `offsets` (n_queries,
      n_keys) are distances key minus query in tokens. The queries may be any
      rows of those that `layer` saw, the keys its first n_keys, as long as both
      end at the same token.
  """

  layer: base.Layer
  n_arrays: int
  apply: Callable[[Sequence[jax.Array], jax.Array, jax.Array, int], tuple]


@configurable(module='trax_hier.layers')
class NoPositions:
  """Attention that sees order only through its causal mask.

  Queries and keys (.., l, d_head) stay as they are. It is the base class of the
  other schemes.

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
      stride: Distance in tokens of neighbouring embeddings.
    """
    del mode, stride
    return []

  def encode(self, x: jax.Array, positions: jax.Array) -> jax.Array:
    """Encodes `positions` (l,) in tokens into queries or keys (.., l, d_head).

    The same as the layers of `rotate`, for who knows the positions.
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
    """Returns what is added to dot products.

    Args:
      query_stride: Distance in tokens of neighbouring queries.
      key_stride: Distance in tokens of neighbouring keys.
      max_len: Capacity in tokens in predict mode.
      mode: 'train', 'eval' or 'predict'.
    """
    del query_stride, key_stride, max_len, mode
    return Bias(
      tl.Select([], n_in=2), 0, lambda arrays, offsets, q, n_keys: (q, 0.0)
    )


@configurable(module='trax_hier.layers')
class LearnedPositions(NoPositions):
  """A learned vector for each position, added to embeddings (b, l, d).

  Args:
    n_positions: Number of positions; a sequence cannot be longer.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> (layer,) = LearnedPositions(n_positions=512).embed('eval')
    >>> print(tree(layer, (2, 12, 8)))
    layer           parameters   in           out
    PositionTable        4,096   (2, 12, 8)   (2, 12, 8)

  Source: Attention Is All You Need (arXiv 1706.03762), section 3.5; weights
  begin as the sinusoids there, as in Scaling Transformers' published code.
  """

  def __init__(self, n_positions: int = 2048):
    if n_positions < 1:
      raise ValueError(
        f'LearnedPositions.n_positions = {n_positions} must be positive'
      )
    self._n_positions = n_positions

  def embed(self, mode: str, stride: int = 1) -> list[base.Layer]:
    """Returns a layer that adds a table of its own to (b, l, d)."""
    return [_PositionTable(self._n_positions, stride, mode)]


class _PositionTable(base.Layer):
  """x (b, l, d) -> x + table[t : t + l], t rows after the start."""

  def __init__(self, n_positions, stride, mode):
    super().__init__()
    self._n_positions = n_positions
    self._stride = stride
    self._mode = mode

  @property
  def n_positions(self):
    """The length in tokens of the longest sequence."""
    return self._n_positions

  def init_weights_and_state(self, input_signature):
    d_model = input_signature.shape[-1]
    tokens = jnp.arange(0, self._n_positions, self._stride)
    # One wave less if d_model is odd.
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
    if self._mode != 'predict':
      return x + self.weights[:length]
    t = self.state
    self.state = t + length
    return x + jax.lax.dynamic_slice_in_dim(self.weights, t, length)


def longest_sequence(layer: base.Layer) -> int | None:
  """The most tokens that a model has positions for; None is any number.

  Example:
    >>> longest_sequence(tl.Serial(LearnedPositions(512).embed('eval')))
    512
    >>> print(longest_sequence(tl.Serial(RotaryPositions().embed('eval'))))
    None
  """
  if isinstance(layer, _PositionTable):
    return layer.n_positions
  return min(
    (n for n in map(longest_sequence, layer.sublayers) if n), default=None
  )


@configurable(module='trax_hier.layers')
class RotaryPositions(NoPositions):
  """Rotary positions: queries and keys turned by angles of their position.

  (.., l, d_head) -> (.., l, d_head), d_head even

  Args:
    base: Longest wavelength of the rotation, over 2 pi, in tokens.

  Example:
    >>> q = RotaryPositions().encode(jnp.ones((3, 2)), jnp.arange(3))
    >>> print(np.asarray(q @ q.T).round(2))  # Distance alone counts.
    [[ 2.    1.08 -0.83]
     [ 1.08  2.    1.08]
     [-0.83  1.08  2.  ]]

  Source: RoFormer (arXiv 2104.09864), with the two halves of a head as pairs.
  """

  def __init__(self, base: float = 10000.0):
    self._base = base

  def rotate(self, stride: int, mode: str) -> list[base.Layer]:
    """Returns a layer that turns (b, h, l, d_head) by its positions."""

    def turn(t, x):
      return self.encode(x, (t + jnp.arange(x.shape[-2])) * stride)

    return [
      tl.Branch(Clock(mode), None),  # t, x
      tl.Fn('Rotate', turn),
    ]

  def encode(self, x: jax.Array, positions: jax.Array) -> jax.Array:
    """Turns queries or keys (.., l, d_head) by angles of their positions."""
    half, odd = divmod(x.shape[-1], 2)
    if odd:
      raise ValueError(
        f'RotaryPositions needs heads of even width, not {x.shape[-1]}: '
        'choose another n_heads, d_model or d_head'
      )
    frequencies = self._base ** (-jnp.arange(half) / half)
    angles = positions[:, None] * frequencies
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    x1, x2 = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    y = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
    return y.astype(x.dtype)


@configurable(module='trax_hier.layers')
class T5Positions(NoPositions):
  """A learned bias per head and logarithmic bucket of distance.

  Args:
    n_heads: Number of attention heads.
    n_buckets: Number of buckets; the first half holds one distance each.
    max_distance: Distance in tokens from which on all share the last bucket.

  Example:
    >>> from trax_hier.layers import SelfAttention
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = SelfAttention(8, n_heads=2, positions=T5Positions(n_heads=2))
    >>> tree(layer, (2, 12, 8)).n_parameters  # 288 and a table (2, 32)
    352

  Source: T5 (arXiv 1910.10683), section 2.1, the unidirectional buckets. Each
  attention layer has its own table of weights (n_heads, n_buckets).
  """

  def __init__(
    self, n_heads: int, n_buckets: int = 32, max_distance: int = 128
  ):
    if not 2 <= n_buckets < 2 * max_distance:
      raise ValueError(
        f'T5Positions.n_buckets = {n_buckets} must be between 2 and '
        f'2 * max_distance = {2 * max_distance}'
      )
    self._n_heads = n_heads
    self._n_buckets = n_buckets
    self._max_distance = max_distance

  def bias(
    self, query_stride: int, key_stride: int, max_len: int, mode: str
  ) -> Bias:
    """Returns the bias by head and distance."""
    del query_stride, key_stride, max_len, mode
    n, longest = self._n_buckets, self._max_distance

    def apply(arrays, offsets, q, n_keys):
      del n_keys
      (table,) = arrays
      return q, table[:, t5_buckets(-offsets, n, longest)]  # (h, q, k)

    table = tl.Weights(tl.RandomNormalInitializer(n**-0.5), (self._n_heads, n))
    return Bias(tl.Serial(tl.Select([], n_in=2), table), 1, apply)


def t5_buckets(distances, n_buckets: int, max_distance: int):
  """Buckets (int32) of distances query minus key; negative ones count as 0.

  Example:
    >>> distances = jnp.array([-3, 0, 1, 15, 16, 40, 127, 1000])
    >>> print(t5_buckets(distances, n_buckets=32, max_distance=128))
    [ 0  0  1 15 16 23 31 31]
  """
  distances = jnp.maximum(distances, 0)
  exact = n_buckets // 2
  octaves = jnp.log(jnp.maximum(distances, 1) / exact) / math.log(
    max_distance / exact
  )
  coarse = exact + (octaves * (n_buckets - exact)).astype(jnp.int32)
  return jnp.where(
    distances < exact, distances, jnp.minimum(coarse, n_buckets - 1)
  )


def sinusoid(positions, d_model: int):
  """Sines, then cosines, of positions (n,): float32 (n, d_model)."""
  frequencies = 10000.0 ** (-np.arange(0, d_model, 2) / d_model)
  angles = positions[:, None] * frequencies
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).astype(
    jnp.float32
  )


@configurable(module='trax_hier.layers')
class RelativePositions(NoPositions):
  """Transformer-XL's relative positions.

  score(i, j) = (q_i + u).k_j + (q_i + v).r_ij, with r_ij a projection, learned
  by each attention layer, of the sinusoid of the distance of key j from query
  i. The biases u and v, (1, h, 1, d_head), are one pair for the whole model.

  Args:
    d_model: Width of the model and of the sinusoids; even.
    n_heads: Number of attention heads; divides d_model.

  Raises:
    ValueError: d_model is odd or not divisible by n_heads.

  Example:
    >>> from trax_hier.layers import SelfAttention, ShareWeights
    >>> from trax_hier.inspection.layer_tree import tree
    >>> positions = RelativePositions(d_model=8, n_heads=2)
    >>> layer = tl.Serial(
    ...   ShareWeights(*positions.shared),  # u and v
    ...   SelfAttention(8, n_heads=2, positions=positions),
    ... )
    >>> print(tree(layer, (2, 12, 8)).text(1))
    layer                 parameters   in           out
    Serial                       376   (2, 12, 8)   (2, 12, 8)
      ShareWeights ...            16
      SelfAttention ...          360   (2, 12, 8)   (2, 12, 8)

  Source: Transformer-XL (arXiv 1901.02860) section 3.3; Hourglass appendix B.
  """

  def __init__(self, d_model: int, n_heads: int):
    check_heads(d_model, n_heads)
    if d_model % 2:
      raise ValueError(f'RelativePositions: d_model = {d_model} must be even')
    self._d_model = d_model
    self._n_heads = n_heads
    shape = (1, n_heads, 1, d_model // n_heads)
    initializer = tl.RandomNormalInitializer(1e-6)
    self._context_bias = tl.Weights(initializer, shape)
    self._location_bias = tl.Weights(initializer, shape)

  @property
  def shared(self) -> tuple[base.Layer, ...]:
    """The layers u and v, to be owned by the model's `ShareWeights`."""
    return self._context_bias, self._location_bias

  def bias(
    self, query_stride: int, key_stride: int, max_len: int, mode: str
  ) -> Bias:
    """Returns v, u and a table r of projected distances, and their use."""
    if mode == 'predict':
      grid = _AnyOffsets(query_stride, key_stride, max_len)
    elif query_stride >= key_stride:
      grid = _FineKeys(query_stride, key_stride)
    else:
      grid = _CoarseKeys(query_stride, key_stride)

    def split(r):
      return r.reshape(r.shape[0], self._n_heads, -1).swapaxes(0, 1)

    def table(waves):
      """A layer for r, (h, c, d / h)."""
      return tl.Serial(
        tl.Fn('Sinusoid', waves),
        Dense(self._d_model),
        tl.Fn('SplitHeads', split),
      )

    if mode == 'predict':
      distances = FromWeights(
        table(lambda: sinusoid(grid.rows(), self._d_model)), n_in=2
      )
    else:
      distances = table(
        lambda q, k: sinusoid(grid.rows(k.shape[-2]), self._d_model).astype(
          q.dtype
        )
      )

    def apply(arrays, offsets, q, n_keys):
      v, u, r = arrays
      if q.shape[-1] != u.shape[-1]:
        raise ValueError(
          f'RelativePositions has heads of d_model / n_heads = {u.shape[-1]}, '
          f'but the attention has d_head = {q.shape[-1]}'
        )
      return q + u, grid.logits(q + v, r, offsets, n_keys)

    layer = tl.Serial(  # q, k
      distances,  # r
      self._context_bias,
      self._location_bias,  # v, u, r
    )
    return Bias(layer, 3, apply)


class _FineKeys:
  """Queries whose stride is `ratio` >= 1 times that of the keys.

  A query sees n_keys distances at most, from those of the last query to the
  first key up to ratio - 1 keys ahead. One product scores all queries against
  all those distances; shifting row i by its own position then aligns them.
  """

  def __init__(self, query_stride, key_stride):
    self._ratio = query_stride // key_stride
    self._stride = key_stride

  def rows(self, n_keys):
    """Distances in tokens of the table's rows; the last `ratio` are padding."""
    return (jnp.arange(n_keys + self._ratio) + self._ratio - n_keys) * (
      self._stride
    )

  def logits(self, q, r, offsets, n_keys):
    """(.., h, q, d) x (h, c, d) -> (.., h, q, k)."""
    del offsets
    return _shift(_scores(q, r[:, -n_keys - self._ratio :]), self._ratio)


class _CoarseKeys:
  """Queries whose stride is 1 / `ratio` of that of the keys.

  The distance of key j from query i = ratio * a + m is ratio * (j - a) - m: for
  each m, the queries a see n_keys distances that shift as in `_FineKeys`. The
  cost is n_queries * n_keys; a table of all distances costs n_queries ** 2.
  """

  def __init__(self, query_stride, key_stride):
    self._ratio = key_stride // query_stride
    self._stride = query_stride

  def rows(self, n_keys):
    """Distances in tokens of the table's rows, those of m = 0 first."""
    groups = jnp.arange(n_keys + 1) + 1 - n_keys
    m = jnp.arange(self._ratio)[:, None]
    return ((groups * self._ratio - m) * self._stride).ravel()

  def logits(self, q, r, offsets, n_keys):
    """(.., h, q, d) x (h, c, d) -> (.., h, q, k)."""
    del offsets
    *batch, n_queries, d = q.shape
    q = q.reshape(*batch, n_queries // self._ratio, self._ratio, d)
    r = r.reshape(r.shape[0], self._ratio, -1, d)[:, :, -n_keys - 1 :]
    scores = jnp.einsum(
      '...hamd,hmcd->...hmac', q, r, preferred_element_type=jnp.float32
    )
    y = jnp.swapaxes(_shift(scores, 1), -3, -2)  # (.., h, a, m, k)
    return y.reshape(*batch, n_queries, n_keys)


class _AnyOffsets:
  """Queries and keys at positions known only when the program runs.

  The table holds every distance that a cache of `max_len` tokens can; fewer
  keys, from the first on, have use of its last rows only. Of many queries, the
  scores of the rows around theirs are shifted as in `_FineKeys`; for one, or if
  keys are coarser, each offset is looked up among all scores.
  """

  def __init__(self, query_stride, key_stride, max_len):
    self._stride = min(query_stride, key_stride)
    self._ratio = query_stride // self._stride
    self._key_ratio = key_stride // self._stride
    self._n_past = -(-max_len // self._stride) + self._ratio
    self._n_rows = self._n_past + self._ratio

  def rows(self):
    """Distances in tokens of the table's rows."""
    return (jnp.arange(self._n_rows) - self._n_past) * self._stride

  def logits(self, q, r, offsets, n_keys):
    """(.., h, q, d) x (h, c, d) and offsets (.., q, k) -> (.., h, q, k)."""
    n_past = min(self._n_past, n_keys * self._key_ratio + self._ratio)
    rows = offsets // self._stride + n_past
    scores = _scores(q, r[:, self._n_past - n_past :])
    n = q.shape[-2]
    if n > 1 and self._key_ratio == 1:
      # Rows that are not there belong to keys that the mask hides, such as
      # those that a cache holds beyond the window.
      before = n * self._ratio + max(0, n_keys - n_past)
      margins = [(0, 0)] * (scores.ndim - 1) + [(before, n_keys)]
      scores = jax.lax.dynamic_slice_in_dim(
        jnp.pad(scores, margins),
        rows[-1, 0] + before,
        n_keys + self._ratio,
        axis=-1,
      )
      return _shift(scores, self._ratio)
    rows = jnp.clip(rows, 0, scores.shape[-1] - 1)
    rows = jnp.broadcast_to(rows, (*scores.shape[:-1], rows.shape[-1]))
    return jnp.take_along_axis(scores, rows, axis=-1)


def _scores(q, r):
  """(.., h, q, d) x (h, c, d) -> (.., h, q, c), in float32."""
  return jnp.einsum(
    '...hqd,hcd->...hqc', q, r, preferred_element_type=jnp.float32
  )


def _shift(scores, step):
  """Moves row i of n left by step * (n - 1 - i): (n, c + step) -> (n, c).

  Reading the rows end to end with a row length shorter by `step` does it. What
  wraps round from the next row lands where the causal mask hides it.
  """
  *batch, n, width = scores.shape
  c = width - step
  flat = scores.reshape(*batch, n * width)
  start = (n - 1) * step
  return flat[..., start : start + n * c].reshape(*batch, n, c)
