"""Hourglass: a hierarchical Transformer language model."""

import re
from collections.abc import Callable, Sequence
from typing import Literal

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers import (
  AttentionShorten,
  AttentionUpsample,
  DecoderBlock,
  Dense,
  DynamicStack,
  NoPositions,
  RelativePositions,
  ShareWeights,
  ShiftRight,
  Upsample,
)
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.remat import RematPolicy, remat_per_stack
from trax_hier.layers.base.slots import build_positions
from trax_hier.layers.hierarchy.boundary_rules import token_marks
from trax_hier.layers.hierarchy.dynamic_stack import token_rules
from trax_hier.models.embedding import (
  Logits,
  TokenEncoder,
  embed,
  token_embedding,
)
from trax_hier.models.hourglass_levels import make_levels

_N_BYTES = 256


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
  dynamic: Callable[..., base.Layer]
  | Sequence[Callable[..., base.Layer]] = DynamicStack,
  dynamic_d_model: tuple[int, ...] = (),
  dynamic_d_ff: tuple[int, ...] = (),
  dynamic_n_heads: tuple[int, ...] = (),
  dynamic_positions: Literal['segments', 'tokens'] = 'segments',
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
    d_model: Width of the model, at all levels unless `dynamic_d_model` is set.
    d_ff: Width inside the feed-forward layers.
    vanilla_layers: Numbers of blocks at full length before and after the
      shortened ones.
    hierarchy: Levels 'N@f', outermost first: N blocks on a sequence f times
      shorter than the tokens, as a palindrome such as '1@2 4@4 1@2'. A level
      'N@~f' is dynamic: its segments follow the text, and are about f tokens
      long, which may be a fraction, as in '8@~5.7' or '2@~4 8@~16 2@~4'. Inside
      a dynamic level, 'N@f' shortens its segments by a fixed factor.
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
    dynamic: Factory of the layer around the dynamic levels, or a sequence of
      one for each, outermost first.
    dynamic_d_model: Widths of the dynamic levels, outermost first; those of the
      fixed levels are the ones of the level around them. () means d_model.
    dynamic_d_ff: `d_ff` of the dynamic levels; () means d_ff.
    dynamic_n_heads: `n_heads` of the dynamic levels; () means n_heads.
    dynamic_positions: What the attention of dynamic levels counts: 'segments',
      or 'tokens' up to the start of a segment, which needs @RotaryPositions.
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
  check_arguments(
    'HourglassLM',
    vocab_size=vocab_size,
    vanilla_layers=vanilla_layers,
    d_model=d_model,
    d_ff=d_ff,
    n_heads=n_heads,
    dropout=dropout,
    mode=mode,
  )
  levels = _levels(hierarchy, shorten_factor_dropout)
  sizes = _sizes(
    levels,
    d_model=(d_model, dynamic_d_model),
    d_ff=(d_ff, dynamic_d_ff),
    n_heads=(n_heads, dynamic_n_heads),
  )
  _check_dynamic(dynamic, dynamic_positions, len(sizes) - 1)
  schemes = {
    (d, h): build_positions('HourglassLM', positions, d, h)
    for d, _, h in dict.fromkeys(sizes)
  }
  before, hourglass, after = make_levels(
    levels,
    vanilla_layers,
    max_len,
    sizes=sizes,
    schemes=schemes,
    vanilla_block=vanilla_block,
    shortened_block=shortened_block,
    shorten=shorten,
    upsample=upsample,
    dynamic=dynamic,
    dynamic_positions=dynamic_positions,
    shorten_factor_dropout=shorten_factor_dropout,
    remats=remat_per_stack(remat, 2, 'HourglassLM.remat'),
    dropout=dropout,
    mode=mode,
  )
  _check_rules(hourglass, vocab_size)
  scheme = schemes[d_model, n_heads]
  embedding, tables = token_embedding(vocab_size, d_model, logits)
  shared = [layer for s in schemes.values() for layer in s.shared]
  return tl.Serial(  # tokens
    ShareWeights(*tables, *shared),
    _encode(embedding, scheme, dropout, mode, hourglass),  # (b, l, d)[, marks]
    before,
    hourglass,
    after,
    Logits(vocab_size, logits, mode, 'HourglassLM.logits', *tables),
  )


def _check_dynamic(dynamic, positions, n):
  """Checks the arguments of n dynamic levels."""
  if positions not in ('segments', 'tokens'):
    raise ValueError(
      f'HourglassLM.dynamic_positions = {positions!r} must be '
      "'segments' or 'tokens'"
    )
  if isinstance(dynamic, tuple | list) and len(dynamic) != n:
    raise ValueError(
      f'HourglassLM.dynamic must have one layer for each of the {n} dynamic '
      f'levels of HourglassLM.hierarchy, but has {len(dynamic)}'
    )


