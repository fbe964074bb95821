"""Hourglass: a hierarchical Transformer language model."""

import math
import re
from collections.abc import Callable

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers import (
  AttentionShorten,
  AttentionUpsample,
  DecoderBlock,
  Dense,
  LayerNorm,
  NoPositions,
  RandomChoice,
  RelativePositions,
  Repeat,
  ShareWeights,
  ShortenedStack,
  Upsample,
)
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.remat import RematPolicy, remat_per_stack
from trax_hier.layers.base.slots import (
  BLOCK,
  SHORTEN,
  UPSAMPLE,
  build_part,
  build_positions,
)
from trax_hier.models.embedding import Logits, TokenEncoder, token_embedding


@configurable(module='trax_hier.models')
@passes_on('d_ff', 'n_heads', 'positions')
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
  logits: Callable[..., base.Layer] = Dense,
  shorten_factor_dropout: tuple[int, ...] = (),
  remat: RematPolicy | tuple[RematPolicy, ...] = False,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """Hourglass: shortens the sequence, runs layers on it, and upsamples back.

  Tokens (b, l) int32 -> logits (b, l, v) float32; logits at position t predict
  token t from the tokens before it. Any length.

  Args:
    vocab_size: Number of token ids; id 0 also precedes the first token.
    d_model: Width of the model at all levels.
    d_ff: Width inside the feed-forward layers.
    vanilla_layers: Numbers of blocks at full length before and after the
      shortened ones.
    hierarchy: Levels 'N@f', outermost first: N blocks on a sequence f times
      shorter than the tokens, as a palindrome such as '1@2 4@4 1@2'.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout.
    vanilla_block: Factory of a block at full length, called with the dimensions
      of the model that its signature names.
    shortened_block: Factory of a block at the shortened lengths, called like
      `vanilla_block`.
    shorten: Factory of the shortening: `AttentionShorten`, `LinearShorten` or
      `AverageShorten`.
    upsample: Factory of the upsampling: `AttentionUpsample`, `LinearUpsample`
      or `RepeatUpsample`.
    positions: Factory of the position scheme of all attention layers.
    logits: Factory of the last layer, of width `d_out`; @TiedLogits shares the
      embedding.
    shorten_factor_dropout: Shorten factors to train with, one sampled at each
      step. They must include the factor in `hierarchy`, which other modes use.
      Requires one level, and shortening and upsampling layers whose weights do
      not depend on the factor, such as `AverageShorten` and `RepeatUpsample`.
    remat: What the backward pass recomputes, as in `Repeat`: one policy for all
      blocks, or a pair for vanilla and shortened blocks.
    max_len: Capacity of predict mode, in tokens.
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
  dimensions = dict(
    d_model=d_model, d_ff=d_ff, n_heads=n_heads, dropout=dropout, mode=mode
  )
  check_arguments(
    'HourglassLM',
    vocab_size=vocab_size,
    vanilla_layers=vanilla_layers,
    **dimensions,
  )
  levels = _levels(hierarchy, shorten_factor_dropout)
  # Rounds up, so that the last group of every level fits.
  max_len += -max_len % math.prod(k for _, k in levels)
  remats = remat_per_stack(remat, 2, 'HourglassLM.remat')
  scheme = build_positions('HourglassLM', positions, d_model, n_heads)
  embedding, tables = token_embedding(vocab_size, d_model, logits)
  dimensions |= dict(max_len=max_len, positions=scheme)

  def make(slot, factory, kind, **sizes):
    return build_part(
      f'HourglassLM.{slot}', factory, kind, **sizes, **dimensions
    )

  def blocks(slot, block, n, stride):
    def make_block():
      return make(slot, block, BLOCK, stride=stride)

    return tl.Serial(Repeat(make_block, n, remats[stride > 1]), LayerNorm())

  def shortened(n, k, deeper, stride):
    sizes = dict(shorten_factor=k, stride=stride)
    inner = [blocks('shortened_block', shortened_block, n, k * stride)]
    if deeper:
      inner += [hourglass(deeper, k * stride)]
      inner += [blocks('shortened_block', shortened_block, n, k * stride)]
    return ShortenedStack(
      k,
      shorten=make('shorten', shorten, SHORTEN.of(f'x -> x/{k}'), **sizes),
      inner=tl.Serial(*inner),
      upsample=make(
        'upsample', upsample, UPSAMPLE.of(f'x/{k}, x -> x'), **sizes
      ),
      mode=mode,
      max_len=max_len // stride,
    )

  def hourglass(levels, stride):
    (n, k), *deeper = levels
    factors = [k, *(f for f in shorten_factor_dropout if f != k)]
    stacks = [shortened(n, f, deeper, stride) for f in factors]
    stack = RandomChoice(stacks, mode) if shorten_factor_dropout else stacks[0]
    return tl.Residual(stack, LayerNorm())

  n_before, n_after = vanilla_layers
  return tl.Serial(  # tokens
    ShareWeights(*tables, *scheme.shared),
    TokenEncoder(embedding, scheme, dropout, mode),  # (b, l, d)
    blocks('vanilla_block', vanilla_block, n_before, stride=1),
    hourglass(levels, stride=1),
    blocks('vanilla_block', vanilla_block, n_after, stride=1),
    Logits(vocab_size, logits, mode, 'HourglassLM.logits', *tables),
  )


def _levels(hierarchy, shorten_factor_dropout):
  """Parses the hierarchy, and checks the shorten factors to sample from."""
  levels = parse_hierarchy(hierarchy)
  if shorten_factor_dropout and (
    len(levels) > 1 or levels[0][1] not in shorten_factor_dropout
  ):
    raise ValueError(
      f'HourglassLM.shorten_factor_dropout = {shorten_factor_dropout} must be '
      f'empty or, with one level, contain its factor; hierarchy = {hierarchy!r}'
    )
  return levels


def parse_hierarchy(hierarchy: str) -> list[tuple[int, int]]:
  """Parses levels such as '1@2 4@4 1@2'.

  Returns:
    Number of blocks and shorten factor relative to the level above, for each
    level, outermost first: [(1, 2), (4, 2)].

  Raises:
    ValueError: the text is not of the form 'N@f N@f ...', is not a palindrome
      with one innermost level, or has a factor that the factor above it does
      not divide.

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
