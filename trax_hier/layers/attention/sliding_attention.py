"""Sliding-window attention with query-key normalization.

A position attends to the `window` keys before it, excluding its own. Keys and
values before the start of a sequence are zeros, which are not masked. Queries
and keys are L2-normalized in each head. A learned scale for each head
multiplies the sum of the dot products and the position scheme's bias.

Letters: b batch, l length, d d_model.
"""

from trax_hier.compat import tl
from trax_hier.config import configurable
from trax_hier.layers.attention.cache import PastRows
from trax_hier.layers.attention.causal_attention import Attend
from trax_hier.layers.attention.heads import Heads
from trax_hier.layers.attention.positions import NoPositions, check_carry
from trax_hier.layers.attention.qk_normalization import QKNormalization
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.dense import Linear


@configurable(module='trax_hier.layers', denylist=['carry'])
def SlidingAttention(
  d_model: int,
  n_heads: int = 8,
  window: int = 512,
  dropout: float = 0.0,
  mode: str = 'train',
  stride: int = 1,
  positions: NoPositions | None = None,
  d_head: int | None = None,
  carry: bool = False,
):
  """Sliding-window self-attention: (b, l, d) -> (b, l, d).

  Cost is linear in length. With `carry` and segments of `window` tokens, this
  is Transformer-XL's attention to the previous segment.

  Args:
    d_model: Width of inputs and outputs.
    n_heads: Number of heads.
    window: Number of positions before its own that a position attends to.
    dropout: Dropout rate of the attention weights.
    mode: 'train', 'eval' or 'predict'.
    stride: Distance in tokens between neighboring positions.
    positions: Position scheme; None means `NoPositions()`.
    d_head: Width of a head; None means d_model / n_heads.
    carry: Whether a call in 'train' and 'eval' modes continues the sequence of
      the previous call: its first positions attend to the last of that call.

  Raises:
    ValueError: window is not positive, n_heads does not divide d_model, or
      `carry` is combined with positions that count from the start of a call.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = SlidingAttention(8, n_heads=2, window=4)
    >>> print(tree(layer, (2, 12, 8)).text(0))
    layer                  parameters   in           out
    SlidingAttention ...          258   (2, 12, 8)   (2, 12, 8)

  Source: Block-Recurrent Transformers (arXiv 2203.07852) and its published
  code.
  """
  positions = positions or NoPositions()
  scheme = QKNormalization(positions)
  rotate_q, rotate_k = (scheme.rotate(stride, mode) for _ in range(2))
  check_arguments('SlidingAttention', window=window)
  check_carry('SlidingAttention', positions, carry)
  return tl.Serial(  # x
    Heads(
      d_model, n_heads, rotate_q, rotate_k, [], d_head=d_head, dense=Linear
    ),  # q, k, v
    tl.Parallel(None, PastRows(window, carry, mode)),
    Attend(
      scheme, stride, stride, window, dropout, mode, window, past_only=True
    ),
    Linear(d_model),
  )
