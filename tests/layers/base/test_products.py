"""Products of 16-bit numbers with a float32 result."""

import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import pytest
import toy

from trax_hier.layers import Dense
from trax_hier.layers.base.products import wide_einsum
from trax_hier.models import TransformerLM


def products(function, *args):
  """The types of the inputs and outputs of all products of a function."""
  jaxpr = jax.make_jaxpr(function)(*args).jaxpr
  return [
    tuple(x.aval.dtype.name for x in (*e.invars, *e.outvars))
    for e in jaxprs.equations(jaxpr)
    if e.primitive.name == 'dot_general'
  ]


def arrays(dtype):
  x, y = toy.normal(2, 3, 8), toy.normal(5, 8, seed=1)
  return jnp.asarray(x, dtype), jnp.asarray(y, dtype)


def total(x, y):
  return jnp.sum(jnp.sin(wide_einsum('bld,vd->blv', x, y)))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_products_have_narrow_inputs(dtype):
  x, y = arrays(dtype)
  name = np.dtype(dtype).name
  forward, *backward = products(jax.grad(total, (0, 1)), x, y)
  assert forward == (name, name, 'float32')
  assert backward == [(name,) * 3] * 2
  gradients = jax.grad(total, (0, 1))(x, y)
  wide = [a.astype(jnp.float32) for a in (x, y)]
  # The result is not rounded.
  exact = jnp.einsum('bld,vd->blv', *wide)
  np.testing.assert_allclose(
    wide_einsum('bld,vd->blv', x, y), exact, 1e-5, 1e-5
  )
  for g, expected in zip(
    gradients, jax.grad(total, (0, 1))(*wide), strict=True
  ):
    gap = np.asarray(g, np.float32) - expected
    assert np.linalg.norm(gap) < 0.02 * np.linalg.norm(expected)


def test_float32_stays_a_plain_product():
  jaxpr = jax.make_jaxpr(total)(*arrays(jnp.float32)).jaxpr
  assert 'custom_vjp' not in str(jaxpr)


def test_logits_are_not_rounded_to_16_bits():
  model = TransformerLM(n_layers=1, **toy.SIZES, mode='eval')
  tokens = toy.tokens(8)
  weights, state = toy.make(model, tokens)
  weights = jax.tree.map(lambda w: w.astype(jnp.bfloat16), weights)

  def logits(weights):
    return model.pure_fn(tokens, weights, state, toy.KEY)[0]

  *_, last = products(logits, weights)
  assert last == ('bfloat16', 'bfloat16', 'float32')
  gradients = products(jax.grad(lambda w: jnp.sum(logits(w) ** 2)), weights)
  assert gradients.count(('bfloat16', 'bfloat16', 'float32')) >= 1


def test_other_dense_layers_keep_the_type():
  x = jnp.ones((2, 8), jnp.bfloat16)
  weights = jnp.ones((8, 3), jnp.bfloat16), jnp.zeros(3, jnp.bfloat16)
  types = [
    layer.pure_fn(x, weights, (), toy.KEY)[0].dtype
    for layer in (Dense(3), Dense(3).in_float32())
  ]
  assert types == [jnp.bfloat16, jnp.float32]
