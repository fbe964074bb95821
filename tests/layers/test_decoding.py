"""Weights and states laid out for decoding give what the others give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.layers.base.dense import Int8Kernel, quantize
from trax_hier.layers.base.stacking import Blocks, apply_if
from trax_hier.models import HourglassLM, TransformerLM

MODELS = {
  'transformer': functools.partial(TransformerLM, n_layers=3, **toy.SIZES),
  'hourglass': functools.partial(HourglassLM, hierarchy='2@3', **toy.SIZES),
}
TOKENS = toy.tokens(12)


def logits(name, precision):
  """Of TOKENS, decoded: 5 at once, then one by one; also all that is kept."""
  layer = MODELS[name](mode='predict')
  weights, state = toy.make(layer, TOKENS[:, :1], scale=0.1)
  weights = hl.decoding_weights(layer, weights, precision)
  state = hl.decoding_state(layer, weights, state, precision)
  inputs = np.pad(TOKENS, [(0, 0), (1, 0)])[:, :-1]
  parts = []
  step = jax.jit(layer.pure_fn)
  for new in (inputs[:, :5], *np.split(inputs[:, 5:], 7, axis=1)):
    y, state = step(new, weights, state, toy.KEY)
    parts.append(y)
  return jnp.concatenate(parts, axis=1), weights, state


@functools.cache
def evaluated(name):
  layer = MODELS[name](mode='eval')
  weights, state = toy.make(layer, TOKENS, scale=0.1)
  return toy.run(layer, TOKENS, weights, state)[0]


@pytest.mark.parametrize(
  'name, precision, error',
  [
    ('transformer', 'float32', 1e-6),
    ('transformer', 'bfloat16', 0.03),
    ('transformer', 'int8', 0.03),
    pytest.param('hourglass', 'float32', 1e-6, marks=pytest.mark.slow),
    pytest.param('hourglass', 'bfloat16', 0.03, marks=pytest.mark.slow),
    pytest.param('hourglass', 'int8', 0.03, marks=pytest.mark.slow),
  ],
)
def test_decoding_is_evaluation_in_all_precisions(name, precision, error):
  y, weights, state = logits(name, precision)
  expected = evaluated(name)
  assert y.dtype == jnp.float32
  gap = np.linalg.norm(y - expected) / np.linalg.norm(expected)
  assert gap < error
  assert (precision == 'float32') == (gap < 1e-6)
  kinds = {x.dtype.name for x in jax.tree.leaves(weights)}
  assert (
    kinds
    == {
      'float32': {'float32'},
      'bfloat16': {'bfloat16'},
      'int8': {'float32', 'int8'},
    }[precision]
  )
  floats = {x.dtype.name for x in jax.tree.leaves(state) if x.ndim}
  assert floats == {'bfloat16' if precision == 'bfloat16' else 'float32'}


def test_no_block_is_stacked_and_each_is_read_by_itself():
  layer = MODELS['transformer'](mode='predict')
  weights, _ = toy.shapes(layer, TOKENS[:, :1])
  apart = jax.eval_shape(lambda w: hl.decoding_weights(layer, w), weights)
  blocks = jax.tree.leaves(apart, is_leaf=lambda x: isinstance(x, Blocks))
  (blocks,) = (x for x in blocks if isinstance(x, Blocks))
  assert len(blocks.trees) == 3
  assert all(x.ndim < 3 for x in jax.tree.leaves(blocks))
  sizes = [
    sum(x.size for x in jax.tree.leaves(tree)) for tree in (weights, apart)
  ]
  assert sizes[0] == sizes[1]


def test_projected_distances_are_computed_once():
  layer = MODELS['transformer'](mode='predict')
  weights, state = toy.make(layer, TOKENS[:, :1])

  def n_sines(weights, state):
    jaxpr = jax.make_jaxpr(layer.pure_fn)
    return str(jaxpr(TOKENS[:, :1], weights, state, toy.KEY)).count(' sin ')

  assert n_sines(weights, state) > 0
  weights = hl.decoding_weights(layer, weights)
  assert n_sines(weights, hl.decoding_state(layer, weights, state)) == 0


@pytest.mark.parametrize('shape', [(7, 5), (16, 48), (1024, 384), (513, 512)])
def test_int8_is_the_product_with_the_rounded_kernel(shape):
  kernel = toy.normal(*shape) * np.logspace(-2, 2, shape[1], dtype=np.float32)
  kernel[:, 1] = 0
  bias = toy.normal(shape[1], seed=1)
  small = quantize(jnp.asarray(kernel))
  assert isinstance(small, Int8Kernel) and small.values.dtype == jnp.int8
  rounded = np.asarray(small.values, np.float64) * np.asarray(small.scale)
  # Half a level of each channel's own range.
  step = np.abs(kernel).max(0) / 127
  assert (np.abs(rounded - kernel) <= 0.51 * step + 1e-30).all()
  x = toy.normal(2, 3, shape[0], seed=2)
  layer = hl.Dense(shape[1])
  y, _ = toy.run(layer, x, (small, jnp.asarray(bias)), ())
  np.testing.assert_allclose(
    y, x @ rounded + bias, 1e-4, 1e-4 * np.abs(y).max()
  )


@pytest.mark.parametrize('condition', [True, False])
def test_apply_if(condition):
  y = jax.jit(lambda c, x: apply_if(c, lambda x: (x[1], x[0] + 1), x))(
    condition, (1, 2)
  )
  assert y == ((2, 2) if condition else (1, 2))
