"""Residual Transformer blocks, with slots for their sublayers."""

from collections.abc import Callable, Sequence
from typing import Any

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers.attention.causal_attention import SelfAttention
from trax_hier.layers.attention.cross_attention import (
  CrossAttention,
  EncoderAttention,
)
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.base.build import accepts
from trax_hier.layers.base.carry import check_carries
from trax_hier.layers.base.feed_forward import FeedForward
from trax_hier.layers.base.normalization import LayerNorm
from trax_hier.layers.base.repeat import Alternating
from trax_hier.layers.base.slots import (
  ATTENTION,
  CROSS_ATTENTION,
  ENCODER_ATTENTION,
  ENCODER_FEED_FORWARD,
  FEED_FORWARD,
  NORM,
  POSITIONS,
  RECURRENCE,
  Kind,
  MisfitError,
  build_part,
  forwarded,
)


@configurable(module='trax_hier.layers', denylist=['carry'])
@passes_on('d_ff', 'n_heads', 'd_head', 'max_len', 'positions')
def DecoderBlock(
  d_model: int,
  d_ff: int = 2048,
  n_heads: int = 8,
  attention: Callable[..., base.Layer]
  | Sequence[Callable[..., base.Layer]] = SelfAttention,
  feed_forward: Callable[..., base.Layer] = FeedForward,
  norm: Callable[[], base.Layer] = LayerNorm,
  recurrence: Callable[..., base.Layer] | None = None,
  own_positions: Callable[..., NoPositions] | None = None,
  dropout: float = 0.0,
  mode: str = 'train',
  max_len: int = 2048,
  stride: int = 1,
  positions: NoPositions | None = None,
  d_head: int | None = None,
  carry: bool = False,
):
  """A pre-norm Transformer decoder block: (b, l, d) -> (b, l, d).

  x += Dropout(attention(norm(x)))
  x += Dropout(feed_forward(norm(x))) [+ recurrence(norm(x))]

  Args:
    d_model: Width of inputs and outputs.
    d_ff: Width of the hidden layer of the feed-forward layer.
    n_heads: Number of attention heads.
    attention: Factory of the causal self-attention. Receives the arguments of
      this function that its signature names. A tuple of factories makes as many
      blocks; models alternate these over their layers.
    feed_forward: Factory of the feed-forward layer, called like `attention`.
    norm: Factory of a normalization layer.
    recurrence: Factory of a layer in parallel to the feed-forward layer, whose
      output is added; None means no such layer.
    own_positions: Factory of a position scheme for the attention of this block
      alone: @NoPositions, @RotaryPositions or @T5Positions. None means
      `positions`, those of the model.
    dropout: Rate of all dropout in the block.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity in tokens of caches in predict mode.
    stride: Distance in tokens between neighboring positions.
    positions: Position scheme of the attention.
    d_head: Width of a head; None means d_model / n_heads.
    carry: Whether calls in 'train' and 'eval' modes continue one sequence, so
      that attention and feed-forward layer keep a memory if they need one. Set
      only by models that reset the memory with `Lanes`, so gin cannot bind it.

  Raises:
    ValueError: an argument has no effect, see `passes_on`, or a layer cannot
      carry, see `check_carries`.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> block = DecoderBlock(d_model=8, d_ff=16, n_heads=2)
    >>> print(tree(block, (2, 6, 8)).text(depth=2))
    layer                   parameters   in          out
    DecoderBlock                   600   (2, 6, 8)   (2, 6, 8)
      PreNormResidual              304   (2, 6, 8)   (2, 6, 8)
        LayerNorm                   16   (2, 6, 8)   (2, 6, 8)
        SelfAttention ...          288   (2, 6, 8)   (2, 6, 8)
      PreNormResidual              296   (2, 6, 8)   (2, 6, 8)
        LayerNorm                   16   (2, 6, 8)   (2, 6, 8)
        FeedForward ...            280   (2, 6, 8)   (2, 6, 8)
  """
  dimensions = dict(
    d_model=d_model,
    d_ff=d_ff,
    n_heads=n_heads,
    dropout=dropout,
    mode=mode,
    max_len=max_len,
    stride=stride,
    positions=positions,
    norm=norm,
    d_head=d_head,
    carry=carry,
  )
  if own_positions is not None:
    own = _own_positions(own_positions, dimensions)
    del dimensions['positions']
    attention = forwarded(
      'DecoderBlock.attention', attention, ATTENTION, positions=own
    )
  for slot, factory in (
    *(('attention', kind) for kind in _kinds(attention)),
    ('feed_forward', feed_forward),
    ('norm', norm),
    *([('recurrence', recurrence)] if recurrence else []),
  ):
    check_carries(f'DecoderBlock.{slot}', factory, **dimensions)
  blocks = [
    tl.Serial(
      *_residuals(
        'DecoderBlock',
        dimensions,
        norm,
        recurrence,
        attention=(kind, ATTENTION),
        feed_forward=(feed_forward, FEED_FORWARD),
      )
    )
    for kind in _kinds(attention)
  ]
  return _one_or_all('DecoderBlock.attention', attention, blocks)


