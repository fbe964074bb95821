"""Weights of our models from trax's, array by array in the order of use.

Written for tests alone, and so independent of `trax_hier.storage`.
"""

import jax
import jax.numpy as jnp

from trax_hier.compat import tl
from trax_hier.layers.base.repeat import Stack

# After trax_hier.compat, which patches trax for current JAX.
from trax.layers.research import sparsity  # isort: skip


def their_arrays(layer, weights):
  """The arrays of trax's model in the order of their use, in our layout."""
  if isinstance(weights, dict):  # Marker of a layer that occurs earlier.
    return
  if isinstance(layer, sparsity._SparseFFController):
    m1, m2, mb = weights
    yield from (m1, m2.reshape(len(m2), -1), mb.reshape(-1))
  elif isinstance(layer, sparsity._SparseFFMain):
    w1, w2, b2 = weights
    # Units in order of their blocks, as in the other arrays.
    d = w2.shape[-1]
    yield from (w1.reshape(d, -1), w2.swapaxes(0, 1).reshape(-1, d), b2)
  elif isinstance(layer, tl.FixedBasePositionalEncoding):
    bases, first = weights
    yield from (jnp.stack([jnp.concatenate(b) for b in bases]), first.ravel())
  elif not getattr(layer, '_center', True):
    yield weights[0]  # This LayerNorm has a bias that it does not use.
  elif layer.sublayers:
    for sub, part in zip(layer.sublayers, weights, strict=True):
      yield from their_arrays(sub, part)
  else:
    yield from jax.tree.leaves(weights)


def our_weights(layer, shapes, arrays):
  """Our model's weights, taken one after another from an iterator of arrays.

  Our `Stack` stacks the arrays of its blocks.
  """
  if isinstance(shapes, dict):
    return shapes
  if isinstance(layer, Stack):
    (block,), (shapes,) = layer.sublayers, shapes
    of_block = jax.tree.map(
      lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), shapes
    )
    blocks = [our_weights(block, of_block, arrays) for _ in range(layer.n)]
    return (jax.tree.map(lambda *parts: jnp.stack(parts), *blocks),)
  if layer.sublayers:
    parts = zip(layer.sublayers, shapes, strict=True)
    return tuple(our_weights(sub, part, arrays) for sub, part in parts)

  def take(shape):
    array = next(arrays)
    assert array.shape == shape.shape
    return array

  return jax.tree.map(take, shapes)
