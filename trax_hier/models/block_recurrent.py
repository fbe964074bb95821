"""Block-Recurrent Transformers: recurrence over blocks of tokens."""

import functools
import math
from collections.abc import Callable

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
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
  TiedLogits,
)
from trax_hier.layers.attention.positions import check_carry
from trax_hier.layers.base.build import accepts
from trax_hier.layers.base.carry import check_carries
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.remat import RematPolicy
from trax_hier.layers.base.slots import (
  BLOCK,
  FEEDBACK,
  NORM,
  build_part,
  build_positions,
  forwarded,
)
from trax_hier.models.embedding import Logits


@configurable(module='trax_hier.models')
@passes_on('d_ff', 'n_heads', 'd_head', 'max_len', 'positions')
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
  logits: Callable[..., base.Layer] = TiedLogits,
  feedback: Callable[..., base.Layer] | None = None,
  carry: bool = True,
  remat: RematPolicy = False,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """A language model with sliding attention and some recurrent layers.

  Tokens (b, l) int32, start_of_sequence (b,) bool -> logits (b, l, v) float32;
  logits at position t predict token t from the tokens before it, including
  tokens of earlier calls. `start_of_sequence` marks the rows that begin a
  sequence; the other rows continue the sequence of the previous call. In
  predict mode, and without `carry`, tokens are the only input.

  Without recurrent layers this is the paper's Slide model, or its
  Transformer-XL if segments are as long as the window.

  Args:
    vocab_size: Number of token ids; id 0 also precedes the first token.
    d_model: Width of the model.
    d_ff: Width inside the feed-forward layers.
    n_layers: Number of blocks, including the recurrent ones.
    recurrent_layers: Numbers of the recurrent blocks, counted from 1.
    n_heads: Number of attention heads.
    d_head: Width of a head; None means d_model / n_heads.
    dropout: Rate of all dropout.
    block: Factory of a block, called with the dimensions and factories of the
      model that its signature names.
    attention: Factory of the attention of blocks without recurrence; has its
      own `window`.
    recurrent_attention: Factory of the attention of the recurrent blocks; has
      its own `window`.
    feed_forward: Factory of the feed-forward layers.
    norm: Factory of the normalization layers.
    positions: Factory of the position scheme of all attention layers.
    logits: Factory of the last layer, of width `d_out`; @TiedLogits shares the
      embedding, as published.
    feedback: Factory of a `FeedbackStack`, in which all layers read the states
      of the one recurrent layer. It has its own `window` and `n_states`, and
      replaces `attention` and `recurrent_attention`. None means no feedback.
    carry: Whether calls in 'train' and 'eval' modes continue the sequences of
      the previous call. All layers must then carry or be position-wise; see
      `trax_hier.layers.base.carry`.
    remat: What the backward pass recomputes, as in `Repeat`.
    max_len: Capacity of predict mode, in tokens, of layers whose memory grows;
      the default layers do not use it.
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
    layer                  parameters   in             out
    Lanes                      66,036   (1, 512) (1)   (1, 512, 256)
      BlockRecurrentLM         66,036   (1, 512)       (1, 512, 256)
        ShareWeights ...        8,192
        Repeat(1) ...           8,388   (1, 512, 32)   (1, 512, 32)
        Repeat(1) ...          49,424   (1, 512, 32)   (1, 512, 32)
        RMSNorm                    32   (1, 512, 32)   (1, 512, 32)
        Logits ...                  -   (1, 512, 32)   (1, 512, 256)

  Source: Block-Recurrent Transformers (arXiv 2203.07852).
  """
  dimensions = dict(d_model=d_model, d_ff=d_ff, dropout=dropout, mode=mode)
  check_arguments(
    'BlockRecurrentLM', vocab_size=vocab_size, n_layers=n_layers, **dimensions
  )
  recurrent = _recurrent_layers(recurrent_layers, n_layers, feedback)
  scheme = build_positions('BlockRecurrentLM', positions, d_model, n_heads)
  # At variance 1, initial embeddings hardly change in the first RMSNorm.
  embedding = tl.Weights(tl.RandomNormalInitializer(1.0), (vocab_size, d_model))
  dimensions |= dict(
    n_heads=n_heads,
    d_head=d_head,
    feed_forward=forwarded('BlockRecurrentLM.feed_forward', feed_forward),
    norm=forwarded('BlockRecurrentLM.norm', norm),
    max_len=max_len,
    stride=1,
    positions=scheme,
    carry=carry,
  )
  if feedback is None:
    _check_carries(dimensions, attention, recurrent_attention, block)
    stack = _stack(
      n_layers,
      recurrent,
      remat,
      dimensions,
      block=block,
      attention=attention,
      recurrent_attention=recurrent_attention,
    )
  else:
    stack = build_part(
      'BlockRecurrentLM.feedback',
      feedback,
      FEEDBACK,
      n_layers=n_layers,
      recurrent_layer=recurrent[0],
      block=forwarded('BlockRecurrentLM.block', block),
      remat=remat,
      **dimensions,
    )

  check_carry('BlockRecurrentLM', scheme, carry and mode != 'predict')
  return Lanes(
    tl.Serial(  # tokens
      ShareWeights(embedding, *scheme.shared),
      ShiftRight(carry, mode),
      embedding,
      tl.Fn('Embed', lambda table, tokens: table[tokens]),  # (b, l, d)
      *scheme.embed(mode),
      stack,
      build_part('BlockRecurrentLM.norm', norm, NORM),
      tl.Dropout(dropout, mode=mode),
      _logits(vocab_size, logits, mode, embedding, d_model, carry),
    ),
    carry and mode != 'predict',
  )


