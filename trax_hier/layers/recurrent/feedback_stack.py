"""A stack of layers that all read the states of one recurrent layer.

The stack runs one block of tokens after another. All layers read the states at
the start of the block, which the recurrent layer computed from earlier blocks.

Letters: b batch, h heads, l length, d d_model; w window, n blocks of tokens.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from trax_hier.compat import ShapeDtype, base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers.attention.dot_product import blocks
from trax_hier.layers.attention.positions import NoPositions, check_carry
from trax_hier.layers.attention.qk_normalization import ScaledAttention
from trax_hier.layers.base.carry import check_carries
from trax_hier.layers.base.feed_forward import ReluFeedForward
from trax_hier.layers.base.memory import map_memory
from trax_hier.layers.base.normalization import RMSNorm
from trax_hier.layers.base.remat import Remat, RematPolicy
from trax_hier.layers.base.repeat import Repeat
from trax_hier.layers.base.slots import BLOCK, build_part, forwarded
from trax_hier.layers.blocks import DecoderBlock
from trax_hier.layers.recurrent.gates import FixedGate
from trax_hier.layers.recurrent.recurrent_states import (
  Recurrence,
  in_order,
  state_layers,
)
from trax_hier.layers.recurrent.vertical_attention import vertical_attention


@configurable(module='trax_hier.layers', denylist=['carry'])
@passes_on('d_ff')
def FeedbackStack(
  d_model: int,
  n_layers: int,
  recurrent_layer: int,
  d_ff: int = 2048,
  n_heads: int = 8,
  window: int = 512,
  n_states: int = 512,
  gate: Callable[[], base.Layer] = FixedGate,
  configuration: str = 'skip',
  n_read_blocks: int = 2,
  block: Callable[..., base.Layer] = DecoderBlock,
  feed_forward: Callable[..., base.Layer] = ReluFeedForward,
  norm: Callable[[], base.Layer] = RMSNorm,
  dropout: float = 0.0,
  remat: RematPolicy = False,
  mode: str = 'train',
  positions: NoPositions | None = None,
  d_head: int | None = None,
  carry: bool = False,
):
  """Layers that all read the states of one of them: (b, l, d) -> (b, l, d).

  Costs more than one `BlockRecurrentCell` among layers with `SlidingAttention`:
  the lower layers wait for the previous block of tokens, and all layers read
  the states.

  Args:
    d_model: Width of inputs, outputs and states.
    n_layers: Number of layers.
    recurrent_layer: Index of the layer that updates the states, from 1.
    d_ff: Hidden width of the feed-forward layers.
    n_heads: Number of heads.
    window: Number of positions that a position attends to, and length of a
      block of tokens.
    n_states: Number of state vectors.
    gate: Factory of `FixedGate` or `LSTMGate`.
    configuration: 'skip', 'dual' or 'single'.
    n_read_blocks: Number of blocks of tokens that an update of the states
      attends to; see `BlockRecurrentCell`.
    block: Factory of a layer. Receives the attention and the arguments here
      that apply to one layer, as far as its signature names them.
    feed_forward: Factory of the feed-forward layers.
    norm: Factory of the normalizations.
    dropout: Rate of all dropout.
    remat: Rematerialization in the backward pass, as in `Repeat`.
    mode: 'train', 'eval' or 'predict'. In predict mode, the tokens of a call
      run one after another.
    positions: Position scheme of the attention to tokens; None means
      `NoPositions()`.
    d_head: Width of a head; None means d_model / n_heads.
    carry: Whether a call in 'train' and 'eval' modes continues the sequence of
      the call before. The length of a call must then be a multiple of `window`.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> sizes = dict(d_model=8, d_ff=16, n_heads=2, window=4, n_states=3)
    >>> stack = FeedbackStack(n_layers=4, recurrent_layer=3, **sizes)
    >>> print(tree(stack, (2, 12, 8)).text(depth=0))
    layer               parameters   in           out
    FeedbackStack ...        3,092   (2, 12, 8)   (2, 12, 8)

  Source: Block-Recurrent Transformers (arXiv 2203.07852).
  """
  if not 1 <= recurrent_layer <= n_layers:
    raise ValueError(
      f'FeedbackStack.recurrent_layer = {recurrent_layer} must be from 1 to '
      f'n_layers = {n_layers}'
    )
  dimensions = dict(d_model=d_model, n_heads=n_heads, d_head=d_head, mode=mode)
  _check_positions(positions or NoPositions(), carry)
  states = state_layers(
    'FeedbackStack',
    **dimensions,
    d_ff=d_ff,
    window=window,
    n_states=n_states,
    gate=gate,
    configuration=configuration,
    n_read_blocks=n_read_blocks,
    norm=norm,
  )

  def make_block(is_recurrent=False):
    outputs = 'x, k, v' if is_recurrent else 'x'
    kind = BLOCK.of(f'x, k_s, v_s -> {outputs}').taking('attention')
    arguments = dict(
      dimensions,
      d_ff=d_ff,
      attention=lambda d_head=None, carry=True: _attention(
        **dimensions,
        window=window,
        positions=positions,
        dropout=dropout,
        copy_rows=is_recurrent,
      ),
      feed_forward=forwarded('FeedbackStack.feed_forward', feed_forward),
      norm=forwarded('FeedbackStack.norm', norm),
      dropout=dropout,
      carry=True,  # From one block of tokens to the next.
    )
    for slot in ('block', 'feed_forward', 'norm'):
      factory = block if slot == 'block' else arguments[slot]
      check_carries(f'FeedbackStack.{slot}', factory, **arguments)
    layer = build_part('FeedbackStack.block', block, kind, **arguments)
    if is_recurrent:
      return layer
    return tl.Serial(tl.Select([0, 1, 2, 1, 2]), layer)  # x, k_s, v_s

  def repeat(n):
    return Repeat(make_block, n, remat) if n else tl.Select([0, 1, 2])

  recurrent = make_block(is_recurrent=True)  # x, k_s, v_s -> x, k, v
  return _FeedbackStack(
    states,
    repeat(recurrent_layer - 1),
    Remat(recurrent, remat) if remat else recurrent,
    repeat(n_layers - recurrent_layer),
    n_in=1,
    carry=carry,
    mode=mode,
  )


def _check_positions(positions, carry):
  """Checks that keys keep their positions in later blocks of tokens."""
  if positions.rotate(1, 'train'):
    name = type(positions).__name__
    raise ValueError(
      'FeedbackStack: the keys of a block of tokens are kept for the next '
      'one, with or without BlockRecurrentLM.carry, so they cannot have '
      f'positions that rotate: BlockRecurrentLM.positions = @{name} must be '
      '@T5Positions, @RelativePositions or @NoPositions, or @LearnedPositions '
      'with BlockRecurrentLM.carry = False'
    )
  check_carry('FeedbackStack', positions, carry)


def _attention(n_heads, dropout, mode, **arguments):
  """x, k_s, v_s -> (b, l, d), and with `copy_rows` also the tokens' k and v."""
  return tl.Serial(
    *vertical_attention(
      n_heads=n_heads,
      dropout=dropout,
      mode=mode,
      read=ScaledAttention(n_heads, dropout, mode),
      n_inputs=3,
      carry=True,
      **arguments,
    )
  )


