"""Causal attention: self-attention, and attention between two resolutions.

Every layer here consists of projections to heads, a key/value cache, dot
products with a position scheme, and an output projection. A stride is the
distance in tokens between neighbors: k in a sequence shortened k times. Queries
and keys may have different strides (see `dot_product`).

In predict mode, keys and values go to a cache of `max_len` tokens. A call takes
any number of new tokens; all calls together take at most `max_len`.

Letters: b batch, h heads, l length, d d_model.
"""

from collections.abc import Callable

import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.attention.cache import KeyValueCache, MaskedPastRows
from trax_hier.layers.attention.dot_product import DotProductAttention
from trax_hier.layers.attention.heads import Heads, MergeHeads
from trax_hier.layers.attention.positions import (
  Clock,
  NoPositions,
  check_carry,
)
from trax_hier.layers.base.carry import check_carries, refuse_carry
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.dense import Dense, Projections
from trax_hier.layers.base.slots import PROJECTION, QKV, build_part


@configurable(module='trax_hier.layers')
def DenseQKV(d_out: int):
  """Three parallel dense layers: (b, l, d) -> q, k, v (b, l, d_out).

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> tree(DenseQKV(4), (2, 6, 8)).outputs
    ((2, 6, 4), (2, 6, 4), (2, 6, 4))
  """
  return Projections(d_out, 3)


@configurable(module='trax_hier.layers', denylist=['masked', 'carry'])
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
  d_head: int | None = None,
  carry: bool = False,
):
  """Causal self-attention: (b, l, d) -> (b, l, d).

  Args:
    d_model: Width of inputs and outputs.
    n_heads: Number of heads; divides d_model unless d_head is set.
    window: Number of positions that a position attends to, up to and including
      itself, at a cost linear in length; None means all.
    dropout: Dropout rate of the attention weights.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity in tokens of the cache in predict mode.
    stride: Distance in tokens between neighboring positions.
    positions: Position scheme; None means `NoPositions()`.
    qkv: Factory of the projection to queries, keys and values, of width
      `d_out`.
    output: Factory of the output projection, of width `d_out`.
    masked: Whether the layer takes a second input, mask (b, l) bool. Rows where
      it is False are not attended to. `qkv` and `output` get the mask too if
      they have a parameter `masked`.
    d_head: Width of a head; None means d_model / n_heads.
    carry: Whether a call in 'train' and 'eval' modes continues the sequence of
      the previous call: its first positions attend to the last of that call.

  Raises:
    ValueError: n_heads does not divide d_model, window is not positive, or
      `carry` is combined with no window, with positions that count from the
      start of a call, or with `qkv` or `output` that cannot carry.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> attention = SelfAttention(d_model=8, n_heads=2, window=4)
    >>> print(tree(attention, (2, 6, 8)).text(depth=0))
    layer               parameters   in          out
    SelfAttention ...          288   (2, 6, 8)   (2, 6, 8)
  """
  scheme = positions or NoPositions()
  rotate_q, rotate_k = (scheme.rotate(stride, mode) for _ in range(2))
  if window is None:
    reason = 'without SelfAttention.window would have to keep all positions'
    refuse_carry('SelfAttention', carry, mode, reason)
  check_carry('SelfAttention', scheme, carry and mode != 'predict')
  width = n_heads * d_head if d_head else d_model
  shared = dict(mode=mode, masked=masked, carry=carry)
  for name, factory, d_in, d_out in (
    ('qkv', qkv, d_model, width),
    ('output', output, width, d_model),
  ):
    check_carries(
      f'SelfAttention.{name}', factory, d_model=d_in, d_out=d_out, **shared
    )
  heads = Heads(
    d_model,
    n_heads,
    *(rotate_q, rotate_k, []),
    d_head=d_head,
    project=build_part(
      'SelfAttention.qkv', qkv, QKV, d_model=d_model, d_out=width, **shared
    ),
  )
  project_output = _projection(output, width, d_model, shared)
  attend = _AttendToCache(
    project_output,
    scheme,
    stride,
    stride,
    window,
    dropout,
    mode,
    max_len,
    masked,
    carry,
  )
  if not masked:
    return tl.Serial(heads, attend)
  n_masks = heads.n_in + project_output.n_in - 1
  return tl.Serial(  # x, mask
    tl.Select([0] + [1] * n_masks),
    heads,  # q, k, v, mask
    tl.Parallel(
      None, None, None, tl.Fn('AsRows', lambda mask: mask[:, None, :, None])
    ),
    attend,
  )


def _projection(output, d_in, d_out, arguments):
  """The output projection, (b, l, d_in) -> (b, l, d_out)."""
  layer = build_part(
    'SelfAttention.output', output, PROJECTION, d_out=d_out, **arguments
  )
  if d_in != d_out and not layer.sublayers and isinstance(layer, tl.Serial):
    raise ValueError(
      f'SelfAttention.output = @NoProjection needs heads of width d_model / '
      f'n_heads: n_heads * d_head = {d_in} is not d_model = {d_out}; use '
      '@Dense or @SparseDense, or d_head = None'
    )
  return layer


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

  Queries x (b, l, d) with stride `query_stride`, keys and values from y (b, m,
  d) with stride `key_stride` -> (b, l, d). Arguments as in `SelfAttention`.

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
  carry=False,
):
  """Attention to cached keys, then the projection `output`.

  q, k, v (b, h, l, d / h)[, mask (b, 1, l, 1)] -> (b, l, d); predict mode
  caches k, v and the mask. With `carry`, there is no mask among the inputs.
  """
  # Rounded up to hold the last group of the coarser sequence as a whole.
  max_len += -max_len % max(query_stride, key_stride)
  n_rows = -(-max_len // key_stride)
  strides = query_stride, key_stride
  cache = KeyValueCache(n_rows, window, mode, 2 + masked)
  if carry and mode != 'predict':
    cache, masked = MaskedPastRows(window), True
  return tl.Serial(  # q, k, v[, mask]
    tl.Parallel(None, cache),
    Attend(scheme, *strides, window, dropout, mode, max_len, masked=masked),
    output,
  )


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

  `window` counts keys, so it requires equal strides. `past_only` and `masked`
  are as in `DotProductAttention`.

  Raises:
    ValueError: mode is unknown, or window is not positive.

  Example: queries of zero average the values of their window, here two.
    >>> import jax
    >>> attend = Attend(NoPositions(), 1, 1, 2, 0.0, 'eval', max_len=4)
    >>> q, v = jnp.zeros((1, 1, 4, 1)), jnp.arange(4.0).reshape(1, 1, 4, 1)
    >>> print(jax.jit(attend)((q, q, v), rng=jax.random.PRNGKey(0)).ravel())
    [0.  0.5 1.5 2.5]
  """
  check_arguments('', mode=mode)
  if window is not None:
    if window < 1:
      raise ValueError(f'window = {window} must be positive, or None')
    max_len = (window + past_only) * key_stride
  bias = positions.bias(query_stride, key_stride, max_len, mode)

  def prepare(q, k, v):
    """Returns q and k for the bias, q for the clock, then q, k, v."""
    keys = k
    if window is not None and q.shape[-2] > window:
      # `DotProductAttention` cuts queries into blocks with 2 * window keys.
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
