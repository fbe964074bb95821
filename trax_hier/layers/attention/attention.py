"""Attention: one core for causal, windowed and cross attention.

Every attention layer is made of the same pieces: projections to heads, a
key/value cache, dot products with a position scheme, an output projection.
Queries and keys may lie on grids of different stride: neighbours in a sequence
shortened k times are k tokens apart (see `dot_product`).

In predict mode keys and values go to a cache of `max_len` tokens, and a call
takes any number of new tokens; calls together must not bring more than
`max_len`.

Letters: b batch, h heads, l length, d d_model.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.attention.cache import KeyValueCache
from trax_hier.layers.attention.dot_product import (
  DotProductAttention,
  in_parts,
  softmax_attention,
)
from trax_hier.layers.attention.positions import Clock, NoPositions
from trax_hier.layers.base.build import build, check_heads, check_mode
from trax_hier.layers.base.dense import Dense, Projections
from trax_hier.layers.base.stacking import Once


@configurable(module='trax_hier.layers')
def DenseQKV(d_out: int):
  """Three dense layers side by side: (b, l, d) -> three of (b, l, d_out).

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> tree(DenseQKV(4), (2, 6, 8)).outputs
    ((2, 6, 4), (2, 6, 4), (2, 6, 4))
  """
  return Projections(d_out, 3)


@configurable(module='trax_hier.layers', denylist=['masked'])
def SelfAttention(
  d_model: int,
  n_heads: int = 8,
  window: int | None = None,
  dropout: float = 0.0,
  mode: str = 'train',
  max_len: int = 2048,
  stride: int = 1,
  positions: NoPositions | None = None,
  qkv: Callable[..., base.Layer] = DenseQKV,
  output: Callable[..., base.Layer] = Dense,
  masked: bool = False,
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
    qkv: Makes what projects to queries, keys and values, of width `d_out`.
    output: Makes what projects the heads' outputs, to width `d_out`.
    masked: Whether there is a second input, mask (b, l) bool: rows where it is
      False are not attended to. `qkv` and `output` get the mask too if they
      name `masked`.

  Raises:
    ValueError: n_heads does not divide d_model, or window is not positive.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> attention = SelfAttention(d_model=8, n_heads=2, window=4)
    >>> print(tree(attention, (2, 6, 8)).text(depth=0))
    layer               parameters   in          out
    SelfAttention ...          288   (2, 6, 8)   (2, 6, 8)
  """
  scheme = positions or NoPositions()
  rotate_q, rotate_k = (scheme.rotate(stride, mode) for _ in range(2))
  project, merge = (
    build(part, d_out=d_model, mode=mode, masked=masked)
    for part in (qkv, output)
  )
  heads = Heads(d_model, n_heads, rotate_q, rotate_k, [], project=project)
  attend = _AttendToCache(
    merge, scheme, stride, stride, window, dropout, mode, max_len, masked
  )
  if not masked:
    return tl.Serial(heads, attend)
  n_masks = heads.n_in + merge.n_in - 1
  return tl.Serial(  # x, mask
    tl.Select([0] + [1] * n_masks),
    heads,  # q, k, v, mask
    tl.Parallel(
      None, None, None, tl.Fn('AsRows', lambda mask: mask[:, None, :, None])
    ),
    attend,
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

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = CausalAttention(8, n_heads=2, query_stride=1, key_stride=3)
    >>> tree(layer, (2, 12, 8), (2, 4, 8)).outputs
    ((2, 12, 8),)
  """
  scheme = positions or NoPositions()
  rotate_q = scheme.rotate(query_stride, mode)
  rotate_k = scheme.rotate(key_stride, mode)
  return tl.Serial(  # x, y
    tl.Parallel(
      Heads(d_model, n_heads, rotate_q), Heads(d_model, n_heads, rotate_k, [])
    ),  # q, k, v
    _AttendToCache(
      Dense(d_model),
      scheme,
      query_stride,
      key_stride,
      window,
      dropout,
      mode,
      max_len,
    ),
  )


def _AttendToCache(
  output,
  scheme,
  query_stride,
  key_stride,
  window,
  dropout,
  mode,
  max_len,
  masked=False,
):
  """q, k, v (b, h, l, d / h)[, mask (b, 1, l, 1)] -> (b, l, d).

  Keeps k, v and the mask in predict mode.
  """
  # The last group of coarse queries or keys must fit in whole.
  max_len += -max_len % max(query_stride, key_stride)
  n_rows = -(-max_len // key_stride)
  strides = query_stride, key_stride
  return tl.Serial(  # q, k, v[, mask]
    tl.Parallel(None, KeyValueCache(n_rows, window, mode, 2 + masked)),
    Attend(scheme, *strides, window, dropout, mode, max_len, masked=masked),
    output,
  )


@configurable(module='trax_hier.layers')
def CrossAttention(
  d_model: int,
  n_heads: int = 8,
  dropout: float = 0.0,
  mode: str = 'train',
  query: Callable[..., base.Layer] = Dense,
  output: Callable[..., base.Layer] = Dense,
):
  """Attention of all positions to all of another sequence, without positions.

  x (b, l, d), context (b, m, d), mask (b, m) bool -> (b, l, d); rows of
  `context` where the mask is False are not attended to. Where it is False
  everywhere, the heads give zeros.

  Args:
    d_model: Width of inputs and outputs.
    n_heads: Number of heads; divides d_model.
    dropout: Rate of dropout on the attention weights.
    mode: 'train', 'eval' or 'predict'. In predict mode the keys and values of
      the first call's context are kept for all later calls.
    query: Makes what projects to queries, of width `d_out`.
    output: Makes what projects the heads' outputs, to width `d_out`.

  Raises:
    ValueError: n_heads does not divide d_model.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> from trax_hier.compat import ShapeDtype
    >>> layer = CrossAttention(d_model=8, n_heads=2)
    >>> mask = ShapeDtype((2, 5), bool)
    >>> tree(layer, (2, 6, 8), (2, 5, 8), mask).outputs
    ((2, 6, 8),)
  """
  dropout = dropout if mode == 'train' else 0.0
  project = build(query, d_out=d_model, mode=mode)
  return tl.Serial(  # x, context, mask
    tl.Parallel(
      Heads(d_model, n_heads, [], project=project),
      Once(Heads(d_model, n_heads, [], []), mode),
      tl.Fn('OverHeads', lambda mask: mask[:, None, None]),
    ),  # q, k, v, mask
    _MaskedAttention(dropout),  # (b, h, l, d / h)
    MergeHeads(),
    build(output, d_out=d_model, mode=mode),
  )


@configurable(module='trax_hier.layers')
def EncoderAttention(
  d_model: int, n_heads: int = 8, dropout: float = 0.0, mode: str = 'train'
):
  """Attention of all positions to all others: x (b, l, d), mask -> (b, l, d).

  Arguments and mask, (b, l) bool, as in `CrossAttention`; a call is a whole
  sequence.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> from trax_hier.compat import ShapeDtype
    >>> layer = EncoderAttention(d_model=8, n_heads=2)
    >>> tree(layer, (2, 6, 8), ShapeDtype((2, 6), bool)).outputs
    ((2, 6, 8),)
  """
  return tl.Serial(  # x, mask
    tl.Parallel(
      Heads(d_model, n_heads, [], [], []),
      tl.Fn('OverHeads', lambda mask: mask[:, None, None]),
    ),  # q, k, v, mask
    _MaskedAttention(dropout if mode == 'train' else 0.0),  # (b, h, l, d / h)
    MergeHeads(),
    Dense(d_model),
  )


def Heads(
  d_model: int,
  n_heads: int,
  *rotations: Sequence[base.Layer],
  d_head: int | None = None,
  dense: Callable[[int], base.Layer] = Dense,
  project: base.Layer | None = None,
) -> base.Layer:
  """Projects to heads: (b, l, d) -> (b, h, l, d_head), once for each rotation.

  Args:
    d_model: Width of the input.
    n_heads: Number of heads.
    *rotations: For each output the layers that encode positions into it.
    d_head: Width of a head; None is d_model / n_heads, which must be whole.
    dense: Makes a projection, of the width it is given.
    project: Makes all the outputs, (b, l, h d_head) each, in place of `dense`.

  Raises:
    ValueError: n_heads or d_head is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(Heads(8, 2, [], []), (2, 6, 8)))
    layer           parameters   in          out
    Heads                  144   (2, 6, 8)   (2, 2, 6, 4) (2, 2, 6, 4)
      Projections          144   (2, 6, 8)   (2, 6, 8) (2, 6, 8)
  """
  if d_head is None:
    check_heads(d_model, n_heads)
    d_head = d_model // n_heads
  if min(n_heads, d_head) < 1:
    raise ValueError(
      f'n_heads = {n_heads} and d_head = {d_head} must be positive'
    )

  def split(x):
    b, l, _ = x.shape
    return x.reshape(b, l, n_heads, -1).swapaxes(1, 2)

  outputs = [
    tl.Serial(tl.Fn('SplitHeads', split), *layers) for layers in rotations
  ]
  return tl.Serial(
    project or Projections(n_heads * d_head, len(outputs), dense),
    tl.Parallel(*outputs) if len(outputs) > 1 else outputs[0],
  )


def MergeHeads() -> base.Layer:
  """(b, h, l, d / h) -> (b, l, d).

  Example:
    >>> MergeHeads()(jnp.zeros((2, 4, 6, 8))).shape
    (2, 6, 32)
  """

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
  past_only: bool = False,
  masked: bool = False,
) -> base.Layer:
  """Causal dot-product attention: q, k, v (b, h, l, d / h) -> (b, l, d).

  `window` counts keys of the queries' own sequence, so strides must be equal
  if it is given; `past_only` and `masked` are those of `DotProductAttention`.

  Raises:
    ValueError: mode is none that there is, or window is not positive.

  Example: means of two values, as queries of zero attend to all alike.
    >>> import jax
    >>> attend = Attend(NoPositions(), 1, 1, 2, 0.0, 'eval', max_len=4)
    >>> q, v = jnp.zeros((1, 1, 4, 1)), jnp.arange(4.0).reshape(1, 1, 4, 1)
    >>> print(jax.jit(attend)((q, q, v), rng=jax.random.PRNGKey(0)).ravel())
    [0.  0.5 1.5 2.5]
  """
  check_mode(mode)
  if window is not None and window < 1:
    raise ValueError(f'window = {window} must be positive, or None')
  reach = max_len if window is None else (window + past_only) * key_stride
  bias = positions.bias(query_stride, key_stride, reach, mode)

  def prepare(q, k, v):
    """q, k as the bias is to see them, then q, q, k, v."""
    keys = k
    if window is not None and q.shape[-2] > window:
      # As many rows as the blocks of `DotProductAttention` have keys.
      padding = [(0, 0)] * (k.ndim - 2) + [(2 * window, 0), (0, 0)]
      keys = jnp.pad(k, padding)
      keys = keys[..., -2 * window :, :]
    return q, keys, q, q, k, v

  return tl.Serial(  # q, k, v[, mask]
    tl.Fn('Prepare', prepare, n_out=6),
    bias.layer,  # arrays, q, q, k, v
    tl.Parallel(*[None] * bias.n_arrays, Clock(mode))
    if bias.n_arrays
    else Clock(mode),  # arrays, t, q, k, v
    DotProductAttention(
      bias, query_stride, key_stride, window, dropout, mode, past_only, masked
    ),
    MergeHeads(),
  )


class _MaskedAttention(base.Layer):
  """q, k, v, mask of the keys -> (b, h, l, d / h)."""

  def __init__(self, dropout):
    super().__init__(n_in=4, n_out=1)
    self._dropout = dropout

  def forward(self, inputs):
    q, k, v, mask = inputs

    def attend(q, start, rng):
      del start
      return softmax_attention(q, k, v, 0.0, mask, self._dropout, rng)

    y = in_parts(attend, q, self.rng)
    # Of keys that are all hidden, the mean would depend on their number.
    return jnp.where(jnp.any(mask, axis=-1, keepdims=True), y, 0)
