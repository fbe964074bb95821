"""Hourglass: a hierarchical Transformer language model."""

import math
import re
from collections.abc import Callable

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers import (
  AttentionShorten,
  AttentionUpsample,
  DecoderBlock,
  LayerNorm,
  NoPositions,
  RandomChoice,
  RelativePositions,
  Repeat,
  ShareWeights,
  ShortenedStack,
  Upsample,
)
from trax_hier.layers.base.build import (
  build,
  check_dropout,
  check_heads,
  check_mode,
  check_sizes,
)
from trax_hier.layers.base.stacking import RematPolicy, remat_of_each
from trax_hier.models.transformer import Logits, TokenEncoder


@configurable(module='trax_hier.models')
def HourglassLM(
  vocab_size: int,
  d_model: int = 512,
  d_ff: int = 2048,
  vanilla_layers: tuple[int, int] = (1, 1),
  hierarchy: str = '6@3',
  n_heads: int = 8,
  dropout: float = 0.1,
  vanilla_block: Callable[..., base.Layer] = DecoderBlock,
  shortened_block: Callable[..., base.Layer] = DecoderBlock,
  shorten: Callable[..., base.Layer] = AttentionShorten,
  upsample: Callable[..., Upsample] = AttentionUpsample,
  positions: Callable[..., NoPositions] = RelativePositions,
  shorten_factor_dropout: tuple[int, ...] = (),
  remat: RematPolicy | tuple[RematPolicy, ...] = False,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """Hourglass: shorten the sequence, work on it, upsample back.

  Tokens (b, l) int32 -> logits (b, l, v) float32; logits at position t predict
  token t from the tokens before it. Any length.

  Args:
    vocab_size: Number of token ids; id 0 is also what precedes the first token.
    d_model: Width of the model at all levels.
    d_ff: Width inside the feed-forward parts.
    vanilla_layers: Number of blocks at full length before and after the
      shortened ones.
    hierarchy: Levels 'N@f', outermost first: N blocks at a sequence f times
      shorter than the tokens, as a palindrome such as '1@2 4@4 1@2'.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout.
    vanilla_block: Makes a block at full length, from those of the model's
      dimensions that it names.
    shortened_block: Makes a block at the shortened lengths, likewise.
    shorten: Makes `AttentionShorten`, `LinearShorten` or `AverageShorten`.
    upsample: Makes `AttentionUpsample`, `LinearUpsample` or `RepeatUpsample`.
    positions: Makes the position scheme of all attention layers.
    shorten_factor_dropout: Shorten factors to train with, drawn anew at each
      step; the one in `hierarchy` must be among them and is used in other
      modes. For one level, and for parts whose weights do not depend on the
      factor, as those of `AverageShorten` and `RepeatUpsample`.
    remat: What the backward pass recomputes, as in `Repeat`: for all blocks,
      or a pair, of the vanilla and of the shortened ones.
    max_len: Capacity in tokens of predict mode.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.layers import LinearShorten, LinearUpsample
    >>> from trax_hier.inspection.layer_tree import tree
    >>> model = HourglassLM(
    ...   256,
    ...   d_model=32,
    ...   d_ff=64,
    ...   hierarchy='2@3',
    ...   n_heads=4,
    ...   shorten=LinearShorten,
    ...   upsample=LinearUpsample,
    ...   mode='eval',
    ... )
    >>> print(tree(model, (1, 96)).text(1))
    layer                     parameters   in            out
    HourglassLM                   61,632   (1, 96)       (1, 96, 256)
      ShareWeights ...                64
      TokenEncoder ...             8,192   (1, 96)       (1, 96, 32)
      Repeat(1) ...                9,600   (1, 96, 32)   (1, 96, 32)
      LayerNorm                       64   (1, 96, 32)   (1, 96, 32)
      ShortenedStack(3) ...       25,536   (1, 96, 32)   (1, 96, 32)
      LayerNorm                       64   (1, 96, 32)   (1, 96, 32)
      Repeat(1) ...                9,600   (1, 96, 32)   (1, 96, 32)
      LayerNorm                       64   (1, 96, 32)   (1, 96, 32)
      Logits ...                   8,448   (1, 96, 32)   (1, 96, 256)

  Source: Hourglass (arXiv 2110.13711) Algorithm 1.
  """
  check_mode(mode)
  check_sizes(vocab_size=vocab_size, d_model=d_model, d_ff=d_ff)
  check_heads(d_model, n_heads)
  check_dropout(dropout)
  n_before, n_after = vanilla_layers
  if min(vanilla_layers) < 0:
    raise ValueError(
      f'HourglassLM.vanilla_layers = {vanilla_layers} must not be negative'
    )
  levels = parse_hierarchy(hierarchy)
  max_len += -max_len % math.prod(k for _, k in levels)
  if shorten_factor_dropout and (
    len(levels) > 1 or levels[0][1] not in shorten_factor_dropout
  ):
    raise ValueError(
      f'HourglassLM.shorten_factor_dropout = {shorten_factor_dropout} must be '
      f'empty or, with one level, contain its factor; hierarchy = {hierarchy!r}'
    )
  vanilla_remat, shortened_remat = remat_of_each(remat, 2, 'HourglassLM.remat')
  scheme = build(positions, d_model=d_model, n_heads=n_heads)
  dimensions = dict(
    d_model=d_model,
    d_ff=d_ff,
    n_heads=n_heads,
    dropout=dropout,
    mode=mode,
    max_len=max_len,
    positions=scheme,
  )

  def stack(block, n_blocks, stride):
    return tl.Serial(
      Repeat(
        lambda: build(block, stride=stride, **dimensions),
        n_blocks,
        vanilla_remat if stride == 1 else shortened_remat,
      ),
      LayerNorm(),
    )

  def shortened(n_blocks, k, deeper, stride):
    blocks = [stack(shortened_block, n_blocks, k * stride)]
    if deeper:
      blocks += [valley(deeper, k * stride)]
      blocks += [stack(shortened_block, n_blocks, k * stride)]
    here = dict(dimensions, shorten_factor=k, stride=stride)
    return ShortenedStack(
      k,
      shorten=build(shorten, **here),
      inner=tl.Serial(*blocks),
      upsample=build(upsample, **here),
      mode=mode,
      max_len=max_len // stride,
    )

  def valley(levels, stride):
    (n_blocks, k), *deeper = levels
    layer = shortened(n_blocks, k, deeper, stride)
    if shorten_factor_dropout:
      others = [f for f in shorten_factor_dropout if f != k]
      others = [shortened(n_blocks, f, deeper, stride) for f in others]
      layer = RandomChoice([layer, *others], mode)
    return tl.Residual(layer, LayerNorm())

  return tl.Serial(  # tokens
    ShareWeights(*scheme.shared),
    TokenEncoder(
      tl.Embedding(vocab_size, d_model), scheme, dropout, mode
    ),  # (b, l, d)
    stack(vanilla_block, n_before, stride=1),
    valley(levels, stride=1),
    stack(vanilla_block, n_after, stride=1),
    Logits(vocab_size),  # (b, l, v)
  )


def parse_hierarchy(hierarchy: str) -> list[tuple[int, int]]:
  """Parses levels such as '1@2 4@4 1@2'.

  Returns:
    For each level, outermost first, its number of blocks and its shorten
    factor relative to the level above: [(1, 2), (4, 2)].

  Raises:
    ValueError: not of the form 'N@f N@f ...', not a palindrome with one
      innermost level, or a factor that the one above it does not divide.

  Example:
    >>> parse_hierarchy('1@2 4@4 1@2')
    [(1, 2), (4, 2)]
  """

  def complain(reason):
    raise ValueError(
      f"HourglassLM.hierarchy = {hierarchy!r} {reason}; legal are '8@3' or, "
      'with each factor a multiple of the one above, palindromes such as '
      "'1@2 4@4 1@2'"
    )

  names = hierarchy.split()
  for name in names:
    if not re.fullmatch(r'[0-9]+@[1-9][0-9]*', name):
      complain(f"has a level {name!r} that is not 'N@f'")
  if names != names[::-1] or len(names) % 2 == 0:
    complain('is not a palindrome with one innermost level')
  levels, above = [], 1
  for name in names[: len(names) // 2 + 1]:
    n_blocks, factor = map(int, name.split('@'))
    if factor % above:
      complain(f'has a factor {factor} that {above} does not divide')
    levels.append((n_blocks, factor // above))
    above = factor
  return levels
