"""A Transformer layer as a recurrent cell over blocks of tokens.

The cell keeps `n_states` state vectors. In the vertical direction, tokens
attend to a window of tokens and to the states (see `vertical_attention`). In
the horizontal direction, states attend to themselves and to the tokens of a
block, and a gate computes the states of the next block (see
`recurrent_states`). Both directions share keys and values. The tokens of a
block read the states before the block, because the states after it depend on
its last tokens.

Letters: b batch, h heads, l length, d d_model, f d_ff; w window, n blocks,
s states.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers.attention.dot_product import blocks, overlapping_blocks
from trax_hier.layers.attention.positions import NoPositions, check_carry
from trax_hier.layers.attention.qk_normalization import ScaledAttention
from trax_hier.layers.base.normalization import RMSNorm
from trax_hier.layers.recurrent.gates import FixedGate
from trax_hier.layers.recurrent.recurrent_states import (
  Recurrence,
  in_order,
  state_layers,
)
from trax_hier.layers.recurrent.vertical_attention import vertical_attention


@configurable(module='trax_hier.layers', denylist=['carry'])
@passes_on('d_ff')
def BlockRecurrentCell(
  d_model: int,
  d_ff: int = 2048,
  n_heads: int = 8,
  window: int = 512,
  n_states: int = 512,
  gate: Callable[[], base.Layer] = FixedGate,
  configuration: str = 'skip',
  n_read_blocks: int = 2,
  norm: Callable[[], base.Layer] = RMSNorm,
  dropout: float = 0.0,
  mode: str = 'train',
  stride: int = 1,
  positions: NoPositions | None = None,
  d_head: int | None = None,
  carry: bool = False,
):
  """The attention of a recurrent layer: (b, l, d) -> (b, l, d).

  Replaces the self-attention of a Transformer block: with the block's residuals
  and feed-forward layer, it is the published recurrent layer. The cost is
  linear in the length. A scan over blocks of tokens updates the states; all
  else runs in parallel.

  Args:
    d_model: Width of inputs, outputs and states.
    d_ff: Hidden width of the states' feed-forward layer in 'dual' and 'single'.
    n_heads: Number of heads, in both directions.
    window: Number of positions that a position attends to, and length of a
      block.
    n_states: Number of state vectors.
    gate: Factory of `FixedGate` or `LSTMGate`.
    configuration: 'skip', 'dual' or 'single'.
    n_read_blocks: Number of blocks of tokens that an update of the states
      attends to: 2, the block and the block before, as in the published code,
      or 1, as in the paper.
    norm: Factory of the states' normalization.
    dropout: Dropout rate of the tokens' attention weights; the attention of the
      states has no dropout.
    mode: 'train', 'eval' or 'predict'.
    stride: Distance in tokens between neighboring positions.
    positions: Position scheme of the attention to tokens; None means
      `NoPositions()`.
    d_head: Width of a head; None means d_model / n_heads.
    carry: Whether a call in 'train' and 'eval' modes continues the sequence of
      the call before. The length of a call must then be a multiple of `window`.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> cell = BlockRecurrentCell(d_model=8, n_heads=2, window=4, n_states=3)
    >>> print(tree(cell, (2, 12, 8)).text(depth=0))
    layer                    parameters   in           out
    BlockRecurrentCell ...          840   (2, 12, 8)   (2, 12, 8)

  Source: Block-Recurrent Transformers (arXiv 2203.07852), with the details of
  its published code.
  """
  states = state_layers(
    'BlockRecurrentCell',
    d_model=d_model,
    d_ff=d_ff,
    n_heads=n_heads,
    d_head=d_head,
    window=window,
    n_states=n_states,
    gate=gate,
    configuration=configuration,
    n_read_blocks=n_read_blocks,
    norm=norm,
    mode=mode,
  )
  positions = positions or NoPositions()
  check_carry('BlockRecurrentCell', positions, carry)
  recurrent_states = _RecurrentStates(
    states,
    ScaledAttention(n_heads, dropout, mode),
    n_in=3,
    carry=carry,
    mode=mode,
  )
  return tl.Serial(
    *vertical_attention(
      d_model,
      n_heads,
      d_head,
      window,
      positions,
      dropout,
      mode,
      read=recurrent_states,
      copy_rows=True,
      stride=stride,
      carry=carry,
    )
  )


class _RecurrentStates(Recurrence):
  """Updates the states and attends to them: q2, k, v -> (b, h, l, d_head).

  q2 (b, h, l, d_head) are the tokens' queries for the states. k and v are the
  tokens' keys and values, with earlier rows in front (see `PastRows`). The
  tokens of block i read the states after blocks 0 .. i - 1.
  """

  def init_weights_and_state(self, input_signature):
    q, k, v = input_signature

    def init_read(k_s, v_s):
      return [self.sublayers[3].init((q, k_s, v_s), use_cache=True)], (k, v)

    self._init_states(q.shape[0], q.dtype, init_read)

  def _read(self, q, k_s, v_s):
    return self._apply(3, (q, k_s, v_s))

  def _join(self, y, length):
    """(b, n, h, w, d_head) -> (b, h, length, d_head)."""
    b, _, h, _, d = y.shape
    return y.swapaxes(1, 2).reshape(b, h, -1, d)[:, :, :length]

  def forward(self, inputs):
    q, k, v = inputs
    if self._mode == 'predict':
      return self._decode(q, k, v)
    length, w = q.shape[-2], self._window

    def step(s, rows):
      projected = self._project(s)
      return self._advance(s, projected, rows), tuple(projected[:2])

    rows = tuple(
      overlapping_blocks(x, w, 2 * w, length).swapaxes(0, 1) for x in (k, v)
    )
    s = self._begin(q.shape[0], length, q.dtype)
    s, states = jax.lax.scan(step, s, rows)
    y = self._read(blocks(q, w), *(x.swapaxes(0, 1) for x in states))
    self.state = self._end(s), *self.state[1:]
    return self._join(y, length)

  def _decode(self, q, k, v):
    """Decodes the tokens of q; k and v begin with 2 w earlier rows.

    With one token, k and v are ring buffers of the newest 2 w rows. The token
    attends to half of them; an update of the states may need all of them.
    """
    length, w = q.shape[-2], self._window
    t, kept = self._resume(q.shape[0], q.dtype)
    _, *first = kept

    def end_block(kept, i):
      n_new = w - t % w + i * w  # New tokens up to the end of block i.

      def rows():
        if length == 1:
          return in_order(t + 1, k, v)
        return (
          jax.lax.dynamic_slice_in_dim(x, n_new, 2 * w, axis=-2) for x in (k, v)
        )

      kept = self._advance_if(n_new <= length, kept, rows, q.dtype)
      return kept, kept[1:]

    n_edges = -(-length // w)
    kept, later = jax.lax.scan(end_block, kept, jnp.arange(n_edges))
    if length == 1:
      y = self._read(q, *(x.astype(q.dtype) for x in first))
    else:
      # A block ends within each chunk of w tokens. All tokens of the chunk read
      # the states before and after the end, and `where` selects.
      n = min(length, w)
      chunks = blocks(q, n)  # (b, n_edges, h, n, d_head)
      states = [
        jnp.concatenate([x[None], xs]).astype(q.dtype).swapaxes(0, 1)
        for x, xs in zip(first, later, strict=True)
      ]
      before = self._read(chunks, *(x[:, :-1] for x in states))
      after = self._read(chunks, *(x[:, 1:] for x in states))
      is_before = t % w + jnp.arange(n) < w
      y = self._join(jnp.where(is_before[:, None], before, after), length)
    self.state = (t + length, kept), *self.state[1:]
    return y
