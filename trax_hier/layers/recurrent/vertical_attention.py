"""Vertical direction of a recurrent layer: tokens attend to tokens and states.

Two attentions run side by side, each with its own queries: to the window of
tokens before a token, and to the recurrent states. A projection of their
concatenated heads is the output. The horizontal direction is in
`recurrent_states`.

Letters: b batch, h heads, l length, d d_model, s states.
"""

from trax_hier.compat import base, tl
from trax_hier.layers.attention.cache import PastRows
from trax_hier.layers.attention.causal_attention import Attend
from trax_hier.layers.attention.heads import Heads, MergeHeads
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.attention.qk_normalization import (
  Normalize,
  QKNormalization,
)
from trax_hier.layers.base.dense import Linear


def vertical_attention(
  d_model: int,
  n_heads: int,
  d_head: int | None,
  window: int,
  positions: NoPositions | None,
  dropout: float,
  mode: str,
  read: base.Layer,
  n_inputs: int = 1,
  copy_rows: bool = False,
  stride: int = 1,
  carry: bool = False,
) -> list[base.Layer]:
  """Returns the attention to tokens and states, as layers to run in series.

  x (b, l, d), others -> (b, l, d), others. Arguments not listed are as in
  `BlockRecurrentCell`.

  Args:
    read: Attention to the states, -> (b, h, l, d_head). Its first input is q2
      (b, h, l, d_head), the tokens' queries for the states; its next inputs are
      the others, then the copied rows. Inputs that `read` does not take are
      outputs of the layers.
    n_inputs: Number of inputs, including x.
    copy_rows: Whether to copy the tokens' keys and values, to which `PastRows`
      has prepended earlier rows.

  Raises:
    ValueError: n_heads does not divide d_model.
  """
  positions = positions or NoPositions()
  scheme = QKNormalization(positions)
  rotate_q, rotate_k = (scheme.rotate(stride, mode) for _ in range(2))
  n_kept = 2 * window if copy_rows else None
  return [  # x, others
    Heads(
      d_model,
      n_heads,
      *(rotate_q, rotate_k, [], [Normalize()]),
      d_head=d_head,
      dense=Linear,
    ),  # q, k, v, q2, others
    tl.Parallel(None, PastRows(window, carry, mode, n_kept)),
    tl.Select([*range(n_inputs + 3), *([1, 2] if copy_rows else [])]),
    # q, k, v, q2, others, and copies of k, v
    tl.Parallel(
      Attend(
        scheme, stride, stride, window, dropout, mode, window, past_only=True
      ),
      tl.Serial(read, MergeHeads()),
    ),  # (b, l, h d_head) twice
    tl.Concatenate(),
    Linear(d_model),
  ]
