"""Upsampling layers: s (b, l / k, d), x (b, l, d) -> (b, l, d).

s is the shortened sequence, x the sequence before shortening. An upsampling has
two stages, which decoding runs at different rates: `coarse` reads only s, once
per group of k tokens; `fine` runs for every token.

To add an upsampling, write a function here with `shorten_factor` and any of the
other arguments of `AttentionUpsample` that returns an `Upsample`, and export it
from `trax_hier.layers`.

Source: Hourglass (arXiv 2110.13711) section 2.3.
"""

from collections.abc import Callable

import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers.attention.causal_attention import Attend
from trax_hier.layers.attention.heads import Heads
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.base.dense import Dense
from trax_hier.layers.base.feed_forward import FeedForward
from trax_hier.layers.base.normalization import LayerNorm
from trax_hier.layers.base.slots import EXPAND, FEED_FORWARD, build_part
from trax_hier.layers.blocks import PreNormResidual


class Upsample(tl.Serial):
  """An upsampling layer in two stages: s, x -> (b, l, d).

  Args:
    coarse: s (b, m, d) -> u (b, m k, d), and any number of further tensors with
      one row per group on the second-to-last axis. Decoding keeps these in
      buffers.
    fine: u, the further tensors, x -> (b, l, d); None returns u.
    name: Name of the layer.

  Example:
    >>> repeat = tl.Fn('Repeat', lambda s: jnp.repeat(s, 2, axis=1))
    >>> add = tl.Fn('Add', lambda u, x: u + x)
    >>> s, x = jnp.array([[[10], [20]]]), jnp.arange(4)[None, :, None]
    >>> print(Upsample(repeat, add)((s, x))[0, :, 0])
    [10 11 22 23]
  """

  def __init__(
    self, coarse: base.Layer, fine: base.Layer | None = None, name: str = ''
  ):
    fine = fine or tl.Select([0], n_in=2)
    super().__init__(tl.Parallel(coarse, None), fine, name=name or 'Upsample')
    self._coarse = coarse
    self._fine = fine

  @property
  def coarse(self) -> base.Layer:
    """The stage that runs once per group."""
    return self._coarse

  @property
  def fine(self) -> base.Layer:
    """The stage that runs for every token."""
    return self._fine


@configurable(module='trax_hier.layers')
def RepeatUpsample(shorten_factor: int):
  """Repeats each vector k times: s (b, m, d), x (b, m k, d) -> (b, m k, d).

  Example:
    >>> s, x = jnp.array([[[10], [20]]]), jnp.zeros((1, 4, 1))
    >>> print(RepeatUpsample(2)((s, x))[0, :, 0])
    [10 10 20 20]
  """
  return Upsample(
    tl.Fn('Repeat', lambda s: jnp.repeat(s, shorten_factor, axis=1)),
    name=f'RepeatUpsample({shorten_factor})',
  )


@configurable(module='trax_hier.layers')
def ZeroUpsample(shorten_factor: int):
  """Returns zeros, so that queries of `AttentionUpsample` come from x alone.

  s (b, m, d), x (b, m k, d) -> (b, m k, d)

  Example:
    >>> s, x = jnp.array([[[10], [20]]]), jnp.zeros((1, 4, 1))
    >>> print(ZeroUpsample(2)((s, x))[0, :, 0])
    [0 0 0 0]
  """
  return Upsample(
    tl.Fn(
      'Zeros', lambda s: jnp.repeat(jnp.zeros_like(s), shorten_factor, axis=1)
    ),
    name=f'ZeroUpsample({shorten_factor})',
  )


@configurable(module='trax_hier.layers')
def LinearUpsample(
  shorten_factor: int, d_model: int, dropout: float = 0.0, mode: str = 'train'
):
  """Projects each vector to k vectors; reverses the shapes of `LinearShorten`.

  s (b, m, d), x (b, m k, d) -> (b, m k, d)

  Args:
    shorten_factor: k.
    d_model: Width of inputs and outputs.
    dropout: Dropout rate of the projection.
    mode: 'train', 'eval' or 'predict'.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = LinearUpsample(3, d_model=8)
    >>> print(tree(layer, (2, 4, 8), (2, 12, 8)).text(0))
    layer                parameters   in                     out
    LinearUpsample ...          216   (2, 4, 8) (2, 12, 8)   (2, 12, 8)
  """

  def ungroup(s):
    b, m, _ = s.shape
    return s.reshape(b, m * shorten_factor, d_model)

  coarse = tl.Serial(
    Dense(shorten_factor * d_model),  # (b, m, k d)
    tl.Dropout(dropout, mode=mode),
    tl.Fn(f'UngroupTokens({shorten_factor})', ungroup),  # (b, m k, d)
  )
  return Upsample(coarse, name=f'LinearUpsample({shorten_factor})')


