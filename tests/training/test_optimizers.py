"""Optimizers: their formulas, and the step passed to the schedule."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trax_hier.training.optimizers import SGD, Adafactor, Adam
from trax_hier.training.schedules import multifactor


def run(optimizer, gradients, weights):
  state = optimizer.transform.init(weights)
  for gradient in gradients:
    updates, state = optimizer.transform.update(gradient, state, weights)
    weights = optax.apply_updates(weights, updates)
  return weights


def run_trax(optimizer, gradients, weights):
  slots = optimizer.init(weights)
  for step, gradient in enumerate(gradients):
    weights, slots = optimizer.update(
      step, gradient, weights, slots, optimizer._init_opt_params
    )
  return weights


def test_adam_by_hand():
  b1, b2, eps, rate = 0.9, 0.98, 1e-9, 0.1
  gradients = [0.5, -2.0, 1.0]
  w, m, v = 3.0, 0.0, 0.0
  for n, g in enumerate(gradients, 1):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    w -= rate * (m / (1 - b1**n)) / (np.sqrt(v / (1 - b2**n)) + eps)
  ours = run(Adam(rate, b1, b2, eps), map(jnp.float32, gradients), 3.0)
  assert float(ours) == pytest.approx(w, rel=1e-5)


def test_weight_decay_is_decoupled():
  assert float(run(Adam(0.1, weight_decay=0.5), [0.0], 2.0)) == pytest.approx(
    2.0 - 0.1 * 0.5 * 2.0
  )


def test_weight_decay_rate_does_not_depend_on_the_learning_rate():
  for rate in (0.0, lambda n: 0.0 * n):
    for optimizer in (
      Adam(rate, weight_decay_rate=0.25),
      Adafactor(rate, weight_decay_rate=0.25),
    ):
      assert run(optimizer, jnp.zeros(2), jnp.float32(2.0)) == 2.0 * 0.75**2


def test_weight_decay_falls_linearly_to_zero():
  decay = dict(weight_decay_rate=0.4, weight_decay_n_steps=4)
  optimizer = Adafactor(0.0, **decay)
  kept = 1.0
  for n in range(1, 7):
    kept *= 1 - 0.4 * max(4 - n, 0) / 4
    assert run(optimizer, jnp.zeros(n), jnp.float32(1.0)) == pytest.approx(kept)


@pytest.mark.parametrize('momentum', [None, 0.9])
@pytest.mark.parametrize('shape', [(6, 10), (2, 6, 10), (7,)])
def test_adafactor_equals_trax(shape, momentum):
  """Where trax counts steps from 0; its training counts them from 1."""
  from trax import optimizers

  rng = np.random.default_rng(0)
  start = rng.normal(size=shape).astype(np.float32)
  gradients = [rng.normal(size=shape).astype(np.float32) for _ in range(4)]
  ours = Adafactor(
    0.05, momentum=momentum, min_dim_size_to_factor=1, weight_decay_rate=0.01
  )
  trax = optimizers.Adafactor(
    0.05,
    do_momentum=momentum is not None,
    beta1=momentum or 0.0,
    weight_decay_rate=0.01,
  )
  expected = run_trax(trax, gradients, start)
  np.testing.assert_allclose(
    run(ours, gradients, start), expected, rtol=1e-5, atol=1e-6
  )
  if len(shape) > 1:
    # The default keeps the whole second moment of matrices this small.
    whole = run(Adafactor(0.05, momentum=momentum), gradients, start)
    assert np.abs(whole - expected).max() > 0.01


def test_adam_equals_trax():
  from trax import optimizers

  rng = np.random.default_rng(0)
  start = rng.normal(size=(6, 10)).astype(np.float32)
  gradients = [rng.normal(size=(6, 10)).astype(np.float32) for _ in range(4)]
  ours = Adam(0.05, 0.9, 0.98, 1e-5, weight_decay_rate=0.01)
  trax = optimizers.Adam(0.05, 0.01, 0.9, 0.98, 1e-5)
  np.testing.assert_allclose(
    run(ours, gradients, start),
    run_trax(trax, gradients, start),
    rtol=1e-5,
    atol=1e-6,
  )


def test_schedules_count_steps_from_one():
  ours = run(SGD(lambda n: 10.0 * n), map(jnp.float32, [1.0, 1.0]), 0.0)
  assert float(ours) == -(10.0 + 20.0)


def test_clip_norm_is_global():
  gradients = [(jnp.float32(3.0), jnp.float32(4.0))]
  ours = run(SGD(1.0, clip_norm=0.5), gradients, (0.0, 0.0))
  np.testing.assert_allclose(ours, (-0.3, -0.4), rtol=1e-6)


def test_momentum():
  ours = run(SGD(1.0, momentum=0.5), map(jnp.float32, [1.0, 1.0]), 0.0)
  assert float(ours) == -(1.0 + 1.5)


def test_adafactor_equals_optax():
  rng = np.random.default_rng(0)
  weights = jnp.asarray(rng.normal(size=(130, 140)), jnp.float32)
  gradients = [jnp.asarray(rng.normal(size=weights.shape)) for _ in range(3)]
  # Momentum shows whether the learning rate is applied before or after it.
  theirs = optax.adafactor(
    lambda count: 1e-2 * (1 + count) ** -0.5, momentum=0.9
  )
  rate = multifactor('constant * rsqrt_decay', constant=1e-2, warmup_steps=1)
  ours = Adafactor(rate, momentum=0.9).transform
  (a, s), (b, t) = (
    (weights, ours.init(weights)),
    (weights, theirs.init(weights)),
  )
  for g in gradients:
    u, s = ours.update(g, s, a)
    v, t = theirs.update(g, t, b)
    a, b = optax.apply_updates(a, u), optax.apply_updates(b, v)
  np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: Adam(b1=1.0), r'Adam.b1 must be in \[0, 1\), got 1.0'),
    (lambda: Adam(clip_norm=0.0), 'Adam.clip_norm must be above 0'),
    (lambda: SGD('fast'), 'SGD.learning_rate must be a number'),
    (
      lambda: Adam(weight_decay_rate=1),
      r'Adam.weight_decay_rate must be in \[0, 1\), got 1',
    ),
    (
      lambda: Adafactor(weight_decay_n_steps=9),
      'Adafactor.weight_decay_n_steps = 9 needs Adafactor.weight_decay_rate',
    ),
    (
      lambda: Adafactor(min_dim_size_to_factor=0),
      'Adafactor.min_dim_size_to_factor must be at least 1, got 0',
    ),
    (lambda: Adafactor(momentum=2), r'Adafactor.momentum must be in \[0, 1\)'),
  ],
)
def test_errors_name_the_binding(make, message):
  with pytest.raises(ValueError, match=message):
    make()
