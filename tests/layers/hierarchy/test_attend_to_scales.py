"""Attention to tokens and blocks: causality, positions and caches."""

import functools

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.layers.attention.cache import KeyValueCache
from trax_hier.layers.hierarchy.attend_to_scales import AttendToScales

P = functools.partial


# Without a window
# ------------------------------------------------------------------------------
def attention(scales, mode, max_len):
  """Attention to tokens and all complete blocks, without a window."""
  return tl.Serial(  # q, k, v, ..
    tl.Parallel(None, KeyValueCache(max_len, None, mode)),
    AttendToScales(scales, None, 1, hl.NoPositions(), 0.0, mode, max_len),
  )


def zeros(*shape):
  return np.zeros(shape, np.float32)


@pytest.mark.parametrize('scales', [(1, 4, 16), (1, 2, 6)], ids=str)
def test_tokens_attend_to_all_complete_blocks(scales):
  length = 37
  starts = np.concatenate([np.arange(0, length, s) for s in scales])
  sizes = np.concatenate([np.full(-(-length // s), s) for s in scales])
  tokens = np.arange(length)[:, None]
  mask = starts + sizes - 1 <= tokens
  expected = mask / mask.sum(axis=1, keepdims=True)  # All queries are zero.

  one_hot = np.eye(len(starts), dtype=np.float32)[None, None]
  values = np.split(one_hot, np.flatnonzero(starts == 0)[1:], axis=2)
  rows = [x for v in values for x in (0 * v[..., :4], v)]
  layer = attention(scales, 'eval', length)
  inputs = (zeros(1, 1, length, 4), *rows)
  weights, state = toy.make(layer, inputs)
  y, _ = toy.run(layer, inputs, weights, state)
  toy.close(y[0, 0], expected)

  def step_inputs(t, n):
    """Inputs of a predict call; undefined rows of a `Coarse` are large."""
    yield zeros(1, 1, n, 4)
    for scale, v in zip(scales, values, strict=True):
      first, end = t // scale, (t + n) // scale
      new = np.full((1, 1, -(-n // scale), v.shape[-1]), 1e9, np.float32)
      new[:, :, : end - first] = v[:, :, first:end]
      yield 0 * new[..., :4]
      yield new

  decoder = attention(scales, 'predict', length)
  _, first_state = toy.make(decoder, tuple(step_inputs(0, 1)))
  step = jax.jit(decoder.pure_fn)
  for lengths in [[1] * length, [7] + [1] * 30, [18, 19]]:
    state, t, outputs = first_state, 0, []
    for n in lengths:
      y, state = step(tuple(step_inputs(t, n)), weights, state, toy.KEY)
      outputs.append(y)
      t += n
    y = np.concatenate(outputs, axis=2)
    np.testing.assert_allclose(y[0, 0], expected, 1e-5, 1e-5, str(lengths))


# Positions
# ------------------------------------------------------------------------------
D, H = 16, 2
SCHEMES = {
  'rotary': hl.RotaryPositions,
  't5': lambda: hl.T5Positions(H, n_buckets=8, max_distance=24),
  'relative': lambda: hl.RelativePositions(D, H),
}


def positioned(kind, scheme, mode):
  """Attention of x (b, l, d) to several scales, pooled from x."""
  scales, positions = (1, 2, 4), SCHEMES[scheme]()
  sizes = dict(n_heads=H, mode=mode, max_len=30, positions=positions)
  if kind == 'retina':
    attention = hl.RetinaAttention(D, scales=scales, window=4, **sizes)
  else:
    attention = tl.Serial(
      hl.Pyramid(
        scales, lambda _: hl.AverageShorten(2), lambda _: tl.Serial(), mode
      ),
      hl.AttentionAggregation(scales, D, d_ff=D, **sizes),
    )
  return tl.Serial(hl.ShareWeights(*positions.shared), attention)


@pytest.mark.parametrize(
  'kind, scheme',
  [
    # The other schemes depend only on distances.
    *[('retina', 'rotary'), ('aggregation', 'rotary')],
    *(
      pytest.param(*parts, marks=pytest.mark.slow)
      for parts in [
        *[('retina', 't5'), ('retina', 'relative')],
        *[('aggregation', 't5'), ('aggregation', 'relative')],
      ]
    ),
  ],
)
def test_positions_of_blocks_are_the_same_in_decoding(kind, scheme):
  x = toy.normal(2, 30, D)
  layer = positioned(kind, scheme, 'eval')
  weights, state = toy.make(layer, x)
  expected, _ = toy.run(layer, x, weights, state)

  decoder = positioned(kind, scheme, 'predict')
  _, first_state = toy.make(decoder, x[:, :1])
  step = jax.jit(decoder.pure_fn)
  for lengths in [[11] + [1] * 19, [11, 11, 1, 1, 1, 1, 1, 1, 1, 1]]:
    state, outputs = first_state, []
    for part in np.split(x, np.cumsum(lengths)[:-1], axis=1):
      y, state = step(part, weights, state, toy.KEY)
      outputs.append(y)
    toy.close(np.concatenate(outputs, axis=1), expected, 1e-5)


# Caches
# ------------------------------------------------------------------------------
@pytest.mark.parametrize(
  'positions',
  [
    pytest.param(hl.RotaryPositions(), marks=pytest.mark.slow, id='rotary'),
    pytest.param(
      hl.RelativePositions(8, 2), marks=pytest.mark.slow, id='relative'
    ),
  ],
)
def test_only_filled_rows_of_the_caches_are_read(monkeypatch, positions):
  length, max_len, scales = 23, 27, (1, 2, 6)

  def layer(mode):
    rows = hl.Pyramid(
      scales,
      lambda j: hl.AverageShorten(scales[j] // scales[j - 1]),
      lambda j: tl.Serial(),
      mode,
    )
    aggregation = hl.AttentionAggregation(
      scales, 8, 16, 2, mode=mode, max_len=max_len, positions=positions
    )
    return tl.Serial(hl.ShareWeights(*positions.shared), rows, aggregation)

  x = toy.normal(2, length, 8)
  weights, state = toy.make(layer('eval'), x)
  expected, _ = toy.run(layer('eval'), x, weights, state)
  for least in 128, 2:
    monkeypatch.setattr(AttendToScales, '_MIN_CACHE', least)
    decoder = layer('predict')
    _, state = toy.make(decoder, x[:, :1])
    step = jax.jit(decoder.pure_fn)
    outputs = []
    for new in np.split(x, [3, 5, *range(6, length)], axis=1):
      y, state = step(new, weights, state, toy.KEY)
      outputs.append(y)
    toy.close(np.concatenate(outputs, axis=1), expected)
    program = str(jax.make_jaxpr(decoder.pure_fn)(new, weights, state, toy.KEY))
    # Branches for 27 rows and, with a low minimum, for 14, 7, .. rows.
    assert 'f32[2,2,1,27]' in program
    assert ('f32[2,2,1,7]' in program) == (least == 2)


def test_retina_with_one_scale_reads_only_filled_rows(monkeypatch):
  monkeypatch.setattr(AttendToScales, '_MIN_CACHE', 2)
  make = P(hl.RetinaAttention, 8, 2, scales=(1,), window=4, max_len=27)
  x = toy.normal(2, 23, 8)
  layer = make(mode='eval')
  weights, state = toy.make(layer, x)
  expected, _ = toy.run(layer, x, weights, state)
  decoder = make(mode='predict')
  _, state = toy.make(decoder, x[:, :1])
  step = jax.jit(decoder.pure_fn)
  outputs = []
  for new in np.split(x, [3, *range(5, 23)], axis=1):
    y, state = step(new, weights, state, toy.KEY)
    outputs.append(y)
  toy.close(np.concatenate(outputs, axis=1), expected)
  program = str(jax.make_jaxpr(decoder.pure_fn)(new, weights, state, toy.KEY))
  assert 'f32[2,2,1,27]' in program and 'f32[2,2,1,7]' in program