@configurable(module='trax_hier.layers')
@passes_on('d_ff')
def AttentionUpsample(
  shorten_factor: int,
  d_model: int,
  d_ff: int = 2048,
  n_heads: int = 8,
  expand: Callable[..., Upsample] = LinearUpsample,
  feed_forward: Callable[..., base.Layer] = FeedForward,
  token_offsets: bool = False,
  dropout: float = 0.0,
  mode: str = 'train',
  max_len: int = 2048,
  stride: int = 1,
  positions: NoPositions | None = None,
):
  """Attention of tokens to the shortened vectors, then a feed-forward layer.

  x' (b, l / k, d), x (b, l, d) -> (b, l, d)

  y = U(x, x') + Attention(U(x, x'), x'), with U(x, x') = x + an expansion of
  x'. x' is normalized first, and so is its expansion. With relative positions,
  the cost is O(l ** 2 / k), not O(l ** 2).

  Args:
    shorten_factor: k.
    d_model: Width of inputs and outputs.
    d_ff: Hidden width of the feed-forward layer.
    n_heads: Number of attention heads.
    expand: Factory of the expansion of x': `LinearUpsample`, `RepeatUpsample`
      or `ZeroUpsample`.
    feed_forward: Factory of the feed-forward layer.
    token_offsets: Whether positions are in tokens, as in all other layers.
      Otherwise they are in units of this level, as in the published models. The
      two differ only at the inner levels of a nested hierarchy.
    dropout: Dropout rate of the attention and feed-forward layers, inside and
      after them.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity in tokens in predict mode.
    stride: Distance in tokens between neighboring outputs.
    positions: Position scheme of the attention; None means `NoPositions()`.

  Raises:
    ValueError: `expand` does not return an `Upsample`, or n_heads does not
      divide d_model.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = AttentionUpsample(3, d_model=8, d_ff=16, n_heads=2)
    >>> print(tree(layer, (2, 4, 8), (2, 12, 8)).text(0))
    layer                   parameters   in                     out
    AttentionUpsample ...          832   (2, 4, 8) (2, 12, 8)   (2, 12, 8)
  """
  dimensions = dict(d_model=d_model, d_ff=d_ff, dropout=dropout, mode=mode)
  scheme = positions or NoPositions()
  if not token_offsets:
    stride, max_len = 1, -(-max_len // stride)
  key_stride = shorten_factor * stride
  expansion = build_part(
    'AttentionUpsample.expand',
    expand,
    EXPAND.of(f'x/{shorten_factor}, x -> x'),
    shorten_factor=shorten_factor,
    d_model=d_model,
    mode=mode,
  )
  feed = build_part(
    'AttentionUpsample.feed_forward', feed_forward, FEED_FORWARD, **dimensions
  )
  coarse = tl.Serial(  # x'
    LayerNorm(),
    tl.Branch(
      tl.Serial(expansion.coarse, LayerNorm()),
      Heads(d_model, n_heads, scheme.rotate(key_stride, mode), []),
    ),  # u, k, v
  )
  attention = tl.Serial(  # q, k, v
    tl.Parallel(
      Heads(d_model, n_heads, scheme.rotate(stride, mode)), None, None
    ),
    Attend(scheme, stride, key_stride, None, dropout, mode, max_len),
    Dense(d_model),
  )
  fine = tl.Serial(  # u, k, v, x
    tl.Select([0, 3, 1, 2]),
    tl.Add(),  # q, k, v
    tl.Residual(attention, tl.Dropout(dropout, mode=mode)),
    PreNormResidual(feed, dropout, mode),
  )
  return Upsample(coarse, fine, name=f'AttentionUpsample({shorten_factor})')
