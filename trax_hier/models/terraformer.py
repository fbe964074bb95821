"""Terraformer: a reversible, sparse encoder-decoder for long documents.

The decoder has no cross-attention: it puts the encoder's output before its own
rows and applies causal self-attention to both. Memory for the backward pass
does not grow with the number of layers.

Source: Sparse is Enough in Scaling Transformers (arXiv 2111.12763), section 4
and its published code.
"""

import functools
from collections.abc import Callable, Sequence

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers import (
  AlignRight,
  CloseGaps,
  Dense,
  EncoderAttention,
  LayerNorm,
  LearnedPositions,
  NoPositions,
  Prefixed,
  ReversibleRepeat,
  SelfAttention,
  ShareWeights,
  SparseAttention,
  SparseFF,
  SRUBranch,
)
from trax_hier.layers.base.build import accepts
from trax_hier.layers.base.checks import (
  check_arguments,
  check_positive,
)
from trax_hier.layers.base.repeat import alternating
from trax_hier.layers.base.slots import (
  ATTENTION,
  ENCODER_ATTENTION,
  FEED_FORWARD,
  MASKED_ATTENTION,
  NORM,
  RECURRENCE,
  MisfitError,
  build_part,
  build_positions,
)
from trax_hier.layers.blocks import pre_norm
from trax_hier.models.embedding import (
  Embed,
  EmbeddingTable,
  Logits,
  PaddingMask,
  TokenEncoder,
  embed,
  token_embedding,
)


