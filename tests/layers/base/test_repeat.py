"""Stacks of equal blocks."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import base, tl
from trax_hier.layers.base.repeat import Alternating

X = toy.normal(2, 3, 4)


def block():
  return tl.Residual(hl.LayerNorm(), tl.Dense(8), tl.Tanh(), tl.Dense(4))


def loss_and_gradients(layer, weights, state, rng=toy.KEY):
  def loss(weights, x):
    y, _ = layer.pure_fn(x, weights, state, rng)
    return jnp.mean(y**2)

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(weights, X)


def unstacked(weights, n):
  """The weights of `Repeat(block, n)` as a list for its n blocks."""
  return [jax.tree.map(operator.itemgetter(i), weights[0]) for i in range(n)]


@pytest.mark.parametrize('remat', [False, True])
def test_repeat_equals_serial(remat):
  n = 3
  repeat = hl.Repeat(block, n, remat)
  weights, state = toy.make(repeat, X)
  value, (gradients, dx) = loss_and_gradients(repeat, weights, state)

  serial = tl.Serial(*[block() for _ in range(n)])
  shapes, serial_state = toy.shapes(serial, X)
  leaves = jax.tree.leaves(unstacked(weights, n))
  serial_weights = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
  expected, (serial_gradients, serial_dx) = loss_and_gradients(
    serial, serial_weights, serial_state
  )
  toy.close((value, dx), (expected, serial_dx), 1e-5)
  toy.close(
    jax.tree.leaves(unstacked(gradients, n)), jax.tree.leaves(serial_gradients)
  )


def test_repeat_in_repeat():
  nested = hl.Repeat(lambda: hl.Repeat(block, 2), 3)
  weights, state = toy.make(nested, X)
  flat = hl.Repeat(block, 6)
  shapes, flat_state = toy.shapes(flat, X)
  flat_weights = jax.tree.unflatten(
    jax.tree.structure(shapes),
    [w.reshape(6, *w.shape[2:]) for w in jax.tree.leaves(weights)],
  )
  y, _ = toy.run(nested, X, weights, state)
  expected, _ = toy.run(flat, X, flat_weights, flat_state)
  toy.close(y, expected, 1e-6)


def two_kinds(n_hidden=(8, 12)):
  return Alternating(
    'Block.kinds', [tl.Residual(tl.Dense(n), tl.Dense(4)) for n in n_hidden]
  )


@pytest.mark.parametrize('remat', [False, True])
def test_kinds_alternate(remat):
  layer = hl.Repeat(two_kinds, 6, remat)
  weights, state = toy.make(layer, X)
  y, _ = toy.run(layer, X, weights, state)
  serial = tl.Serial(*[two_kinds() for _ in range(3)])
  shapes, serial_state = toy.shapes(serial, X)
  leaves = jax.tree.leaves(unstacked(weights, 3))
  serial_weights = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
  expected, _ = toy.run(serial, X, serial_weights, serial_state)
  toy.close(y, expected)


@pytest.mark.parametrize('n', [1, 3])
def test_the_number_of_kinds_divides_that_of_blocks(n):
  with pytest.raises(ValueError, match=f'^Block.kinds has 2 parts.*, {n}'):
    hl.Repeat(two_kinds, n)


def test_blocks_have_different_initial_weights():
  weights, _ = jax.jit(lambda: hl.Repeat(block, 2).init(toy.signature(X)))()
  kernels = [w for w in jax.tree.leaves(weights) if w.ndim == 3]
  assert kernels and all(not np.allclose(w[0], w[1]) for w in kernels)


def test_blocks_have_different_dropout():
  x, n, rate = np.ones((50, 100), np.float32), 3, 0.2
  layer = hl.Repeat(lambda: tl.Dropout(rate, mode='train'), n)
  y, _ = toy.run(layer, x, *toy.make(layer, x))
  assert abs((y > 0).mean() - (1 - rate) ** n) < 0.03


def test_every_block_has_its_own_state():
  class Counter(base.Layer):
    def init_weights_and_state(self, input_signature):
      self.state = jnp.zeros(())

    def forward(self, x):
      self.state = self.state + 1
      return x + self.state

  x = np.zeros((1,), np.float32)
  layer = hl.Repeat(Counter, 3)
  weights, state = toy.make(layer, x)
  step = jax.jit(layer.pure_fn)
  for expected in (3, 6, 9):
    y, state = step(x, weights, state, toy.KEY)
    assert y == expected


def test_invalid_arguments():
  one = block()
  with pytest.raises(ValueError, match=r'Repeat\.n = -1'):
    hl.Repeat(block, -1)
  with pytest.raises(ValueError, match='a new layer at every call'):
    hl.Repeat(lambda: one, 2)
  with pytest.raises(ValueError, match='takes 1 and returns 2'):
    hl.Repeat(tl.Dup, 2)


def test_zero_blocks_are_the_identity():
  layer = hl.Repeat(block, 0)
  y, _ = toy.run(layer, X, *toy.make(layer, X))
  np.testing.assert_array_equal(y, X)


def test_program_size_does_not_depend_on_the_number_of_blocks():
  def n_lines(n):
    layer = hl.Repeat(block, n)
    weights, state = toy.shapes(layer, X)
    lowered = jax.jit(layer.pure_fn).lower(X, weights, state, toy.KEY)
    return lowered.as_text().count('\n')

  assert n_lines(4) == n_lines(24)
