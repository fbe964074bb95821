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

import gin
import jax
import jax.numpy as jnp

from trax_hier.layers.attention import Attend, Heads, MergeHeads
from trax_hier.layers.build import check_mode
from trax_hier.layers.cache import PastRows
from trax_hier.layers.dense import Linear
from trax_hier.layers.dot_product import block_pairs, blocks
from trax_hier.layers.memory import Memory
from trax_hier.layers.normalization import RMSNorm
from trax_hier.layers.positions import NoPositions
from trax_hier.layers.sliding_attention import (
  Normalise,
  NormalisedHeads,
  ScaledAttention,
  check_window,
)
from trax_hier.layers.stacking import apply_if
from trax_hier.trax_compat import ShapeDtype, base, tl


# Gates
# ------------------------------------------------------------------------------
@gin.configurable(module='trax_hier.layers')
class FixedGate(base.Layer):
  """Mixes old and new states by constants: s, z, h (b, s, .) -> (b, s, d).

  s' = g s + (1 - g) (z + b_z) with g = sigmoid(b_g): an exponential moving
  average in each channel.

  Args:
    bias: Mean of b_g at first (its deviation is 0.1), which decides how long
      states last: gates hardly move in training. 0, as published, halves a
      state in every block; 1 or more recalls what lies further back
      (benchmarks/block_recurrent.py, part recall).
    candidate_bias: Whether b_z is learned, as the paper writes; the published
      code has none.

  Source: Block-Recurrent Transformers (arXiv 2203.07852) section 3.2.
  """

  def __init__(self, bias: float = 0.0, candidate_bias: bool = False):
    super().__init__(n_in=3, n_out=1)
    self._bias = bias
    self._candidate_bias = candidate_bias

  def init_weights_and_state(self, input_signature):
    d = input_signature[0].shape[-1]
    g, z = jax.random.split(self.rng)
    self.weights = (self._bias + _small(g, d),)
    if self._candidate_bias:
      self.weights += (_small(z, d),)

  def forward(self, inputs):
    s, z, _ = inputs
    bias, *candidate_bias = self.weights
    g = jax.nn.sigmoid(bias)
    return g * s + (1 - g) * sum(candidate_bias, start=z)


@gin.configurable(module='trax_hier.layers')
class LSTMGate(base.Layer):
  """Mixes old and new states as an LSTM: s, z, h (b, s, .) -> (b, s, d).

  s' = sigmoid(h W_f + b_f + bias) s + sigmoid(h W_i + b_i - bias) z

  Args:
    bias: Of the forget gate and, negated, of the input gate: at first a state
      keeps sigmoid(bias) of itself in every block.
    paper_candidate: Whether z is tanh(z + b_z) with a learned b_z, as the paper
      writes; the published code takes z as it is.

  Source: Block-Recurrent Transformers (arXiv 2203.07852) section 3.2.
  """

  def __init__(self, bias: float = 1.0, paper_candidate: bool = False):
    super().__init__(n_in=3, n_out=1)
    self._bias = bias
    self._paper_candidate = paper_candidate

  def init_weights_and_state(self, input_signature):
    s, _, h = input_signature
    d = s.shape[-1]

    def affine(rng):
      kernel_rng, bias_rng = jax.random.split(rng)
      kernel, _ = Linear(d, variance=0.1).init(h, kernel_rng)
      return kernel, _small(bias_rng, d)

    f, i, z = jax.random.split(self.rng, 3)
    self.weights = affine(f), affine(i)
    if self._paper_candidate:
      self.weights += (_small(z, d),)

  def forward(self, inputs):
    s, z, h = inputs
    (w_f, b_f), (w_i, b_i), *candidate_bias = self.weights
    if candidate_bias:
      z = jnp.tanh(z + candidate_bias[0])
    forget = jax.nn.sigmoid(jnp.dot(h, w_f) + b_f + self._bias)
    enter = jax.nn.sigmoid(jnp.dot(h, w_i) + b_i - self._bias)
    return forget * s + enter * z


def _small(rng, *shape):
  return 0.1 * jax.random.normal(rng, shape, jnp.float32)


# Configurations of the cell: s (b, s, d), o (b, s, 2 h d_head) -> (b, s, d)
# ------------------------------------------------------------------------------
def _skip(d_model, d_ff, gate, norm):
  """The states skip the feed-forward part."""
  del d_ff, norm
  return _gated([], [Linear(d_model)], gate)


def _dual(d_model, d_ff, gate, norm):
  """A gate after the attention and a gate after the feed-forward part."""
  return tl.Serial(
    _skip(d_model, d_ff, gate, norm),
    tl.Select([0, 0]),  # u, u
    _gated([norm(), Linear(d_ff), tl.Relu()], [Linear(d_model)], gate),
  )


def _single(d_model, d_ff, gate, norm):
  """One gate, after attention and feed-forward part."""
  del norm
  return _gated([Linear(d_ff), tl.Relu()], [Linear(d_model), tl.Tanh()], gate)


