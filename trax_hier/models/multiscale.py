"""Multi-scale Transformer language models: top-down, bottom-up, retina.

Three ways to put tokens and blocks of tokens into one model. No code of the
paper is public, and little of it was at hand. Its own are the three names and
30 layers that need less memory than 14. Others say of it that causal layers
alternate with poolings or convolutions, or the past is compressed (arXiv
2504.00927), and that an aggregation layer joins the scales of bottom-up (arXiv
2110.13711). All else is a reconstruction: how each model is wired, scales,
layers at each, sizes, positions.

All three predict any length token by token. A layer at scale S costs 1 / S of a
layer at full length, its attention 1 / S ** 2, and decoding runs it once per S
tokens.

Source: Multi-scale Transformer Language Models (arXiv 2005.00581).
"""

import functools
from collections.abc import Callable

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers import (
  AttentionAggregation,
  AverageShorten,
  Coarse,
  ConcatDense,
  DecoderBlock,
  Latest,
  LayerNorm,
  NoPositions,
  Pyramid,
  RelativePositions,
  Repeat,
  RetinaAttention,
  ShareWeights,
)
from trax_hier.layers.base.build import (
  build,
  check_dropout,
  check_heads,
  check_mode,
  check_sizes,
)
from trax_hier.layers.base.stacking import RematPolicy, remat_of_each
from trax_hier.layers.hierarchy.retina_attention import check_retina
from trax_hier.layers.hierarchy.scales import check_scales
from trax_hier.models.transformer import Logits, TokenEncoder, TransformerLM


