"""Attention to a window and to an external memory, against numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import signature
from trax_hier.layers.base.memory import Lanes

B, D, H, W, M, K, S = 2, 16, 2, 4, 8, 3, 4
MemorizingAttention = functools.partial(
  hl.MemorizingAttention,
  D,
  n_heads=H,
  window=W,
  memory=M,
  n_neighbors=K,
  segment=S,
)


def softmax(x):
  x = np.exp(x - x.max(axis=-1, keepdims=True))
  return x / x.sum(axis=-1, keepdims=True)


def reference(x, weights):
  """The layer without positions: one sequence, head and token at a time."""
  wq, wk, wv, scale, gate, wo = map(np.asarray, jax.tree.leaves(weights))
  outputs = []
  for sequence in x:
    heads = []
    for h in range(H):
      of_head = slice(h * D // H, (h + 1) * D // H)
      q, k = (
        y / np.sqrt((y * y).sum(-1, keepdims=True) + 1e-6)
        for y in (sequence @ wq[:, of_head], sequence @ wk[:, of_head])
      )
      v = sequence @ wv[:, of_head]
      share = 1 / (1 + np.exp(-gate[h]))
      rows = []
      for i, query in enumerate(q):
        before = np.arange(max(0, i - W), i)
        window = attend(query * abs(scale[h]), k[before], v[before], W)
        end = i // S * S
        past = np.arange(max(0, end - M), end)
        nearest = past[np.argsort(-(k[past] @ query))[:K]]
        memory = attend(query * abs(scale[h]), k[nearest], v[nearest], K)
        rows.append((1 - share) * window + share * memory)
      heads.append(rows)
    outputs.append(np.concatenate(heads, axis=-1) @ wo)
  return np.stack(outputs)


def attend(q, k, v, n):
  """Attention to n keys, of which the missing ones are zeros."""
  scores = np.pad(k @ q, (0, n - len(k)))
  return softmax(scores) @ np.pad(v, [(0, n - len(v)), (0, 0)])


@pytest.mark.parametrize('length', [1, 3, 4, 23])
def test_it_equals_a_plain_statement(length):
  x = toy.normal(B, length, D)
  layer = MemorizingAttention(mode='eval')
  weights, state = toy.make(layer, x, scale=1.0)
  y, _ = toy.run(layer, x, weights, state)
  np.testing.assert_allclose(y, reference(x, weights), 1e-4, 1e-5)


@pytest.mark.parametrize('positions', [hl.RotaryPositions, None])
@pytest.mark.parametrize(
  'lengths',
  [[1] * 23, [23], [5, 1, 9, 8], [3, 4, 4, 1, 11], [13, 1, 9]],
  ids=str,
)
def test_predict_equals_eval_at_every_edge(positions, lengths):
  x = toy.normal(B, 23, D)
  scheme = positions and positions()
  layer = MemorizingAttention(mode='eval', positions=scheme)
  weights, state = toy.make(layer, x, scale=1.0)
  expected, _ = toy.run(layer, x, weights, state)
  layer = MemorizingAttention(mode='predict', positions=scheme)
  _, state = toy.make(layer, x[:, :1])
  outputs = []
  for part in np.split(x, np.cumsum(lengths)[:-1], axis=1):
    y, state = toy.run(layer, part, weights, state)
    outputs.append(y)
  np.testing.assert_allclose(np.concatenate(outputs, 1), expected, 1e-4, 1e-5)


def test_segments_equal_one_call_and_reset_with_their_lane():
  x = toy.normal(B, 6 * S, D)
  plain = MemorizingAttention(mode='eval')
  weights, state = toy.make(plain, x, scale=1.0)
  whole, _ = toy.run(plain, x, weights, state)
  last, _ = toy.run(plain, x[1:, 4 * S :], weights, state)
  layer = Lanes(MemorizingAttention(mode='eval', carry=True), carry=True)
  _, state = layer.init(signature((x[:, : 2 * S], np.ones(B, bool))))
  run = jax.jit(layer.pure_fn)
  for i in range(3):
    start = jnp.array([i == 0, i in (0, 2)])
    segment = x[:, 2 * S * i : 2 * S * (i + 1)]
    y, state = run((segment, start), (weights,), state, toy.KEY)
    expected = whole[:, 2 * S * i : 2 * S * (i + 1)]
    np.testing.assert_allclose(y[0], expected[0], 1e-4, 1e-5)
    np.testing.assert_allclose(
      y[1], last[0] if i == 2 else expected[1], 1e-4, 1e-5
    )


def test_gradients_stop_at_the_memory():
  x = toy.normal(1, 4 * S, D)
  layer = MemorizingAttention(mode='eval')
  weights, state = toy.make(layer, x, scale=1.0)

  def last(x):
    return layer.pure_fn(x, weights, state, toy.KEY)[0][0, -1].sum()

  reached = np.asarray(jax.jit(jax.grad(last))(x) != 0).any(-1)[0]
  # The query itself, and the keys of its window.
  np.testing.assert_array_equal(reached, np.arange(4 * S) >= 4 * S - W - 1)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'n_neighbors': M + 1}, 'n_neighbors = 9 must be from 1 to memory = 8'),
    ({'memory': 0}, 'MemorizingAttention.memory = 0 must be positive'),
    ({'segment': 0}, 'MemorizingAttention.segment = 0 must be positive'),
  ],
)
def test_sizes(change, message):
  with pytest.raises(ValueError, match=message):
    MemorizingAttention(**change)


def test_carried_segments_are_whole_blocks():
  layer = MemorizingAttention(mode='train', carry=True)
  x = toy.normal(B, S + 1, D)
  with pytest.raises(
    Exception, match='segment = 4 must divide the 5 positions'
  ):
    toy.make(layer, x)
