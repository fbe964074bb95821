"""Terraformer: a reversible, sparse encoder-decoder for long documents.

The decoder has no cross-attention. It goes on with the encoder's output, whose
rows stand before its own, by causal self-attention over both. Memory for the
backward pass does not grow with the number of layers.

Source: Sparse is Enough in Scaling Transformers (arXiv 2111.12763), section 4
and its published code.
"""

from collections.abc import Callable

from trax_hier.compat import base, tl
from trax_hier.config import configurable
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
from trax_hier.layers.base.build import (
  accepts,
  build,
  check_dropout,
  check_heads,
  check_inputs,
  check_mode,
  check_sizes,
)
from trax_hier.models.scaling_transformer import Embed, PaddingMask
from trax_hier.models.transformer import Logits, TokenEncoder


@configurable(module='trax_hier.models')
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
  attention: Callable[..., base.Layer] = SparseAttention,
  feed_forward: Callable[..., base.Layer] = SparseFF,
  recurrence: Callable[..., base.Layer] | None = SRUBranch,
  logits: Callable[..., base.Layer] = Dense,
  positions: Callable[..., NoPositions] = LearnedPositions,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """A reversible encoder-decoder Transformer whose parts are sparse.

  Sources (b, m) int32 and tokens (b, l) int32 -> logits (b, l, v) float32;
  logits at position t predict token t from the sources and the tokens before
  it. Id 0 is padding in the sources, wherever it stands: logits are those of
  the sources without it (but with @LSHAttention, of which padding fills
  buckets). `generate` takes it after the text alone. Encoder and decoder share
  the embedding. In predict mode, the encoder runs in the first call, and later
  calls go on with that call's sources.

  Args:
    vocab_size: Number of token ids; id 0 is also what precedes the first token.
    d_model: Width of the model.
    d_ff: Width inside the feed-forward parts.
    n_encoder_layers: Number of blocks of the encoder.
    n_decoder_layers: Number of blocks of the decoder.
    n_decoder_attentions: Number of attention layers in a block of the decoder.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout.
    encoder_attention: Makes the encoder's attention: x, mask -> x.
    attention: Makes the decoder's causal attention, x, mask -> x when it is
      given `masked`: @SparseAttention, @SelfAttention (dense) or @LSHAttention.
    feed_forward: Makes a feed-forward part, of the encoder too; @FeedForward is
      dense.
    recurrence: Makes what is added beside each feed-forward part; None is
      nothing.
    logits: Makes the last layer, of width `d_out`; @MultiplicativeDense is the
      sparse loss layer.
    positions: Makes the position scheme. One that acts in causal attention,
      such as @RotaryPositions, leaves the encoder without any.
    max_len: Capacity in tokens of predict mode, those of the sources, padding
      included, and new ones.
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
  check_mode(mode)
  check_sizes(vocab_size=vocab_size, d_model=d_model, d_ff=d_ff)
  check_heads(d_model, n_heads)
  check_dropout(dropout)
  for name, n in dict(
    n_encoder_layers=n_encoder_layers,
    n_decoder_layers=n_decoder_layers,
    n_decoder_attentions=n_decoder_attentions,
  ).items():
    if n < 1:
      raise ValueError(f'Terraformer.{name} = {n} must be positive')
  scheme = build(positions, d_model=d_model, n_heads=n_heads)
  table = tl.Weights(
    tl.RandomNormalInitializer(d_model**-0.5), (vocab_size, d_model)
  )
  dimensions = dict(
    d_model=d_model,
    d_ff=d_ff,
    n_heads=n_heads,
    dropout=dropout,
    mode=mode,
    max_len=max_len,
    stride=1,
    positions=scheme,
    masked=True,
    causal=True,
  )
  # A call of the encoder is a whole sequence.
  whole = 'train' if mode == 'train' else 'eval'

  def encoder_parts():
    own = dimensions | dict(mode=whole, causal=False)
    return [
      _attention('encoder_attention', encoder_attention, own),
      _feed_forward(feed_forward, recurrence, own),
    ]

  def decoder_parts():
    return [
      *[
        _attention('attention', attention, dimensions)
        for _ in range(n_decoder_attentions)
      ],
      _feed_forward(feed_forward, recurrence, dimensions),
    ]

  encoder = tl.Serial(  # sources
    CloseGaps(),
    tl.Branch(
      [
        Embed(table),
        *scheme.embed(whole),
        tl.Dropout(dropout, mode=whole),
      ],
      PaddingMask(),
    ),  # (b, m, d), mask
    AlignRight(),
    tl.Dup(),
    ReversibleRepeat(encoder_parts, n_encoder_layers, whole),  # y1, y2, mask
  )
  decoder = ReversibleRepeat(decoder_parts, n_decoder_layers, mode)
  return tl.Serial(  # sources, tokens
    ShareWeights(table),
    tl.Parallel(
      None,
      [TokenEncoder(Embed(table), scheme, dropout, mode), tl.Dup()],
    ),  # sources, x1, x2
    Prefixed(encoder, decoder, mode, max_len),  # x1, x2
    Mean(),
    LayerNorm(),
    Logits(vocab_size, logits, mode),  # (b, l, v)
  )


@configurable(module='trax_hier.models')
def ReversibleLM(
  vocab_size: int,
  d_model: int = 512,
  d_ff: int = 2048,
  n_layers: int = 6,
  n_heads: int = 8,
  dropout: float = 0.1,
  attention: Callable[..., base.Layer] = SelfAttention,
  feed_forward: Callable[..., base.Layer] = SparseFF,
  recurrence: Callable[..., base.Layer] | None = None,
  logits: Callable[..., base.Layer] = Dense,
  positions: Callable[..., NoPositions] = LearnedPositions,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """A reversible decoder-only language model: Terraformer's decoder alone.

  Tokens (b, l) int32 -> logits (b, l, v) float32; logits at position t predict
  token t from the tokens before it. Arguments are those of `Terraformer`;
  attention takes x alone.

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
  check_mode(mode)
  check_sizes(vocab_size=vocab_size, d_model=d_model, d_ff=d_ff)
  check_heads(d_model, n_heads)
  check_dropout(dropout)
  if n_layers < 1:
    raise ValueError(f'ReversibleLM.n_layers = {n_layers} must be positive')
  scheme = build(positions, d_model=d_model, n_heads=n_heads)
  dimensions = dict(
    d_model=d_model,
    d_ff=d_ff,
    n_heads=n_heads,
    dropout=dropout,
    max_len=max_len,
    stride=1,
    positions=scheme,
    mode=mode,
  )

  def parts():
    return [
      _part(build(attention, **dimensions), dropout, mode),
      _feed_forward(feed_forward, recurrence, dimensions),
    ]

  return tl.Serial(  # tokens
    TokenEncoder(tl.Embedding(vocab_size, d_model), scheme, dropout, mode),
    tl.Dup(),
    ReversibleRepeat(parts, n_layers, mode),  # x1, x2
    Mean(),
    LayerNorm(),
    Logits(vocab_size, logits, mode),  # (b, l, v)
  )


