"""Horizontal direction of a recurrent layer: states pass from block to block.

States attend to themselves and to the tokens of a block, and a gate computes
the next states. A block at the start of a sequence gets learned initial states.
The vertical direction, in which tokens read the states, is in
`vertical_attention`.

Letters: b batch, h heads, d d_model, s states, w window, the length of a block.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from trax_hier.compat import ShapeDtype, base, tl
from trax_hier.config.effects import note_use
from trax_hier.layers.attention.heads import Heads, MergeHeads
from trax_hier.layers.attention.qk_normalization import (
  Normalize,
  ScaledAttention,
)
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.conditional import apply_if
from trax_hier.layers.base.dense import Linear
from trax_hier.layers.base.memory import Memory
from trax_hier.layers.base.slots import GATE, NORM, build_part
from trax_hier.layers.recurrent.configurations import CONFIGURATIONS
from trax_hier.layers.recurrent.gates import small_normal


@dataclasses.dataclass(frozen=True)
class StateLayers:
  """The layers of the horizontal direction.

  Attributes:
    name: Name of the configurable, for error messages.
    initial: -> initial states (s, d).
    project: s (b, s, d) -> k_s, v_s, q_s, q2_s, each (b, h, s, d_head).
    advance: s, k_s, v_s, q_s, q2_s, k, v -> the next s; k and v belong to the
      last `n_read` tokens.
    window: w.
    n_read: Number of tokens whose keys and values `advance` takes.
  """

  name: str
  initial: base.Layer
  project: base.Layer
  advance: base.Layer
  window: int
  n_read: int


def state_layers(
  name: str,
  d_model: int,
  d_ff: int,
  n_heads: int,
  d_head: int | None,
  window: int,
  n_states: int,
  gate: Callable[[], base.Layer],
  configuration: str,
  n_read_blocks: int,
  norm: Callable[[], base.Layer],
  mode: str,
) -> StateLayers:
  """Returns the layers of the states; arguments as in `BlockRecurrentCell`.

  Raises:
    ValueError: an argument of the configurable `name` is out of its range.
  """
  check_arguments(name, window=window, n_states=n_states, mode=mode)
  if configuration not in CONFIGURATIONS:
    raise ValueError(
      f'{name}.configuration = {configuration!r} must be one of '
      f'{", ".join(map(repr, CONFIGURATIONS))}'
    )
  if n_read_blocks not in (1, 2):
    raise ValueError(f'{name}.n_read_blocks = {n_read_blocks} must be 1 or 2')

  if configuration != 'skip':
    note_use('d_ff')

  def make_gate():
    return build_part(f'{name}.gate', gate, GATE)

  def make_norm():
    return build_part(f'{name}.norm', norm, NORM)

  return StateLayers(
    name,
    initial=_FirstStates((n_states, d_model)),
    project=tl.Serial(  # s
      make_norm(),
      _Identities(),
      Heads(
        d_model,
        n_heads,
        *([Normalize()], [], [Normalize()], [Normalize()]),
        d_head=d_head,
        dense=Linear,
      ),
    ),
    advance=tl.Serial(  # s, k_s, v_s, q_s, q2_s, k, v
      tl.Select([0, 3, 1, 2, 4, 5, 6]),
      tl.Parallel(
        None,
        ScaledAttention(n_heads, 0.0, mode),  # q_s, k_s, v_s
        ScaledAttention(n_heads, 0.0, mode),  # q2_s, k, v
      ),
      tl.Parallel(None, MergeHeads(), MergeHeads()),
      tl.Parallel(None, tl.Concatenate()),  # s, o
      CONFIGURATIONS[configuration](d_model, d_ff, make_gate, make_norm),
    ),
    window=window,
    n_read=n_read_blocks * window,
  )


class _Identities(base.Layer):
  """Adds a learned embedding to each state: (b, s, d) -> (b, s, d)."""

  def init_weights_and_state(self, input_signature):
    _, *shape = input_signature.shape
    self.weights = jax.random.normal(self.rng, shape, jnp.float32)

  def forward(self, x):
    return x + self.weights


class _FirstStates(Memory):
  """The learned initial states; the layer's state holds the current states."""

  def __init__(self, shape):
    super().__init__(n_in=0, n_out=1)
    self._shape = shape

  def init_weights_and_state(self, input_signature):
    self.weights = small_normal(self.rng, *self._shape)

  def forward(self, x):
    return self.weights


