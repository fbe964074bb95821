"""MultiplicativeDense against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jaxprs import equations
from sparse_reference import multiplicative
from toy_programs import program

from trax_hier import layers as hl
from trax_hier.compat import ShapeDtype


# Fewer and more tokens than the width 4 of a module take different branches.
@pytest.mark.parametrize('shape', [(1, 3), (2, 3), (2, 2, 5)])
@pytest.mark.parametrize('use_bias', [True, False])
def test_multiplicative(shape, use_bias):
  x = toy.normal(*shape, 6)
  layer = hl.MultiplicativeDense(12, 3, use_bias)
  weights, state = toy.make(layer, x, scale=1.0)
  assert len(weights) == 2 + use_bias
  y, _ = toy.run(layer, x, weights, state)
  expected = multiplicative(x, *map(np.asarray, weights))
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


def test_both_branches_have_the_same_gradient():
  g = toy.normal(8, 12, seed=1)
  g[3:] = 0  # These tokens select the branch but contribute nothing.
  x = toy.normal(8, 6)
  layer = hl.MultiplicativeDense(12, 3)
  weights, state = toy.make(layer, x)

  def gradient(x, g):
    def loss(weights, x):
      return jnp.sum(g * layer.pure_fn(x, weights, state, toy.KEY)[0])

    return jax.jit(jax.grad(loss, (0, 1)))(weights, x)

  few, by_few = gradient(x[:3], g[:3])
  many, by_many = gradient(x, g)
  toy.close((few, by_few), (many, by_many[:3]))
  gates, kernel, _ = map(np.asarray, weights)
  modules = g.reshape(8, 3, 4)
  expected = (
    np.einsum('ti,tsm,im->si', x, modules, kernel),
    np.einsum('ti,tsm,si->im', x, modules, gates),
    g.sum(axis=0),
  )
  toy.close(many, expected)


@pytest.mark.parametrize('n_tokens', [2, 100])
def test_memory(n_tokens):
  layer = hl.MultiplicativeDense(64, 8)
  x = ShapeDtype((n_tokens, 64), np.float32)
  weights, _ = toy.shapes(layer, x)
  jaxpr = program(layer, x, weights, (), jax.eval_shape(lambda: toy.KEY))
  largest = max(v.aval.size for e in equations(jaxpr) for v in e.outvars)
  # No full matrix for few tokens, no copies of many tokens.
  assert largest <= (n_tokens * 64 * 8 if n_tokens < 8 else n_tokens * 64)


@pytest.mark.parametrize('n_tokens', [2, 9])
def test_all_permutations_are_exact(n_tokens):
  n_modules, width = 3, 4
  order = np.random.default_rng(0).permutation(12)
  gates = np.zeros((n_modules, 12), np.float32)
  kernel = np.zeros((12, width), np.float32)
  for to, source in enumerate(order):
    gates[to // width, source] = kernel[source, to % width] = 1
  x = toy.normal(n_tokens, 12)
  layer = hl.MultiplicativeDense(12, n_modules, use_bias=False)
  y, _ = toy.run(layer, x, (gates, kernel), ())
  np.testing.assert_array_equal(y, x[:, order])


# int8 would save little: the layer has few parameters.
@pytest.mark.parametrize('precision', ['float32', 'int8'])
@pytest.mark.parametrize('n_tokens', [1, 40])
def test_decoding_does_not_quantize(precision, n_tokens):
  x = toy.normal(n_tokens, 6)
  layer = hl.MultiplicativeDense(12, 3)
  weights, _ = toy.make(layer, x)
  stored = hl.decoding_weights(layer, weights, precision)
  y, _ = toy.run(layer, x, stored, ())
  expected = multiplicative(x, *map(np.asarray, weights))
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


@pytest.mark.parametrize('n_tokens', [1, 40])
def test_decoding_in_bfloat16(n_tokens):
  x = toy.normal(n_tokens, 6).astype(jnp.bfloat16)
  layer = hl.MultiplicativeDense(12, 3)
  weights, _ = toy.make(layer, x)
  stored = hl.decoding_weights(layer, weights, 'bfloat16')
  assert all(w.dtype == jnp.bfloat16 for w in jax.tree.leaves(stored))
  y, _ = toy.run(layer, x, stored, ())
  assert y.dtype == jnp.bfloat16
  x, *weights = (
    np.asarray(a.astype(jnp.bfloat16), np.float64) for a in (x, *weights)
  )
  expected = multiplicative(x, *weights)
  # A few roundings of 2 ** -9 each.
  gap = np.linalg.norm(np.asarray(y, np.float64) - expected)
  assert gap < 0.01 * np.linalg.norm(expected)


def test_initial_weights():
  layer = hl.MultiplicativeDense(512, 16)
  x = ShapeDtype((1, 300), np.float32)
  gates, kernel, bias = jax.jit(lambda: layer.init(x, toy.KEY)[0])()
  assert np.std(gates) == pytest.approx(0.5, rel=0.05)
  bound = np.sqrt(6 / (300 + 32))
  assert 0.98 * bound < np.abs(kernel).max() <= bound
  assert np.std(bias) == pytest.approx(1e-6, rel=0.2)
