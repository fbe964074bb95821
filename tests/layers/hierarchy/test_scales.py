"""Blocks of tokens: which are complete, when they run, who sees them."""

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
# Calls of one token, prompts that end in a block, and calls longer than blocks.
SPLITS = [[1] * 34, [7] + [1] * 27, [3, 8, 1, 1, 7, 14], [2, 32]]


@pytest.mark.parametrize('scale', [1, 2, 3, 4, 16])
def test_complete_blocks_have_ended(scale):
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
  """x (b, l, d) -> sums of all rows up to each; logs how many rows it ran."""

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
  """Running sums of sums at each scale: what no wrong order gives."""
  return hl.Pyramid(
    scales,
    lambda j: hl.AverageShorten(scales[j] // scales[j - 1]),
    lambda j: Running(mode, logs[j]),
    mode,
  )


def states_of(layer, state, kind):
  """The states of all layers of a kind within a layer, outermost first."""
  if isinstance(layer, kind):
    yield state
  if layer.sublayers:
    for parts in zip(layer.sublayers, state, strict=True):
      yield from states_of(*parts, kind)


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
    before = list(states_of(layer, state, Running))
    outputs, state = step(x[:, t : t + length], weights, state, toy.KEY)
    jax.block_until_ready(state)
    jax.effects_barrier()
    after = list(states_of(layer, state, Running))
    assert len(after) == len(scales)
    for j, scale in enumerate(scales):
      first, end = t // scale, (t + length) // scale
      # All it ran in this call, and none that had run before.
      assert sum(logs[j]) == end - first
      if first == end:
        np.testing.assert_array_equal(after[j], before[j])
      else:
        assert (after[j] != before[j]).any()
      assert outputs[j].shape[1] == -(-length // scale)
      toy.close(outputs[j][:, : end - first], expected[j][:, first:end], 1e-5)
      logs[j].clear()
    t += length


def test_rows_change_from_the_block_of_a_token_on():
  scales, length = (1, 2, 6), 20  # The last block has two tokens.
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


def test_a_sequence_of_batch_one_has_rows_of_every_scale():
  x = toy.normal(1, 5, D)
  layer = sums((1, 4, 16), 'eval', [[], [], []])
  _, state = layer.init(toy.signature(x))
  rows, _ = toy.run(layer, x, layer.weights, state)
  assert [r.shape for r in rows] == [(1, 5, D), (1, 2, D), (1, 1, D)]
  toy.close(rows[1][:, 0], np.cumsum(x, 1)[:, :4].mean(1))


# Latest
# ------------------------------------------------------------------------------
@pytest.mark.parametrize('scale', [1, 3, 4])
def test_tokens_see_the_newest_complete_block(scale):
  length = 34
  x, null = toy.normal(2, length, D), toy.normal(D, seed=1)
  blocks = toy.normal(2, -(-length // scale), D, seed=2)
  newest = [
    max((m for m in range(length) if (m + 1) * scale - 1 <= t), default=None)
    for t in range(length)
  ]
  expected = np.stack(
    [
      np.broadcast_to(null, (2, D)) if m is None else blocks[:, m]
      for m in newest
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
      # Behind the new rows, as those of a `Coarse`, come some without meaning.
      rows = np.full((2, -(-n // scale), D), 1e9, np.float32)
      rows[:, : end - first] = blocks[:, first:end]
      y, state = step((x[:, t : t + n], rows), null, state, toy.KEY)
      np.testing.assert_array_equal(y, expected[:, t : t + n], str(lengths))
      t += n


def test_latest_begins_with_a_null_vector_of_zeros():
  layer = hl.Latest(4, 'train')
  weights, _ = layer.init(toy.signature((toy.normal(2, 8, D),) * 2))
  np.testing.assert_array_equal(weights, np.zeros(D))


def test_ways_to_join_scales():
  # Their sizes differ as those of embeddings and outputs of a stack do.
  parts = [3 + 10**i * toy.normal(2, 5, D, seed=i) for i in range(3)]
  alike = [
    (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) for x in parts
  ]
  for layer in hl.Sum(3), hl.ConcatDense(3, D):
    weights, state = toy.make(layer, tuple(parts))
    y, _ = layer.pure_fn(tuple(parts), weights, state, toy.KEY)
    if leaves := jax.tree.leaves(weights):
      kernel, bias = leaves
      toy.close(y, np.concatenate(alike, axis=-1) @ kernel + bias)
    else:
      toy.close(y, sum(alike))


def test_a_pyramid_of_one_scale_is_its_level():
  layer = hl.Pyramid((1,), None, lambda j: tl.Fn('Double', lambda x: 2 * x), '')
  x = toy.normal(2, 5, D)
  weights, state = layer.init(toy.signature(x))
  toy.close(layer.pure_fn(x, weights, state, toy.KEY)[0], 2 * x)
