"""Stacks of equal blocks, and the layers around them."""

import collections
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import base, tl
from trax_hier.layers.base.stacking import remat_of_each
from trax_hier.models import HourglassLM

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
def test_repeat_is_serial(remat):
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


def test_blocks_begin_with_weights_of_their_own():
  weights, _ = jax.jit(lambda: hl.Repeat(block, 2).init(toy.signature(X)))()
  kernels = [w for w in jax.tree.leaves(weights) if w.ndim == 3]
  assert kernels and all(not np.allclose(w[0], w[1]) for w in kernels)


def test_every_block_draws_its_own_dropout():
  x, n, rate = np.ones((50, 100), np.float32), 3, 0.2
  layer = hl.Repeat(lambda: tl.Dropout(rate, mode='train'), n)
  y, _ = toy.run(layer, x, *toy.make(layer, x))
  assert abs((y > 0).mean() - (1 - rate) ** n) < 0.03


def test_state_of_every_block():
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


def sharing(n, owned=True):
  shared = tl.Weights(tl.RandomNormalInitializer(1.0), (4,))
  stack = hl.Repeat(lambda: tl.Serial(shared, tl.Add()), n)
  return tl.Serial(hl.ShareWeights(shared), stack) if owned else stack


def test_shared_weights_are_one_and_get_gradients_from_all_blocks():
  layer = sharing(5)
  weights, state = toy.make(layer, X)
  (w,) = jax.tree.leaves(weights)
  assert w.shape == (4,)

  def total(weights):
    return layer.pure_fn(X, weights, state, toy.KEY)[0].sum()

  (gradient,) = jax.tree.leaves(jax.jit(jax.grad(total))(weights))
  np.testing.assert_allclose(gradient, 5 * 2 * 3)
  y, _ = toy.run(layer, X, weights, state)
  toy.close(y, X + 5 * w)


def test_shared_weights_must_be_owned():
  with pytest.raises(base.LayerError, match='put ShareWeights'):
    toy.shapes(sharing(2, owned=False), X)


def test_repeat_refuses():
  one = block()
  with pytest.raises(ValueError, match=r'Repeat\.n = -1'):
    hl.Repeat(block, -1)
  with pytest.raises(ValueError, match='a new layer at every call'):
    hl.Repeat(lambda: one, 2)
  with pytest.raises(ValueError, match='takes 1 and returns 2'):
    hl.Repeat(tl.Dup, 2)


def test_no_blocks_are_the_identity():
  layer = hl.Repeat(block, 0)
  y, _ = toy.run(layer, X, *toy.make(layer, X))
  np.testing.assert_array_equal(y, X)


def test_program_does_not_grow_with_blocks():
  def n_lines(n):
    layer = hl.Repeat(block, n)
    weights, state = toy.shapes(layer, X)
    lowered = jax.jit(layer.pure_fn).lower(X, weights, state, toy.KEY)
    return lowered.as_text().count('\n')

  assert n_lines(4) == n_lines(24)


def test_remat_gives_the_same_gradients_with_dropout():
  def dropping():
    return tl.Serial(tl.Dense(8), tl.Dropout(0.5, mode='train'), tl.Tanh())

  plain, remat = dropping(), hl.Remat(dropping())
  weights, state = toy.make(plain, X)
  expected = loss_and_gradients(plain, weights, state)
  value = loss_and_gradients(remat, (weights,), (state,))
  toy.close(jax.tree.leaves(value), jax.tree.leaves(expected), 1e-6)


def kept(layer, x):
  """Numbers that a gradient keeps from the forward pass, by shape."""
  weights, state = toy.shapes(layer, x)

  def run(weights, x):
    return layer.pure_fn(x, weights, state, toy.KEY)[0]

  _, backward = jax.eval_shape(lambda *args: jax.vjp(run, *args), weights, x)
  return collections.Counter(leaf.shape for leaf in jax.tree.leaves(backward))