class _FeedbackStack(Recurrence):
  """Runs `below`, `recurrent` and `above` on one block of tokens at a time."""

  def init_weights_and_state(self, input_signature):
    b, _, d = input_signature.shape
    n = 1 if self._mode == 'predict' else self._window
    x = ShapeDtype((b, n, d), input_signature.dtype)
    below, recurrent, above = self.sublayers[3:]

    def init_stack(k_s, v_s):
      inputs = x, k_s, v_s
      inits = [
        layer.init(inputs, use_cache=True)
        for layer in (below, recurrent, above)
      ]
      rows = recurrent.output_signature(inputs)[1:]
      if self._mode == 'predict' or self._carry:
        return inits, rows
      # Each call starts with zeros, so its batch size may differ from b.
      stack = zip((below, recurrent, above), inits, strict=True)
      return [
        (weights, map_memory(_zeros(1), layer, state))
        for layer, (weights, state) in stack
      ], rows

    self._init_states(b, x.dtype, init_stack)

  def _run(self, x, k_s, v_s, stack, rng):
    """Returns outputs, the tokens' k and v, and the layers' new state."""
    rngs = jax.random.split(rng, 3)
    layers, weights = self.sublayers[3:], self.weights[3:]
    (x, *_), below = layers[0].pure_fn(
      (x, k_s, v_s), weights[0], stack[0], rngs[0]
    )
    (x, *rows), recurrent = layers[1].pure_fn(
      (x, k_s, v_s), weights[1], stack[1], rngs[1]
    )
    (x, *_), above = layers[2].pure_fn(
      (x, k_s, v_s), weights[2], stack[2], rngs[2]
    )
    # The state's dtype may be wider than the compute dtype.
    new = jax.tree.map(
      lambda new, old: new.astype(old.dtype), (below, recurrent, above), stack
    )
    return x, rows, new

  def forward(self, x):
    if self._mode == 'predict':
      return self._decode(x)
    b, length, d = x.shape
    s = self._begin(b, length, x.dtype)
    chunks = blocks(x[:, None], self._window)[:, :, 0].swapaxes(0, 1)

    def step(carried, chunk):
      s, stack = carried
      x, rng = chunk
      projected = self._project(s)
      x, rows, stack = self._run(x, *projected[:2], stack, rng)
      return (self._advance(s, projected, rows), stack), x

    rngs = jax.random.split(self.rng, len(chunks))
    before = tuple(self.state[3:])
    if not self._carry:
      before = tuple(
        map_memory(_zeros(b), layer, state)
        for layer, state in zip(self.sublayers[3:], before, strict=True)
      )
    (s, stack), y = jax.lax.scan(step, (s, before), (chunks, rngs))
    if self._carry:
      self.state = self._end(s), *self.state[1:3], *stack
    return y.swapaxes(0, 1).reshape(b, -1, d)[:, :length]

  def _decode(self, x):
    t, kept = self._resume(x.shape[0], x.dtype)

    def step(carried, x):
      t, kept, stack = carried
      states = (s.astype(x.dtype) for s in kept[1:])
      x, rows, stack = self._run(x, *states, stack, self.rng)
      is_edge = (t + 1) % self._window == 0
      kept = self._advance_if(
        is_edge, kept, lambda: in_order(t + 1, *rows), x.dtype
      )
      return (t + 1, kept, stack), x

    carried = t, kept, tuple(self.state[3:])
    if x.shape[1] == 1:
      (t, kept, stack), y = step(carried, x)
    else:
      tokens = jnp.swapaxes(x, 0, 1)[:, :, None]
      (t, kept, stack), y = jax.lax.scan(step, carried, tokens)
      y = jnp.swapaxes(y[:, :, 0], 0, 1)
    self.state = (t, kept), *self.state[1:3], *stack
    return y


def _zeros(b):
  """Returns a function for `map_memory` that makes zeros for batch size b."""
  return lambda x, axis: jnp.zeros(
    (*x.shape[:axis], b, *x.shape[axis + 1 :]), x.dtype
  )
