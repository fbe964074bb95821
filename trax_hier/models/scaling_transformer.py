"""Scaling Transformers: Transformers with sparse layers.

Sparse feed-forward layers, attention projections and last layers have as many
parameters as dense ones, but decoding a token reads only a few of them.

Source: Sparse is Enough in Scaling Transformers (arXiv 2111.12763) and its
published code.
"""

import functools
from collections.abc import Callable, Sequence

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers import (
  CrossAttention,
  DecoderBlock,
  Dense,
  EncoderAttention,
  EncoderBlock,
  EncoderDecoderBlock,
  LayerNorm,
  LearnedPositions,
  NoPositions,
  Once,
  Repeat,
  ShareWeights,
  SparseAttention,
  SparseFF,
)
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.remat import RematPolicy, remat_per_stack
from trax_hier.layers.base.repeat import alternating
from trax_hier.layers.base.slots import build_positions, forwarded
from trax_hier.models.embedding import (
  Embed,
  EmbeddingTable,
  Logits,
  PaddingMask,
  TokenEncoder,
  embed,
)
from trax_hier.models.transformer import TransformerLM


@configurable(module='trax_hier.models')
@passes_on('d_ff', 'n_heads', 'max_len', 'positions')
def ScalingTransformerLM(
  vocab_size: int,
  d_model: int = 1024,
  d_ff: int = 6144,
  n_layers: int = 24,
  n_heads: int = 16,
  dropout: float = 0.1,
  attention: Callable[..., base.Layer]
  | Sequence[Callable[..., base.Layer]] = SparseAttention,
  feed_forward: Callable[..., base.Layer] = SparseFF,
  norm: Callable[[], base.Layer] | None = None,
  recurrence: Callable[..., base.Layer] | None = None,
  logits: Callable[..., base.Layer] = Dense,
  positions: Callable[..., NoPositions] = LearnedPositions,
  remat: RematPolicy = False,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """A decoder-only Transformer of sparse layers.

  Tokens (b, l) int32 -> logits (b, l, v) float32; logits at position t predict
  token t from the tokens before it. This is `TransformerLM` with other layers
  and defaults.

  Args:
    vocab_size: Number of token ids; id 0 also precedes the first token.
    d_model: Width of the model.
    d_ff: Width inside the feed-forward layers.
    n_layers: Number of blocks.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout.
    attention: Factory of causal self-attention; @SelfAttention is dense. With a
      tuple of factories, their layers alternate.
    feed_forward: Factory of the feed-forward layers; @FeedForward is dense.
    norm: Factory of the normalization before each sublayer; None means that of
      the block, `DecoderBlock.norm`. The last one is always @LayerNorm.
    recurrence: Factory of a layer in parallel to each feed-forward layer, whose
      output is added, such as @SRUBranch; None means that of the block, which
      has none by default.
    logits: Factory of the last layer, of width `d_out`; @MultiplicativeDense is
      the sparse loss layer, and @TiedLogits shares the embedding.
    positions: Factory of the position scheme.
    remat: What the backward pass recomputes, as in `Repeat`.
    max_len: Capacity of predict mode, in tokens.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> model = ScalingTransformerLM(
    ...   256, d_model=32, d_ff=64, n_layers=2, mode='eval'
    ... )
    >>> print(tree(model, (1, 96)).text(1))
    layer                parameters   in            out
    TransformerLM            92,660   (1, 96)       (1, 96, 256)
      TokenEncoder ...       73,728   (1, 96)       (1, 96, 32)
      Repeat(2) ...          10,420   (1, 96, 32)   (1, 96, 32)
      LayerNorm                  64   (1, 96, 32)   (1, 96, 32)
      Logits ...              8,448   (1, 96, 32)   (1, 96, 256)
  """
  sizes = dict(
    vocab_size=vocab_size,
    d_model=d_model,
    d_ff=d_ff,
    n_layers=n_layers,
    n_heads=n_heads,
    dropout=dropout,
    mode=mode,
  )
  name = 'ScalingTransformerLM'
  check_arguments(name, **sizes)
  alternating(f'{name}.attention', attention, n_layers)
  return TransformerLM(
    **sizes,
    block=functools.partial(
      DecoderBlock,
      attention=forwarded(f'{name}.attention', attention),
      feed_forward=forwarded(f'{name}.feed_forward', feed_forward),
      **_given(name, norm=norm, recurrence=recurrence),
    ),
    positions=forwarded(f'{name}.positions', positions),
    logits=forwarded(f'{name}.logits', logits),
    remat=remat,
    max_len=max_len,
  )


@configurable(module='trax_hier.models')
@passes_on('d_ff', 'n_heads', 'max_len', 'positions')
def ScalingTransformer(
  vocab_size: int,
  d_model: int = 1024,
  d_ff: int = 6144,
  n_encoder_layers: int = 24,
  n_decoder_layers: int = 24,
  n_heads: int = 16,
  dropout: float = 0.1,
  encoder_attention: Callable[..., base.Layer] = EncoderAttention,
  attention: Callable[..., base.Layer]
  | Sequence[Callable[..., base.Layer]] = SparseAttention,
  cross_attention: Callable[..., base.Layer] = CrossAttention,
  feed_forward: Callable[..., base.Layer] = SparseFF,
  norm: Callable[[], base.Layer] | None = None,
  recurrence: Callable[..., base.Layer] | None = None,
  logits: Callable[..., base.Layer] = Dense,
  positions: Callable[..., NoPositions] = LearnedPositions,
  remat: RematPolicy | tuple[RematPolicy, ...] = False,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """An encoder-decoder Transformer of sparse layers.

  Sources (b, m) int32 and tokens (b, l) int32 -> logits (b, l, v) float32;
  logits at position t predict token t from the sources and the tokens before
  it. Id 0 is padding in the sources. Encoder and decoder share the embedding.
  In predict mode the encoder runs in the first call; later calls keep using its
  output.

  Args:
    vocab_size: Number of token ids; id 0 also precedes the first token.
    d_model: Width of the model.
    d_ff: Width inside the feed-forward layers.
    n_encoder_layers: Number of blocks of the encoder.
    n_decoder_layers: Number of blocks of the decoder.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout.
    encoder_attention: Factory of the encoder's attention: x, mask -> x.
    attention: Factory of causal self-attention; @SelfAttention is dense. With a
      tuple of factories, their layers alternate.
    cross_attention: Factory of attention to the encoder's output;
      @SparseCrossAttention has sparse queries and no output projection.
    feed_forward: Factory of the feed-forward layers of encoder and decoder;
      @FeedForward is dense.
    norm: Factory of the normalization before each sublayer; None means that of
      the blocks, `EncoderBlock.norm` and `EncoderDecoderBlock.norm`. Those
      after the encoder and after the decoder are always @LayerNorm.
    recurrence: Factory of a layer in parallel to each feed-forward layer, whose
      output is added, such as @SRUBranch; None means that of the blocks, which
      have none by default.
    logits: Factory of the last layer, of width `d_out`; @MultiplicativeDense is
      the sparse loss layer, and @TiedLogits shares the embedding.
    positions: Factory of the position scheme. A scheme that acts in causal
      attention, such as @RotaryPositions, gives the encoder no positions.
    remat: What the backward pass recomputes, as in `Repeat`: one policy for all
      blocks, or a pair for encoder and decoder.
    max_len: Capacity of predict mode, in tokens.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> model = ScalingTransformer(
    ...   256,
    ...   d_model=32,
    ...   d_ff=64,
    ...   n_encoder_layers=2,
    ...   n_decoder_layers=2,
    ...   mode='eval',
    ... )
    >>> print(tree(model, (1, 48), (1, 96)).text(0))
    layer                    parameters   in                out
    ScalingTransformer ...      184,308   (1, 48) (1, 96)   (1, 96, 256)
  """
  dimensions = dict(
    d_model=d_model, d_ff=d_ff, n_heads=n_heads, dropout=dropout
  )
  check_arguments(
    'ScalingTransformer',
    vocab_size=vocab_size,
    n_encoder_layers=n_encoder_layers,
    n_decoder_layers=n_decoder_layers,
    mode=mode,
    **dimensions,
  )
  alternating('ScalingTransformer.attention', attention, n_decoder_layers)
  remats = remat_per_stack(remat, 2, 'ScalingTransformer.remat')
  scheme = build_positions('ScalingTransformer', positions, d_model, n_heads)
  table = EmbeddingTable(vocab_size, d_model)
  # The encoder reads whole sequences, even in predict mode.
  encoder_mode = 'train' if mode == 'train' else 'eval'

  def slot(name, factory):
    return forwarded(f'ScalingTransformer.{name}', factory)

  dimensions |= dict(
    feed_forward=slot('feed_forward', feed_forward),
    **_given('ScalingTransformer', norm=norm, recurrence=recurrence),
  )

  def encoder_block():
    own = slot('encoder_attention', encoder_attention)
    return EncoderBlock(attention=own, mode=encoder_mode, **dimensions)

  def decoder_block():
    return EncoderDecoderBlock(
      attention=slot('attention', attention),
      cross_attention=slot('cross_attention', cross_attention),
      positions=scheme,
      max_len=max_len,
      mode=mode,
      **dimensions,
    )

  encoder = _encoder(
    embed(Embed(table), scheme, dropout, encoder_mode),
    Repeat(encoder_block, n_encoder_layers, remats[0]),
  )
  return tl.Serial(  # sources, tokens
    ShareWeights(table, *scheme.shared),
    tl.Select([0, 0, 1]),
    tl.Parallel(
      Once(encoder, mode),
      PaddingMask(),
      TokenEncoder(Embed(table), scheme, dropout, mode),
    ),  # y, mask, x
    tl.Select([2, 0, 1]),  # x, y, mask
    Repeat(decoder_block, n_decoder_layers, remats[1]),
    tl.Select([0], n_in=3),
    LayerNorm(),
    Logits(vocab_size, logits, mode, 'ScalingTransformer.logits', table),
  )


def _encoder(embedding, blocks):
  """Sources (b, m) -> (b, m, d)."""
  return tl.Serial(
    tl.Branch(embedding, PaddingMask()),  # (b, m, d), mask
    blocks,
    tl.Select([0], n_in=2),
    LayerNorm(),
  )


def _given(model, **factories):
  """The factories that are not None, as arguments of a block."""
  return {
    slot: forwarded(f'{model}.{slot}', factory)
    for slot, factory in factories.items()
    if factory is not None
  }
