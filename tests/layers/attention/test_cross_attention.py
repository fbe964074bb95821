"""Cross-attention against plain numpy."""

import jax
import numpy as np
import toy

from trax_hier import layers as hl

B, H, D = 2, 2, 16


def softmax(x):
  x = np.exp(x - x.max(axis=-1, keepdims=True))
  return x / x.sum(axis=-1, keepdims=True)


def cross_inputs():
  mask = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]], bool)
  return toy.normal(B, 3, D), toy.normal(B, 5, D, seed=9), mask


def test_cross_attention():
  x, context, mask = cross_inputs()
  layer = hl.CrossAttention(D, H, mode='eval')
  weights, state = toy.make(layer, (x, context, mask))
  y, _ = toy.run(layer, (x, context, mask), weights, state)

  def heads(x, kernel, bias):
    return (x @ kernel + bias).reshape(B, -1, H, D // H).swapaxes(1, 2)

  wq, bq, wk, bk, wv, bv, wo, bo = jax.tree.leaves(weights)
  q, k, v = heads(x, wq, bq), heads(context, wk, bk), heads(context, wv, bv)
  scores = np.einsum('bhqd,bhkd->bhqk', q, k) / np.sqrt(D // H)
  scores = np.where(mask[:, None, None], scores, -np.inf)
  expected = (softmax(scores) @ v).swapaxes(1, 2).reshape(B, 3, D)
  expected = expected @ wo + bo
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


def test_decoding_keeps_the_keys_of_the_first_context():
  x, context, mask = cross_inputs()
  layer = hl.CrossAttention(D, H, mode='predict')
  weights, state = toy.make(layer, (x, context, mask))
  step = jax.jit(layer.pure_fn)
  first, state = step((x, context, mask), weights, state, toy.KEY)
  again, _ = step((x, -context, mask), weights, state, toy.KEY)
  np.testing.assert_array_equal(first, again)
