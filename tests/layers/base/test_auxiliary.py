"""Losses and metrics in the states of layers."""

import jax
import jax.numpy as jnp
import numpy as np
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.layers.base.auxiliary import reported_names, sum_reported


def block(weight=0.5):
  return tl.Serial(
    hl.Dense(4),
    tl.Dup(),
    tl.Fn('Square', lambda x: jnp.mean(x * x)),
    hl.AuxiliaryLoss('square', weight),
  )


X = toy.normal(2, 3, 4)


def losses_of(layer, n):
  """The loss of each of n blocks, computed one after another."""
  weights, state = toy.make(layer, X)
  y, state = toy.run(layer, X, weights, state)
  return weights, state, y


def test_repeat_and_remat_keep_the_losses_of_all_blocks():
  stack = hl.Repeat(block, 3, remat=True)
  weights, state, y = losses_of(stack, 3)
  x, expected = X, []
  for i in range(3):
    kernel, bias = jax.tree.leaves(jax.tree.map(lambda w, i=i: w[i], weights))
    x = x @ kernel + bias
    expected.append(np.mean(np.square(x)))
  np.testing.assert_allclose(y, x, 1e-5, 1e-5)
  objective, values = sum_reported(stack, state)
  np.testing.assert_allclose(objective, 0.5 * np.sum(expected), 1e-5)
  np.testing.assert_allclose(values, [np.mean(expected)], 1e-5)


def test_gradients_pass_through_repeat_and_remat():
  def gradient(remat):
    stack = hl.Repeat(block, 2, remat=remat)
    weights, state = toy.make(stack, X)

    @jax.jit
    @jax.grad
    def of(weights):
      _, new = stack.pure_fn(X, weights, state, toy.KEY)
      return sum_reported(stack, new)[0]

    return of(weights)

  plain, again = (jax.tree.leaves(gradient(x)) for x in (False, True))
  assert all(np.abs(g).max() > 1e-3 for g in plain)
  toy.close(plain, again)


def test_a_name_stands_once_and_predict_mode_keeps_nothing():
  two = tl.Serial(block(), block())
  _, state = toy.shapes(two, X)
  assert reported_names(two, state) == ('square',)
  quiet = hl.AuxiliaryLoss('square', 1.0, mode='predict')
  _, state = toy.shapes(quiet, np.float32(1))
  assert state == () and reported_names(quiet, state) == ()
