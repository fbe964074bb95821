"""A stack of layers on segments of variable length, and back to full length."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from trax_hier.compat import ShapeDtype, base, signature
from trax_hier.config import configurable
from trax_hier.layers.attention.token_positions import (
  Positions,
  PositionsOfTokens,
  positions_in,
  set_positions,
)
from trax_hier.layers.base.auxiliary import Metrics
from trax_hier.layers.base.rows import (
  over_rows,
  row_axes,
  row_states,
  split_own,
)
from trax_hier.layers.base.slots import (
  BOUNDARIES,
  DYNAMIC_SHORTEN,
  DYNAMIC_UPSAMPLE,
  build_part,
)
from trax_hier.layers.hierarchy.boundary_rules import TokenRule
from trax_hier.layers.hierarchy.dynamic_shorten import TakeFirst
from trax_hier.layers.hierarchy.dynamic_upsample import SmoothedHold
from trax_hier.layers.hierarchy.routers import SimilarityRouter
from trax_hier.layers.hierarchy.segments import (
  count,
  limit,
  n_segments,
  starts,
  take,
)

# In predict mode, the inner layers get 16 segments at once while as many are
# left, then one by one.
_CHUNKS = 16, 1


@configurable(module='trax_hier.layers', denylist=['inner', 'level'])
class DynamicStack(base.Layer):
  """Applies a layer to a sequence shortened to one vector for each segment.

  x (b, l, d), marks (b, l, 2 + r) bool -> (b, l, d)

  upsample(inner(shorten(x))), where `boundaries` finds the segments. `marks`
  are those of `token_marks`. Positions of a segment read its vector, which
  depends on the inputs up to its first position, so the layer is causal if
  `inner` is.

  A call of l positions holds up to capacity * l / target segments, rounded up.
  Boundaries beyond are dropped: their positions continue the last segment. The
  metrics are the share of boundaries that were dropped, the mean length of a
  segment in positions of this layer's input, and the share of segments that
  start after white space.

  Attention inside counts segments or, with `TokenPositions`, tokens.

  In predict mode, every row of the batch counts its own segments, up to those
  that fit into `max_len` positions, so it may keep boundaries that a shorter
  call in 'eval' mode drops. `inner` runs when a segment starts in any row, and
  changes the state of these rows only.

  Args:
    inner: Factory of the layer on the segments: called with max_len, its
      capacity in segments, and returns a layer c (b, m, d_inner) or c, marks ->
      (b, m, d_inner).
    d_model: d.
    target: Expected mean length of a segment, at least 1. Routers train for it.
    d_inner: Width of `inner`; None means d_model.
    boundaries: Factory of a router (see `routers`) or of a rule on tokens (see
      `boundary_rules`), whose marks are column 2.
    shorten: Factory of (h, beta, starts) -> c; see `dynamic_shorten`.
    upsample: Factory of (z, h, p, beta, starts) -> (b, l, d); see
      `dynamic_upsample`.
    capacity: Number of segments that fit, relative to l / target.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity of predict mode in positions of this layer's input.
    level: Number of the level, from 1, in the names of metrics.

  Raises:
    ValueError: an argument is out of its range, or a part does not fit.

  Example:
    >>> from trax_hier.layers import FeedForward
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = DynamicStack(lambda max_len: FeedForward(8, 16), 8, target=3)
    >>> marks = ShapeDtype((2, 12, 2), bool)
    >>> print(tree(layer, (2, 12, 8), marks).text(0))
    layer              parameters   in                      out
    DynamicStack ...          472   (2, 12, 8) (2, 12, 2)   (2, 12, 8)
  """

  def __init__(
    self,
    inner: object,
    d_model: int,
    target: float,
    d_inner: int | None = None,
    boundaries: Callable[..., base.Layer] = SimilarityRouter,
    shorten: Callable[..., base.Layer] = TakeFirst,
    upsample: Callable[..., base.Layer] = SmoothedHold,
    capacity: float = 1.5,
    mode: str = 'train',
    max_len: int = 2048,
    level: int = 1,
  ):
    super().__init__(n_in=2, n_out=1)
    if target < 1:
      raise ValueError(f'DynamicStack.target = {target} must be at least 1')
    if capacity <= 0:
      raise ValueError(f'DynamicStack.capacity = {capacity} must be above 0')
    self._mode = mode
    self._target, self._capacity = target, capacity
    self._max_segments = self.n_segments(max_len)
    dimensions = dict(
      d_model=d_model, d_inner=d_inner, target=target, mode=mode, level=level
    )

    def make(slot, factory, kind):
      return build_part(f'DynamicStack.{slot}', factory, kind, **dimensions)

    found = make('boundaries', boundaries, BOUNDARIES)
    if not isinstance(found, TokenRule) and (found.n_in, found.n_out) != (3, 2):
      raise ValueError(
        'DynamicStack.boundaries must make a router, of 3 inputs and 2 '
        'outputs, or a rule on tokens, such as @SimilarityRouter or @WordRule, '
        f'but makes {found.name} of {found.n_in} and {found.n_out}'
      )
    self._rule = found if isinstance(found, TokenRule) else None
    names = ('segment_length', 'dropped', 'after_space')
    self._sublayers = (
      base.Layer(name='Marks') if self._rule else found,
      make('shorten', shorten, DYNAMIC_SHORTEN),
      inner(self._max_segments),
      make('upsample', upsample, DYNAMIC_UPSAMPLE),
      Metrics(*(f'level_{level}/{name}' for name in names), mode=mode),
      base.Layer(name='Memory'),
      PositionsOfTokens(),
    )
    self._weights = (None,) * len(self._sublayers)
    self._state = (None,) * len(self._sublayers)

  def n_segments(self, length: int) -> int:
    """Number of segments that a sequence of `length` positions can have."""
    return n_segments(length, self._target, self._capacity)

  @property
  def makes_positions(self) -> bool:
    """Whether the layer makes the positions of the layers inside it."""
    return True

  @property
  def rule(self) -> TokenRule | None:
    """The rule on tokens whose marks this layer gets in column 2."""
    return self._rule

  def init_weights_and_state(self, input_signature):
    x, marks = input_signature
    (b, l, d), columns = x.shape, marks.shape[-1]
    rows = b
    m = self.n_segments(l)
    if self._mode == 'predict':
      b, l, m = 1, 1, 1
    route, shorten, inner, upsample, metrics, *_ = self.sublayers
    x = ShapeDtype((b, l, d), x.dtype)
    beta, valid = (ShapeDtype((b, l), t) for t in (jnp.float32, bool))
    first = ShapeDtype((b, m), jnp.int32)
    inputs = (x, valid, valid) if self._rule is None else beta
    inits = [route.init(inputs, use_cache=True)]
    inits.append(shorten.init((x, beta, first), use_cache=True))
    c = shorten.output_signature((x, beta, first))
    if inner.n_in == 2:
      c = c, ShapeDtype((b, m, columns - (self._rule is not None)), bool)
    inits.append(inner.init(c, use_cache=True))
    z = inner.output_signature(c)
    inits.append(upsample.init((z, x, beta, beta, first), use_cache=True))
    weights, states = zip(*inits, strict=True)
    scalar = ShapeDtype((), jnp.float32)
    _, values = metrics.init((scalar,) * 3)
    memory = ()
    if self._mode == 'predict':
      # Positions and segments so far, and marks since the last start.
      memory = (
        jnp.zeros((), jnp.int32),
        jnp.zeros((), jnp.int32),
        jnp.zeros((1, 1, columns), jnp.int32),
      )
    self.weights = *weights, (), (), ()
    self.state = *states, values, memory, ()
    if self._mode == 'predict':
      self.state = row_states(self, self.state, rows)

  def _forward_abstract(self, input_signature):
    # Trax would trace the layers inside again for each layer around this one.
    x, _ = input_signature
    return ShapeDtype(x.shape, x.dtype), signature(self.state)

  def forward(self, inputs):
    x, marks = inputs
    if self._mode == 'predict':
      axes = row_axes(self, self.state)
      y, self.state = over_rows(self._decode, axes, self.state, x, marks)
      return y
    run = _Run(self, self.weights, self.state, self.rng)
    m = self.n_segments(x.shape[1])
    p, found = self._route(run, x, marks, 0)
    beta = limit(found, 0, m)
    first = starts(beta, m)
    c = run(1, (x, beta, first))
    n = count(beta)[:, -1:]
    inner_marks, _ = self._inner_marks(marks, beta, first, n, 0)
    positions = take(self._positions(self.state[-1], x, 0), first)
    z = self._run_inner(run, (c, inner_marks, positions))
    y = run(3, (z, x, p, beta, first))
    run(4, _statistics(found, beta, marks))
    self.state = tuple(run.states)
    return y

  def _positions(self, given, x, t):
    """Positions in tokens of x (b, l, d), where an outer level gives none."""
    tokens = positions_in(given)
    if tokens is None:
      tokens = t + jnp.arange(x.shape[1])
    # In `_decode`, the state is that of a row, and has no axis of rows.
    return jnp.broadcast_to(tokens, x.shape[:2])

  def _run_inner(self, run, rows):
    """Applies `inner` to rows: c (b, m, d_inner), marks and positions."""
    c, marks, positions = rows
    inner = self.sublayers[2]
    run.states[2] = set_positions(inner, run.states[2], Positions(positions))
    z = run(2, (c, marks) if inner.n_in == 2 else c)
    run.states[2] = set_positions(inner, run.states[2], ())
    return z

  def _route(self, run, x, marks, begun):
    """Probabilities and boundaries (b, l), before the limit."""
    valid = marks[..., 0]
    first = (jnp.arange(x.shape[1]) == 0) & (begun == 0)
    first = jnp.broadcast_to(first, valid.shape)
    if self._rule is None:
      p, beta = run(0, (x, valid, first))
    else:
      p = beta = (marks[..., 2] | first).astype(jnp.float32)
    return p, beta * valid

  def _inner_marks(self, marks, beta, first, n, before):
    """Marks of the segments, (b, m, 2 + r), and marks since the last boundary.

    A rule of an inner level marks a segment if it fired at its first position,
    or at any position since the start of the segment before. r is here the
    number of these rules.

    Args:
      marks: Those of this level.
      beta: Boundaries (b, l).
      first: Positions of the first m boundaries, (b, m).
      n: Number of boundaries, (b, 1).
      before: Marks since the last boundary of earlier calls, (b, 1, columns).
    """
    total = before + jnp.cumsum(marks.astype(jnp.int32), axis=1)
    at = take(total, first)
    new = jnp.diff(at, axis=1, prepend=jnp.zeros_like(at[:, :1])) > 0
    i = jnp.arange(first.shape[1])
    columns = [
      (i < n)[..., None],
      take(marks, first)[..., 1:2],
      new[..., 2 + (self._rule is not None) :],
    ]
    last = jnp.maximum(n - 1, 0)
    end = total[:, -1:]
    later = jnp.where((n > 0)[..., None], end - take(at, last), end)
    return jnp.concatenate(columns, axis=-1), later

  def _decode(self, state, x, marks):
    """Continues one row with x (1, l, d); see `over_rows`."""
    *states, (t, begun, before), given = state
    run = _Run(self, self.weights, states, self.rng, use_cache=False)
    p, found = self._route(run, x, marks, begun)
    beta = limit(found, begun, self._max_segments)
    first = starts(beta, x.shape[1])
    c = run(1, (x, beta, first))
    n = count(beta)[:, -1:]
    inner_marks, before = self._inner_marks(marks, beta, first, n, before)
    positions = take(self._positions(given, x, t), first)
    z = self._decode_inner(run, (c, inner_marks, positions), n[0, 0])
    y = run(3, (z, x, p, beta, first))
    memory = t + x.shape[1], begun + n[0, 0], before
    return y, (*run.states, memory, given)

  def _decode_inner(self, run, rows, n):
    """Applies `inner` to the first n of c (1, l, d_inner): z (1, l, d_inner).

    `rows` are c, marks and positions. The vectors of z after the first n are
    zeros.
    """
    inner, c = self.sublayers[2], rows[0]
    axes = row_axes(inner, run.states[2])
    own, merge = split_own(axes, run.states[2])

    def apply(i, size, z, own):
      run.states[2] = merge(own)
      y = self._run_inner(
        run,
        [jax.lax.dynamic_slice_in_dim(a, i, size, axis=1) for a in rows],
      )
      new, _ = split_own(axes, run.states[2])
      own = [x.astype(old.dtype) for x, old in zip(new, own, strict=True)]
      z = jax.lax.dynamic_update_slice_in_dim(z, y.astype(z.dtype), i, axis=1)
      return i + size, z, own

    loop = jnp.int32(0), jnp.zeros_like(c), own
    for size in (size for size in _CHUNKS if size <= c.shape[1]):
      loop = jax.lax.while_loop(
        lambda loop, size=size: loop[0] + size <= n,
        lambda loop, size=size: apply(loop[0], size, *loop[1:]),
        loop,
      )
    _, z, own = loop
    run.states[2] = merge(own)
    return z


class _Run:
  """Applies the sublayers of a layer, and collects their states."""

  def __init__(self, layer, weights, states, rng, use_cache=True):
    self._layer = layer
    self._weights = weights
    self._rngs = jax.random.split(rng, len(layer.sublayers))
    self._use_cache = use_cache
    self.states = list(states)

  def __call__(self, i, x):
    y, self.states[i] = self._layer.sublayers[i].pure_fn(
      x, self._weights[i], self.states[i], self._rngs[i], self._use_cache
    )
    return y


def _statistics(found, beta, marks):
  """Mean length of a segment, dropped boundaries, segments after a space."""
  found = jax.lax.stop_gradient(found)
  beta = jax.lax.stop_gradient(beta)
  n = jnp.sum(beta)
  return (
    jnp.sum(marks[..., 0]) / n,
    1 - n / jnp.sum(found),
    jnp.sum(beta * marks[..., 1]) / n,
  )


def token_rules(layer: base.Layer) -> list[TokenRule]:
  """The rules of all `DynamicStack`s in a layer, those of outer levels first.

  Their marks of tokens are columns 2 and later of `token_marks`, (b, l, 2 + r).
  """
  own = [layer.rule] if getattr(layer, 'rule', None) else []
  return own + [
    rule for sub in layer.sublayers or () for rule in token_rules(sub)
  ]