class Recurrence(base.Layer):
  """Base class of layers with recurrent states.

  The first three sublayers are `initial`, `project` and `advance` of the
  `StateLayers`.

  Args:
    layers: Layers of the horizontal direction.
    *others: Further sublayers.
    n_in: Number of inputs.
    carry: Whether a call in 'train' and 'eval' modes continues the sequence of
      the call before.
    mode: 'train', 'eval' or 'predict'.
  """

  def __init__(
    self,
    layers: StateLayers,
    *others: base.Layer,
    n_in: int,
    carry: bool,
    mode: str,
  ):
    super().__init__(n_in=n_in, n_out=1)
    self._sublayers = (layers.initial, layers.project, layers.advance, *others)
    self._weights = (None,) * len(self._sublayers)
    self._state = (None,) * len(self._sublayers)
    self._configurable = layers.name
    self._window = layers.window
    self._n_read = layers.n_read
    self._carry = carry
    self._mode = mode

  def _init_states(self, b, dtype, init_others):
    """Initializes all sublayers.

    `init_others` maps the signatures of k_s and v_s to two outputs: a list of
    (weights, state) of the further sublayers, and the signatures of k and v for
    `advance`.
    """
    initial, project, advance, *_ = self.sublayers
    start, _ = initial.init((), use_cache=True)
    s = ShapeDtype((b, *start.shape), dtype)
    project_init = project.init(s, use_cache=True)
    projected = project.output_signature(s)
    others, rows = init_others(*projected[:2])
    advance_init = advance.init((s, *projected, *rows), use_cache=True)
    zeros = [jnp.zeros(x.shape, x.dtype) for x in (s, *projected[:2])]
    memory = ()
    if self._mode == 'predict':
      memory = jnp.zeros((), jnp.int32), tuple(zeros)
    elif self._carry:
      memory = zeros[0], jnp.zeros(b, bool)
    inits = [(start, memory), project_init, advance_init, *others]
    self.weights = tuple(weights for weights, _ in inits)
    self.state = tuple(state for _, state in inits)

  def _apply(self, i, x):
    """Applies a sublayer that has no state."""
    layer, weights, state = self.sublayers[i], self.weights[i], self.state[i]
    return layer.pure_fn(x, weights, state, self.rng)[0]

  def _initial(self, b, dtype):
    start = self.weights[0].astype(dtype)
    return jnp.broadcast_to(start, (b, *start.shape))

  def _project(self, s):
    """k_s, v_s, q_s, q2_s of the states s."""
    return self._apply(1, s)

  def _advance(self, s, projected, rows):
    """The next states, from the last `n_read` of the rows (k, v)."""
    rows = (x[..., -self._n_read :, :] for x in rows)
    return self._apply(2, (s, *projected, *rows))

  # For 'train' and 'eval' modes.

  def _begin(self, b, length, dtype):
    """The states at the start of a call."""
    s = self._initial(b, dtype)
    if not self._carry:
      return s
    if length % self._window:
      raise ValueError(
        f'{self._configurable}.window = {self._window} must divide the '
        f'{length} positions of a segment (such as DocumentLanes.length): '
        'states are carried from segment to segment in whole blocks'
      )
    old, began = self.state[0]
    return jnp.where(began[:, None, None], old.astype(dtype), s)

  def _end(self, s):
    """The memory for the next call."""
    return (s, jnp.ones(s.shape[0], bool)) if self._carry else ()

  # For 'predict' mode; `kept` are s, k_s and v_s.

  def _resume(self, b, dtype):
    """The number of tokens of earlier calls, and `kept`."""
    t, kept = self.state[0]

    def start(kept):
      s = self._initial(b, dtype)
      return _like(kept, (s, *self._project(s)[:2]))

    return t, apply_if(t == 0, start, kept)

  def _advance_if(self, condition, kept, rows, dtype):
    """Advances `kept` if `condition`; rows() returns the k and v to read."""

    def advance(kept):
      s = kept[0].astype(dtype)
      s = self._advance(s, self._project(s), rows())
      return _like(kept, (s, *self._project(s)[:2]))

    return apply_if(condition, advance, kept)


def in_order(t, *rings):
  """The rows (.., n, d) of ring buffers after t tokens, oldest first."""
  return tuple(jnp.roll(x, -t, axis=-2) for x in rings)


def _like(kept, new):
  # The state's dtype may be wider than the compute dtype.
  return tuple(x.astype(old.dtype) for x, old in zip(new, kept, strict=True))
