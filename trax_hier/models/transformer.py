"""The baseline: a decoder-only Transformer language model."""

from collections.abc import Callable

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers import (
  DecoderBlock,
  Dense,
  LayerNorm,
  NoPositions,
  RelativePositions,
  Repeat,
  ShareWeights,
)
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.remat import RematPolicy
from trax_hier.layers.base.slots import BLOCK, build_part, build_positions
from trax_hier.models.embedding import Logits, TokenEncoder, token_embedding


@configurable(module='trax_hier.models')
@passes_on('d_ff', 'n_heads', 'max_len', 'positions')
def TransformerLM(
  vocab_size: int,
  d_model: int = 512,
  d_ff: int = 2048,
  n_layers: int = 6,
  n_heads: int = 8,
  dropout: float = 0.1,
  block: Callable[..., base.Layer] = DecoderBlock,
  positions: Callable[..., NoPositions] = RelativePositions,
  logits: Callable[..., base.Layer] = Dense,
  remat: RematPolicy = False,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """A decoder-only Transformer language model.

  Tokens (b, l) int32 -> logits (b, l, v) float32; logits at position t predict
  token t from the tokens before it.

  Args:
    vocab_size: Number of token ids; id 0 also precedes the first token.
    d_model: Width of the model.
    d_ff: Width inside the feed-forward layers.
    n_layers: Number of blocks.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout.
    block: Factory of a block, called with the dimensions of the model that its
      signature names.
    positions: Factory of the position scheme of all attention layers.
    logits: Factory of the last layer, of width `d_out`; @TiedLogits shares the
      embedding.
    remat: What the backward pass recomputes, as in `Repeat`.
    max_len: Capacity of predict mode, in tokens.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> model = TransformerLM(
    ...   256, d_model=32, d_ff=64, n_layers=2, n_heads=4, mode='eval'
    ... )
    >>> print(tree(model, (1, 96)).text(1))
    layer                parameters   in            out
    TransformerLM            35,968   (1, 96)       (1, 96, 256)
      ShareWeights ...           64
      TokenEncoder ...        8,192   (1, 96)       (1, 96, 32)
      Repeat(2) ...          19,200   (1, 96, 32)   (1, 96, 32)
      LayerNorm                  64   (1, 96, 32)   (1, 96, 32)
      Logits ...              8,448   (1, 96, 32)   (1, 96, 256)
  """
  dimensions = dict(
    d_model=d_model, d_ff=d_ff, n_heads=n_heads, dropout=dropout, mode=mode
  )
  check_arguments(
    'TransformerLM', vocab_size=vocab_size, n_layers=n_layers, **dimensions
  )
  scheme = build_positions('TransformerLM', positions, d_model, n_heads)
  embedding, tables = token_embedding(vocab_size, d_model, logits)

  def make_block():
    return build_part(
      'TransformerLM.block',
      block,
      BLOCK,
      stride=1,
      max_len=max_len,
      positions=scheme,
      **dimensions,
    )

  return tl.Serial(  # tokens
    ShareWeights(*tables, *scheme.shared),
    TokenEncoder(embedding, scheme, dropout, mode),  # (b, l, d)
    Repeat(make_block, n_layers, remat),
    LayerNorm(),
    Logits(vocab_size, logits, mode, 'TransformerLM.logits', *tables),
  )