@configurable(module='trax_hier.models')
def TopDownLM(
  vocab_size: int,
  d_model: int = 512,
  d_ff: int = 2048,
  scales: tuple[int, ...] = (1, 4, 16),
  n_layers: tuple[int, ...] = (8, 10, 12),
  n_heads: int = 8,
  dropout: float = 0.1,
  block: Callable[..., base.Layer] = DecoderBlock,
  coarse_block: Callable[..., base.Layer] = DecoderBlock,
  shorten: Callable[..., base.Layer] = AverageShorten,
  inject: Callable[..., base.Layer] = ConcatDense,
  positions: Callable[..., NoPositions] = RelativePositions,
  remat: RematPolicy | tuple[RematPolicy, ...] = False,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """Top-down: the coarsest scale first, each finer one told what it found.

  Tokens (b, l) int32 -> logits (b, l, v) float32; logits at position t predict
  token t from the tokens before it. Any length.

  c_0 = embeddings; c_j = shorten(c_{j-1})
  H_K = blocks(c_K); H_j = blocks(inject(c_j, newest complete row of H_{j+1}))

  Before the first row of H_{j+1} is complete, it is a learned vector.

  An Hourglass without layers before its shortened ones also works on the
  shortened sequence first, then at full length. It adds its upsampled vectors
  to its inputs, where this joins the newest one with them, and its blocks begin
  elsewhere (see `trax_hier.layers.hierarchy.scales`).

  Args:
    vocab_size: Number of token ids; id 0 is also what precedes the first token.
    d_model: Width of the model at all scales.
    d_ff: Width inside the feed-forward parts.
    scales: Tokens per vector, finest first: 1, then multiples of one another.
    n_layers: Number of blocks at each scale.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout.
    block: Makes a block at full length, from those of the model's dimensions
      that it names.
    coarse_block: Makes a block at the other scales, likewise.
    shorten: Makes `AverageShorten`, `LinearShorten`, which is a strided
      convolution, or `AttentionShorten`.
    inject: Makes `ConcatDense` or `Sum`.
    positions: Makes the position scheme of all attention layers.
    remat: What the backward pass recomputes, as in `Repeat`: of all blocks, or
      one for each scale.
    max_len: Capacity in tokens of predict mode.
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
  check_sizes(vocab_size=vocab_size, d_model=d_model, d_ff=d_ff)
  _check('TopDownLM', scales, n_layers, d_model, n_heads, dropout, mode)
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
  shorten_to, stack = _levels(
    'TopDownLM',
    dimensions,
    scales=scales,
    n_layers=n_layers,
    shorten=shorten,
    block=block,
    coarse_block=coarse_block,
    remat=remat,
  )

  def join():
    layer = build(inject, n_inputs=2, d_model=d_model)
    legal = '@ConcatDense or @Sum'
    return _checked('TopDownLM.inject', layer, 2, 1, legal)

  def from_scale(j):
    if j == len(scales) - 1:
      return stack(j)
    ratio = scales[j + 1] // scales[j]
    coarser = tl.Serial(shorten_to(j + 1), from_scale(j + 1))
    newest = tl.Serial(
      tl.Branch(None, Coarse(ratio, coarser, mode)), Latest(ratio, mode)
    )
    return tl.Serial(  # c
      tl.Branch(None, newest),  # c, u
      join(),
      stack(j),
    )

  return tl.Serial(  # tokens
    ShareWeights(*scheme.shared),
    TokenEncoder(
      tl.Embedding(vocab_size, d_model), scheme, dropout, mode
    ),  # (b, l, d)
    from_scale(0),
    LayerNorm(),
    Logits(vocab_size),  # (b, l, v)
  )


@configurable(module='trax_hier.models')
def BottomUpLM(
  vocab_size: int,
  d_model: int = 512,
  d_ff: int = 2048,
  scales: tuple[int, ...] = (1, 4, 16),
  n_layers: tuple[int, ...] = (0, 10, 12),
  n_post: int = 7,
  n_heads: int = 8,
  dropout: float = 0.1,
  block: Callable[..., base.Layer] = DecoderBlock,
  coarse_block: Callable[..., base.Layer] = DecoderBlock,
  shorten: Callable[..., base.Layer] = AverageShorten,
  aggregate: Callable[..., base.Layer] = AttentionAggregation,
  positions: Callable[..., NoPositions] = RelativePositions,
  remat: RematPolicy | tuple[RematPolicy, ...] = False,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """Bottom-up: each scale on top of the finer one, then all joined for tokens.

  Tokens (b, l) int32 -> logits (b, l, v) float32; logits at position t predict
  token t from the tokens before it. Any length.

  H_0 = blocks(embeddings); H_j = blocks(shorten(H_{j-1}))
  output = blocks(aggregate(H_0, .., H_K))

  With one scale there is nothing to aggregate, and this is a `TransformerLM`.

  Args:
    vocab_size: Number of token ids; id 0 is also what precedes the first token.
    d_model: Width of the model at all scales.
    d_ff: Width inside the feed-forward parts.
    scales: Tokens per vector, finest first: 1, then multiples of one another.
    n_layers: Number of blocks at each scale before aggregation.
    n_post: Number of blocks at full length after it.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout.
    block: Makes a block at full length, from those of the model's dimensions
      that it names.
    coarse_block: Makes a block at the other scales, likewise.
    shorten: Makes `AverageShorten`, `LinearShorten`, which is a strided
      convolution, or `AttentionShorten`.
    aggregate: Makes `AttentionAggregation`, or `ConcatAggregation`, which is
      cheaper.
    positions: Makes the position scheme of all attention layers.
    remat: What the backward pass recomputes, as in `Repeat`: of all blocks, or
      one for each scale; of the aggregation, nothing.
    max_len: Capacity in tokens of predict mode.
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
  check_sizes(vocab_size=vocab_size, d_model=d_model, d_ff=d_ff)
  _check('BottomUpLM', scales, n_layers, d_model, n_heads, dropout, mode)
  if n_post < 0:
    raise ValueError(f'BottomUpLM.n_post = {n_post} must not be negative')
  remat = remat_of_each(remat, len(scales), 'BottomUpLM.remat')
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
  shorten_to, stack = _levels(
    'BottomUpLM',
    dimensions,
    scales=scales,
    n_layers=n_layers,
    shorten=shorten,
    block=block,
    coarse_block=coarse_block,
    remat=remat,
  )
  aggregation = tl.Serial()
  if len(scales) > 1:
    aggregation = _checked(
      'BottomUpLM.aggregate',
      build(aggregate, scales=scales, **dimensions),
      *(len(scales), 1),
      '@AttentionAggregation or @ConcatAggregation',
    )

  return tl.Serial(  # tokens
    ShareWeights(*scheme.shared),
    TokenEncoder(
      tl.Embedding(vocab_size, d_model), scheme, dropout, mode
    ),  # (b, l, d)
    Pyramid(scales, shorten_to, stack, mode),  # (b, l / S, d) for each scale S
    aggregation,  # (b, l, d)
    Repeat(lambda: build(block, stride=1, **dimensions), n_post, remat[0]),
    LayerNorm(),
    Logits(vocab_size),  # (b, l, v)
  )


@configurable(module='trax_hier.models')
def RetinaLM(
  vocab_size: int,
  d_model: int = 512,
  d_ff: int = 2048,
  scales: tuple[int, ...] = (1, 4, 16),
  window: int = 64,
  n_layers: int = 14,
  n_heads: int = 8,
  dropout: float = 0.1,
  pool: Callable[..., base.Layer] = AverageShorten,
  positions: Callable[..., NoPositions] = RelativePositions,
  remat: RematPolicy = False,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """Retina: every layer sees near tokens one by one, and blocks of far ones.

  Tokens (b, l) int32 -> logits (b, l, v) float32; logits at position t predict
  token t from the tokens before it. Any length.

  A `TransformerLM` whose attention is `RetinaAttention`; other models take that
  as the attention of their blocks.

  Args:
    vocab_size: Number of token ids; id 0 is also what precedes the first token.
    d_model: Width of the model.
    d_ff: Width inside the feed-forward parts.
    scales: Tokens per key, finest first: 1, then multiples of one another.
    window: Number of tokens that `RetinaAttention` takes together.
    n_layers: Number of blocks.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout.
    pool: Makes a block of tokens one vector: `AverageShorten`, `LinearShorten`
      or `AttentionShorten`.
    positions: Makes the position scheme of all attention layers.
    remat: What the backward pass recomputes, as in `Repeat`.
    max_len: Capacity in tokens of predict mode.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> model = RetinaLM(
    ...   256,
    ...   d_model=32,
    ...   d_ff=64,
    ...   window=16,
    ...   n_layers=2,
    ...   n_heads=4,
    ...   mode='eval',
    ... )
    >>> print(tree(model, (1, 96)).text(1))
    layer                parameters   in            out
    TransformerLM            40,192   (1, 96)       (1, 96, 256)
      ShareWeights ...           64
      TokenEncoder ...        8,192   (1, 96)       (1, 96, 32)
      Repeat(2) ...          23,424   (1, 96, 32)   (1, 96, 32)
      LayerNorm                  64   (1, 96, 32)   (1, 96, 32)
      Logits ...              8,448   (1, 96, 32)   (1, 96, 256)

  Source: Multi-scale Transformer Language Models (arXiv 2005.00581), retina.
  """
  check_retina('RetinaLM', scales, window)
  if n_layers < 0:
    raise ValueError(f'RetinaLM.n_layers = {n_layers} must not be negative')
  attention = functools.partial(
    RetinaAttention, scales=scales, window=window, pool=pool
  )
  return TransformerLM(
    vocab_size,
    d_model=d_model,
    d_ff=d_ff,
    n_layers=n_layers,
    n_heads=n_heads,
    dropout=dropout,
    block=functools.partial(DecoderBlock, attention=attention),
    positions=positions,
    remat=remat,
    max_len=max_len,
    mode=mode,
  )


def _check(name, scales, n_layers, d_model, n_heads, dropout, mode):
  check_mode(mode)
  check_heads(d_model, n_heads)
  check_dropout(dropout)
  check_scales(name, scales)
  if (
    not isinstance(n_layers, (tuple, list))
    or len(n_layers) != len(scales)
    or min(n_layers) < 0
  ):
    raise ValueError(
      f'{name}.n_layers = {n_layers} must have a number of blocks, 0 or '
      f'more, for each scale of {name}.scales = {scales}'
    )


def _levels(
  name, dimensions, *, scales, n_layers, shorten, block, coarse_block, remat
):
  """Functions of j: the way from scale j - 1 to scale j, and the blocks there.

  A position scheme that adds to embeddings does so at each scale.
  """

  remat = remat_of_each(remat, len(scales), f'{name}.remat')

  def shorten_to(j):
    layer = build(
      shorten,
      shorten_factor=scales[j] // scales[j - 1],
      stride=scales[j - 1],
      **dimensions,
    )
    legal = '@AverageShorten, @LinearShorten or @AttentionShorten'
    layer = _checked(f'{name}.shorten', layer, 1, 1, legal)
    embed = dimensions['positions'].embed(dimensions['mode'], scales[j])
    return tl.Serial(layer, *embed)

  def stack(j):
    make = coarse_block if j else block
    return Repeat(
      lambda: build(make, stride=scales[j], **dimensions), n_layers[j], remat[j]
    )

  return shorten_to, stack


def _checked(name, layer, n_in, n_out, legal):
  """The layer, if it takes and gives as many tensors as it should."""
  if (layer.n_in, layer.n_out) != (n_in, n_out):
    raise ValueError(
      f'{name} must make a layer of {n_in} input{"s" * (n_in > 1)} and {n_out} '
      f'output, such as {legal}; {layer.name} takes {layer.n_in} and gives '
      f'{layer.n_out}'
    )
  return layer
