"""Boundaries that layers find, and their losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import toy

from trax_hier import layers as hl
from trax_hier.layers.base.auxiliary import sum_reported
from trax_hier.layers.hierarchy.routers import binomial_loss, ratio_loss

H = toy.normal(3, 11, 6)
VALID = np.arange(11) < np.array([[11], [7], [4]])
FIRST = np.broadcast_to(np.arange(11) == 0, VALID.shape)
X = H, VALID, FIRST


def test_similarity_router_in_numpy():
  router = hl.SimilarityRouter(target=3.0, loss_weight=0.03)
  weights, state = toy.make(router, X)
  (p, beta), state = toy.run(router, X, weights, state)
  w_q, w_k = jax.tree.leaves(weights)
  q, k = H[:, :-1] @ w_q, H[:, 1:] @ w_k
  norms = np.linalg.norm(q, axis=-1) * np.linalg.norm(k, axis=-1)
  expected = np.ones_like(p)
  expected[:, 1:] = (1 - np.sum(q * k, axis=-1) / norms) / 2
  np.testing.assert_allclose(p, expected, 1e-5, 1e-5)
  np.testing.assert_array_equal(beta, expected > 0.5)
  f, g = (expected > 0.5)[VALID].mean(), expected[VALID].mean()
  loss = 3 / 2 * (2 * f * g + (1 - f) * (1 - g))
  objective, values = sum_reported(router, state)
  np.testing.assert_allclose(values, [loss], 1e-5)
  np.testing.assert_allclose(objective, 0.03 * loss, 1e-5)


def test_similarity_router_starts_with_identities():
  router = hl.SimilarityRouter()
  weights, _ = router.init(toy.signature(X))
  for w in jax.tree.leaves(weights):
    np.testing.assert_array_equal(w, np.eye(6))


def test_zero_vectors_have_finite_gradients():
  router = hl.SimilarityRouter()
  weights, state = toy.make(router, X)

  def loss(h):
    (p, _), _ = router.pure_fn((h, VALID, FIRST), weights, state, toy.KEY)
    return jnp.sum(p)

  assert np.isfinite(jax.grad(loss)(jnp.zeros_like(H))).all()


def test_ratio_loss_is_smallest_at_the_target():
  n = 5.0

  def loss(rate):
    p = jnp.full((1, 1000), rate)
    beta = (jnp.arange(1000) < 1000 * rate).astype(jnp.float32)[None]
    return float(ratio_loss(p, beta, p >= 0, n))

  rates = np.linspace(0.02, 0.98, 49)
  losses = [loss(rate) for rate in rates]
  assert abs(rates[np.argmin(losses)] - 1 / n) < 0.021
  np.testing.assert_allclose(loss(0.2), 1, 1e-5)
  # Where boundaries are too frequent, their probabilities fall.
  beta = jnp.ones((1, 8))
  slope = jax.grad(lambda p: ratio_loss(p, beta, beta > 0, n))(0.6 * beta)
  assert (slope > 0).all()


def test_binomial_loss_is_that_of_scipy():
  beta = (np.random.default_rng(0).random(VALID.shape) < 0.4).astype(np.float32)
  n, k = VALID.sum(1), (beta * VALID).sum(1)
  expected = -np.mean(scipy.stats.binom.logpmf(k, n, 0.2) / n)
  found = binomial_loss(beta, VALID, 0.2)
  np.testing.assert_allclose(found, expected, 1e-4)
  assert np.isfinite(jax.grad(binomial_loss)(beta, VALID, 0.2)).all()


@pytest.fixture(scope='module')
def predictor():
  make = functools.partial(hl.BoundaryPredictor, d_ff=16, target=3.0)
  return make, toy.make(make(), X)


def test_predictor_samples_in_training_only(predictor):
  make, (weights, state) = predictor
  (p, beta), _ = toy.run(make(mode='eval'), X, weights, state)
  np.testing.assert_array_equal(beta, p > 0.5)
  train = make(mode='train')
  samples = [
    toy.run(train, X, weights, state, jax.random.PRNGKey(i))[0][1]
    for i in range(64)
  ]
  assert {*np.unique(samples)} == {0.0, 1.0}
  mean = np.mean(samples, axis=0)
  np.testing.assert_array_equal(mean[:, 0], 1)
  # The relaxed sample is above 1/2 with probability p.
  assert np.abs(mean - p).max() < 0.25 and np.abs(mean - p).mean() < 0.06


def test_gradients_of_samples_reach_the_predictor(predictor):
  make, (weights, state) = predictor
  layer = make(mode='train', loss_weight=1.0)

  def loss(weights):
    (_, beta), _ = layer.pure_fn(X, weights, state, toy.KEY)
    return jnp.sum(beta * toy.normal(*VALID.shape))

  def prior(weights):
    _, new = layer.pure_fn(X, weights, state, toy.KEY)
    return sum_reported(layer, new)[0]

  for function in loss, prior:
    gradients = jax.tree.leaves(jax.jit(jax.grad(function))(weights))
    assert all(np.abs(g).max() > 1e-6 for g in gradients)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: hl.SimilarityRouter(1.0), 'SimilarityRouter.target = 1.0'),
    (lambda: hl.BoundaryPredictor(target=0.5), 'BoundaryPredictor.target'),
    (lambda: hl.BoundaryPredictor(temperature=0), 'temperature = 0'),
    (lambda: hl.FixedBoundaries(2.5), 'FixedBoundaries.target = 2.5'),
    (lambda: hl.WordRule(0), 'WordRule.n_words = 0'),
  ],
)
def test_bad_arguments(make, message):
  with pytest.raises(ValueError, match=message):
    make()
