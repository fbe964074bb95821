"""Sliding-window attention against numpy."""

import functools

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.layers.attention.t5_positions import t5_buckets

B, D, H, W = 2, 16, 2, 4
SlidingAttention = functools.partial(
  hl.SlidingAttention, D, n_heads=H, window=W
)


def softmax(x):
  x = np.exp(x - x.max(axis=-1, keepdims=True))
  return x / x.sum(axis=-1, keepdims=True)


def heads_of(x, kernel, normalized=True):
  y = (x @ kernel).reshape(*x.shape[:2], H, -1).swapaxes(1, 2)
  if normalized:
    y = y / np.sqrt((y * y).sum(-1, keepdims=True) + 1e-6)
  return y


@pytest.mark.parametrize('length', [1, 4, 5, 11])
@pytest.mark.parametrize('d_head', [None, 5])
def test_softmax_over_the_window(length, d_head):
  x = toy.normal(B, length, D)
  layer = SlidingAttention(
    positions=hl.T5Positions(H, n_buckets=6, max_distance=8),
    d_head=d_head,
    mode='eval',
  )
  weights, state = toy.make(layer, x, scale=1.0)
  y, _ = toy.run(layer, x, weights, state)
  np.testing.assert_array_equal(y[:, 0], 0)

  wq, wk, wv, table, scale, wo = map(np.asarray, jax.tree.leaves(weights))
  assert wq.shape == (D, H * (d_head or D // H)) and wo.shape == wq.shape[::-1]
  # Zeros before the sequence, which are not masked.
  rows = np.pad(x, [(0, 0), (W, 0), (0, 0)])
  q, k, v = heads_of(x, wq), heads_of(rows, wk), heads_of(rows, wv, False)
  distances = np.arange(W, 0, -1)
  bias = table[:, np.asarray(t5_buckets(distances, 6, 8))]
  expected = []
  for i in range(length):
    logits = np.einsum('bhd,bhkd->bhk', q[:, :, i], k[:, :, i : i + W])
    p = softmax((logits + bias) * np.abs(scale)[:, None])
    o = np.einsum('bhk,bhkd->bhd', p, v[:, :, i : i + W])
    expected.append(o.reshape(B, -1) @ wo)
  np.testing.assert_allclose(y, np.stack(expected, 1), 1e-4, 1e-5)


@pytest.mark.parametrize('length', [4, 11])
def test_receptive_field_is_the_window_before_a_position(length):
  x = toy.normal(B, length, D)
  layer = SlidingAttention(mode='eval')
  weights, state = toy.make(layer, x)
  run = jax.jit(lambda x: layer.pure_fn(x, weights, state, toy.KEY)[0])
  y = run(x)
  for p in range(length):
    changed = x.copy()
    # Row p changes y[p] by its query, unless all values before it are zeros.
    changed[:, p] = toy.normal(D, seed=1)
    moved = np.asarray((run(changed) != y).any(axis=(0, 2)))
    distances = np.arange(length) - p
    expected = (distances >= (p == 0)) & (distances <= W)
    np.testing.assert_array_equal(moved, expected, err_msg=str(p))


def test_uniform_attention_averages_the_values_of_the_window():
  # Queries of zero give uniform weights.
  x = toy.normal(B, 11, D)
  layer = SlidingAttention(mode='eval')
  weights, state = toy.make(layer, x)
  (wq, *others), treedef = jax.tree.flatten(weights)
  weights = jax.tree.unflatten(treedef, [0 * wq, *others])
  y, _ = toy.run(layer, x, weights, state)
  _, wv, _, wo = map(np.asarray, others)
  rows = np.pad(x, [(0, 0), (W, 0), (0, 0)])
  means = np.stack([rows[:, i : i + W].mean(1) for i in range(11)], 1)
  np.testing.assert_allclose(y, means @ wv @ wo, 1e-5, 1e-5)


def test_bad_arguments():
  with pytest.raises(ValueError, match=r'SlidingAttention\.window = 0 must be'):
    hl.SlidingAttention(D, window=0)
  with pytest.raises(ValueError, match='n_heads = 3 must divide d_model = 16'):
    hl.SlidingAttention(D, n_heads=3)
  with pytest.raises(ValueError, match="mode = 'test' must be"):
    hl.SlidingAttention(D, mode='test')
