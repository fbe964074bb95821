"""Multi-scale Transformer language models: top-down, bottom-up, retina.

The three models combine tokens and blocks of tokens in different ways. The
paper has no public code, and only little of its text was available: the three
names, and that 30 layers need less memory than 14. Others report that causal
layers alternate with poolings or convolutions, or that the past is compressed
(arXiv 2504.00927), and that an aggregation layer joins the scales of the
bottom-up model (arXiv 2110.13711). Everything else is a reconstruction: the
wiring of each model, the scales, the layers at each scale, sizes and positions.

All three predict sequences of any length token by token. A layer at scale S
costs 1 / S of a layer at full length, its attention 1 / S ** 2; decoding runs
the layer once per S tokens.

Source: Multi-scale Transformer Language Models (arXiv 2005.00581).
"""

from collections.abc import Callable, Sequence
from typing import Any

from trax_hier.compat import base, tl
from trax_hier.layers import Repeat
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.remat import RematPolicy
from trax_hier.layers.base.slots import BLOCK, SHORTEN, build_part


def check_blocks_per_scale(
  configurable: str, n_layers: Sequence[int], scales: Sequence[int]
) -> None:
  """Raises ValueError unless `n_layers` has a number of blocks for each scale.

  `configurable` is the name of the model, for the message.
  """
  if (
    not isinstance(n_layers, (tuple, list))
    or len(n_layers) != len(scales)
    or min(n_layers) < 0
  ):
    raise ValueError(
      f'{configurable}.n_layers = {n_layers} must have a number of blocks, '
      f'0 or more, for each scale of {configurable}.scales = {scales}'
    )


def one_for_each(binding: str, value: Any, n: int, places: str) -> tuple:
  """The values of an argument that takes one for all, or a tuple of n.

  Args:
    binding: The argument, such as 'TopDownLM.shorten'.
    value: Its value.
    n: Number of places that need a value.
    places: What they are, for the message.

  Raises:
    ValueError: the tuple has another length.

  Example:
    >>> one_for_each('TopDownLM.dropout', 0.1, 3, 'scale')
    (0.1, 0.1, 0.1)
  """
  if not isinstance(value, tuple | list):
    return (value,) * n
  if len(value) != n:
    raise ValueError(
      f'{binding} has {len(value)} values, but must be one, or a tuple of {n}, '
      f'one for each {places}'
    )
  return tuple(value)


def dropout_of_scales(
  configurable: str, dropout: float | tuple[float, ...], scales: Sequence[int]
) -> tuple[float, ...]:
  """The rate of dropout at each scale.

  Raises:
    ValueError: a rate is out of its range, or their number is not that of the
      scales.
  """
  rates = one_for_each(f'{configurable}.dropout', dropout, len(scales), 'scale')
  for rate in rates:
    check_arguments(configurable, dropout=rate)
  return rates


def scale_layers(
  configurable: str,
  dimensions: dict[str, Any],
  *,
  scales: Sequence[int],
  n_layers: Sequence[int],
  dropout: Sequence[float],
  shorten: Callable[..., base.Layer] | Sequence[Callable[..., base.Layer]],
  block: Callable[..., base.Layer],
  coarse_block: Callable[..., base.Layer],
  remat: Sequence[RematPolicy],
) -> tuple[Callable[[int], base.Layer], Callable[[int], base.Layer]]:
  """Returns factories of the layers of scale j, as functions of j.

  Args:
    configurable: Name of the model, for messages.
    dimensions: Arguments of all factories, `positions` and `mode` among them.
    scales: Tokens per vector of each scale.
    n_layers: Number of blocks at each scale.
    dropout: Rate of dropout at each scale.
    shorten: Factory of the layer from scale j - 1 to scale j, or one for each
      scale but the first.
    block: Factory of a block at scale 0.
    coarse_block: Factory of a block at the other scales.
    remat: What the backward pass recomputes at each scale.

  Returns:
    The factory of the layer from scale j - 1 to scale j, where the position
    scheme adds its embeddings again, and the factory of the blocks of scale j.
  """

  def at(j):
    return dimensions | dict(dropout=dropout[j])

  shortenings = one_for_each(
    f'{configurable}.shorten', shorten, len(scales) - 1, 'scale but the first'
  )

  def shorten_to(j):
    k = scales[j] // scales[j - 1]
    layer = build_part(
      f'{configurable}.shorten',
      shortenings[j - 1],
      SHORTEN.of(f'x -> x/{k}'),
      shorten_factor=k,
      stride=scales[j - 1],
      **at(j),
    )
    embed = dimensions['positions'].embed(dimensions['mode'], scales[j])
    return tl.Serial(layer, *embed)

  def blocks_at(j):
    slot, factory = ('coarse_block', coarse_block) if j else ('block', block)
    return Repeat(
      lambda: build_part(
        f'{configurable}.{slot}',
        factory,
        BLOCK,
        stride=scales[j],
        **at(j),
      ),
      n_layers[j],
      remat[j],
    )

  return shorten_to, blocks_at
