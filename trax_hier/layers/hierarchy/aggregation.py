"""Aggregation layers, which combine sequences of several scales into one.

`ConcatDense` and `Sum` combine sequences of equal length; `ConcatAggregation`
and `AttentionAggregation` combine tokens with the blocks of coarser scales.

Letters: b batch, h heads, l length, d d_model.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.base.dense import Dense
from trax_hier.layers.base.feed_forward import FeedForward
from trax_hier.layers.base.normalization import LayerNorm, Standardize
from trax_hier.layers.base.slots import FEED_FORWARD, build_part
from trax_hier.layers.blocks import PreNormResidual
from trax_hier.layers.hierarchy.scale_attention import Together, scale_attention
from trax_hier.layers.hierarchy.scales import Latest


# Rows of different scales are outputs of stacks of different depths, or
# embeddings. Without standardization, the larger rows dominate and models learn
# slowly. `Standardize` has no weights: the projection after it makes them
# redundant.
@configurable(module='trax_hier.layers')
def ConcatDense(n_inputs: int, d_model: int):
  """Standardizes, concatenates and projects n tensors: (b, l, d) -> (b, l, d).

  Args:
    n_inputs: n.
    d_model: Width of inputs and output.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(ConcatDense(2, d_model=8), (2, 12, 8), (2, 12, 8)))
    layer           parameters   in                      out
    ConcatDense            136   (2, 12, 8) (2, 12, 8)   (2, 12, 8)
      Concatenate            -   (2, 12, 8) (2, 12, 8)   (2, 12, 16)
      Dense_8              136   (2, 12, 16)             (2, 12, 8)
  """
  return tl.Serial(
    tl.Parallel(*[Standardize() for _ in range(n_inputs)]),
    tl.Concatenate(n_items=n_inputs),
    Dense(d_model),
  )


@configurable(module='trax_hier.layers')
def Sum(n_inputs: int):
  """Standardizes and adds n tensors: (b, l, d) -> (b, l, d).

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.array([[[1.0, 1.0, 5.0, 5.0]]])
    >>> print(Sum(2)((x, 100 * x)).round())
    [[[-2. -2.  2.  2.]]]
  """
  return tl.Serial(
    tl.Parallel(*[Standardize() for _ in range(n_inputs)]),
    *[tl.Add() for _ in range(n_inputs - 1)],
  )


@configurable(module='trax_hier.layers')
def ConcatAggregation(
  scales: tuple[int, ...], d_model: int, mode: str = 'train'
):
  """Concatenates tokens with the latest block of each scale, and projects.

  x (b, l, d) and, for each further scale S, rows (b, l / S, d) -> (b, l, d).

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

  Source: as `AttentionAggregation`, but a cheaper reconstruction.
  """
  n = len(scales)
  latest = [
    tl.Serial(tl.Select([0, j], n_in=n), Latest(scales[j], mode))
    for j in range(1, n)
  ]
  return tl.Serial(  # x, rows
    tl.Branch(tl.Select([0], n_in=n), *latest), ConcatDense(n, d_model)
  )


@configurable(module='trax_hier.layers')
@passes_on('d_ff')
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
  """A Transformer block that attends to all scales: x, rows -> (b, l, d).

  Inputs are x (b, l, d) and, for each further scale S, rows (b, l / S, d).
  Token t attends to all tokens up to itself and to all blocks that end at or
  before t. A learned vector for each scale is added to its keys.

  x += Dropout(attention(norm(x), norm(rows)))
  x += Dropout(feed_forward(norm(x)))

  Args:
    scales: (1, S_1, ..).
    d_model: Width of inputs and outputs.
    d_ff: Hidden width of the feed-forward layer.
    n_heads: Number of heads; divides d_model.
    feed_forward: Factory of the feed-forward layer.
    dropout: Rate of all dropout in the block.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity in tokens of the caches in predict mode.
    positions: Position scheme; None means `NoPositions()`.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> block = AttentionAggregation((1, 2, 4), d_model=8, d_ff=16, n_heads=2)
    >>> tree(block, (2, 8, 8), (2, 4, 8), (2, 2, 8)).outputs
    ((2, 8, 8),)

  Source: Multi-scale Transformer Language Models (arXiv 2005.00581), the
  bottom-up model's aggregation layer; its internals are a reconstruction.
  """
  attention = scale_attention(
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
  feed = build_part(
    'AttentionAggregation.feed_forward',
    feed_forward,
    FEED_FORWARD,
    d_model=d_model,
    d_ff=d_ff,
    dropout=dropout,
    mode=mode,
  )
  return tl.Serial(  # x, rows
    tl.Residual(
      Together(LayerNorm(), len(scales)),
      attention,
      tl.Dropout(dropout, mode=mode),
    ),
    PreNormResidual(feed, dropout, mode),
  )


class _ScaleEmbedding(base.Layer):
  """Adds a learned vector for each head: (b, h, l, d_head) -> same."""

  is_positionwise = True

  def init_weights_and_state(self, input_signature):
    _, h, _, d = input_signature.shape
    normal = jax.random.normal(self.rng, (h, 1, d), jnp.float32)
    self.weights = normal * d**-0.5

  def forward(self, x):
    return x + self.weights.astype(x.dtype)
