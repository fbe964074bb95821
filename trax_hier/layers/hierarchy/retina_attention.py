"""Attention to tokens and to blocks of tokens, under one softmax.

The keys of a query are sets of rows, one for each of several scales (see
`scales`). `AttentionAggregation` gives a token all tokens and all complete
blocks of every scale; `RetinaAttention` gives it near tokens one by one and
farther ones in ever larger blocks.

A block stands at its first token. All positions are in tokens.

Letters: b batch, h heads, l length, d d_model; w window, n windows.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.attention.attention import Heads, MergeHeads
from trax_hier.layers.attention.cache import KeyValueCache
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.base.build import build, check_mode
from trax_hier.layers.base.dense import Dense
from trax_hier.layers.base.feed_forward import FeedForward
from trax_hier.layers.base.groups import as_tuple
from trax_hier.layers.base.normalization import LayerNorm
from trax_hier.layers.blocks import PreNormResidual
from trax_hier.layers.hierarchy.attend_to_scales import AttendToScales
from trax_hier.layers.hierarchy.scales import (
  ConcatDense,
  Latest,
  Pyramid,
  check_scales,
)
from trax_hier.layers.hierarchy.shorten import AverageShorten


@configurable(module='trax_hier.layers')
def RetinaAttention(
  d_model: int,
  n_heads: int = 8,
  scales: tuple[int, ...] = (1, 4, 16),
  window: int = 64,
  pool: Callable[..., base.Layer] = AverageShorten,
  dropout: float = 0.0,
  mode: str = 'train',
  max_len: int = 2048,
  stride: int = 1,
  positions: NoPositions | None = None,
):
  """Self-attention that blurs with distance: (b, l, d) -> (b, l, d).

  Windows of w tokens lie side by side. A query sees the tokens of its own
  window up to itself and all of the window before. Of the S windows before
  these it sees the blocks of the next scale S, w keys, and so on; the last
  scale has no end. Every token before the query is covered exactly once, by at
  most 2 w + l / S_1 keys. Computed are, for each scale, those from the end of
  its band to the query: 2 w for tokens, w (1 + 2 / S_1) for the next scale, ..,
  and l / S for the last. (A predict call of many tokens computes all of its own
  keys for all of its queries.)

  With average pooling, weights are those of `SelfAttention`, but each scale has
  its own of a position scheme that has some.

  Args:
    d_model: Width of inputs and outputs.
    n_heads: Number of heads; divides d_model.
    scales: (1, S_1, ..), numbers of positions in a block.
    window: w, a multiple of every scale, in positions.
    pool: Makes a block of the next scale from rows of one: `AverageShorten`,
      `LinearShorten` or `AttentionShorten`.
    dropout: Rate of dropout on the attention weights.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity in tokens in predict mode. Of the positions, 2 w are kept;
      of the blocks, those that are still to be seen.
    stride: Distance in tokens of neighbouring positions.
    positions: Position scheme; None is `NoPositions()`.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> retina = RetinaAttention(8, n_heads=2, scales=(1, 2, 4), window=4)
    >>> print(tree(retina, (2, 16, 8)).text(depth=0))
    layer                 parameters   in           out
    RetinaAttention ...          288   (2, 16, 8)   (2, 16, 8)

  Source: Multi-scale Transformer Language Models (arXiv 2005.00581), the retina
  model. What the paper leaves open is a reconstruction: windows instead of a
  band that slides with the query, and how far each scale reaches.
  """
  check_mode(mode)
  check_retina('RetinaAttention', scales, window)

  def shorten(j):
    return build(
      pool,
      shorten_factor=scales[j] // scales[j - 1],
      d_model=d_model,
      n_heads=n_heads,
      dropout=dropout,
      mode=mode,
      max_len=max_len,
      stride=scales[j - 1] * stride,
      positions=positions,
    )

  return tl.Serial(  # x
    Pyramid(scales, shorten, lambda j: tl.Serial(), mode),  # x, rows
    _ScaleAttention(
      d_model,
      n_heads,
      scales,
      window,
      stride,
      key_layers=lambda: [],
      dropout=dropout,
      mode=mode,
      max_len=max_len,
      positions=positions or NoPositions(),
    ),
  )


def check_retina(name: str, scales: Sequence[int], window: int) -> None:
  """Raises ValueError unless scales and window are legal."""
  check_scales(name, scales)
  if window < 1 or window % scales[-1]:
    raise ValueError(
      f'{name}.window = {window} must be a positive multiple of every scale in '
      f'{name}.scales = {scales}'
    )


@configurable(module='trax_hier.layers')
def AttentionAggregation(
  scales: tuple[int, ...],
  d_model: int,
  d_ff: int = 2048,
  n_heads: int = 8,
  feed_forward: Callable[..., base.Layer] = FeedForward,
  dropout: float = 0.0,
  mode: str = 'train',
  max_len: int = 2048,
  positions: NoPositions | None = None,
):
  """A block in which tokens attend to all scales: x, rows -> (b, l, d).

  x (b, l, d) and, for each further scale S, rows (b, l / S, d). Token t sees
  all tokens up to itself and all blocks that end up to itself; a learned vector
  for each scale is added to its keys.

  x += Dropout(attention(norm(x), norm(rows)))
  x += Dropout(feed_forward(norm(x)))

  Args:
    scales: (1, S_1, ..).
    d_model: Width of inputs and outputs.
    d_ff: Width inside the feed-forward part.
    n_heads: Number of heads; divides d_model.
    feed_forward: Makes the feed-forward part.
    dropout: Rate of all dropout in the block.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity in tokens of the caches in predict mode.
    positions: Position scheme; None is `NoPositions()`.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> block = AttentionAggregation((1, 2, 4), d_model=8, d_ff=16, n_heads=2)
    >>> tree(block, (2, 8, 8), (2, 4, 8), (2, 2, 8)).outputs
    ((2, 8, 8),)

  Source: Multi-scale Transformer Language Models (arXiv 2005.00581), the
  bottom-up model's aggregation layer; its inside is a reconstruction.
  """
  attention = _ScaleAttention(
    d_model,
    n_heads,
    scales,
    window=None,
    stride=1,
    key_layers=lambda: [_ScaleEmbedding()],
    dropout=dropout,
    mode=mode,
    max_len=max_len,
    positions=positions or NoPositions(),
  )
  feed = build(
    feed_forward, d_model=d_model, d_ff=d_ff, dropout=dropout, mode=mode
  )
  return tl.Serial(  # x, rows
    tl.Residual(
      _Together(LayerNorm(), len(scales)),
      attention,
      tl.Dropout(dropout, mode=mode),
    ),
    PreNormResidual(feed, dropout, mode),
  )


@configurable(module='trax_hier.layers')
def ConcatAggregation(
  scales: tuple[int, ...], d_model: int, mode: str = 'train'
):
  """Projects each token with the newest block of every scale: -> (b, l, d).

  Inputs are x (b, l, d) and, for each further scale S, rows (b, l / S, d).

  Args:
    scales: (1, S_1, ..).
    d_model: Width of inputs and outputs.
    mode: 'train', 'eval' or 'predict'.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = ConcatAggregation((1, 4), d_model=8)
    >>> print(tree(layer, (2, 12, 8), (2, 3, 8)).text(depth=1))
    layer               parameters   in                      out
    ConcatAggregation          144   (2, 12, 8) (2, 3, 8)    (2, 12, 8)
      Latest(4)                  8   (2, 12, 8) (2, 3, 8)    (2, 12, 8)
      ConcatDense ...          136   (2, 12, 8) (2, 12, 8)   (2, 12, 8)

  Source: as `AttentionAggregation`; a cheaper reconstruction.
  """
  n = len(scales)
  newest = [
    tl.Serial(tl.Select([0, j], n_in=n), Latest(scales[j], mode))
    for j in range(1, n)
  ]
  return tl.Serial(  # x, rows
    tl.Branch(tl.Select([0], n_in=n), *newest), ConcatDense(n, d_model)
  )


def _ScaleAttention(
  d_model,
  n_heads,
  scales,
  window,
  stride,
  key_layers,
  dropout,
  mode,
  max_len,
  positions,
):
  """Attention of x to itself and to rows of each further scale.

  x (b, l, d), rows (b, l / S, d) -> (b, l, d). `key_layers` makes layers for
  the keys of a scale, (b, h, m, d_head) -> same.
  """
  n = len(scales)
  n_rows = -(-max_len // stride)
  rotate_q, rotate_k = (positions.rotate(stride, mode) for _ in range(2))
  kept = 2 * window if window and n > 1 else None
  keys = [tl.Serial(*key_layers(), *rotate_k)]
  keys += [tl.Serial(*key_layers()) for _ in scales[1:]]
  return tl.Serial(  # x, rows
    tl.Branch(
      tl.Serial(tl.Select([0], n_in=n), Heads(d_model, n_heads, rotate_q)),
      _Together(Heads(d_model, n_heads, [], []), n),
    ),  # q, then k and v of each scale
    tl.Parallel(None, *[part for layer in keys for part in (layer, None)]),
    tl.Parallel(None, KeyValueCache(n_rows, kept, mode)),
    AttendToScales(scales, window, stride, positions, dropout, mode, n_rows),
    MergeHeads(),
    Dense(d_model),
  )


class _ScaleEmbedding(base.Layer):
  """x (b, h, l, d_head) -> x + a learned vector for each head."""

  def init_weights_and_state(self, input_signature):
    _, h, _, d = input_signature.shape
    self.weights = jax.random.normal(self.rng, (h, 1, d)) * d**-0.5

  def forward(self, x):
    return x + self.weights.astype(x.dtype)


class _Together(base.Layer):
  """Applies a layer to n sequences joined end to end.

  n times (b, .., d) -> n times what the layer gives, rows on the last axis but
  one. It must treat all rows alike. If it has several outputs, those of the
  first sequence come first.
  """

  def __init__(self, layer, n):
    super().__init__(n_in=n, n_out=n * layer.n_out)
    self._sublayers = (layer,)
    self._weights = (None,)
    self._state = (None,)

  def init_weights_and_state(self, input_signature):
    (layer,) = self.sublayers
    first = as_tuple(input_signature)[0]
    weights, state = layer.init(first, use_cache=True)
    self.weights, self.state = (weights,), (state,)

  def forward(self, inputs):
    (layer,), (weights,), (state,) = self.sublayers, self.weights, self.state
    inputs = as_tuple(inputs)
    *ends, _ = itertools.accumulate(x.shape[1] for x in inputs)
    joined = jnp.concatenate(inputs, axis=1)
    y, state = layer.pure_fn(joined, weights, state, self.rng, use_cache=True)
    self.state = (state,)
    parts = [jnp.split(x, ends, axis=-2) for x in as_tuple(y)]
    outputs = [x for rows in zip(*parts, strict=True) for x in rows]
    return outputs if self.n_out > 1 else outputs[0]
