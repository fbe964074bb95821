"""Position schemes against plain statements of their mathematics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.layers.positions import t5_buckets
from trax_hier.trax_compat import tl

B, H, D_HEAD = 2, 2, 8
D = H * D_HEAD


def test_t5_buckets():
  known = {
    0: 0, 1: 1, 2: 2, 8: 8, 15: 15, 16: 16, 17: 16, 18: 16, 19: 17, 20: 17,
    22: 18, 24: 19, 28: 20, 32: 21, 40: 23, 48: 24, 56: 25, 64: 26, 80: 28,
    96: 29, 112: 30, 127: 31, 128: 31, 5000: 31, -3: 0,
  }  # fmt: skip
  buckets = t5_buckets(jnp.array(list(known)), 32, 128)
  assert buckets.tolist() == list(known.values())


def test_t5_bias_is_looked_up():
  offsets = np.array([[0, -1, -40], [0, 0, -15]], np.int32)
  x = offsets, toy.normal(B, H, 2, D_HEAD), toy.normal(B, H, 3, D_HEAD, seed=1)
  layer = hl.T5Positions(H).logits(1, 1, 64, 'eval')
  weights, state = toy.make(layer, x)
  (table,) = jax.tree.leaves(weights)
  (bias, *rest), _ = toy.run(layer, x, weights, state)
  buckets = np.array([[0, 1, 23], [0, 0, 15]])
  np.testing.assert_array_equal(bias, table[:, buckets])
  toy.close(rest, list(x), 0)


@pytest.mark.parametrize('n_buckets', [1, 256])
def test_t5_refuses_impossible_buckets(n_buckets):
  with pytest.raises(ValueError, match=f'n_buckets = {n_buckets}'):
    hl.T5Positions(H, n_buckets, max_distance=128)


def sinusoid(position):
  angles = position * 10000.0 ** (-np.arange(0, D, 2) / D)
  return np.concatenate([np.sin(angles), np.cos(angles)])


@pytest.mark.parametrize(
  'query_stride, key_stride',
  [(1, 1), (3, 3), (2, 1), (6, 2), (1, 2), (1, 4), (2, 6)],
)
def test_relative_scores(query_stride, key_stride):
  length = 24  # In tokens.
  n_queries, n_keys = length // query_stride, length // key_stride
  offsets = (
    np.arange(n_keys) * key_stride
    - np.arange(n_queries)[:, None] * query_stride
  ).astype(np.int32)
  q = toy.normal(B, H, n_queries, D_HEAD)
  k = toy.normal(B, H, n_keys, D_HEAD, seed=1)
  layer = hl.RelativePositions(D, H).logits(
    query_stride, key_stride, length, 'eval'
  )
  weights, state = toy.make(layer, (offsets, q, k))
  (bias, _, q_u, k_out), _ = toy.run(layer, (offsets, q, k), weights, state)
  scores = bias + np.einsum('bhqd,bhkd->bhqk', q_u, k_out)

  u, v, kernel, constant = map(np.asarray, jax.tree.leaves(weights))
  for i, j in np.argwhere(offsets < query_stride):  # What a query may see.
    r = (sinusoid(offsets[i, j]) @ kernel + constant).reshape(H, D_HEAD)
    content = ((q[:, :, i] + u[:, :, 0]) * k[:, :, j]).sum(-1)
    position = ((q[:, :, i] + v[:, :, 0]) * r).sum(-1)
    np.testing.assert_allclose(scores[:, :, i, j], content + position, 0, 1e-4)


def test_relative_refuses_odd_width():
  with pytest.raises(ValueError, match='d_model = 15 must be even'):
    hl.RelativePositions(15, 3)


@pytest.mark.parametrize('stride', [1, 3])
def test_rotary(stride):
  x = toy.normal(B, H, 5, D_HEAD)
  layer = hl.RotaryPositions().rotate(stride, 'eval')
  layer = tl.Serial(*layer)
  y, _ = toy.run(layer, x, *toy.make(layer, x))
  half = D_HEAD // 2
  pairs = x[..., :half] + 1j * x[..., half:]
  angles = stride * np.arange(5)[:, None] * 10000.0 ** (-np.arange(half) / half)
  pairs = pairs * np.exp(1j * angles)
  expected = np.concatenate([pairs.real, pairs.imag], axis=-1)
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)
