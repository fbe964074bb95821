"""A random choice between layers that share their weights."""

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import base, tl

X = toy.normal(2, 3, 4)


def choices(mode):
  def times(factor):
    return tl.Fn(f'Times{factor}', lambda x: factor * x)

  return hl.RandomChoice([times(1), times(2), times(3)], mode)


def test_the_choice_is_uniform_in_training_only():
  x = np.ones((), np.float32)
  factors = {}
  for mode in ('train', 'eval'):
    layer = choices(mode)
    weights, state = toy.make(layer, x)
    run = jax.jit(jax.vmap(layer.pure_fn, in_axes=(None, None, None, 0)))
    rngs = jax.random.split(toy.KEY, 600)
    factors[mode] = np.asarray(run(x, weights, state, rngs)[0])
  assert set(factors['eval']) == {1}
  assert all(150 < (factors['train'] == i).sum() < 250 for i in (1, 2, 3))


def test_alternatives_must_have_equal_weights():
  toy.shapes(hl.RandomChoice([tl.Dense(4), tl.Dense(4)], 'train'), X)
  layer = hl.RandomChoice([tl.Dense(4), tl.Dense(5)], 'train')
  with pytest.raises(base.LayerError, match='weights of the same shapes'):
    toy.shapes(layer, X)