def _stack(n_layers, recurrent, remat, dimensions, block, **attentions):
  """All layers, of which those with the numbers `recurrent` are recurrent."""

  def blocks(slot, n):
    attention = forwarded(f'BlockRecurrentLM.{slot}', attentions[slot])

    def make_block():
      return build_part(
        'BlockRecurrentLM.block',
        block,
        BLOCK.taking('attention'),
        attention=attention,
        **dimensions,
      )

    return Repeat(make_block, n, remat)

  layers, previous = [], 0
  for i in recurrent:
    layers += [blocks('attention', i - previous - 1)]
    layers += [blocks('recurrent_attention', 1)]
    previous = i
  return tl.Serial(*layers, blocks('attention', n_layers - previous))


def _check_carries(dimensions, attention, recurrent_attention, block):
  """Checks that all layers can carry, with `carry`."""
  for slot, factory in {
    'attention': attention,
    'recurrent_attention': recurrent_attention,
    'feed_forward': dimensions['feed_forward'],
    'norm': dimensions['norm'],
    'block': functools.partial(block, attention=attention),
  }.items():
    if slot != 'block' or accepts(block, 'attention'):
      check_carries(f'BlockRecurrentLM.{slot}', factory, **dimensions)


def _recurrent_layers(layers, n_layers, feedback):
  """Checks and sorts the numbers of the recurrent layers."""
  binding = f'BlockRecurrentLM.recurrent_layers = {layers}'
  distinct = len(set(layers)) == len(layers)
  if not distinct or not all(1 <= i <= n_layers for i in layers):
    raise ValueError(
      f'{binding} must be distinct numbers from 1 to n_layers = {n_layers}'
    )
  if feedback is not None and len(layers) != 1:
    raise ValueError(f'{binding} must name one layer if there is feedback')
  return sorted(layers)


def _logits(vocab_size, logits, mode, embedding, d_model, carry):
  """The last layers, (b, l, d) -> (b, l, v)."""
  return Logits(
    vocab_size,
    logits,
    mode,
    'BlockRecurrentLM.logits',
    embedding,
    embedding_norm=math.sqrt(d_model),
    carry=carry,
  )