def _gated(hidden, candidate, gate):
  """s, x -> gate(s, candidate(h), h) with h = hidden(x)."""
  return tl.Serial(  # s, x
    tl.Parallel(None, tl.Serial(*hidden)),
    tl.Select([0, 1, 1]),  # s, h, h
    tl.Parallel(None, tl.Serial(*candidate), None),
    gate(),
  )


CONFIGURATIONS = {'skip': _skip, 'dual': _dual, 'single': _single}


# The cell
# ------------------------------------------------------------------------------
@gin.configurable(module='trax_hier.layers')
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

  Source: Block-Recurrent Transformers (arXiv 2203.07852) section 3, with the
  details of its published code.
  """
  check_mode(mode)
  check_window('BlockRecurrentCell', window)
  if n_states < 1:
    raise ValueError(
      f'BlockRecurrentCell.n_states = {n_states} must be positive'
    )
  if configuration not in CONFIGURATIONS:
    raise ValueError(
      f'BlockRecurrentCell.configuration = {configuration!r} must be one of '
      f'{", ".join(map(repr, CONFIGURATIONS))}'
    )
  if n_read_blocks not in (1, 2):
    raise ValueError(
      f'BlockRecurrentCell.n_read_blocks = {n_read_blocks} must be 1 or 2'
    )
  scheme = NormalisedHeads(positions or NoPositions())
  rotate_q, rotate_k = (scheme.rotate(stride, mode) for _ in range(2))

  def heads(*normalisations):
    return Heads(d_model, n_heads, *normalisations, d_head=d_head, dense=Linear)

  states = _RecurrentStates(
    initial=_Initial((n_states, d_model)),
    project=tl.Serial(  # s
      norm(),
      _Identities(),
      heads([Normalise()], [], [Normalise()], [Normalise()]),
    ),  # k_s, v_s, q_s, q2_s
    read=ScaledAttention(n_heads, dropout, mode),
    advance=tl.Serial(  # s, k_s, v_s, q_s, q2_s, k, v
      tl.Select([0, 3, 1, 2, 4, 5, 6]),
      tl.Parallel(
        None,
        ScaledAttention(n_heads, 0.0, mode),  # q_s, k_s, v_s
        ScaledAttention(n_heads, 0.0, mode),  # q2_s, k, v
      ),
      tl.Parallel(None, MergeHeads(), MergeHeads()),
      tl.Parallel(None, tl.Concatenate()),  # s, o
      CONFIGURATIONS[configuration](d_model, d_ff, gate, norm),
    ),
    window=window,
    n_read_blocks=n_read_blocks,
    carry=carry,
    mode=mode,
  )
  return tl.Serial(  # x
    heads(rotate_q, rotate_k, [], [Normalise()]),  # q, k, v, q2
    tl.Parallel(None, PastRows(window, carry, mode, n_kept=2 * window)),
    tl.Select([0, 1, 2, 3, 1, 2]),  # q, k, v, q2, k, v
    tl.Parallel(
      Attend(
        scheme, stride, stride, window, dropout, mode, window, past_only=True
      ),
      tl.Serial(states, MergeHeads()),
    ),  # (b, l, h d_head) twice
    tl.Concatenate(),
    Linear(d_model),
  )


class _Identities(base.Layer):
  """Adds what tells the states apart: (b, s, d) -> (b, s, d)."""

  def init_weights_and_state(self, input_signature):
    _, *shape = input_signature.shape
    self.weights = jax.random.normal(self.rng, shape, jnp.float32)

  def forward(self, x):
    return x + self.weights


class _Initial(Memory):
  """The place of the states: those at the start of a sequence are weights."""

  def __init__(self, shape):
    super().__init__(n_in=0, n_out=1)
    self._shape = shape

  def init_weights_and_state(self, input_signature):
    self.weights = _small(self.rng, *self._shape)

  def forward(self, x):
    return self.weights


class _RecurrentStates(base.Layer):
  """The states and what tokens read of them: q2, k, v -> (b, h, l, d_head).

  q2 (b, h, l, d_head) are the queries of the tokens for the states; k and v
  are those of the tokens, with the past in front (see `PastRows`). Block i
  reads the states that blocks 0 .. i - 1 made.

  Args:
    initial: Owns the first states.
    project: s (b, s, d) -> k_s, v_s, q_s, q2_s, each (b, h, s, d_head).
    read: q2, k_s, v_s -> (b, h, l, d_head).
    advance: s, k_s, v_s, q_s, q2_s, k, v -> the next s.
    window: w, the length of a block.
    n_read_blocks: Number of blocks whose keys and values `advance` takes.
    carry: Whether calls in 'train' and 'eval' modes go on with one sequence.
    mode: 'train', 'eval' or 'predict'.
  """

  def __init__(
    self, initial, project, read, advance, window, n_read_blocks, carry, mode
  ):
    super().__init__(n_in=3, n_out=1)
    self._sublayers = (project, read, advance, initial)
    self._weights = (None,) * 4
    self._state = (None,) * 4
    self._window = window
    self._n_read = n_read_blocks * window
    self._carry = carry
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    project, read, advance, initial = self.sublayers
    q, k, v = input_signature
    first, _ = initial.init((), use_cache=True)
    s = ShapeDtype((q.shape[0], *first.shape), q.dtype)
    inits = [project.init(s, use_cache=True)]
    projected = project.output_signature(s)
    k_s, v_s, *_ = projected
    inits += [
      read.init((q, k_s, v_s), use_cache=True),
      advance.init((s, *projected, k, v), use_cache=True),
    ]
    zeros = [jnp.zeros(x.shape, x.dtype) for x in (s, k_s, v_s)]
    memory = ()
    if self._mode == 'predict':
      memory = jnp.zeros((), jnp.int32), tuple(zeros)
    elif self._carry:
      memory = zeros[0], jnp.zeros(s.shape[0], bool)
    self.weights = (*(weights for weights, _ in inits), first)
    self.state = (*(state for _, state in inits), memory)

  def forward(self, inputs):
    q, k, v = inputs
    if self._mode == 'predict':
      return self._decode(q, k, v)
    b, length, w = q.shape[0], q.shape[-2], self._window
    s = self._first(b, q.dtype)
    if self._carry:
      if length % w:
        raise ValueError(
          f'BlockRecurrentCell: a segment of {length} positions must be a '
          f'multiple of window = {w}, as states are carried to the next one'
        )
      old, began = self.state[-1]
      s = jnp.where(began[:, None, None], old.astype(s.dtype), s)

    def step(s, rows):
      projected = self._apply(0, s)
      s = self._apply(2, (s, *projected, *rows))
      return s, tuple(projected[:2])

    rows = (block_pairs(x, w, length).swapaxes(0, 1) for x in (k, v))
    rows = tuple(x[..., -self._n_read :, :] for x in rows)
    s, states = jax.lax.scan(step, s, rows)
    if self._carry:
      self.state = (*self.state[:-1], (s, jnp.ones(b, bool)))
    k_s, v_s = (x.swapaxes(0, 1) for x in states)  # (b, n, h, s, d_head)
    y = self._apply(1, (blocks(q, w), k_s, v_s)).swapaxes(1, 2)
    return y.reshape(*q.shape[:2], -1, q.shape[-1])[:, :, :length]

  def _decode(self, q, k, v):
    """Continues with the tokens of q; k and v hold 2 w rows before theirs.

    With one token, k and v are the newest 2 w rows in any order, which is all
    that an update needs.
    """
    t, states = self.state[-1]
    b, length, w = q.shape[0], q.shape[-2], self._window
    place = t % w

    def project(s):
      return s, *self._apply(0, s.astype(q.dtype))[:2]

    def cast(new):
      return tuple(
        x.astype(old.dtype) for x, old in zip(new, states, strict=True)
      )

    def advance(states, n_new):
      """The states after the block that ends with the n_new-th new token."""
      s = states[0].astype(q.dtype)
      start = n_new if length > 1 else 0
      rows = (
        jax.lax.dynamic_slice_in_dim(
          x, start + 2 * w - self._n_read, self._n_read, axis=-2
        )
        for x in (k, v)
      )
      return cast(project(self._apply(2, (s, *self._apply(0, s), *rows))))

    def pass_edge(states, i):
      n_new = w - place + i * w
      states = apply_if(
        n_new <= length, lambda states: advance(states, n_new), states
      )
      return states, states[1:]

    states = apply_if(
      t == 0, lambda _: cast(project(self._first(b, q.dtype))), states
    )
    first = states[1:]
    n_edges = -(-length // w)
    states, later = jax.lax.scan(pass_edge, states, jnp.arange(n_edges))
    if length == 1:
      y = self._apply(1, (q, *(x.astype(q.dtype) for x in first)))
    else:
      # All tokens read the states of all blocks, and take those of their own.
      k_s, v_s = (
        jnp.concatenate([x[None], xs]).astype(q.dtype)
        for x, xs in zip(first, later, strict=True)
      )
      every = jnp.broadcast_to(q, (n_edges + 1, *q.shape))
      block = (place + jnp.arange(length)) // w
      y = self._apply(1, (every, k_s, v_s))
      y = jnp.take_along_axis(y, block[None, None, None, :, None], axis=0)[0]
    self.state = (*self.state[:-1], (t + length, states))
    return y

  def _first(self, b, dtype):
    first = self.weights[-1].astype(dtype)
    return jnp.broadcast_to(first, (b, *first.shape))

  def _apply(self, i, x):
    """Applies a sublayer, none of which has a state."""
    return self.sublayers[i].pure_fn(
      x, self.weights[i], self.state[i], self.rng
    )[0]
