"""Block-Recurrent Transformers: language models recurrent over blocks."""

import math
from collections.abc import Callable

import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers import (
  BlockRecurrentCell,
  DecoderBlock,
  Lanes,
  NoPositions,
  ReluFeedForward,
  Repeat,
  RMSNorm,
  ShareWeights,
  ShiftRight,
  SlidingAttention,
  T5Positions,
)
from trax_hier.layers.base.build import (
  build,
  check_dropout,
  check_mode,
  check_sizes,
)
from trax_hier.layers.base.stacking import RematPolicy


@configurable(module='trax_hier.models')
def BlockRecurrentLM(
  vocab_size: int,
  d_model: int = 1024,
  d_ff: int = 4096,
  n_layers: int = 12,
  recurrent_layers: tuple[int, ...] = (10,),
  n_heads: int = 8,
  d_head: int | None = None,
  dropout: float = 0.05,
  block: Callable[..., base.Layer] = DecoderBlock,
  attention: Callable[..., base.Layer] = SlidingAttention,
  recurrent_attention: Callable[..., base.Layer] = BlockRecurrentCell,
  feed_forward: Callable[..., base.Layer] = ReluFeedForward,
  norm: Callable[[], base.Layer] = RMSNorm,
  positions: Callable[..., NoPositions] = T5Positions,
  feedback: Callable[..., base.Layer] | None = None,
  carry: bool = True,
  remat: RematPolicy = False,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """A Transformer with sliding attention, some of whose layers are recurrent.

  Tokens (b, l) int32, start_of_sequence (b,) bool -> logits (b, l, v) float32;
  logits at position t predict token t from the tokens before it, those of
  earlier calls included. `start_of_sequence` says which rows begin a sequence;
  the others go on with that of the call before. In predict mode, and without
  `carry`, tokens are the only input.

  Without recurrent layers this is the paper's Slide or, where segments are as
  long as the window, its Transformer-XL.

  Args:
    vocab_size: Number of token ids; id 0 is also what precedes the first token.
    d_model: Width of the model.
    d_ff: Width inside the feed-forward parts.
    n_layers: Number of blocks, recurrent ones included.
    recurrent_layers: Which of them are recurrent, counted from 1.
    n_heads: Number of attention heads.
    d_head: Width of a head; None is d_model / n_heads.
    dropout: Rate of all dropout.
    block: Makes a block, from those of the model's dimensions and parts that it
      names.
    attention: Makes the attention of the other blocks, and
    recurrent_attention: that of the recurrent ones; their windows are arguments
      of theirs.
    feed_forward: Makes the feed-forward parts.
    norm: Makes a normalization.
    positions: Makes the position scheme of all attention layers.
    feedback: Makes a `FeedbackStack`, in which all layers read the states of
      the one that is recurrent; its window and states are arguments of its, and
      the two kinds of attention have no use. None is no feedback.
    carry: Whether sequences go on from call to call in 'train' and 'eval'.
    remat: What the backward pass recomputes, as in `Repeat`.
    max_len: Capacity in tokens of predict mode, for parts whose memory is not
      bounded; those above have no use of it.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> model = BlockRecurrentLM(
    ...   256,
    ...   d_model=32,
    ...   d_ff=64,
    ...   n_layers=2,
    ...   recurrent_layers=(2,),
    ...   n_heads=4,
    ...   mode='eval',
    ... )
    >>> print(tree(model, (1, 512), (1,)).text(2))
    layer                  parameters   in                       out
    Lanes                      66,036   (1, 512) (1)             (1, 512, 256)
      BlockRecurrentLM         66,036   (1, 512)                 (1, 512, 256)
        ShareWeights ...        8,192
        Repeat(1) ...           8,388   (1, 512, 32)             (1, 512, 32)
        Repeat(1) ...          49,424   (1, 512, 32)             (1, 512, 32)
        RMSNorm                    32   (1, 512, 32)             (1, 512, 32)
        Logits                      -   (256, 32) (1, 512, 32)   (1, 512, 256)

  Source: Block-Recurrent Transformers (arXiv 2203.07852).
  """
  check_mode(mode)
  check_sizes(vocab_size=vocab_size, d_model=d_model, d_ff=d_ff)
  check_dropout(dropout)
  if n_layers < 0:
    raise ValueError(f'BlockRecurrentLM.n_layers = {n_layers} is negative')
  layers = sorted(recurrent_layers)
  if len(set(layers)) < len(layers) or not all(
    1 <= i <= n_layers for i in layers
  ):
    raise ValueError(
      f'BlockRecurrentLM.recurrent_layers = {recurrent_layers} must be '
      f'different numbers from 1 to n_layers = {n_layers}'
    )
  scheme = build(positions, d_model=d_model, n_heads=n_heads)
  # A vector of a token has about the length that the first norm gives it.
  embedding = tl.Weights(tl.RandomNormalInitializer(1.0), (vocab_size, d_model))

  dimensions = dict(
    d_model=d_model,
    d_ff=d_ff,
    n_heads=n_heads,
    d_head=d_head,
    feed_forward=feed_forward,
    norm=norm,
    dropout=dropout,
    mode=mode,
    max_len=max_len,
    stride=1,
    positions=scheme,
    carry=carry,
  )

  def repeat(attention, n):
    return Repeat(
      lambda: build(block, attention=attention, **dimensions), n, remat
    )

  if feedback is not None:
    if len(layers) != 1:
      raise ValueError(
        f'BlockRecurrentLM.recurrent_layers = {recurrent_layers} must be one '
        'layer if there is feedback'
      )
    stack = build(
      feedback,
      n_layers=n_layers,
      recurrent_layer=layers[0],
      block=block,
      remat=remat,
      **dimensions,
    )
  else:
    parts, above = [], 0
    for i in layers:
      parts += [
        repeat(attention, i - above - 1),
        repeat(recurrent_attention, 1),
      ]
      above = i
    stack = tl.Serial(*parts, repeat(attention, n_layers - above))

  return Lanes(
    tl.Serial(  # tokens
      ShareWeights(embedding, *scheme.shared),
      ShiftRight(carry, mode),
      embedding,
      tl.Fn('Embed', lambda table, tokens: table[tokens]),  # (b, l, d)
      *scheme.embed(mode),
      stack,
      norm(),
      tl.Dropout(dropout, mode=mode),
      embedding,
      tl.Fn('Logits', _logits),  # (b, l, v)
    ),
    carry and mode != 'predict',
  )


def _logits(table, x):
  """Products with the embeddings, of variance 1 at first: float32 (b, l, v)."""
  logits = jnp.dot(x, table.T, preferred_element_type=jnp.float32)
  return logits / math.sqrt(x.shape[-1])
