"""Rematerialization: what each policy keeps, and equal gradients."""

import collections

import jax
import jax.numpy as jnp
import pytest
import toy
from test_repeat import X, block, loss_and_gradients

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.layers.base.remat import remat_per_stack
from trax_hier.models import HourglassLM


def test_remat_gives_the_same_gradients_with_dropout():
  def dropping():
    return tl.Serial(tl.Dense(8), tl.Dropout(0.5, mode='train'), tl.Tanh())

  plain, remat = dropping(), hl.Remat(dropping())
  weights, state = toy.make(plain, X)
  expected = loss_and_gradients(plain, weights, state)
  value = loss_and_gradients(remat, (weights,), (state,))
  toy.close(jax.tree.leaves(value), jax.tree.leaves(expected), 1e-6)


def kept(layer, x):
  """Number of arrays that the backward pass keeps, by shape."""
  weights, state = toy.shapes(layer, x)

  def run(weights, x):
    return layer.pure_fn(x, weights, state, toy.KEY)[0]

  _, backward = jax.eval_shape(lambda *args: jax.vjp(run, *args), weights, x)
  return collections.Counter(leaf.shape for leaf in jax.tree.leaves(backward))


def test_policies_keep_the_right_arrays():
  """Blocks have a projection to 16, a product of rows, and a tanh of each."""

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
  # All policies keep the inputs of the blocks.
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


def test_invalid_policies():
  with pytest.raises(
    ValueError, match=r"remat = 'some' must be False or one of"
  ):
    hl.Repeat(block, 2, 'some')
  assert remat_per_stack(True, 2, 'A.remat') == (True, True)
  assert remat_per_stack(['products', False], 2, 'A.remat') == (
    'products',
    False,
  )
  with pytest.raises(ValueError, match=r'A\.remat = .* for each of 2 stacks'):
    remat_per_stack((True,), 2, 'A.remat')


def test_a_model_takes_a_policy_for_each_stack():
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
