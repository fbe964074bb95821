"""Weights that all blocks of a stack share."""

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import base, tl

X = toy.normal(2, 3, 4)


def shared_bias(n, owned=True):
  shared = tl.Weights(tl.RandomNormalInitializer(1.0), (4,))
  stack = hl.Repeat(lambda: tl.Serial(shared, tl.Add()), n)
  return tl.Serial(hl.ShareWeights(shared), stack) if owned else stack


def test_shared_weights_exist_once_and_sum_the_gradients_of_all_blocks():
  layer = shared_bias(5)
  weights, state = toy.make(layer, X)
  (w,) = jax.tree.leaves(weights)
  assert w.shape == (4,)

  def total(weights):
    return layer.pure_fn(X, weights, state, toy.KEY)[0].sum()

  (gradient,) = jax.tree.leaves(jax.jit(jax.grad(total))(weights))
  np.testing.assert_allclose(gradient, 5 * 2 * 3)
  y, _ = toy.run(layer, X, weights, state)
  toy.close(y, X + 5 * w)


def test_shared_weights_need_an_owner():
  with pytest.raises(base.LayerError, match='put ShareWeights'):
    toy.shapes(shared_bias(2, owned=False), X)
