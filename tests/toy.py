"""Toy sizes, quick random weights, and what outputs of a layer depend on."""

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
  """Tokens int32 (batch, length); the first 17 of a row are all the ids."""
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


def states_of(layer, state, kind):
  """Yields the states of all layers of a class, outermost first."""
  if isinstance(layer, kind):
    yield state
  if layer.sublayers:
    for parts in zip(layer.sublayers, state, strict=True):
      yield from states_of(*parts, kind)


def dependencies(x, run):
  """Whether outputs at i (rows) depend on token j (columns), in any lane.

  `run` maps tokens (b, l) to a tree of outputs (b, l, d), and the result is a
  tree of the same structure.
  """
  old, changes = run(x), []
  for j in range(x.shape[1]):
    changed = x.copy()
    changed[:, j] = (changed[:, j] + 1) % VOCAB
    changes.append(
      jax.tree.map(lambda a, b: (a != b).any((0, 2)), old, run(changed))
    )
  return jax.tree.map(lambda *rows: np.stack(rows, axis=1), *changes)


def leaks(depends):
  """Pairs (i, j) of logits at i that depend on token j and must not."""
  return [(i, j) for i, j in np.argwhere(depends).tolist() if j >= i]


def gaps(depends):
  """Pairs (i, j) of logits at i that do not depend on token j and should."""
  return [(i, j) for i, j in np.argwhere(~depends).tolist() if j < i]


def close(x, y, tolerance=1e-5):
  """Asserts that two trees of arrays agree."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), x, y
  )
