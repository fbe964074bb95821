"""Segments of variable length: shortening, upsampling, and both at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import base, tl
from trax_hier.layers.base.auxiliary import reported
from trax_hier.layers.hierarchy import dynamic_shorten
from trax_hier.layers.hierarchy.dynamic_stack import token_rules
from trax_hier.layers.hierarchy.segments import starts

P = functools.partial
L, D = 13, 8
X = toy.normal(3, L, D)
MARKS = np.ones((3, L, 3), bool)
MARKS[..., 1:] = np.random.default_rng(0).random((3, L, 2)) < 0.4


def causal(max_len, mode='eval', d=D):
  return hl.DecoderBlock(d, 16, 2, mode=mode, max_len=max_len)


def shift_free(max_len, mode='eval'):
  return tl.Serial(hl.Dense(D), tl.Tanh())


def stack(mode='eval', inner=causal, target=2.0, **kwargs):
  d = kwargs.get('d_inner') or D
  return hl.DynamicStack(
    lambda n: inner(n, mode, d) if inner is causal else inner(n, mode),
    D,
    target,
    mode=mode,
    **{'capacity': 9, 'max_len': L, **kwargs},
  )


def run(layer, x=X, marks=MARKS, weights=None):
  if weights is None:
    weights, state = toy.make(layer, (x, marks))
  else:
    state = toy.zeros_like(toy.shapes(layer, (x, marks))[1])
  y, state = toy.run(layer, (x, marks), weights, state)
  return np.asarray(y), weights, state


# A rule on tokens with random marks, which start segments as a router would.
MARKED = P(stack, boundaries=hl.WordRule)


def boundaries(marks=MARKS):
  beta = marks[..., 2].copy()
  beta[:, 0] = True
  return beta.astype(np.float32)


def test_segment_mean_in_numpy():
  beta = boundaries()
  m = int(beta.sum(1).max())
  inputs = X, beta, np.asarray(starts(beta, m))
  layer = dynamic_shorten._MeanBefore('eval')
  null, _ = toy.make(layer, inputs)
  c = np.asarray(layer.pure_fn(inputs, null, (), toy.KEY)[0])
  for row in range(3):
    first = [*np.flatnonzero(beta[row]), L]
    np.testing.assert_array_equal(c[row, 0], null)
    for j in range(1, len(first) - 1):
      mean = X[row, first[j - 1] : first[j]].mean(0)
      np.testing.assert_allclose(c[row, j], mean, 1e-5, 1e-5)


def test_gradients_of_boundaries_pass_through_segment_mean():
  beta = boundaries()
  first = starts(beta, L)
  layer = dynamic_shorten._MeanBefore('train')
  null, _ = toy.make(layer, (X, beta, first))

  def loss(beta):
    c, _ = layer.pure_fn((X, beta, first), null, (), toy.KEY)
    return jnp.sum(c * toy.normal(3, L, D))

  slope = np.asarray(jax.grad(loss)(beta))
  assert np.isfinite(slope).all() and np.abs(slope).max() > 1e-3


def smoothed(z, h, p, beta, w_r):
  """`SmoothedHold` for one row, position by position."""
  held, j, outputs = np.zeros(D), -1, []
  for t in range(len(h)):
    if beta[t]:
      j += 1
      q = np.clip(p[t], 1e-4, 1 - 1e-4)
      held = q * z[j] + (1 - q) * held
    outputs.append(held + h[t] @ w_r)
  return np.stack(outputs)


def test_smoothed_hold_in_numpy():
  p = np.random.default_rng(1).random((3, L)).astype(np.float32)
  beta, first = boundaries(), np.asarray(starts(boundaries(), L))
  z = toy.normal(3, L, D, seed=2)
  layer = hl.SmoothedHold('eval')
  inputs = z, X, p, beta, first
  w_r, _ = toy.make(layer, inputs)
  y, _ = toy.run(layer, inputs, w_r, ())
  for row in range(3):
    expected = smoothed(z[row], X[row], p[row], beta[row], w_r)
    np.testing.assert_allclose(y[row], expected, 1e-5, 1e-5)


def test_confidence_is_one_and_has_a_gradient():
  beta, first = boundaries(), np.asarray(starts(boundaries(), L))
  z = toy.normal(3, L, D, seed=2)
  layer, w_r = hl.SmoothedHold('eval'), np.zeros((D, D), np.float32)
  is_start = beta > 0.5

  def held(p):
    inputs = z, X, p, beta, first
    return layer.pure_fn(inputs, w_r, (), toy.KEY)[0]

  # Where no segment starts, p has no effect but in the gradient of ste(1 - p).
  p = np.where(is_start, 0.7, 0.2).astype(np.float32)
  other = np.where(is_start, 0.7, 0.4).astype(np.float32)
  np.testing.assert_array_equal(held(p), held(other))
  slope = jax.grad(lambda p: jnp.sum(held(p)))(p)
  expected = -np.sum(held(p), axis=-1)
  np.testing.assert_allclose(slope[~is_start], expected[~is_start], 1e-4, 1e-4)
  initial, _ = layer.init(toy.signature((z, X, p, beta, first)))
  assert not initial.any()


def test_all_boundaries_make_the_layer_without_shortening():
  marks = np.ones_like(MARKS)
  layer = MARKED(upsample=hl.PreviousSegment, target=1.0)
  y, weights, _ = run(layer, marks=marks)
  inner = causal(L)
  z, _ = toy.run(inner, X, weights[2], toy.make(inner, X)[1])
  np.testing.assert_allclose(y, X + z, 1e-5, 1e-5)


@pytest.mark.parametrize('k', [2, 3])
def test_fixed_boundaries_are_a_shortened_stack(k):
  """That which takes the last of its shifted vectors, and repeats."""
  dynamic = stack(
    boundaries=hl.FixedBoundaries, upsample=hl.PreviousSegment, target=float(k)
  )
  y, weights, _ = run(dynamic)
  last = tl.Fn('Last', lambda x: x[:, k - 1 :: k])
  fixed = hl.ShortenedStack(k, last, causal(L), hl.RepeatUpsample(k), 'eval')
  _, state = toy.make(fixed, X)
  own = ((), weights[2], ()), (), ()
  own = jax.tree.unflatten(
    jax.tree.structure(toy.shapes(fixed, X)[0]), jax.tree.leaves(own)
  )
  z, _ = toy.run(fixed, X, own, state)
  np.testing.assert_allclose(y, X + z, 1e-5, 1e-5)


def test_position_linear_is_linear_upsample_at_fixed_boundaries():
  k = 3
  z = toy.normal(3, 4, D)
  h, beta = X[:, :12], np.tile(np.arange(12) % k == 0, (3, 1))
  beta = beta.astype(np.float32)
  layer = hl.PositionLinear(D, n_positions=k)
  inputs = z, h, beta, beta, np.asarray(starts(beta, 4))
  weights, state = toy.make(layer, inputs)
  y, _ = toy.run(layer, inputs, weights, state)
  scale, shared, by_position = jax.tree.leaves(weights)
  kernel = np.concatenate(list(shared + by_position), axis=1)
  upsample = hl.LinearUpsample(k, D)
  (shapes, _), state = (
    toy.shapes(upsample, (z, h)),
    toy.make(upsample, (z, h))[1],
  )
  own = jax.tree.unflatten(
    jax.tree.structure(shapes), [kernel, np.zeros(k * D, np.float32)]
  )
  norm = z / np.sqrt(np.mean(z * z, -1, keepdims=True) + 1e-6) * scale
  up, _ = toy.run(upsample, (norm, h), own, state)
  np.testing.assert_allclose(y, h + up, 1e-5, 1e-5)


VARIANTS = {
  'similarity': P(stack),
  'predictor': P(stack, boundaries=P(hl.BoundaryPredictor, d_ff=16)),
  'mean': P(
    stack,
    boundaries=P(hl.BoundaryPredictor, d_ff=16),
    shorten=hl.SegmentMean,
    upsample=hl.PreviousSegment,
  ),
  'wider mean': P(MARKED, shorten=hl.SegmentMean, d_inner=12),
  'words': P(
    MARKED,
    d_inner=12,
    shorten=P(hl.TakeFirst, projection=True),
    upsample=P(hl.PositionLinear, n_positions=3),
  ),
  'at boundaries': P(MARKED, upsample=hl.AtBoundaries, d_inner=12),
  'overflow': P(stack, capacity=0.7),
}


def perturbed(layer, x, weights, y):
  """For each input t (rows): which outputs change with it."""
  state = toy.make(layer, (x, MARKS))[1]
  apply = jax.jit(
    lambda x: layer.pure_fn((x, MARKS), weights, state, toy.KEY)[0]
  )
  changes = []
  for t in range(L):
    other = x.copy()
    other[:, t] += 1.0
    changes.append((np.asarray(apply(other)) != y).any((0, 2)))
  return np.stack(changes)


@pytest.mark.parametrize('name', VARIANTS)
def test_outputs_depend_on_no_later_input(name):
  layer = VARIANTS[name]()
  y, weights, state = run(layer)
  depends = perturbed(layer, X, weights, y)
  assert not np.tril(depends, -1).any()
  assert depends[np.arange(L), np.arange(L)].all()
  if name == 'overflow':
    values = {n: float(v) for n, v, _ in reported(layer, state)}
    assert 0.1 < values['level_1/dropped'] < 1
    # 5 segments in each of 3 rows.
    np.testing.assert_allclose(values['level_1/segment_length'], 39 / 15, 1e-5)


def test_a_mean_of_the_own_segment_leaks():
  """Perturbation detects a mean that is read before its segment ends."""

  class OwnMean(dynamic_shorten._MeanBefore):
    def forward(self, inputs):
      h, beta, first = inputs
      totals, sizes = self._sums(h, beta, first.shape[1])
      return totals[:, 1:] / jnp.maximum(sizes[:, 1:, None], 1)

  layer = MARKED(shorten=lambda: OwnMean('eval'), upsample=hl.PreviousSegment)
  y, weights, _ = run(layer)
  depends = perturbed(layer, X, weights, y)
  assert np.tril(depends, -1).any()


class Count(base.Layer):
  """Counts the calls of its row, as the state, and returns its input."""

  calls = 0

  def init_weights_and_state(self, input_signature):
    self.state = jnp.zeros((), jnp.int32)

  def forward(self, x):
    def count():
      Count.calls += 1

    jax.debug.callback(count)
    self.state = self.state + x.shape[1]
    return x


@pytest.mark.parametrize('name', VARIANTS)
def test_rows_decode_as_they_evaluate(name):
  y, weights, _ = run(VARIANTS[name]())
  layer = VARIANTS[name](mode='predict')
  first = toy.signature((X[:, :1], MARKS[:, :1]))
  state = jax.jit(lambda: layer.init(first, toy.KEY)[1])()
  step = jax.jit(lambda x, state: layer.pure_fn(x, weights, state, toy.KEY))
  start, parts = 0, []
  for n in [4] + [1] * (L - 4):
    part, state = step(
      (X[:, start : start + n], MARKS[:, start : start + n]), state
    )
    parts.append(part)
    start += n
  np.testing.assert_allclose(np.concatenate(parts, 1), y, 1e-5, 1e-5)


def test_inner_layers_run_only_when_a_segment_starts():
  layer = hl.DynamicStack(
    lambda n: Count(), D, 2.0, boundaries=hl.WordRule, mode='predict', max_len=L
  )
  x, marks = X[:1], MARKS[:1]
  weights, state = toy.make(layer, (x[:, :1], marks[:, :1]))
  step = jax.jit(lambda x, state: layer.pure_fn(x, weights, state, toy.KEY))
  Count.calls = 0
  for t in range(L):
    _, state = step((x[:, t : t + 1], marks[:, t : t + 1]), state)
  jax.effects_barrier()
  expected = min(int(boundaries(marks).sum()), 10)  # 1.5 * 13 / 2 fit.
  assert Count.calls == expected == int(state[2][0]) and expected < L - 2


def test_a_long_call_reads_segments_in_chunks():
  n = 40
  x = toy.normal(2, n, D)
  marks = np.ones((2, n, 3), bool)
  marks[1, :, 2] = np.arange(n) % 2
  y, weights, _ = run(MARKED(target=1.0, max_len=n), x, marks)
  layer = MARKED(mode='predict', target=1.0, max_len=n)
  first = toy.signature((x[:, :1], marks[:, :1]))
  state = jax.jit(lambda: layer.init(first, toy.KEY)[1])()
  parts = []
  for a, b in (0, 35), (35, n):
    part, state = toy.run(layer, (x[:, a:b], marks[:, a:b]), weights, state)
    parts.append(part)
  np.testing.assert_allclose(np.concatenate(parts, 1), y, 1e-5, 1e-5)


def test_inner_levels_get_the_marks_of_their_segments():
  seen = {}

  def inner(max_len):
    def keep(c, marks):
      seen['marks'] = marks
      return c

    return tl.Fn('Keep', keep)

  layer = hl.DynamicStack(inner, D, 1.0, boundaries=hl.WordRule)
  marks = np.zeros((1, L, 4), bool)
  marks[..., 0] = np.arange(L) < 11
  marks[0, [3, 7, 12], 2] = True
  marks[0, [5, 7], 3] = True  # The mark at 5 counts for the segment from 7.
  marks[0, [3], 1] = True
  weights, state = toy.make(layer, (X[:1], marks))
  layer.pure_fn((X[:1], marks), weights, state, toy.KEY)
  found = np.asarray(seen['marks'])[0].astype(int)
  # Segments start at 0, 3 and 7; position 12 is padding.
  np.testing.assert_array_equal(found[:, 0], [1] * 3 + [0] * 10)
  np.testing.assert_array_equal(found[:3, 1:], [[0, 0], [1, 0], [0, 1]])
  assert token_rules(layer) == [layer.rule]


def test_statistics():
  _, _, state = run(MARKED(target=1.0))
  layer = MARKED(target=1.0)
  values = {n: float(v) for n, v, _ in reported(layer, state)}
  beta = boundaries()
  after = (beta * MARKS[..., 1]).sum() / beta.sum()
  np.testing.assert_allclose(
    list(values.values()), [beta.size / beta.sum(), 0, after], 1e-5, 1e-6
  )
  assert list(values) == [
    'level_1/segment_length',
    'level_1/dropped',
    'level_1/after_space',
  ]


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(target=0.5), 'DynamicStack.target = 0.5'),
    (dict(capacity=0), 'DynamicStack.capacity = 0'),
    (dict(boundaries=hl.Relu), 'DynamicStack.boundaries must make a router'),
    (dict(shorten=hl.Relu), 'DynamicStack.shorten = @Relu must make'),
    (dict(upsample=hl.TakeFirst), 'DynamicStack.upsample = @TakeFirst'),
    (dict(d_inner=4), 'the width inside, 4, must not be below'),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    stack(inner=shift_free, **arguments)
