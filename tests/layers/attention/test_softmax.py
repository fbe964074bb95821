"""Softmax attention: dropout and precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.layers.attention import softmax

B, H, D = 2, 2, 16


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.9])
@pytest.mark.parametrize('width', [1, 7, 64])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate, width):
  x = jnp.full((64000 // width, width), 2.0)
  y = np.asarray(softmax._dropout(x, rate, toy.KEY))
  kept = y != 0
  deviation = np.sqrt(rate * (1 - rate) / x.size)
  assert abs(kept.mean() - (1 - rate)) < 4 * deviation
  np.testing.assert_allclose(y[kept], 2 / (1 - rate), 1e-3)
  # Neighbors in a row share a random word but are independent, as are rows.
  for axis in (0, 1):
    a, b = (
      np.take(kept, i, axis)
      for i in ([*range(x.shape[axis] - 1)], [*range(1, x.shape[axis])])
    )
    if a.size:
      assert abs(np.mean(a & b) - (1 - rate) ** 2) < 4 * 2 * deviation


def test_bfloat16_attention_has_a_float32_softmax():
  layer = hl.SelfAttention(D, H, mode='eval')
  x = toy.normal(B, 6, D)
  weights, state = toy.make(layer, x)
  half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (x, weights))
  jaxpr = str(jax.make_jaxpr(layer.pure_fn)(*half, state, toy.KEY))
  assert 'f32[2,2,6,6] = exp' in jaxpr
  assert 'bf16[2,2,6,6] = exp' not in jaxpr
