"""Layer normalization."""

import jax.numpy as jnp
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_layer_norm(dtype):
  x = jnp.asarray(toy.normal(2, 5, 16, scale=3.0) + 1, dtype)
  layer, reference = hl.LayerNorm(), tl.LayerNorm()
  weights, _ = toy.make(layer, x)
  y, _ = toy.run(layer, x, weights, ())
  x = x.astype(jnp.float32)
  expected, _ = toy.run(reference, x, weights, ())
  assert y.dtype == dtype
  toy.close(y, expected.astype(dtype), 1e-6 if dtype == jnp.float32 else 8e-3)
