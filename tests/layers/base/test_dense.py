"""Dense layers with int8 kernels."""

import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.layers.base.dense import Int8Kernel, quantize


@pytest.mark.parametrize('shape', [(7, 5), (16, 48), (1024, 384), (513, 512)])
def test_int8_equals_the_product_with_the_rounded_kernel(shape):
  kernel = toy.normal(*shape) * np.logspace(-2, 2, shape[1], dtype=np.float32)
  kernel[:, 1] = 0
  bias = toy.normal(shape[1], seed=1)
  small = quantize(jnp.asarray(kernel))
  assert isinstance(small, Int8Kernel) and small.values.dtype == jnp.int8
  rounded = np.asarray(small.values, np.float64) * np.asarray(small.scale)
  # Rounding errs by at most half a level of each channel's range.
  step = np.abs(kernel).max(0) / 127
  assert (np.abs(rounded - kernel) <= 0.51 * step + 1e-30).all()
  x = toy.normal(2, 3, shape[0], seed=2)
  layer = hl.Dense(shape[1])
  y, _ = toy.run(layer, x, (small, jnp.asarray(bias)), ())
  np.testing.assert_allclose(
    y, x @ rounded + bias, 1e-4, 1e-4 * np.abs(y).max()
  )