def test_policies_keep_what_they_say():
  """Blocks of width 8: projections to 16, products of rows, a tanh of each."""

  def mixing():
    rows = tl.Fn('Rows', lambda x: jnp.tanh(x @ jnp.swapaxes(x, 1, 2)))
    return tl.Residual(tl.Dense(16), tl.Tanh(), rows, tl.Dense(8))

  x = toy.normal(2, 5, 8)
  n = 3
  found = {
    policy: kept(hl.Repeat(mixing, n, policy), x)
    for policy in (False, True, 'projections', 'products')
  }
  wide, rows = (n, 2, 5, 16), (n, 2, 5, 5)
  assert found[True][wide] == found[True][rows] == 0
  assert found['projections'][wide] == 1 and found['projections'][rows] == 0
  assert found['products'][wide] == 1 and found['products'][rows] == 1
  assert found[False][wide] + found[False][rows] > 2
  # The inputs of the blocks, whatever else.
  assert all(counts[n, 2, 5, 8] for counts in found.values())


def test_each_policy_gives_the_same_gradients():
  weights, _ = toy.make(hl.Repeat(block, 2), X)
  found = []
  for policy in (False, 'projections', 'products'):
    layer = hl.Repeat(block, 2, policy)
    shapes, state = toy.shapes(layer, X)
    same = jax.tree.unflatten(
      jax.tree.structure(shapes), jax.tree.leaves(weights)
    )
    found.append(jax.tree.leaves(loss_and_gradients(layer, same, state)))
  toy.close(found[1], found[0], 1e-6)
  toy.close(found[2], found[0], 1e-6)


def test_policies_are_known_and_fit_the_stacks():
  with pytest.raises(
    ValueError, match=r"remat = 'some' must be False or one of"
  ):
    hl.Repeat(block, 2, 'some')
  assert remat_of_each(True, 2, 'A.remat') == (True, True)
  assert remat_of_each(['products', False], 2, 'A.remat') == ('products', False)
  with pytest.raises(ValueError, match=r'A\.remat = .* for each of 2 stacks'):
    remat_of_each((True,), 2, 'A.remat')


def test_a_model_has_a_policy_for_each_stack():
  def widths(remat):
    layer = HourglassLM(
      hierarchy='2@2',
      vanilla_layers=(2, 0),
      remat=remat,
      mode='train',
      **toy.SIZES,
    )
    found = kept(layer, toy.tokens(10))
    return found[2, 2, 10, 32], found[2, 2, 5, 32]

  vanilla, shortened = widths(False)
  assert vanilla and shortened
  assert widths((True, False)) == (0, shortened)
  assert widths((False, True)) == (vanilla, 0)


def test_once_remembers_its_first_output():
  outputs = {}
  for mode in ('eval', 'predict'):
    layer = hl.Once(tl.Dense(5), mode)
    weights, state = toy.make(layer, X)
    step = jax.jit(layer.pure_fn)
    first, state = step(X, weights, state, toy.KEY)
    second, _ = step(2 * X, weights, state, toy.KEY)
    outputs[mode] = first, second
  toy.close(outputs['predict'][0], outputs['eval'][0], 0)
  toy.close(outputs['predict'][1], outputs['eval'][0], 0)
  assert not np.allclose(outputs['eval'][1], outputs['eval'][0])


def choices(mode):
  def times(factor):
    return tl.Fn(f'Times{factor}', lambda x: factor * x)

  return hl.RandomChoice([times(1), times(2), times(3)], mode)


def test_random_choice_is_uniform_in_training_only():
  x = np.ones((), np.float32)
  drawn = {}
  for mode in ('train', 'eval'):
    layer = choices(mode)
    weights, state = toy.make(layer, x)
    draw = jax.jit(jax.vmap(layer.pure_fn, in_axes=(None, None, None, 0)))
    rngs = jax.random.split(toy.KEY, 600)
    drawn[mode] = np.asarray(draw(x, weights, state, rngs)[0])
  assert set(drawn['eval']) == {1}
  assert all(150 < (drawn['train'] == i).sum() < 250 for i in (1, 2, 3))


def test_random_choice_refuses_alternatives_with_other_weights():
  toy.shapes(hl.RandomChoice([tl.Dense(4), tl.Dense(4)], 'train'), X)
  layer = hl.RandomChoice([tl.Dense(4), tl.Dense(5)], 'train')
  with pytest.raises(base.LayerError, match='weights of the same shapes'):
    toy.shapes(layer, X)
