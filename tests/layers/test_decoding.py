"""Weights and states for decoding give the same outputs as the originals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.layers.base.repeat import Blocks
from trax_hier.models import HourglassLM, TransformerLM

MODELS = {
  'transformer': functools.partial(TransformerLM, n_layers=3, **toy.SIZES),
  'hourglass': functools.partial(HourglassLM, hierarchy='2@3', **toy.SIZES),
}
TOKENS = toy.tokens(12)


def logits(name, precision):
  """Logits, weights and state after decoding TOKENS in calls of 5, 1, 1, .."""
  layer = MODELS[name](mode='predict')
  weights, state = toy.make(layer, TOKENS[:, :1], scale=0.1)
  weights = hl.decoding_weights(layer, weights, precision)
  state = hl.decoding_state(layer, weights, state, precision)
  inputs = np.pad(TOKENS, [(0, 0), (1, 0)])[:, :-1]
  outputs = []
  step = jax.jit(layer.pure_fn)
  for new in (inputs[:, :5], *np.split(inputs[:, 5:], 7, axis=1)):
    y, state = step(new, weights, state, toy.KEY)
    outputs.append(y)
  return jnp.concatenate(outputs, axis=1), weights, state


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
def test_decoding_equals_evaluation_in_all_precisions(name, precision, error):
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


def test_blocks_are_unstacked():
  layer = MODELS['transformer'](mode='predict')
  weights, _ = toy.shapes(layer, TOKENS[:, :1])
  converted = jax.eval_shape(lambda w: hl.decoding_weights(layer, w), weights)
  blocks = jax.tree.leaves(converted, is_leaf=lambda x: isinstance(x, Blocks))
  (blocks,) = (x for x in blocks if isinstance(x, Blocks))
  assert len(blocks.trees) == 3
  assert all(x.ndim < 3 for x in jax.tree.leaves(blocks))
  sizes = [
    sum(x.size for x in jax.tree.leaves(tree)) for tree in (weights, converted)
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