@configurable(module='trax_hier.layers')
@passes_on('d_ff', 'n_heads')
def EncoderBlock(
  d_model: int,
  d_ff: int = 2048,
  n_heads: int = 8,
  attention: Callable[..., base.Layer] = EncoderAttention,
  feed_forward: Callable[..., base.Layer] = FeedForward,
  norm: Callable[[], base.Layer] = LayerNorm,
  recurrence: Callable[..., base.Layer] | None = None,
  dropout: float = 0.0,
  mode: str = 'train',
):
  """A pre-norm Transformer encoder block: x, mask -> x, mask.

  x (b, l, d), mask (b, l) bool: rows where it is False are not attended to.

  x += Dropout(attention(norm(x), mask))
  x += Dropout(feed_forward(norm(x))) [+ recurrence(norm(x), mask)]

  Arguments are those of `DecoderBlock`. There is no predict mode, as each call
  encodes a whole sequence.

  Raises:
    ValueError: `attention` makes a layer that does not take x and mask.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> from trax_hier.compat import ShapeDtype
    >>> block = EncoderBlock(d_model=8, d_ff=16, n_heads=2)
    >>> tree(block, (2, 6, 8), ShapeDtype((2, 6), bool)).outputs
    ((2, 6, 8), (2, 6))
  """
  dimensions = dict(
    d_model=d_model, d_ff=d_ff, n_heads=n_heads, dropout=dropout, mode=mode
  )
  if callable(attention) and accepts(attention, 'causal'):
    dimensions |= dict(masked=True, causal=False)
  layers = _residuals(
    'EncoderBlock',
    dimensions,
    norm,
    recurrence,
    masked=True,
    attention=(attention, ENCODER_ATTENTION),
    feed_forward=(feed_forward, ENCODER_FEED_FORWARD),
  )
  n_masks = sum(layer.n_in - 1 for layer in layers)
  return tl.Serial(tl.Select([0] + [1] * (n_masks + 1)), *layers)  # x, mask


@configurable(module='trax_hier.layers')
@passes_on('d_ff', 'n_heads', 'max_len', 'positions')
def EncoderDecoderBlock(
  d_model: int,
  d_ff: int = 2048,
  n_heads: int = 8,
  attention: Callable[..., base.Layer]
  | Sequence[Callable[..., base.Layer]] = SelfAttention,
  cross_attention: Callable[..., base.Layer] = CrossAttention,
  feed_forward: Callable[..., base.Layer] = FeedForward,
  norm: Callable[[], base.Layer] = LayerNorm,
  recurrence: Callable[..., base.Layer] | None = None,
  dropout: float = 0.0,
  mode: str = 'train',
  max_len: int = 2048,
  positions: NoPositions | None = None,
):
  """A pre-norm decoder block with cross-attention: x, y, mask -> x, y, mask.

  x (b, l, d), y (b, m, d), mask (b, m) bool: rows of y where it is False are
  not attended to. Only x changes.

  x += Dropout(attention(norm(x)))
  x += Dropout(cross_attention(norm(x), y, mask))
  x += Dropout(feed_forward(norm(x))) [+ recurrence(norm(x))]

  Args:
    cross_attention: Factory of the attention to y, called like `attention`. All
      other arguments are those of `DecoderBlock`.

  Raises:
    ValueError: `cross_attention` makes a layer that does not take x, y and
      mask.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> from trax_hier.compat import ShapeDtype
    >>> block = EncoderDecoderBlock(d_model=8, d_ff=16, n_heads=2)
    >>> tree(block, (2, 6, 8), (2, 5, 8), ShapeDtype((2, 5), bool)).outputs
    ((2, 6, 8), (2, 5, 8), (2, 5))
  """
  dimensions = dict(
    d_model=d_model,
    d_ff=d_ff,
    n_heads=n_heads,
    dropout=dropout,
    mode=mode,
    max_len=max_len,
    stride=1,
    positions=positions,
  )
  blocks = []
  for kind in _kinds(attention):
    attend, cross_attend, feed = _residuals(
      'EncoderDecoderBlock',
      dimensions,
      norm,
      recurrence,
      attention=(kind, ATTENTION),
      cross_attention=(cross_attention, CROSS_ATTENTION),
      feed_forward=(feed_forward, FEED_FORWARD),
    )
    block = tl.Serial(  # x, y, mask
      attend,
      tl.Select([0, 1, 2, 1, 2]),
      cross_attend,
      feed,
    )
    blocks.append(block)
  return _one_or_all('EncoderDecoderBlock.attention', attention, blocks)


