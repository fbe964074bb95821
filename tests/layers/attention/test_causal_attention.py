"""Causal attention against dense attention in numpy, with all biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import base, tl
from trax_hier.layers.attention import dot_product
from trax_hier.layers.attention.t5_positions import t5_buckets

B, H, D = 2, 2, 16
SCHEMES = {
  'none': hl.NoPositions,
  'relative': lambda: hl.RelativePositions(D, H),
  't5': lambda: hl.T5Positions(H, n_buckets=6, max_distance=8),
}


def softmax(x):
  x = np.exp(x - x.max(axis=-1, keepdims=True))
  return x / x.sum(axis=-1, keepdims=True)


def sinusoid(positions):
  angles = positions[..., None] * 10000.0 ** (-np.arange(0, D, 2) / D)
  return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


def dense_scores(scheme, weights, q, k, offsets):
  """Dot products plus the scheme's bias."""
  leaves = [np.asarray(w) for w in jax.tree.leaves(weights)]
  if scheme == 'none':
    return np.einsum('bhqd,bhkd->bhqk', q, k)
  if scheme == 't5':
    buckets = np.asarray(t5_buckets(-offsets, 6, 8))
    return np.einsum('bhqd,bhkd->bhqk', q, k) + leaves[0][:, buckets]
  kernel, constant, u, v = leaves
  r = (sinusoid(offsets) @ kernel + constant).reshape(*offsets.shape, H, D // H)
  content = np.einsum('bhqd,bhkd->bhqk', q + u, k)
  return content + np.einsum('bhqd,qkhd->bhqk', q + v, r)


def check_attend(scheme, length, query_stride, key_stride, window=None):
  n_queries, n_keys = length // query_stride, length // key_stride
  q = toy.normal(B, H, n_queries, D // H)
  k, v = (toy.normal(B, H, n_keys, D // H, seed=seed) for seed in (1, 2))
  layer = hl.Attend(
    SCHEMES[scheme](), query_stride, key_stride, window, 0.0, 'eval', length
  )
  weights, state = toy.make(layer, (q, k, v))
  y, _ = toy.run(layer, (q, k, v), weights, state)

  queries = np.arange(n_queries)[:, None] * query_stride
  offsets = np.arange(n_keys) * key_stride - queries
  visible = offsets < query_stride
  if window:
    visible &= offsets > -window * query_stride
  scores = dense_scores(scheme, weights, q, k, offsets) / np.sqrt(D // H)
  expected = softmax(np.where(visible, scores, -np.inf)) @ v
  expected = expected.swapaxes(1, 2).reshape(B, n_queries, D)
  np.testing.assert_allclose(y, expected, 1e-4, 1e-5)


@pytest.mark.parametrize('scheme', SCHEMES)
@pytest.mark.parametrize('length', [1, 4, 5, 7, 9, 12])
def test_windowed(scheme, length):
  check_attend(scheme, length, 1, 1, window=4)


@pytest.mark.parametrize('scheme', SCHEMES)
@pytest.mark.parametrize(
  'query_stride, key_stride',
  [(1, 1), (3, 3), (2, 1), (6, 2), (1, 2), (1, 4), (2, 6)],
)
def test_between_resolutions(scheme, query_stride, key_stride):
  check_attend(scheme, 24, query_stride, key_stride)


@pytest.mark.parametrize('query_stride, key_stride', [(1, 1), (2, 1), (1, 3)])
def test_long_sequences_in_spans(query_stride, key_stride):
  check_attend('relative', 528, query_stride, key_stride)


def test_the_window_of_a_coarse_sequence_counts_keys():
  check_attend('relative', 27, 3, 3, window=2)


def test_dropout_only_in_training():
  x = toy.normal(B, 6, D)
  outputs = {}
  for mode in ('train', 'eval'):
    layer = hl.SelfAttention(D, H, dropout=0.5, mode=mode)
    weights, state = toy.make(layer, x)
    outputs[mode], _ = toy.run(layer, x, weights, state)
  moved = np.abs(outputs['train'] - outputs['eval']).max(axis=-1) > 0
  assert moved.mean() > 0.5


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(n_heads=3), 'n_heads = 3 must divide d_model = 16'),
    (dict(n_heads=0), 'n_heads = 0'),
    (dict(window=0), 'window = 0 must be positive'),
    (dict(mode='test'), "mode = 'test' must be 'train', 'eval'"),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    hl.SelfAttention(**{'d_model': D, 'n_heads': H, **arguments})


def test_a_prompt_longer_than_the_cache_raises():
  layer = hl.SelfAttention(D, H, max_len=4, mode='predict')
  x = toy.normal(B, 5, D)
  with pytest.raises(base.LayerError, match='5 new positions exceed'):
    toy.shapes(layer, x)


def gradients_of(layer, inputs):
  weights, state = toy.make(layer, inputs)

  def loss(weights):
    return jnp.mean(jnp.sin(layer.pure_fn(inputs, weights, state, toy.KEY)[0]))

  lowered = jax.jit(jax.value_and_grad(loss)).lower(weights)
  memory = lowered.compile().memory_analysis().temp_size_in_bytes
  return lowered.compile()(weights), memory


# 16 divides 320 rows and each of their 4 spans evenly; 17 does not.
@pytest.mark.parametrize(
  'scheme, rows',
  [*((name, 17) for name in SCHEMES), ('none', 16), ('encoder', 17)],
)
def test_memory_of_long_sequences(scheme, rows, monkeypatch):
  def make():
    if scheme == 'encoder':
      return hl.EncoderAttention(D, H)
    positions = SCHEMES[scheme]()
    return tl.Serial(
      hl.ShareWeights(*positions.shared),
      hl.SelfAttention(D, H, positions=positions),
    )

  x = toy.normal(B, 320, D)
  inputs = (x, np.arange(320) < [[320], [100]]) if scheme == 'encoder' else x
  whole, memory = gradients_of(make(), inputs)
  monkeypatch.setattr(dot_product, 'MAX_ROWS', rows)
  chunked, less = gradients_of(make(), inputs)
  toy.close(chunked, whole, 2e-5)
  assert less < 0.6 * memory
