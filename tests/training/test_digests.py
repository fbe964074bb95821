"""Digests: the same everywhere, and changed by every flipped bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trax_hier.training import digests
from trax_hier.training.digests import Summary, summarize


@pytest.mark.parametrize(
  'shape, dtype',
  [
    ((), 'float32'),
    ((0, 3), 'float32'),
    ((5, 7, 30), 'float32'),
    ((70_001,), 'bfloat16'),  # More than one chunk.
    ((33, 3), 'int32'),
    ((9,), 'bool'),
    ((3, 5), 'uint8'),
  ],
)
def test_devices_and_host_compute_the_same(shape, dtype):
  values = np.random.default_rng(0).normal(size=shape) * 100
  x = jnp.asarray(values).astype(dtype)
  digest, is_finite = jax.device_get(digests._on_devices(x))
  assert summarize({'x': x})['x'] == Summary(int(digest), bool(is_finite))
  assert is_finite


def test_every_bit_and_every_position_counts():
  x = np.random.default_rng(0).normal(size=4).astype(np.float32)
  found = {summarize({'x': x})['x'].digest}
  for bit in range(8 * x.nbytes):
    flipped = bytearray(x.tobytes())
    flipped[bit // 8] ^= 1 << bit % 8
    changed = np.frombuffer(flipped, np.float32)
    found.add(summarize({'x': changed})['x'].digest)
  found.add(summarize({'x': x[::-1]})['x'].digest)
  assert len(found) == 8 * x.nbytes + 2


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_arrays_that_are_not_finite(value, dtype):
  x = jnp.zeros((3, 40_000), dtype).at[2, 39_999].set(value)
  assert not summarize({'x': x})['x'].is_finite
  assert not jax.device_get(digests._on_devices(x)[1])
