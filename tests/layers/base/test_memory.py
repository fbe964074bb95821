"""Memory in lanes: which state is reset, and shifts across calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import base, tl

B, D = 3, 2
X = toy.normal(B, D)


class Recall(hl.Memory):
  """x + the sum of the x of earlier calls, kept as a tree of two arrays."""

  def init_weights_and_state(self, input_signature):
    b, d = input_signature.shape
    self.state = {'sum': jnp.zeros((b, d))}, jnp.zeros((b, 1, d), jnp.float16)

  def forward(self, x):
    memory, other = self.state
    self.state = {'sum': memory['sum'] + x}, other
    return x + memory['sum'] + other[:, 0]


class Count(base.Layer):
  """The identity, whose state has the size of the batch but is no memory."""

  def init_weights_and_state(self, input_signature):
    self.state = jnp.zeros((B, D), jnp.int32)

  def forward(self, x):
    self.state = self.state + 1
    return x


def block():
  return tl.Serial(Recall(), Count(), tl.Dropout(0.1, mode='eval'))


def nested_stacks():
  return tl.Serial(
    block(),
    hl.Repeat(block, B),  # As many blocks as lanes: the axes have equal sizes.
    hl.Repeat(block, B, remat=True),
    hl.Repeat(lambda: tl.Residual(hl.Repeat(block, B)), B),
    hl.Remat(block()),
  )


# The batch axis of the memory in each sublayer.
AXES = [0, 1, 1, 2, 0]


def dirty(state):
  """The same tree, with no element zero."""
  return jax.tree.map(lambda a: jnp.full(a.shape, 7, a.dtype), state)


@pytest.mark.parametrize('start', [[True, False, False], [False, True, True]])
def test_only_memory_of_lanes_that_start_is_reset(start):
  layer = hl.Lanes(nested_stacks(), carry=True)
  inputs = np.zeros_like(X), np.array(start)
  weights, state = toy.make(layer, inputs)
  _, new = toy.run(layer, inputs, weights, dirty(state))

  def check(a, axis):
    if a.dtype == jnp.int32:
      assert (a == 8).all(), 'a state that is no memory was reset'
    elif a.ndim > axis + 1:  # The rest are the rates of Dropout.
      lanes = np.moveaxis(np.asarray(a, np.float32), axis, 0)
      np.testing.assert_array_equal(lanes[np.array(start)], 0)
      assert (lanes[~np.array(start)] >= 7).all()
      return 1
    else:
      assert (a == 7).all()
    return 0

  (states,) = new
  for state, axis in zip(states, AXES, strict=True):
    assert sum(check(a, axis) for a in jax.tree.leaves(state)) == 2


def test_a_reset_lane_equals_a_fresh_one():
  layer = hl.Lanes(nested_stacks(), carry=True)
  fresh = X, np.ones(B, bool)
  weights, state = toy.make(layer, fresh)
  run = jax.jit(layer.pure_fn)
  expected, after = run(fresh, weights, state, toy.KEY)
  y, _ = run(fresh, weights, dirty(state), toy.KEY)
  np.testing.assert_array_equal(y, expected)
  again, _ = run((X, np.array([True, False, True])), weights, after, toy.KEY)
  np.testing.assert_array_equal(again[::2], expected[::2])
  assert (again[1] != expected[1]).all()


def test_without_memory_there_is_no_second_input():
  layer = hl.Lanes(tl.Dense(5), carry=False)
  weights, state = toy.make(layer, X)
  y, _ = toy.run(layer, X, weights, state)
  (expected,) = weights
  np.testing.assert_allclose(y, X @ expected[0] + expected[1], 1e-5, 1e-5)
  assert (hl.Lanes(Recall(), carry=True).n_in, layer.n_in) == (2, 1)


def shift(carry, mode, calls):
  layer = hl.ShiftRight(carry, mode)
  weights, state = toy.make(layer, calls[0])
  outputs = []
  for x in calls:
    y, state = toy.run(layer, x, weights, state)
    outputs.append(y)
  return np.concatenate(outputs, axis=1)


@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_shift_continues_from_the_last_call(mode):
  x = toy.tokens(8)
  shifted = np.pad(x, [(0, 0), (1, 0)])[:, :-1]
  calls = [x[:, :3], x[:, 3:4], x[:, 4:]]
  np.testing.assert_array_equal(shift(True, mode, calls), shifted)
  np.testing.assert_array_equal(shift(True, mode, [x]), shifted)
  shifted[:, [3, 4]] = 0
  np.testing.assert_array_equal(shift(False, mode, calls), shifted)


def test_shift_is_the_identity_in_predict_mode():
  x = toy.tokens(8)
  for carry in (False, True):
    np.testing.assert_array_equal(shift(carry, 'predict', [x]), x)
