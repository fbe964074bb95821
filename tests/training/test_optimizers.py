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
    (lambda: Adafactor(momentum=2), r'Adafactor.momentum must be in \[0, 1\)'),
  ],
)
def test_errors_name_the_binding(make, message):
  with pytest.raises(ValueError, match=message):
    make()