@configurable(module='trax_hier.models')
@passes_on('d_ff', 'n_heads', 'positions')
def Terraformer(
  vocab_size: int,
  d_model: int = 1024,
  d_ff: int = 6144,
  n_encoder_layers: int = 24,
  n_decoder_layers: int = 24,
  n_decoder_attentions: int = 2,
  n_heads: int = 16,
  dropout: float = 0.1,
  encoder_attention: Callable[..., base.Layer] = EncoderAttention,
  attention: Callable[..., base.Layer]
  | Sequence[Callable[..., base.Layer]] = SparseAttention,
  feed_forward: Callable[..., base.Layer] = SparseFF,
  norm: Callable[[], base.Layer] = LayerNorm,
  recurrence: Callable[..., base.Layer] | None = SRUBranch,
  logits: Callable[..., base.Layer] = Dense,
  positions: Callable[..., NoPositions] = LearnedPositions,
  reversible_encoder: bool = True,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """A reversible encoder-decoder Transformer of sparse layers.

  Sources (b, m) int32 and tokens (b, l) int32 -> logits (b, l, v) float32;
  logits at position t predict token t from the sources and the tokens before
  it. Id 0 is padding anywhere in the sources and does not change the logits,
  except with @LSHAttention, where it fills buckets; `generate` accepts padding
  only after the text. Encoder and decoder share the embedding. In predict mode
  the encoder runs in the first call; later calls keep using its output.

  Args:
    vocab_size: Number of token ids; id 0 also precedes the first token.
    d_model: Width of the model.
    d_ff: Width inside the feed-forward layers.
    n_encoder_layers: Number of blocks of the encoder.
    n_decoder_layers: Number of blocks of the decoder.
    n_decoder_attentions: Number of attention layers in a block of the decoder.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout.
    encoder_attention: Factory of the encoder's attention: x, mask -> x.
    attention: Factory of the decoder's causal attention, called with `masked`:
      x, mask -> x. @SparseAttention, @SelfAttention (dense) or @LSHAttention.
      With a tuple of factories, blocks with these alternate.
    feed_forward: Factory of the feed-forward layers of encoder and decoder;
      @FeedForward is dense.
    norm: Factory of the normalization before each sublayer. Those after the
      encoder and after the decoder are always @LayerNorm.
    recurrence: Factory of a layer in parallel to each feed-forward layer, whose
      output is added; None means no such layer.
    logits: Factory of the last layer, of width `d_out`; @MultiplicativeDense is
      the sparse loss layer, and @TiedLogits shares the embedding.
    positions: Factory of the position scheme. A scheme that acts in causal
      attention, such as @RotaryPositions, gives the encoder no positions.
    reversible_encoder: Whether the two streams of the encoder go on as those of
      the decoder. If False, they end: both streams of the decoder start from
      LayerNorm(Dense(mean of the two)).
    max_len: Capacity of predict mode, in tokens: sources, including padding,
      and new tokens.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> model = Terraformer(
    ...   256,
    ...   d_model=32,
    ...   d_ff=64,
    ...   n_encoder_layers=2,
    ...   n_decoder_layers=2,
    ...   mode='eval',
    ... )
    >>> print(tree(model, (1, 48), (1, 96)).text(0))
    layer             parameters   in                out
    Terraformer ...      198,568   (1, 48) (1, 96)   (1, 96, 256)
  """
  dimensions = dict(
    d_model=d_model, d_ff=d_ff, n_heads=n_heads, dropout=dropout, mode=mode
  )
  check_arguments('Terraformer', vocab_size=vocab_size, **dimensions)
  check_positive(
    'Terraformer',
    n_encoder_layers=n_encoder_layers,
    n_decoder_layers=n_decoder_layers,
    n_decoder_attentions=n_decoder_attentions,
  )
  scheme = _positions('Terraformer', positions, d_model, n_heads)
  table = EmbeddingTable(vocab_size, d_model)
  dimensions |= dict(max_len=max_len, stride=1, positions=scheme, masked=True)
  # The encoder reads whole sequences, even in predict mode.
  encoder_mode = 'train' if mode == 'train' else 'eval'

  def encoder_block():
    own = dimensions | dict(mode=encoder_mode, causal=False)
    return [
      _attention(
        'encoder_attention', encoder_attention, ENCODER_ATTENTION, norm, own
      ),
      _feed_forward('Terraformer', feed_forward, recurrence, norm, own),
    ]

  def decoder_block(kind):
    own = dimensions | dict(causal=True)
    attentions = [
      _attention('attention', kind, MASKED_ATTENTION, norm, own)
      for _ in range(n_decoder_attentions)
    ]
    feed = _feed_forward('Terraformer', feed_forward, recurrence, norm, own)
    return [*attentions, feed]

  end = [Mean(), Dense(d_model), LayerNorm(), tl.Dup()]
  encoder = tl.Serial(  # sources
    CloseGaps(),
    tl.Branch(
      embed(Embed(table), scheme, dropout, encoder_mode), PaddingMask()
    ),  # (b, m, d), mask
    AlignRight(),
    tl.Dup(),
    ReversibleRepeat(
      encoder_block, n_encoder_layers, encoder_mode
    ),  # y1, y2, mask
    *([] if reversible_encoder else end),
  )
  kinds = alternating('Terraformer.attention', attention, n_decoder_layers)
  decoder_blocks = [functools.partial(decoder_block, kind) for kind in kinds]
  decoder = ReversibleRepeat(decoder_blocks, n_decoder_layers, mode)
  targets = TokenEncoder(Embed(table), scheme, dropout, mode)
  return tl.Serial(  # sources, tokens
    ShareWeights(table),
    tl.Parallel(None, [targets, tl.Dup()]),  # sources, x1, x2
    Prefixed(encoder, decoder, mode, max_len),  # x1, x2
    Mean(),
    LayerNorm(),
    Logits(vocab_size, logits, mode, 'Terraformer.logits', table),
  )


@configurable(module='trax_hier.models')
@passes_on('d_ff', 'n_heads', 'max_len', 'positions')
def ReversibleLM(
  vocab_size: int,
  d_model: int = 512,
  d_ff: int = 2048,
  n_layers: int = 6,
  n_heads: int = 8,
  dropout: float = 0.1,
  attention: Callable[..., base.Layer]
  | Sequence[Callable[..., base.Layer]] = SelfAttention,
  feed_forward: Callable[..., base.Layer] = SparseFF,
  norm: Callable[[], base.Layer] = LayerNorm,
  recurrence: Callable[..., base.Layer] | None = None,
  logits: Callable[..., base.Layer] = Dense,
  positions: Callable[..., NoPositions] = LearnedPositions,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """A reversible decoder-only language model: Terraformer's decoder alone.

  Tokens (b, l) int32 -> logits (b, l, v) float32; logits at position t predict
  token t from the tokens before it. Arguments are those of `Terraformer`, but
  `attention` takes x alone.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> model = ReversibleLM(
    ...   256, d_model=8, d_ff=64, n_layers=2, n_heads=2, mode='eval'
    ... )
    >>> print(tree(model, (1, 9)).text(1))
    layer                parameters   in                    out
    ReversibleLM             23,872   (1, 9)                (1, 9, 256)
      TokenEncoder ...       18,432   (1, 9)                (1, 9, 8)
      Repeat(2) ...           3,120   (1, 9, 8) (1, 9, 8)   (1, 9, 8) (1, 9, 8)
      LayerNorm                  16   (1, 9, 8)             (1, 9, 8)
      Logits ...              2,304   (1, 9, 8)             (1, 9, 256)

  Source: Reformer (arXiv 2001.04451), section 3.
  """
  dimensions = dict(
    d_model=d_model, d_ff=d_ff, n_heads=n_heads, dropout=dropout, mode=mode
  )
  check_arguments('ReversibleLM', vocab_size=vocab_size, **dimensions)
  check_positive('ReversibleLM', n_layers=n_layers)
  scheme = _positions('ReversibleLM', positions, d_model, n_heads)
  embedding, tables = token_embedding(vocab_size, d_model, logits)
  dimensions |= dict(max_len=max_len, stride=1, positions=scheme)

  def block(kind):
    attend = build_part('ReversibleLM.attention', kind, ATTENTION, **dimensions)
    return [
      _pre_norm('ReversibleLM', attend, norm, dimensions),
      _feed_forward('ReversibleLM', feed_forward, recurrence, norm, dimensions),
    ]

  kinds = alternating('ReversibleLM.attention', attention, n_layers)
  blocks = [functools.partial(block, kind) for kind in kinds]
  return tl.Serial(  # tokens
    *([ShareWeights(*tables)] if tables else []),
    TokenEncoder(embedding, scheme, dropout, mode),  # (b, l, d)
    tl.Dup(),
    ReversibleRepeat(blocks, n_layers, mode),  # x1, x2
    Mean(),
    LayerNorm(),
    Logits(vocab_size, logits, mode, 'ReversibleLM.logits', *tables),
  )


def _positions(model, positions, d_model, n_heads):
  """The position scheme, without weights that the blocks share."""
  scheme = build_positions(model, positions, d_model, n_heads)
  if scheme.shared:
    raise MisfitError(
      f'{model}.positions = @{type(scheme).__name__} has weights that all '
      'layers share, which reversible layers cannot: legal are '
      '@NoPositions, @RotaryPositions, @LearnedPositions, '
      '@FixedBasePositions and @T5Positions'
    )
  return scheme


def _attention(name, factory, kind, norm, dimensions):
  """Normalization, attention and dropout: x, mask -> f."""
  # Causal attention has an argument `masked`. Attention with an argument
  # `causal` can be either.
  is_causal = accepts(factory, 'masked')
  if not accepts(factory, 'causal') and is_causal != dimensions['causal']:
    legal = ', '.join(f'@{part}' for part in kind.parts)
    needs = 'an argument `masked`' if dimensions['causal'] else 'no causal mask'
    raise MisfitError(
      f'Terraformer.{name} must make {kind.noun}, and so needs {needs}: legal '
      f'are {legal}'
    )
  layer = build_part(f'Terraformer.{name}', factory, kind, **dimensions)
  return _pre_norm('Terraformer', layer, norm, dimensions)


def _feed_forward(model, feed_forward, recurrence, norm, dimensions):
  """Feed-forward layer, plus a recurrence in parallel: x[, mask] -> f."""
  layer = build_part(
    f'{model}.feed_forward', feed_forward, FEED_FORWARD, **dimensions
  )
  branch = None
  if recurrence is not None:
    branch = build_part(
      f'{model}.recurrence', recurrence, RECURRENCE, **dimensions
    )
  return _pre_norm(model, layer, norm, dimensions, branch)


def _pre_norm(model, layer, norm, dimensions, recurrence=None):
  def make_norm():
    return build_part(f'{model}.norm', norm, NORM)

  sizes = dimensions['dropout'], dimensions['mode']
  return tl.Serial(*pre_norm(layer, *sizes, make_norm, recurrence))


def Mean() -> base.Layer:
  """The mean of two streams: (b, l, d), (b, l, d) -> (b, l, d)."""
  return tl.Fn('Mean', lambda x1, x2: (x1 + x2) / 2)
