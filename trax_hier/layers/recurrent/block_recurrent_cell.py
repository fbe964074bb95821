"""A Transformer layer as a recurrent cell over blocks of tokens.

The cell keeps `n_states` state vectors. In the vertical direction tokens attend
to a window of tokens and to the states; in the horizontal direction the states
attend to themselves and to the tokens of a block, and a gate makes the states
for the next block of that. Both directions share their keys and values. The
tokens of a block read the states that enter it: those that leave it know its
last tokens.

Letters: b batch, h heads, l length, d d_model, f d_ff; w window, n blocks,
s states.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.attention.attention import Attend, Heads, MergeHeads
from trax_hier.layers.attention.cache import PastRows
from trax_hier.layers.attention.dot_product import block_pairs, blocks
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.attention.sliding_attention import (
  Normalise,
  NormalisedHeads,
  ScaledAttention,
  check_carry,
)
from trax_hier.layers.base.dense import Linear
from trax_hier.layers.base.normalization import RMSNorm
from trax_hier.layers.recurrent.gates import FixedGate
from trax_hier.layers.recurrent.recurrent_states import (
  Recurrence,
  in_order,
  state_layers,
)


@configurable(module='trax_hier.layers', denylist=['carry'])
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

  Takes the place of a block's self-attention: with the block's residuals and
  feed-forward part it is the published recurrent layer. Cost is linear in
  length; one scan over blocks updates the states, all else runs at once.

  Args:
    d_model: Width of inputs and outputs and of the states.
    d_ff: Width inside the feed-forward part that states have in 'dual' and
      'single'.
    n_heads: Number of heads, in both directions.
    window: Number of positions that a position sees, and length of a block.
    n_states: Number of state vectors.
    gate: Makes `FixedGate` or `LSTMGate`.
    configuration: 'skip', 'dual' or 'single'.
    n_read_blocks: Number of blocks of tokens that an update of the states
      attends to: 2, the block and the one before, as the published code has it,
      or 1, as the paper writes.
    norm: Makes a normalization.
    dropout: Rate of dropout on the attention weights of tokens; states have
      none.
    mode: 'train', 'eval' or 'predict'.
    stride: Distance in tokens of neighbouring positions.
    positions: Position scheme of the attention to tokens; None is
      `NoPositions()`.
    d_head: Width of a head; None is d_model / n_heads.
    carry: Whether calls in 'train' and 'eval' modes go on with one sequence;
      the length of a call must then be a multiple of `window`.

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
  scheme = NormalisedHeads(positions)
  check_carry('BlockRecurrentCell', positions, carry)
  rotate_q, rotate_k = (scheme.rotate(stride, mode) for _ in range(2))
  return tl.Serial(  # x
    Heads(
      d_model,
      n_heads,
      *(rotate_q, rotate_k, [], [Normalise()]),
      d_head=d_head,
      dense=Linear,
    ),  # q, k, v, q2
    tl.Parallel(None, PastRows(window, carry, mode, n_kept=2 * window)),
    tl.Select([0, 1, 2, 3, 1, 2]),  # q, k, v, q2, k, v
    tl.Parallel(
      Attend(
        scheme, stride, stride, window, dropout, mode, window, past_only=True
      ),
      tl.Serial(
        _RecurrentStates(
          states,
          ScaledAttention(n_heads, dropout, mode),
          n_in=3,
          carry=carry,
          mode=mode,
        ),
        MergeHeads(),
      ),
    ),  # (b, l, h d_head) twice
    tl.Concatenate(),
    Linear(d_model),
  )


class _RecurrentStates(Recurrence):
  """The states, and what tokens read of them: q2, k, v -> (b, h, l, d_head).

  q2 (b, h, l, d_head) are the queries of the tokens for the states; k and v
  are those of the tokens, with the past in front (see `PastRows`). Block i
  reads the states that blocks 0 .. i - 1 made.
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

    rows = tuple(block_pairs(x, w, length).swapaxes(0, 1) for x in (k, v))
    s = self._begin(q.shape[0], length, q.dtype)
    s, states = jax.lax.scan(step, s, rows)
    y = self._read(blocks(q, w), *(x.swapaxes(0, 1) for x in states))
    self.state = self._end(s), *self.state[1:]
    return self._join(y, length)

  def _decode(self, q, k, v):
    """Continues with the tokens of q; k and v hold 2 w rows before theirs.

    With one token, k and v are a ring of the newest 2 w rows, of which the
    token sees half; an update needs all of them.
    """
    length, w = q.shape[-2], self._window
    t, kept = self._open(q.shape[0], q.dtype)
    _, *first = kept

    def pass_edge(kept, i):
      n_new = w - t % w + i * w  # New tokens up to the end of the block.

      def rows():
        if length == 1:
          return in_order(t + 1, k, v)
        return (
          jax.lax.dynamic_slice_in_dim(x, n_new, 2 * w, axis=-2) for x in (k, v)
        )

      kept = self._cross(kept, n_new <= length, rows, q.dtype)
      return kept, kept[1:]

    n_edges = -(-length // w)
    kept, later = jax.lax.scan(pass_edge, kept, jnp.arange(n_edges))
    if length == 1:
      y = self._read(q, *(x.astype(q.dtype) for x in first))
    else:
      # An edge cuts each run of w tokens: all read the states before it and
      # after it, and take the right ones.
      n = min(length, w)
      runs = blocks(q, n)  # (b, n_edges, h, n, d_head)
      states = [
        jnp.concatenate([x[None], xs]).astype(q.dtype).swapaxes(0, 1)
        for x, xs in zip(first, later, strict=True)
      ]
      before = self._read(runs, *(x[:, :-1] for x in states))
      after = self._read(runs, *(x[:, 1:] for x in states))
      is_before = t % w + jnp.arange(n) < w
      y = self._join(jnp.where(is_before[:, None], before, after), length)
    self.state = (t + length, kept), *self.state[1:]
    return y
