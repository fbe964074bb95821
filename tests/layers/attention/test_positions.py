"""T5, relative and rotary positions against plain numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.layers.attention.t5_positions import t5_buckets


def test_t5_buckets():
  known = {
    0: 0, 1: 1, 2: 2, 8: 8, 15: 15, 16: 16, 17: 16, 18: 16, 19: 17, 20: 17,
    22: 18, 24: 19, 28: 20, 32: 21, 40: 23, 48: 24, 56: 25, 64: 26, 80: 28,
    96: 29, 112: 30, 127: 31, 128: 31, 5000: 31, -3: 0,
  }  # fmt: skip
  buckets = t5_buckets(jnp.array(list(known)), 32, 128)
  assert buckets.tolist() == list(known.values())


@pytest.mark.parametrize('n_buckets', [1, 256])
def test_t5_rejects_impossible_buckets(n_buckets):
  with pytest.raises(ValueError, match=f'n_buckets = {n_buckets}'):
    hl.T5Positions(2, n_buckets, max_distance=128)


def test_relative_rejects_odd_width():
  with pytest.raises(ValueError, match='d_model = 15 must be even'):
    hl.RelativePositions(15, 3)


@pytest.mark.parametrize('stride', [1, 3])
def test_rotary(stride):
  x = toy.normal(2, 2, 5, 8)
  layer = tl.Serial(*hl.RotaryPositions().rotate(stride, 'eval'))
  y, _ = toy.run(layer, x, *toy.make(layer, x))
  pairs = x[..., :4] + 1j * x[..., 4:]
  angles = stride * np.arange(5)[:, None] * 10000.0 ** (-np.arange(4) / 4)
  pairs = pairs * np.exp(1j * angles)
  expected = np.concatenate([pairs.real, pairs.imag], axis=-1)
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)
