"""Blocks of tokens: completeness, decoding and causality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import base, tl
from trax_hier.layers.hierarchy.scales import check_scales, n_complete

D = 16
SCALES = [(1, 2, 6), (1, 4, 16), pytest.param((1, 3), marks=pytest.mark.slow)]
# Single tokens, prompts that end within a block, calls longer than blocks.
SPLITS = [[1] * 34, [7] + [1] * 27, [3, 8, 1, 1, 7, 14], [2, 32]]


@pytest.mark.parametrize('scale', [1, 2, 3, 4, 16])
def test_n_complete_counts_blocks_that_have_ended(scale):
  for t in range(-1, 50):
    tokens = set(range(t + 1))
    blocks = [
      m for m in range(51) if {m * scale + i for i in range(scale)} <= tokens
    ]
    assert n_complete(t, scale) == len(blocks)


@pytest.mark.parametrize('scales', [(1,), (1, 2), [1, 4, 16], (1, 2, 6, 12)])
def test_good_scales(scales):
  check_scales('Model', scales)


@pytest.mark.parametrize(
  'scales',
  [
    *[(), (2,), (2, 4), (1, 3, 4), (1, 4, 4), (1, 4, 2), (1, 1), (1, 0)],
    *[(1, -4), (0,), (0, 4), 4, (1, 2.0)],
  ],
)
def test_bad_scales(scales):
  with pytest.raises(ValueError, match=r'Model\.scales = ') as error:
    check_scales('Model', scales)
  assert str(scales) in str(error.value)


# Coarse
# ------------------------------------------------------------------------------
class Running(base.Layer):
  """Cumulative sums of x (b, l, d); logs the number of rows of each call."""

  def __init__(self, mode, log):
    super().__init__()
    self._mode = mode
    self._log = log

  def init_weights_and_state(self, input_signature):
    b, _, d = input_signature.shape
    self.state = jnp.zeros((b, 1, d))

  def forward(self, x):
    n = x.shape[1]
    jax.debug.callback(lambda: self._log.append(n))
    sums = self.state + jnp.cumsum(x, axis=1)
    if self._mode == 'predict':
      self.state = sums[:, -1:]
    return sums


def sums(scales, mode, logs):
  """Cumulative sums at each scale, so the result depends on the order."""
  return hl.Pyramid(
    scales,
    lambda j: hl.AverageShorten(scales[j] // scales[j - 1]),
    lambda j: Running(mode, logs[j]),
    mode,
  )


@pytest.mark.parametrize('lengths', SPLITS, ids=lambda x: f'{x[0]}_{x[-1]}')
@pytest.mark.parametrize('scales', SCALES, ids=str)
def test_decoding_runs_a_block_once_when_it_is_complete(scales, lengths):
  x = toy.normal(2, sum(lengths), D)
  layer = sums(scales, 'eval', [[] for _ in scales])
  _, state = layer.init(toy.signature(x))
  expected, _ = toy.run(layer, x, layer.weights, state)

  logs = [[] for _ in scales]
  layer = sums(scales, 'predict', logs)
  weights, state = layer.init(toy.signature(x[:, :1]))
  step = jax.jit(layer.pure_fn)
  t = 0
  for length in lengths:
    before = list(toy.states_of(layer, state, Running))
    outputs, state = step(x[:, t : t + length], weights, state, toy.KEY)
    jax.block_until_ready(state)
    jax.effects_barrier()
    after = list(toy.states_of(layer, state, Running))
    assert len(after) == len(scales)
    for j, scale in enumerate(scales):
      first, end = t // scale, (t + length) // scale
      # The call ran each new block once.
      assert sum(logs[j]) == end - first
      if first == end:
        np.testing.assert_array_equal(after[j], before[j])
      else:
        assert (after[j] != before[j]).any()
      assert outputs[j].shape[1] == -(-length // scale)
      toy.close(outputs[j][:, : end - first], expected[j][:, first:end], 1e-5)
      logs[j].clear()
    t += length


def test_a_token_changes_rows_from_its_block_on():
  scales, length = (1, 2, 6), 20  # The last block has 2 tokens of 6.
  layer = hl.Pyramid(
    scales,
    lambda j: hl.AverageShorten(scales[j] // scales[j - 1]),
    lambda j: hl.DecoderBlock(
      D, d_ff=32, n_heads=2, mode='eval', stride=scales[j]
    ),
    'eval',
  )
  x = toy.normal(2, length, D)
  weights, state = toy.make(layer, x)
  run = jax.jit(lambda x: layer.pure_fn(x, weights, state, toy.KEY)[0])
  rows = run(x)
  assert [r.shape[1] for r in rows] == [20, 10, 4]
  for t in range(length):
    changed = run(x + np.eye(length)[t][:, None] * toy.normal(D, seed=1))
    for scale, old, new in zip(scales, rows, changed, strict=True):
      moved = np.flatnonzero((old != new).any(axis=(0, 2)))
      assert list(moved) == list(range(t // scale, old.shape[1]))


def test_pyramid_with_batch_size_one():
  x = toy.normal(1, 5, D)
  layer = sums((1, 4, 16), 'eval', [[], [], []])
  _, state = layer.init(toy.signature(x))
  rows, _ = toy.run(layer, x, layer.weights, state)
  assert [r.shape for r in rows] == [(1, 5, D), (1, 2, D), (1, 1, D)]
  toy.close(rows[1][:, 0], np.cumsum(x, 1)[:, :4].mean(1))


# Latest
# ------------------------------------------------------------------------------
@pytest.mark.parametrize('scale', [1, 3, 4])
def test_tokens_get_the_latest_complete_block(scale):
  length = 34
  x, null = toy.normal(2, length, D), toy.normal(D, seed=1)
  blocks = toy.normal(2, -(-length // scale), D, seed=2)
  latest = [
    max((m for m in range(length) if (m + 1) * scale - 1 <= t), default=None)
    for t in range(length)
  ]
  expected = np.stack(
    [
      np.broadcast_to(null, (2, D)) if m is None else blocks[:, m]
      for m in latest
    ],
    axis=1,
  )
  layer = hl.Latest(scale, 'eval')
  y, _ = layer.pure_fn((x, blocks), null, (), toy.KEY)
  np.testing.assert_array_equal(y, expected)

  decoder = hl.Latest(scale, 'predict')
  _, first_state = decoder.init(toy.signature((x[:, :1], blocks[:, :1])))
  step = jax.jit(decoder.pure_fn)
  for lengths in SPLITS:
    state, t = first_state, 0
    for n in lengths:
      first, end = t // scale, (t + n) // scale
      # Undefined rows follow the new rows, as in the output of a `Coarse`.
      rows = np.full((2, -(-n // scale), D), 1e9, np.float32)
      rows[:, : end - first] = blocks[:, first:end]
      y, state = step((x[:, t : t + n], rows), null, state, toy.KEY)
      np.testing.assert_array_equal(y, expected[:, t : t + n], str(lengths))
      t += n


def test_a_pyramid_with_one_scale_is_its_level():
  layer = hl.Pyramid((1,), None, lambda j: tl.Fn('Double', lambda x: 2 * x), '')
  x = toy.normal(2, 5, D)
  weights, state = layer.init(toy.signature(x))
  toy.close(layer.pure_fn(x, weights, state, toy.KEY)[0], 2 * x)


@pytest.mark.parametrize('combine', [hl.ConcatDense(2, 8), hl.Sum(2)])
def test_the_first_vector_has_a_gradient_of_the_size_of_others(combine):
  x, rows = toy.normal(1, 3, 8), toy.normal(1, 1, 8)
  layer = tl.Serial(
    tl.Branch(tl.Select([0], n_in=2), hl.Latest(4, 'train')), combine
  )
  weights, state = layer.init(toy.signature((x, rows)), toy.KEY)

  def loss(weights):
    y, _ = layer.pure_fn((x, rows), weights, state, toy.KEY)
    return jnp.sum(y * toy.normal(*y.shape, seed=1))

  first = jax.tree.leaves(jax.grad(loss)(weights))[0]
  assert first.shape == (8,)
  assert 0 < np.linalg.norm(first) < 20
