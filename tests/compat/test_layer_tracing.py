"""Tracing of layers: keys on demand, and each layer traced once in `init`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trax_hier.compat import base, signature, tl
from trax_hier.layers import (
  AverageShorten,
  LinearUpsample,
  Repeat,
  ShortenedStack,
)

KEY = jax.random.PRNGKey(0)


def primitives(jaxpr):
  for equation in jaxpr.eqns:
    yield equation.primitive.name
    for value in equation.params.values():
      for inner in value if isinstance(value, tuple | list) else [value]:
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          yield from primitives(inner)


def nested(leaf):
  return tl.Serial(tl.Residual(leaf()), tl.Branch(leaf(), leaf()), tl.Add())


def test_layers_that_use_no_key_derive_none():
  layer = Repeat(lambda: nested(lambda: tl.Dense(4)), 3)
  x = np.zeros((2, 4), np.float32)
  weights, state = layer.init(signature(x), KEY)
  program = jax.make_jaxpr(layer.pure_fn)(x, weights, state, KEY)
  # `Repeat` splits its key for the scan.
  names = [n for n in primitives(program.jaxpr) if n.startswith('random_')]
  assert names.count('random_split') == 1
  assert 'random_fold_in' not in names and 'random_bits' not in names


def test_each_sublayer_has_its_own_key():
  def sample():
    class Sample(base.Layer):
      def forward(self, x):
        return x + jax.random.normal(self.rng, x.shape)

    return Sample()

  layer = tl.Serial(
    tl.Branch(sample(), tl.Serial(sample(), sample())),
    tl.Parallel(sample(), None),
    Repeat(lambda: tl.Serial(tl.Parallel(sample(), sample())), 2),
  )
  x = jnp.zeros(3)
  weights, state = layer.init(signature(x), KEY)

  def run(key):
    return jnp.stack(layer.pure_fn(x, weights, state, key)[0])

  a, b, c = run(KEY), jax.jit(run)(KEY), run(jax.random.PRNGKey(1))
  np.testing.assert_allclose(a, b, rtol=1e-5)
  assert not np.isclose(a, c).any()
  assert len(set(np.round(np.ravel(a), 5))) == a.size


def test_weights_and_state_may_be_dictionaries():
  class Scale(base.Layer):
    def init_weights_and_state(self, input_signature):
      self.weights, self.state = (
        {'scale': jnp.ones(())},
        {'calls': jnp.zeros(())},
      )

    def forward(self, x):
      self.state = {'calls': self.state['calls'] + 1}
      return x * self.weights['scale']

  layer = tl.Serial(Scale(), Scale())
  layer.init(signature(jnp.ones(3)), KEY)
  weights = {'scale': jnp.array(3.0)}, {'scale': jnp.array(4.0)}
  state = ({'calls': jnp.array(5.0)},) * 2
  y, state = layer.pure_fn(jnp.ones(3), weights, state, KEY)
  np.testing.assert_array_equal(y, 12.0)
  assert state == ({'calls': 6}, {'calls': 6})


def test_keys_do_not_leak_out_of_a_trace():
  """One key is read inside a loop, then outside of it."""

  class Twice(base.Layer):
    def forward(self, x):
      inside = jax.lax.map(lambda y: y + jax.random.uniform(self.rng), x)
      return inside + jax.random.uniform(self.rng)

  layer = tl.Serial(Twice(), Twice())
  x = jnp.zeros(3)
  weights, state = layer.init(signature(x), KEY)
  with jax.checking_leaks():
    y = jax.jit(layer.pure_fn)(x, weights, state, KEY)[0]
  np.testing.assert_allclose(
    y, layer.pure_fn(x, weights, state, KEY)[0], rtol=1e-6
  )


@pytest.mark.parametrize(
  'wrap',
  [
    lambda block: tl.Serial(tl.Serial(block()), block()),
    lambda block: tl.Serial(Repeat(block, 3), tl.Dense(4)),
    lambda block: ShortenedStack(
      2, AverageShorten(2), Repeat(block, 2), LinearUpsample(2, 4)
    ),
    lambda block: tl.Serial(
      ShortenedStack(
        2,
        AverageShorten(2),
        ShortenedStack(
          2, AverageShorten(2), Repeat(block, 2), LinearUpsample(2, 4)
        ),
        LinearUpsample(2, 4),
      )
    ),
  ],
)
def test_init_traces_a_layer_once(wrap):
  calls = []

  class Counted(base.Layer):
    def forward(self, x):
      calls.append(self)
      return x

  layer = wrap(lambda: nested(Counted))
  x = jax.ShapeDtypeStruct((2, 8, 4), np.float32)
  layer.init(signature(x), KEY)
  assert calls and len(calls) == len(set(calls))
  expected = layer.output_signature(signature(x))
  n = len(calls)
  actual = jax.eval_shape(layer.pure_fn, x, layer.weights, layer.state, KEY)[0]
  assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
  assert len(calls) > n


def test_signatures_follow_new_weights():
  dense = tl.Dense(4)
  x = jax.ShapeDtypeStruct((2, 3), np.float32)
  dense.init(signature(x), KEY)
  assert dense.output_signature(signature(x)).shape == (2, 4)
  dense.weights = jnp.zeros((3, 7)), jnp.zeros(7)
  assert dense.output_signature(signature(x)).shape == (2, 7)


def test_a_stack_with_loaded_weights_has_a_signature():
  def make():
    return tl.Serial(Repeat(lambda: nested(lambda: tl.Dense(4)), 3))

  x = jax.ShapeDtypeStruct((2, 4), np.float32)
  weights, state = make().init(signature(x), KEY)
  layer = make()
  layer.weights, layer.state = weights, state
  assert layer.output_signature(signature(x)).shape == (2, 4)