def _attention(name, factory, dimensions):
  """A part of attention: x, mask -> f."""
  # Causal attention has a mask if it is told so; what takes `causal` is both.
  is_causal = accepts(factory, 'masked')
  if not accepts(factory, 'causal') and is_causal != dimensions['causal']:
    kind = (
      'causal attention that takes `masked`, such as @SparseAttention'
      if dimensions['causal']
      else 'attention to all rows, such as @EncoderAttention'
    )
    raise ValueError(f'Terraformer.{name} must make {kind}')
  layer = build(factory, **dimensions)
  check_inputs(f'Terraformer.{name}', layer, 2, 'x and mask')
  return _part(layer, dimensions['dropout'], dimensions['mode'])


def _feed_forward(feed_forward, recurrence, dimensions):
  """A feed-forward part, and the recurrence beside it: x[, mask] -> f."""
  layer = build(feed_forward, **dimensions)
  feed = _part(layer, dimensions['dropout'], dimensions['mode'])
  if recurrence is None:
    return feed
  return tl.Serial(  # x[, mask]
    tl.Branch(feed, [LayerNorm(), build(recurrence, **dimensions)]), tl.Add()
  )


def _part(layer, dropout, mode):
  return tl.Serial(LayerNorm(), layer, tl.Dropout(dropout, mode=mode))


def Mean() -> base.Layer:
  """The mean of two streams: (b, l, d), (b, l, d) -> (b, l, d)."""
  return tl.Fn('Mean', lambda x1, x2: (x1 + x2) / 2)
