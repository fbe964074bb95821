"""Aggregation: combining sequences of several scales."""

import jax
import numpy as np
import toy

from trax_hier import layers as hl

D = 16


def test_concat_dense_and_sum_standardize_their_inputs():
  # Magnitudes differ as between embeddings and outputs of a stack.
  inputs = [3 + 10**i * toy.normal(2, 5, D, seed=i) for i in range(3)]
  standardized = [
    (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) for x in inputs
  ]
  for layer in hl.Sum(3), hl.ConcatDense(3, D):
    weights, state = toy.make(layer, tuple(inputs))
    y, _ = layer.pure_fn(tuple(inputs), weights, state, toy.KEY)
    if leaves := jax.tree.leaves(weights):
      kernel, bias = leaves
      toy.close(y, np.concatenate(standardized, axis=-1) @ kernel + bias)
    else:
      toy.close(y, sum(standardized))


def test_each_scale_has_its_own_embedding():
  """An embedding changes exactly the tokens that attend to its scale."""
  scales, d, length = (1, 2, 4), 8, 12
  layer = hl.AttentionAggregation(scales, d, d_ff=16, n_heads=2, mode='eval')
  rows = tuple(toy.normal(1, length // s, d, seed=s) for s in scales)
  weights, state = toy.make(layer, rows)
  leaves, tree = jax.tree.flatten(weights)
  places = [i for i, leaf in enumerate(leaves) if leaf.shape == (2, 1, d // 2)]
  assert len(places) == len(scales)
  run = jax.jit(lambda w: layer.pure_fn(rows, w, state, toy.KEY)[0])
  y = run(weights)
  moved = []
  for i in places:
    changed = [x + (j == i) * x for j, x in enumerate(leaves)]
    moved.append((run(jax.tree.unflatten(tree, changed)) != y).any((0, 2)))
  for scale, by_token in zip(scales, moved, strict=True):
    # The first token attends to one key, whose weight is always 1.
    first = max(scale - 1, 1)
    assert list(np.flatnonzero(by_token)) == list(range(first, length))