def _own_positions(factory, dimensions):
  """The position scheme of one block."""
  # Offers `positions`, which replaces nothing, so that it has no effect here.
  sizes = {
    name: dimensions[name] for name in ('d_model', 'n_heads', 'positions')
  }
  binding = 'DecoderBlock.own_positions'
  scheme = build_part(binding, factory, POSITIONS, **sizes)
  if scheme.shared or scheme.embed('train'):
    raise MisfitError(
      f'{binding} = @{type(scheme).__name__} is no scheme for the attention of '
      'one block: legal are @NoPositions, @RotaryPositions and @T5Positions'
    )
  return scheme


def _kinds(attention):
  return attention if isinstance(attention, tuple | list) else (attention,)


def _one_or_all(binding, attention, blocks):
  is_single = not isinstance(attention, tuple | list)
  return blocks[0] if is_single else Alternating(binding, blocks)


def _residuals(
  name: str,
  dimensions: dict[str, Any],
  norm: Callable[[], base.Layer],
  recurrence: Callable[..., base.Layer] | None,
  masked: bool = False,
  **slots: tuple[Callable[..., base.Layer], Kind],
) -> list[base.Layer]:
  """A `PreNormResidual` for each slot; the recurrence is beside the last."""

  def make_norm():
    return build_part(f'{name}.norm', norm, NORM)

  layers = [
    build_part(f'{name}.{slot}', factory, kind, **dimensions)
    for slot, (factory, kind) in slots.items()
  ]
  branches = [None] * len(layers)
  if recurrence is not None:
    own = dimensions | dict(masked=masked)
    branches[-1] = build_part(
      f'{name}.recurrence', recurrence, RECURRENCE, **own
    )
  return [
    PreNormResidual(
      layer, dimensions['dropout'], dimensions['mode'], make_norm, branch
    )
    for layer, branch in zip(layers, branches, strict=True)
  ]


def PreNormResidual(
  layer: base.Layer,
  dropout: float,
  mode: str,
  norm: Callable[[], base.Layer] = LayerNorm,
  recurrence: base.Layer | None = None,
) -> base.Layer:
  """x + `pre_norm`(x): (b, l, d) -> (b, l, d).

  If `layer` or `recurrence` takes more inputs, they follow x.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> block = PreNormResidual(FeedForward(8, d_ff=16), 0.1, 'train')
    >>> print(tree(block, (2, 6, 8)).text(depth=1))
    layer               parameters   in          out
    PreNormResidual            296   (2, 6, 8)   (2, 6, 8)
      LayerNorm                 16   (2, 6, 8)   (2, 6, 8)
      FeedForward ...          280   (2, 6, 8)   (2, 6, 8)
  """
  return tl.Residual(*pre_norm(layer, dropout, mode, norm, recurrence))


def pre_norm(
  layer: base.Layer,
  dropout: float,
  mode: str,
  norm: Callable[[], base.Layer] = LayerNorm,
  recurrence: base.Layer | None = None,
) -> list[base.Layer]:
  """Layers that compute Dropout(layer(norm(x))) [+ recurrence(norm(x))].

  (b, l, d) -> (b, l, d). Each of the two has a norm of its own; other inputs
  that it takes follow x.
  """
  layers = [norm(), layer, tl.Dropout(dropout, mode=mode)]
  if recurrence is None:
    return layers
  return [tl.Branch(layers, [norm(), recurrence]), tl.Add()]
