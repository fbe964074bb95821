"""The retina multi-scale Transformer; see `trax_hier.models.multiscale`."""

import functools
from collections.abc import Callable

from trax_hier.compat import base
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers import (
  AverageShorten,
  DecoderBlock,
  Dense,
  NoPositions,
  RelativePositions,
  RetinaAttention,
)
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.remat import RematPolicy
from trax_hier.layers.base.slots import BLOCK, forwarded
from trax_hier.layers.hierarchy.retina_attention import check_retina
from trax_hier.models.transformer import TransformerLM


@configurable(module='trax_hier.models')
@passes_on('d_ff', 'n_heads', 'max_len', 'positions')
def RetinaLM(
  vocab_size: int,
  d_model: int = 512,
  d_ff: int = 2048,
  scales: tuple[int, ...] = (1, 4, 16),
  window: int = 64,
  n_layers: int = 14,
  n_heads: int = 8,
  dropout: float = 0.1,
  block: Callable[..., base.Layer] = DecoderBlock,
  pool: Callable[..., base.Layer] = AverageShorten,
  positions: Callable[..., NoPositions] = RelativePositions,
  logits: Callable[..., base.Layer] = Dense,
  remat: RematPolicy = False,
  max_len: int = 2048,
  mode: str = 'train',
) -> base.Layer:
  """A retina language model: attends to near tokens and blocks of far ones.

  Tokens (b, l) int32 -> logits (b, l, v) float32; logits at position t predict
  token t from the tokens before it. Any length.

  A `TransformerLM` with `RetinaAttention`, which blocks of other models can use
  as `attention`, too.

  Args:
    vocab_size: Number of token ids; id 0 also precedes the first token.
    d_model: Width of the model.
    d_ff: Width inside the feed-forward layers.
    scales: Tokens per key, finest scale first: 1, then multiples of the
      preceding scale.
    window: Number of tokens in a window of `RetinaAttention`.
    n_layers: Number of blocks.
    n_heads: Number of attention heads.
    dropout: Rate of all dropout.
    block: Factory of a block, called with the dimensions of the model that its
      signature names, and with `attention`.
    pool: Factory of the layer that turns a block of tokens into one vector:
      `AverageShorten`, `LinearShorten` or `AttentionShorten`.
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
  sizes = dict(
    vocab_size=vocab_size,
    d_model=d_model,
    d_ff=d_ff,
    n_layers=n_layers,
    n_heads=n_heads,
    dropout=dropout,
    mode=mode,
  )
  check_arguments('RetinaLM', **sizes)
  check_retina('RetinaLM', scales, window)
  attention = functools.partial(
    RetinaAttention,
    scales=scales,
    window=window,
    pool=forwarded('RetinaLM.pool', pool),
  )
  return TransformerLM(
    **sizes,
    block=forwarded('RetinaLM.block', block, BLOCK, attention=attention),
    positions=forwarded('RetinaLM.positions', positions),
    logits=forwarded('RetinaLM.logits', logits),
    remat=remat,
    max_len=max_len,
  )