def _check_rules(hourglass, vocab_size):
  """Checks that the ids that rules on tokens read are bytes."""
  rules = token_rules(hourglass)
  if rules and vocab_size > _N_BYTES:
    raise ValueError(
      f'DynamicStack.boundaries = @{rules[0].name} reads bytes, but '
      f'HourglassLM.vocab_size = {vocab_size}: use a vocabulary of bytes, of '
      f'{_N_BYTES} ids, or boundaries such as @SimilarityRouter'
    )


def _encode(embedding, scheme, dropout, mode, hourglass):
  """Tokens (b, l) -> x (b, l, d), and marks if the layer after it needs them.

  The marks (b, l, 2 + r) are those of `token_marks`.
  """
  if hourglass.n_in == 1:
    return TokenEncoder(embedding, scheme, dropout, mode)
  return tl.Serial(
    ShiftRight(carry=False, mode=mode),
    tl.Branch(
      tl.Serial(embed(embedding, scheme, dropout, mode)),
      token_marks(token_rules(hourglass)),
    ),
  )


def _sizes(levels, **sizes):
  """The sizes at full length and on each dynamic level, in their order.

  Args:
    levels: From `parse_hierarchy`.
    **sizes: For each name, the size at full length, and those of dynamic
      levels, as the arguments of HourglassLM.

  Raises:
    ValueError: there is not one size for each dynamic level.
  """
  n = sum(isinstance(k, float) for _, k in levels)
  columns = []
  for name, (outer, inner) in sizes.items():
    if inner and len(inner) != n:
      raise ValueError(
        f'HourglassLM.dynamic_{name} = {tuple(inner)} must have one number for '
        f"each of the {n} dynamic levels, 'N@~f', of HourglassLM.hierarchy"
      )
    columns.append((outer, *(inner or [outer] * n)))
  for d_model, d_ff, n_heads in zip(*columns, strict=True):
    check_arguments('HourglassLM', d_model=d_model, d_ff=d_ff, n_heads=n_heads)
  return list(zip(*columns, strict=True))


def _levels(hierarchy, shorten_factor_dropout):
  """Parses the hierarchy, and checks the shorten factors to sample from."""
  levels = parse_hierarchy(hierarchy)
  _, factor = levels[0]
  if shorten_factor_dropout and (
    len(levels) > 1
    or factor not in shorten_factor_dropout
    or isinstance(factor, float)
  ):
    raise ValueError(
      f'HourglassLM.shorten_factor_dropout = {shorten_factor_dropout} must be '
      f'empty or, with one level, contain its factor (no ~f); hierarchy = '
      f'{hierarchy!r}'
    )
  return levels


def parse_hierarchy(hierarchy: str) -> list[tuple[int, int | float]]:
  """Parses levels such as '1@2 4@4 1@2' or '2@~4 8@~16 2@~4'.

  Returns:
    Number of blocks and shorten factor relative to the level above, for each
    level, outermost first: [(1, 2), (4, 2)]. The factor of a dynamic level is a
    float: [(2, 4.0), (8, 4.0)].

  Raises:
    ValueError: the text is not of the form 'N@f N@~f ...', is not a palindrome
      with one innermost level, or has a factor that the factor above it does
      not divide or, if it is dynamic, exceeds.

  Example:
    >>> parse_hierarchy('1@2 4@4 1@2'), parse_hierarchy('1@2 4@~5 1@2')
    ([(1, 2), (4, 2)], [(1, 2), (4, 2.5)])
  """

  def complain(reason):
    raise ValueError(
      f"HourglassLM.hierarchy = {hierarchy!r} {reason}; legal are '8@3' or, "
      'with each factor a multiple of the one above, palindromes such as '
      "'1@2 4@4 1@2'; '8@~5.7' and '2@~4 8@~16 2@~4' have dynamic levels"
    )

  names = hierarchy.split()
  for name in names:
    if not re.fullmatch(r'[0-9]+@([1-9][0-9]*|~[1-9][0-9]*(\.[0-9]+)?)', name):
      complain(f"has a level {name!r} that is not 'N@f' or 'N@~f'")
  if names != names[::-1] or len(names) % 2 == 0:
    complain('is not a palindrome with one innermost level')
  levels, above = [], 1
  for name in names[: len(names) // 2 + 1]:
    n_blocks, _, text = name.partition('@')
    factor = float(text[1:]) if text[0] == '~' else int(text)
    if isinstance(factor, float):
      relative = factor / above
      if relative < 1:
        complain(f'has a factor ~{factor:g} below the {above:g} above it')
    else:
      if factor % above:
        complain(f'has a factor {factor} that {above:g} does not divide')
      relative = int(factor // above)
    levels.append((int(n_blocks), relative))
    above = factor
  return levels
