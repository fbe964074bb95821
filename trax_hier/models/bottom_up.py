"""The bottom-up multi-scale Transformer; see `trax_hier.models.multiscale`."""

from collections.abc import Callable

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers import (
  AttentionAggregation,
  AverageShorten,
  DecoderBlock,
  Dense,
  LayerNorm,
  NoPositions,
  Pyramid,
  RelativePositions,
  Repeat,
  ShareWeights,
)
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.remat import RematPolicy, remat_per_stack
from trax_hier.layers.base.slots import (
  AGGREGATE,
  BLOCK,
  build_part,
  build_positions,
)
from trax_hier.layers.hierarchy.scales import check_scales
from trax_hier.models.embedding import Logits, TokenEncoder, token_embedding
from trax_hier.models.multiscale import (
  check_blocks_per_scale,
  dropout_of_scales,
  scale_layers,
)


@configurable(module='trax_hier.models')
@passes_on('d_ff', 'n_heads', 'max_len', 'positions')
def BottomUpLM(
  vocab_size: int,
  d_model: int = 512,
  d_ff: int = 2048,
  scales: tuple[int, ...] = (1, 4, 16),
  n_layers: tuple[int, ...] = (0, 10, 12),
  n_post: int = 7,
  n_heads: int = 8,
  dropout: float | tuple[float, ...] = 0.1,
  block: Callable[..., base.Layer] = DecoderBlock,
  coarse_block: Callable[..., base.Layer] = DecoderBlock,
  shorten: Callable[..., base.Layer]
  | tuple[Callable[..., base.Layer], ...] = AverageShorten,
  aggregate: Callable[..., base.Layer] = AttentionAggregation,
  positions: Callable[..., NoPositions] = RelativePositions,
  logits: Callable[..., base.Layer] = Dense,
  remat: RematPolicy | tuple[RematPolicy, ...] = False,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """A bottom-up language model: fine to coarse scales, then aggregation.

  Tokens (b, l) int32 -> logits (b, l, v) float32; logits at position t predict
  token t from the tokens before it. Any length.

  H_0 = blocks(embeddings); H_j = blocks(shorten(H_{j-1}))
  output = blocks(aggregate(H_0, .., H_K))

  With one scale this is a `TransformerLM`, without aggregation.

  Args:
    vocab_size: Number of token ids; id 0 also precedes the first token.
    d_model: Width of the model at all scales.
    d_ff: Width inside the feed-forward layers.
    scales: Tokens per vector, finest scale first: 1, then multiples of the
      preceding scale.
    n_layers: Number of blocks at each scale before aggregation.
    n_post: Number of blocks at full length after aggregation.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout, or one for each scale; that of the first scale
      is also that of the embeddings and of all layers from the aggregation on.
    block: Factory of a block at full length, called with the dimensions of the
      model that its signature names.
    coarse_block: Factory of a block at the other scales, called like `block`.
    shorten: Factory of the shortening: `AverageShorten`, `LinearShorten` (a
      strided convolution) or `AttentionShorten`. Or a tuple of factories, one
      for each scale but the first.
    aggregate: Factory of the aggregation: `AttentionAggregation`, or
      `ConcatAggregation`, which is cheaper.
    positions: Factory of the position scheme of all attention layers.
    logits: Factory of the last layer, of width `d_out`; @TiedLogits shares the
      embedding.
    remat: What the backward pass recomputes, as in `Repeat`: one policy for all
      blocks, or one for each scale. The aggregation is not recomputed.
    max_len: Capacity of predict mode, in tokens.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> model = BottomUpLM(
    ...   256,
    ...   d_model=32,
    ...   d_ff=64,
    ...   scales=(1, 4),
    ...   n_layers=(0, 2),
    ...   n_post=1,
    ...   n_heads=4,
    ...   mode='eval',
    ... )
    >>> print(tree(model, (1, 96)).text(0))
    layer            parameters   in        out
    BottomUpLM ...       56,288   (1, 96)   (1, 96, 256)

  Source: Multi-scale Transformer Language Models (arXiv 2005.00581), bottom-up.
  """
  dimensions = dict(d_model=d_model, d_ff=d_ff, n_heads=n_heads, mode=mode)
  check_arguments(
    'BottomUpLM', vocab_size=vocab_size, n_post=n_post, **dimensions
  )
  check_scales('BottomUpLM', scales)
  check_blocks_per_scale('BottomUpLM', n_layers, scales)
  dropout = dropout_of_scales('BottomUpLM', dropout, scales)
  remat = remat_per_stack(remat, len(scales), 'BottomUpLM.remat')
  scheme = build_positions('BottomUpLM', positions, d_model, n_heads)
  embedding, tables = token_embedding(vocab_size, d_model, logits)
  dimensions |= dict(dropout=dropout[0], max_len=max_len, positions=scheme)
  shorten_to, blocks_at = scale_layers(
    'BottomUpLM',
    dimensions,
    scales=scales,
    n_layers=n_layers,
    dropout=dropout,
    shorten=shorten,
    block=block,
    coarse_block=coarse_block,
    remat=remat,
  )
  aggregation = tl.Serial()
  if len(scales) > 1:
    coarse = ', '.join(f'x/{scale}' for scale in scales[1:])
    aggregation = build_part(
      'BottomUpLM.aggregate',
      aggregate,
      AGGREGATE.of(f'x, {coarse} -> x'),
      scales=scales,
      **dimensions,
    )

  def last_block():
    return build_part('BottomUpLM.block', block, BLOCK, stride=1, **dimensions)

  return tl.Serial(  # tokens
    ShareWeights(*tables, *scheme.shared),
    TokenEncoder(embedding, scheme, dropout[0], mode),  # (b, l, d)
    Pyramid(
      scales, shorten_to, blocks_at, mode
    ),  # (b, l / S, d) for each scale S
    aggregation,  # (b, l, d)
    Repeat(last_block, n_post, remat[0]),
    LayerNorm(),
    Logits(vocab_size, logits, mode, 'BottomUpLM.logits', *tables),
  )
