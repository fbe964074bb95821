"""Toy sizes, and layers with weights that are quick to make."""

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import ShapeDtype

KEY = jax.random.PRNGKey(0)
VOCAB = 17
SIZES = dict(
  vocab_size=VOCAB, d_model=16, d_ff=32, n_heads=2, dropout=0.0, max_len=16
)


def tokens(length, batch=2, seed=0):
  """Tokens int32 (batch, length), every id among the first 17 of a row."""
  rng = np.random.default_rng(seed)
  rows = [
    np.concatenate([rng.permutation(VOCAB) for _ in range(length // VOCAB + 1)])
    for _ in range(batch)
  ]
  return np.stack(rows)[:, :length].astype(np.int32)


def normal(*shape, seed=0, scale=1.0, dtype=np.float32):
  """Normal numbers of the given shape."""
  x = np.random.default_rng(seed).normal(size=shape) * scale
  return x.astype(dtype)


def random_like(shapes, seed=0, scale=0.3):
  """Normal float32 numbers for every leaf of a tree of shapes."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda s: jnp.asarray(rng.normal(size=s.shape) * scale, jnp.float32), shapes
  )


def zeros_like(shapes):
  """Zeros for every leaf of a tree of shapes."""
  return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def signature(x):
  """The shapes of an array, or of a tuple of them."""
  return jax.tree.map(lambda a: ShapeDtype(a.shape, a.dtype), x)


def shapes(layer, x):
  """The shapes of a layer's weights and state for inputs like x."""
  return jax.eval_shape(lambda: layer.init(signature(x), KEY))


def make(layer, x, seed=0, scale=0.3):
  """Random weights and the first state of a layer for inputs like x."""
  weights, _ = shapes(layer, x)
  state = jax.jit(lambda: layer.init(signature(x), KEY)[1])()
  return random_like(weights, seed, scale), state


def run(layer, x, weights, state, rng=KEY):
  """Outputs and new state of a layer, compiled."""
  return jax.jit(layer.pure_fn)(x, weights, state, rng)


def close(x, y, tolerance=1e-5):
  """Asserts that two trees of arrays agree."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), x, y
  )
