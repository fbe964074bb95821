"""Layers that decoding computes once."""

import jax
import numpy as np
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl

X = toy.normal(2, 3, 4)


def test_once_keeps_its_first_output():
  outputs = {}
  for mode in ('eval', 'predict'):
    layer = hl.Once(tl.Dense(5), mode)
    weights, state = toy.make(layer, X)
    step = jax.jit(layer.pure_fn)
    first, state = step(X, weights, state, toy.KEY)
    second, _ = step(2 * X, weights, state, toy.KEY)
    outputs[mode] = first, second
  toy.close(outputs['predict'][0], outputs['eval'][0], 0)
  toy.close(outputs['predict'][1], outputs['eval'][0], 0)
  assert not np.allclose(outputs['eval'][1], outputs['eval'][0])
