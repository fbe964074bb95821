"""Tests of faster gradients of products on CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trax_hier.training import cpu_products

# Equation, shapes, whether the product is rewritten.
CASES = {
  'weights of a dense layer': ('bd,bf->df', (40, 48), (40, 64), True),
  'the smaller factor is the second': ('bd,bf->df', (40, 64), (40, 48), True),
  'two contracted axes': ('bld,blf->df', (2, 40, 48), (2, 40, 33), True),
  'two contracted axes, swapped': (
    'bld,blf->df',
    (2, 40, 48),
    (2, 40, 64),
    True,
  ),
  'attention, keys': ('bhqk,bhqd->bhkd', (2, 3, 40, 48), (2, 3, 40, 32), True),
  'heads of both': ('bqhd,bqhe->hde', (2, 40, 3, 32), (2, 40, 3, 48), True),
  'second factor transposed': ('qk,dq->kd', (40, 48), (64, 40), True),
  'forward': ('bd,df->bf', (40, 48), (48, 64), False),
  'scores': ('bhqd,bhkd->bhqk', (2, 3, 40, 64), (2, 3, 48, 64), False),
  'a vector': ('bd,b->d', (40, 48), (40,), False),
  'few columns': ('bd,bf->df', (40, 48), (40, 8), False),
  'outer product': ('d,f->df', (40,), (48,), False),
}


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int32'])
def test_products(name, dtype):
  equation, *shapes, is_rewritten = CASES[name]
  rng = np.random.default_rng(0)
  x, y = (jnp.asarray(rng.integers(-4, 5, s), dtype) for s in shapes)

  product = functools.partial(
    jnp.einsum,
    equation,
    preferred_element_type=jnp.float32 if dtype == 'bfloat16' else None,
  )
  product = jax.jit(cpu_products.speed_up_products(product))
  text = product.lower(x, y).as_text()
  assert ('optimization_barrier' in text) == is_rewritten
  result = product(x, y)
  # Small integers: sums are exact in any order.
  expected = np.einsum(equation, *(np.asarray(a, np.float64) for a in (x, y)))
  np.testing.assert_array_equal(np.asarray(result, np.float64), expected)
  assert result.dtype == ('float32' if dtype == 'bfloat16' else dtype)


def test_gradients():
  """Also inside loops, branches and recomputed parts."""
  key = jax.random.key(0)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(3, 40, 48)), jnp.float32)
  w = jnp.asarray(rng.normal(size=(48, 48)) / 7, jnp.float32)

  def loss(w):
    @jax.checkpoint
    def layer(x, i):
      # Primitives with parameters of many types.
      noise = jax.random.normal(jax.random.fold_in(key, i), x.shape)
      x = jnp.take_along_axis(x, jnp.argsort(x), axis=-1) + noise
      x = jax.lax.cond(i > 0, jnp.tanh, jnp.sin, x @ w)
      return jax.nn.gelu(x), None

    y, _ = jax.lax.scan(layer, x, jnp.arange(3))
    return jnp.sum(y * y)

  plain = jax.grad(loss)
  faster = cpu_products.speed_up_products(plain)
  # Recomputation has barriers of its own.
  counts = [
    str(jax.make_jaxpr(f)(w)).count('optimization_barrier')
    for f in (plain, faster)
  ]
  assert counts[1] == counts[0] + 2
  np.testing.assert_allclose(
    jax.jit(faster)(w), jax.jit(plain)(w), rtol=1e-4, atol=1e-4
  )


def test_trees_and_closures():
  x, y = jnp.ones((40, 48)), jnp.full((40, 64), 2.0)

  @jax.jit
  def outer(y):
    inner = cpu_products.speed_up_products(
      lambda tree, key: {'z': tree['x'].T @ y, 'rest': (key, None)}
    )
    return inner({'x': x}, jax.random.key(0))

  result = outer(y)
  np.testing.assert_array_equal(result['z'], np.full((48, 64), 80.0))
  assert result['rest'][0] == jax.random.key(0)


def test_gathers_and_random_numbers():
  """Their parameters are named tuples."""

  def loss(table, key):
    x = jnp.take(table, jnp.arange(40) % 3, axis=0)
    return jnp.sum((x.T @ x) * jax.random.uniform(key, (32, 32)))

  table, key = jnp.eye(3, 32), jax.random.key(0)
  plain = jax.grad(loss)
  faster = cpu_products.speed_up_products(plain)
  assert 'barrier' in str(jax.make_jaxpr(faster)(table, key))
  np.testing.assert_allclose(
    jax.jit(faster)(table, key), jax.jit(plain)(table, key), rtol=1e-5
  )


@pytest.mark.parametrize('name', ['setting', 'backend'])
def test_products_stay(name, monkeypatch):
  if name == 'setting':
    monkeypatch.setenv(cpu_products.SETTING, '0')
  else:
    monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  product = cpu_products.speed_up_products(lambda x: x.T @ x)
  jaxpr = jax.make_jaxpr(product)(jnp.ones((64, 64)))
  assert 'barrier' not in str(jaxpr)
