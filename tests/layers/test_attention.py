"""Attention against dense numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.trax_compat import tl

B, H, D = 2, 2, 16
WINDOW = 4
SCHEMES = {
  'none': hl.NoPositions,
  'relative': lambda: hl.RelativePositions(D, H),
  't5': lambda: hl.T5Positions(H, n_buckets=6, max_distance=8),
}


def softmax(x):
  x = np.exp(x - x.max(axis=-1, keepdims=True))
  return x / x.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize('length', [3, 4, 9, 12])
@pytest.mark.parametrize('scheme', SCHEMES)
def test_windowed_is_masked_dense(scheme, length):
  q, k, v = (toy.normal(B, H, length, D // H, seed=i) for i in range(3))
  layer = hl.Attend(SCHEMES[scheme](), 1, 1, WINDOW, 0.0, 'eval', 64)
  weights, state = toy.make(layer, (q, k, v))
  y, _ = toy.run(layer, (q, k, v), weights, state)

  offsets = np.arange(length) - np.arange(length)[:, None]
  dense = SCHEMES[scheme]().logits(1, 1, 64, 'eval')
  x = offsets.astype(np.int32), q, k
  shapes, state = toy.shapes(dense, x)
  leaves = jax.tree.leaves(weights)
  weights = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
  (bias, _, q, k), _ = toy.run(dense, x, weights, toy.zeros_like(state))
  scores = (np.einsum('bhqd,bhkd->bhqk', q, k) + bias) / np.sqrt(D // H)
  seen = (offsets <= 0) & (offsets > -WINDOW)
  expected = softmax(np.where(seen, scores, -np.inf)) @ v
  expected = expected.swapaxes(1, 2).reshape(B, length, D)
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


def cross_inputs(seed):
  mask = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]], bool)
  return toy.normal(B, 3, D, seed=seed), toy.normal(B, 5, D, seed=9), mask


def test_cross_attention():
  x, context, mask = cross_inputs(0)
  layer = hl.CrossAttention(D, H, mode='eval')
  weights, state = toy.make(layer, (x, context, mask))
  y, _ = toy.run(layer, (x, context, mask), weights, state)

  def heads(x, kernel, bias):
    return (x @ kernel + bias).reshape(B, -1, H, D // H).swapaxes(1, 2)

  q, k, v, out = np.split(np.array(jax.tree.leaves(weights), object), 4)
  q, k, v = heads(x, *q), heads(context, *k), heads(context, *v)
  scores = np.einsum('bhqd,bhkd->bhqk', q, k) / np.sqrt(D // H)
  scores = np.where(mask[:, None, None], scores, -np.inf)
  expected = (softmax(scores) @ v).swapaxes(1, 2).reshape(B, 3, D)
  expected = expected @ out[0] + out[1]
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


def test_cross_attention_remembers_the_first_context():
  x, context, mask = cross_inputs(0)
  layer = hl.CrossAttention(D, H, mode='predict')
  weights, state = toy.make(layer, (x, context, mask))
  step = jax.jit(layer.pure_fn)
  first, state = step((x, context, mask), weights, state, toy.KEY)
  again, _ = step((x, -context, mask), weights, state, toy.KEY)
  np.testing.assert_array_equal(first, again)


def test_attention_dropout_is_for_training():
  x = toy.normal(B, 6, D)
  outputs = {}
  for mode in ('train', 'eval'):
    layer = hl.SelfAttention(D, H, dropout=0.5, mode=mode)
    weights, state = toy.make(layer, x)
    outputs[mode], _ = toy.run(layer, x, weights, state)
  # The first position sees itself alone: all of it, twice it, or none of it.
  assert (
    np.abs(outputs['train'] - outputs['eval']).max(axis=-1) > 0
  ).mean() > 0.5


def test_softmax_is_in_float32():
  layer = hl.SelfAttention(D, H, mode='eval')
  x = toy.normal(B, 6, D)
  weights, state = toy.make(layer, x)
  half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (x, weights))
  jaxpr = jax.make_jaxpr(layer.pure_fn)(*half, state, toy.KEY)
  exponents = [e for e in jaxpr.eqns if e.primitive.name == 'exp']
  inner = str(jaxpr)
  assert 'f32[2,2,6,6] = exp' in inner
  assert not exponents or exponents[0].invars[0].aval.dtype == jnp.float32


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(n_heads=3), 'n_heads = 3 must divide d_model = 16'),
    (dict(n_heads=0), 'n_heads = 0'),
    (dict(window=0), 'window = 0 must be positive'),
    (dict(mode='test'), "got 'test'"),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    hl.SelfAttention(**{'d_model': D, 'n_heads': H, **arguments})


def test_too_long_a_prompt():
  layer = hl.SelfAttention(D, H, max_len=4, mode='predict')
  x = toy.normal(B, 5, D)
  with pytest.raises(tl.base.LayerError, match='5 new positions exceed'):
    toy.shapes(layer, x)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_layer_norm(dtype):
  x = jnp.asarray(toy.normal(B, 5, D, scale=3.0) + 1, dtype)
  layer, reference = hl.LayerNorm(), tl.LayerNorm()
  weights, _ = toy.make(layer, x)
  y, _ = toy.run(layer, x, weights, ())
  x = x.astype(jnp.float32)
  expected, _ = toy.run(reference, x, weights, ())
  assert y.dtype == dtype
  toy.close(y, expected.astype(dtype), 1e-6 if dtype == jnp.float32 else 8e-3)
