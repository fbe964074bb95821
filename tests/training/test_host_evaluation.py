"""NumPy's evaluation of initializations against JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trax_hier.compat import tl
from trax_hier.training.host_evaluation import _RULES, evaluate_program
from trax_hier.training.initialization import Initialization
from trax_hier.training.state import init_layer, token_shapes

KEY = jax.random.PRNGKey(7)

PROGRAMS = {
  'seed and split': lambda key: jax.random.split(jax.random.PRNGKey(2), 5),
  'split of split': lambda key: jax.vmap(jax.random.split)(
    jax.random.split(key, 3)
  ),
  'fold in': lambda key: jax.vmap(jax.random.fold_in, (None, 0))(
    key, jnp.arange(4)
  ),
  'bits 32': lambda key: jax.random.bits(key, (3, 7)),
  'bits 16': lambda key: jax.random.bits(key, (40,), np.uint16),
  'more than a chunk': lambda key: jax.random.bits(key, (5, 1 << 13)),
  'normal': lambda key: jax.random.normal(key, (30, 40)),
  'uniform': lambda key: jax.random.uniform(key, (50,), minval=-2.0),
  'truncated': lambda key: jax.random.truncated_normal(key, -2, 2, (50,)),
  'blocks': lambda key: jax.vmap(lambda k: jax.random.normal(k, (4,)))(
    jax.random.split(key, 3)
  ),
  'glorot': lambda key: tl.GlorotUniformInitializer()((24, 16), key),
  'negative seed': lambda key: jax.random.PRNGKey(
    jnp.int32(-5) + 0 * key[0].astype(jnp.int32)
  ),
  'shift of a negative number': lambda key: jax.lax.shift_right_logical(
    jnp.int32(-5) + 0 * key[0].astype(jnp.int32), jnp.int32(2)
  ),
  'custom derivatives': lambda key: (
    jax.nn.softplus(jax.random.normal(key, (9,))),
    jax.nn.relu(jax.random.normal(key, (9,))),
  ),
  # These have primitives without a rule.
  'gamma': lambda key: jax.random.gamma(key, 2.0, (9,)),
  'orthogonal': lambda key: tl.OrthogonalInitializer()((8, 8), key),
  'permutation': lambda key: jax.random.permutation(key, 20),
  'integers': lambda key: jax.random.randint(key, (9,), 0, 5),
  'no key': lambda key: (jnp.zeros((2, 3)), jnp.arange(6).reshape(2, 3) / 7),
}


@pytest.mark.parametrize('name', PROGRAMS)
def test_equals_jax(name):
  function = PROGRAMS[name]
  program = jax.make_jaxpr(function)(KEY)
  ours = evaluate_program(program, np.asarray(KEY))
  theirs = jax.tree.leaves(function(KEY))
  assert len(ours) == len(theirs)
  for a, b in zip(ours, theirs, strict=True):
    assert a.shape == b.shape and a.dtype == b.dtype
    if a.dtype.kind == 'f':
      np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    else:
      np.testing.assert_array_equal(a, b)


def test_64_bits():
  with jax.enable_x64(True):
    program = jax.make_jaxpr(lambda key: jax.random.bits(key, (9,)))(KEY)
    (ours,) = evaluate_program(program, np.asarray(KEY))
    np.testing.assert_array_equal(ours, jax.random.bits(KEY, (9,)))
  assert ours.dtype == np.uint64


def test_evaluates_only_what_outputs_need(monkeypatch):
  calls = []
  rule = _RULES['random_bits']
  monkeypatch.setitem(
    _RULES, 'random_bits', lambda *args: calls.append(1) or rule(*args)
  )

  def function(key):
    unused = jax.random.normal(key, (1000,))
    return jax.random.uniform(key, (3,)), unused.shape[0]

  evaluate_program(jax.make_jaxpr(function)(KEY), np.asarray(KEY))
  assert len(calls) == 1


def test_a_model_has_the_weights_of_its_compiled_initialization():
  layer = tl.Serial(tl.Embedding(16, 8), tl.LayerNorm(), tl.Dense(12))
  batch = token_shapes((2, 6))

  def init(key):
    return init_layer(layer, batch, key)

  initialization = Initialization(init)
  ours = initialization(KEY)
  theirs = jax.jit(init)(KEY)
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
  again = jax.tree.leaves(initialization(KEY))
  other = jax.tree.leaves(initialization(jax.random.PRNGKey(8)))
  for a, b in zip(jax.tree.leaves(ours), again, strict=True):
    np.testing.assert_array_equal(a, b)
  assert not np.array_equal(other[0], again[0])


def test_equal_arrays_can_be_donated_one_by_one():
  def twice(key):
    x = jax.random.normal(key, (64, 64))
    return x, x

  first, second = Initialization(twice)(KEY)
  kept = np.array(second)
  jax.jit(lambda x: x + 1, donate_argnums=0)(first)
  np.testing.assert_array_equal(second, kept)
  np.testing.assert_array_equal(Initialization(twice)(KEY)[0], kept)


def test_large_initializations_are_compiled(monkeypatch):
  from trax_hier.training import initialization as module

  monkeypatch.setattr(module, '_MAX_ELEMENTS', 10)
  monkeypatch.setattr(module, 'evaluate_program', None)

  def function(key):
    return {'a': jax.random.normal(key, (11,))}

  values = Initialization(function)(KEY)
  np.testing.assert_allclose(values['a'], function(KEY)['a'], rtol=1e-6)
