"""The top-down multi-scale Transformer; see `trax_hier.models.multiscale`."""

from collections.abc import Callable

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers import (
  AverageShorten,
  Coarse,
  ConcatDense,
  DecoderBlock,
  Dense,
  Latest,
  LayerNorm,
  NoPositions,
  RelativePositions,
  ShareWeights,
)
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.remat import RematPolicy, remat_per_stack
from trax_hier.layers.base.slots import INJECT, build_part, build_positions
from trax_hier.layers.hierarchy.scales import check_scales
from trax_hier.models.embedding import Logits, TokenEncoder, token_embedding
from trax_hier.models.multiscale import (
  check_blocks_per_scale,
  dropout_of_scales,
  scale_layers,
)


@configurable(module='trax_hier.models')
@passes_on('d_ff', 'n_heads', 'max_len', 'positions')
def TopDownLM(
  vocab_size: int,
  d_model: int = 512,
  d_ff: int = 2048,
  scales: tuple[int, ...] = (1, 4, 16),
  n_layers: tuple[int, ...] = (8, 10, 12),
  n_heads: int = 8,
  dropout: float | tuple[float, ...] = 0.1,
  block: Callable[..., base.Layer] = DecoderBlock,
  coarse_block: Callable[..., base.Layer] = DecoderBlock,
  shorten: Callable[..., base.Layer]
  | tuple[Callable[..., base.Layer], ...] = AverageShorten,
  inject: Callable[..., base.Layer] = ConcatDense,
  positions: Callable[..., NoPositions] = RelativePositions,
  logits: Callable[..., base.Layer] = Dense,
  remat: RematPolicy | tuple[RematPolicy, ...] = False,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """A top-down language model: coarse to fine scales.

  Tokens (b, l) int32 -> logits (b, l, v) float32; logits at position t predict
  token t from the tokens before it. Any length.

  c_0 = embeddings; c_j = shorten(c_{j-1})
  H_K = blocks(c_K); H_j = blocks(inject(c_j, newest complete row of H_{j+1}))

  A learned vector replaces rows of H_{j+1} before the first is complete.

  An Hourglass without layers before its shortened ones also runs layers on the
  shortened sequence first, then at full length. But Hourglass adds upsampled
  vectors to its inputs, this model injects the newest coarse vector, and the
  blocks of tokens differ (see `trax_hier.layers.hierarchy.scales`).

  Args:
    vocab_size: Number of token ids; id 0 also precedes the first token.
    d_model: Width of the model at all scales.
    d_ff: Width inside the feed-forward layers.
    scales: Tokens per vector, finest scale first: 1, then multiples of the
      preceding scale.
    n_layers: Number of blocks at each scale.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout, or one for each scale; that of the first scale
      is also that of the embeddings.
    block: Factory of a block at full length, called with the dimensions of the
      model that its signature names.
    coarse_block: Factory of a block at the other scales, called like `block`.
    shorten: Factory of the shortening: `AverageShorten`, `LinearShorten` (a
      strided convolution) or `AttentionShorten`. Or a tuple of factories, one
      for each scale but the first.
    inject: Factory of the layer that joins c_j and H_{j+1}: `ConcatDense` or
      `Sum`.
    positions: Factory of the position scheme of all attention layers.
    logits: Factory of the last layer, of width `d_out`; @TiedLogits shares the
      embedding.
    remat: What the backward pass recomputes, as in `Repeat`: one policy for all
      blocks, or one for each scale.
    max_len: Capacity of predict mode, in tokens.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> model = TopDownLM(
    ...   256,
    ...   d_model=32,
    ...   d_ff=64,
    ...   scales=(1, 4),
    ...   n_layers=(1, 2),
    ...   n_heads=4,
    ...   mode='eval',
    ... )
    >>> print(tree(model, (1, 96)).text(1))
    layer                parameters   in                        out
    TopDownLM                47,680   (1, 96)                   (1, 96, 256)
      ShareWeights ...           64
      TokenEncoder ...        8,192   (1, 96)                   (1, 96, 32)
      Coarse(4) ...          19,200   (1, 96, 32)               (1, 24, 32)
      Latest(4)                  32   (1, 96, 32) (1, 24, 32)   (1, 96, 32)
      ConcatDense ...         2,080   (1, 96, 32) (1, 96, 32)   (1, 96, 32)
      Repeat(1) ...           9,600   (1, 96, 32)               (1, 96, 32)
      LayerNorm                  64   (1, 96, 32)               (1, 96, 32)
      Logits ...              8,448   (1, 96, 32)               (1, 96, 256)

  Source: Multi-scale Transformer Language Models (arXiv 2005.00581), top-down.
  """
  dimensions = dict(d_model=d_model, d_ff=d_ff, n_heads=n_heads, mode=mode)
  check_arguments('TopDownLM', vocab_size=vocab_size, **dimensions)
  check_scales('TopDownLM', scales)
  check_blocks_per_scale('TopDownLM', n_layers, scales)
  dropout = dropout_of_scales('TopDownLM', dropout, scales)
  remat = remat_per_stack(remat, len(scales), 'TopDownLM.remat')
  scheme = build_positions('TopDownLM', positions, d_model, n_heads)
  embedding, tables = token_embedding(vocab_size, d_model, logits)
  dimensions |= dict(dropout=dropout[0], max_len=max_len, positions=scheme)
  shorten_to, blocks_at = scale_layers(
    'TopDownLM',
    dimensions,
    scales=scales,
    n_layers=n_layers,
    dropout=dropout,
    shorten=shorten,
    block=block,
    coarse_block=coarse_block,
    remat=remat,
  )

  def join():
    return build_part(
      'TopDownLM.inject', inject, INJECT, n_inputs=2, d_model=d_model
    )

  def from_scale(j):  # c_j -> H_j
    if j == len(scales) - 1:
      return blocks_at(j)
    ratio = scales[j + 1] // scales[j]
    coarser = tl.Serial(shorten_to(j + 1), from_scale(j + 1))
    newest = tl.Serial(
      tl.Branch(None, Coarse(ratio, coarser, mode)), Latest(ratio, mode)
    )
    return tl.Serial(  # c_j
      tl.Branch(None, newest),  # c_j, newest row of H_{j+1}
      join(),
      blocks_at(j),
    )

  return tl.Serial(  # tokens
    ShareWeights(*tables, *scheme.shared),
    TokenEncoder(embedding, scheme, dropout[0], mode),  # (b, l, d)
    from_scale(0),
    LayerNorm(),
    Logits(vocab_size, logits, mode, 'TopDownLM.logits', *tables),
  )
