"""The levels of an Hourglass: blocks, and layers that shorten around them."""

import contextvars
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.layers import (
  LayerNorm,
  NoPositions,
  RandomChoice,
  Repeat,
  ShortenedStack,
  Upsample,
)
from trax_hier.layers.attention.token_positions import TokenPositions
from trax_hier.layers.base.slots import (
  BLOCK,
  DYNAMIC,
  SHORTEN,
  UPSAMPLE,
  build_part,
)
from trax_hier.layers.hierarchy.dynamic_stack import token_rules


def make_levels(
  levels: list[tuple[int, int | float]],
  vanilla_layers: tuple[int, int],
  max_len: int,
  **arguments: Any,
) -> tuple[base.Layer, base.Layer, base.Layer]:
  """Makes the blocks before the hourglass, the hourglass, and those after it.

  Args:
    levels: Levels, from `parse_hierarchy`.
    vanilla_layers: Numbers of blocks at full length, before and after.
    max_len: Capacity of predict mode, in tokens.
    **arguments: The fields of `_Stacks`.

  Returns:
    Layers (b, l, d) -> (b, l, d). If the outermost level is dynamic, that of
    the hourglass also takes marks (b, l, 2 + r), those of `token_marks`.
  """
  stacks = _Stacks(**arguments)
  outer = _Place(0, 1, _round_up(max_len, levels))
  n_before, n_after = vanilla_layers
  return (
    stacks.blocks('vanilla_block', n_before, outer),
    stacks.hourglass(levels, outer),
    stacks.blocks('vanilla_block', n_after, outer),
  )


@dataclasses.dataclass(frozen=True)
class _Place:
  """Where a part of the hourglass is.

  Attributes:
    n_dynamic: Number of dynamic levels around it, and on its level.
    stride: Distance between neighboring rows, in tokens, or in segments of the
      innermost of these levels.
    max_len: Capacity of predict mode, in tokens or in such segments.
  """

  n_dynamic: int
  stride: int
  max_len: int


@dataclasses.dataclass(frozen=True)
class _Stacks:
  """Builds the levels from the arguments of `HourglassLM`.

  Attributes:
    sizes: (d_model, d_ff, n_heads) at full length and on each dynamic level.
    schemes: Position schemes by (d_model, n_heads).
    remats: What the backward pass recomputes in vanilla and shortened blocks.
    vanilla_block, shortened_block, shorten, upsample, dynamic,
      dynamic_positions, shorten_factor_dropout, dropout, mode: See
      `HourglassLM`.
  """

  sizes: list[tuple[int, int, int]]
  schemes: dict[tuple[int, int], NoPositions]
  vanilla_block: Callable[..., base.Layer]
  shortened_block: Callable[..., base.Layer]
  shorten: Callable[..., base.Layer]
  upsample: Callable[..., Upsample]
  dynamic: Any
  dynamic_positions: str
  shorten_factor_dropout: tuple[int, ...]
  remats: tuple
  dropout: float
  mode: str

  def _make(self, slot, kind, place, **sizes):
    d_model, d_ff, n_heads = self.sizes[place.n_dynamic]
    positions = self.schemes[d_model, n_heads]
    if place.n_dynamic and self.dynamic_positions == 'tokens':
      positions = TokenPositions(positions)
    return build_part(
      f'HourglassLM.{slot}',
      getattr(self, slot),
      kind,
      **sizes,
      d_model=d_model,
      d_ff=d_ff,
      n_heads=n_heads,
      dropout=self.dropout,
      mode=self.mode,
      max_len=place.max_len,
      positions=positions,
    )

  def blocks(self, slot, n, place):
    """n blocks of a slot, then a LayerNorm."""

    def make_block():
      return self._make(slot, BLOCK, place, stride=place.stride)

    remat = self.remats[slot == 'shortened_block']
    return tl.Serial(Repeat(make_block, n, remat), LayerNorm())

  def hourglass(self, levels, place):
    """The levels, (b, l, d) -> (b, l, d); a dynamic one also takes marks."""
    (n, k), *deeper = levels
    if isinstance(k, float):
      return self._dynamic(n, k, deeper, place)
    others = [f for f in self.shorten_factor_dropout if f != k]
    stacks = [self._fixed(n, f, deeper, place) for f in (k, *others)]
    is_sampled = bool(self.shorten_factor_dropout)
    stack = RandomChoice(stacks, self.mode) if is_sampled else stacks[0]
    return tl.Residual(stack, LayerNorm())

  def _inner(self, n, deeper, place):
    """The blocks of a level, with the levels inside it."""
    layers = [self.blocks('shortened_block', n, place)]
    if deeper:
      layers += [self.hourglass(deeper, place)]
      layers += [self.blocks('shortened_block', n, place)]
    return tl.Serial(*layers)

  def _fixed(self, n, k, deeper, place):
    if place.n_dynamic and self.dynamic_positions == 'tokens':
      raise ValueError(
        "HourglassLM.dynamic_positions = 'tokens' cannot be combined with a "
        'fixed level inside a dynamic one, as groups of segments have no '
        "position: use 'segments'"
      )
    sizes = dict(shorten_factor=k, stride=place.stride)
    shorten = self._make('shorten', SHORTEN.of(f'x -> x/{k}'), place, **sizes)
    inner = self._inner(
      n, deeper, dataclasses.replace(place, stride=k * place.stride)
    )
    if inner.n_in == 2:
      inner = _without_rules(inner)
    kind = UPSAMPLE.of(f'x/{k}, x -> x')
    return ShortenedStack(
      k,
      shorten=shorten,
      inner=inner,
      upsample=self._make('upsample', kind, place, **sizes),
      mode=self.mode,
      max_len=place.max_len // place.stride,
    )

  def _dynamic(self, n, target, deeper, place):
    level = place.n_dynamic + 1
    n_rows = place.max_len // place.stride

    def make_inner(max_len):
      max_len = _round_up(max_len, deeper)
      return self._inner(n, deeper, _Place(level, 1, max_len))

    # The blocks inside are made while the part is. Their use of arguments of
    # HourglassLM is recorded in its context; see `config.effects`.
    context = contextvars.copy_context()
    factory = self.dynamic
    if isinstance(factory, tuple | list):
      factory = factory[level - 1]
    return build_part(
      'HourglassLM.dynamic',
      factory,
      DYNAMIC,
      inner=lambda max_len: context.run(make_inner, max_len),
      target=target,
      d_model=self.sizes[level - 1][0],
      d_inner=self.sizes[level][0],
      mode=self.mode,
      max_len=n_rows,
      level=level,
    )


def _without_rules(inner):
  """A layer with dynamic levels inside, in a fixed level: takes no marks."""
  if token_rules(inner):
    raise ValueError(
      'HourglassLM.hierarchy: a level whose DynamicStack.boundaries are a rule '
      'on tokens, such as @WordRule, cannot be inside a fixed level: legal are '
      '@SimilarityRouter, @BoundaryPredictor and @FixedBoundaries'
    )
  valid = tl.Fn('Valid', lambda x: jnp.ones((*x.shape[:2], 2), bool))
  return tl.Serial(tl.Branch(None, valid), inner)


def _round_up(max_len, levels):
  """Rounds up, so that the last group of every fixed level fits.

  That is, of those outside the first dynamic one.
  """
  factors = [k for _, k in levels]
  n_fixed = next(
    (i for i, k in enumerate(factors) if isinstance(k, float)), len(factors)
  )
  return max_len + -max_len % math.prod(factors[:n_fixed])
