"""The Transformer decoder language model: the baseline of every table."""

from collections.abc import Callable

import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers import (
  DecoderBlock,
  Dense,
  LayerNorm,
  NoPositions,
  RelativePositions,
  Repeat,
  ShareWeights,
)
from trax_hier.layers.base.build import (
  build,
  check_dropout,
  check_heads,
  check_mode,
  check_sizes,
)
from trax_hier.layers.base.stacking import RematPolicy


@configurable(module='trax_hier.models')
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
    vocab_size: Number of token ids; id 0 is also what precedes the first token.
    d_model: Width of the model.
    d_ff: Width inside the feed-forward parts.
    n_layers: Number of blocks.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout.
    block: Makes a block, from those of the model's dimensions that it names.
    positions: Makes the position scheme of all attention layers.
    logits: Makes the last layer, of width `d_out`.
    remat: What the backward pass recomputes, as in `Repeat`.
    max_len: Capacity in tokens of predict mode.
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
  check_mode(mode)
  check_sizes(vocab_size=vocab_size, d_model=d_model, d_ff=d_ff)
  check_heads(d_model, n_heads)
  check_dropout(dropout)
  if n_layers < 0:
    raise ValueError(f'TransformerLM.n_layers = {n_layers} is negative')
  scheme = build(positions, d_model=d_model, n_heads=n_heads)

  def make_block():
    return build(
      block,
      d_model=d_model,
      d_ff=d_ff,
      n_heads=n_heads,
      dropout=dropout,
      mode=mode,
      max_len=max_len,
      stride=1,
      positions=scheme,
    )

  return tl.Serial(  # tokens
    ShareWeights(*scheme.shared),
    TokenEncoder(
      tl.Embedding(vocab_size, d_model), scheme, dropout, mode
    ),  # (b, l, d)
    Repeat(make_block, n_layers, remat),
    LayerNorm(),
    Logits(vocab_size, logits, mode),  # (b, l, v)
  )


def TokenEncoder(
  embedding: base.Layer, positions: NoPositions, dropout: float, mode: str
) -> base.Layer:
  """Shifts tokens right by one and embeds them: (b, l) int32 -> (b, l, d).

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = TokenEncoder(tl.Embedding(256, 32), NoPositions(), 0.1, 'eval')
    >>> tree(layer, (1, 96)).outputs
    ((1, 96, 32),)
  """
  return tl.Serial(
    tl.ShiftRight(mode=mode),
    embedding,
    *positions.embed(mode),
    tl.Dropout(dropout, mode=mode),
  )


def Logits(
  vocab_size: int,
  dense: Callable[..., base.Layer] = Dense,
  mode: str = 'train',
) -> base.Layer:
  """Projects to float32 logits: (b, l, d) -> (b, l, v).

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> tree(Logits(256), (1, 96, 32)).outputs
    ((1, 96, 256),)
  """
  return tl.Serial(
    build(dense, d_out=vocab_size, mode=mode),
    tl.Fn('Float32', lambda x: x.astype(jnp.float32)),
  )
