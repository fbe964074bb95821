"""Parity with Trax's own Hourglass on the same weights."""

import functools
import math

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.import_trax import hourglass_weights
from trax_hier.models import HourglassLM

P = functools.partial
LENGTH = 24
SIZES = {key: value for key, value in toy.SIZES.items() if key != 'max_len'}

ATTENTION_NAIVE = (
  dict(attention_upsampling_fn='NaiveUpsampling'),
  dict(upsample=P(hl.AttentionUpsample, expand=hl.RepeatUpsample)),
  dict(dense_upsample=False),
)
# vanilla_layers, hierarchy, and then the arguments of Trax's model, of ours and
# of the import.
CASES = {
  'average, linear': ((1, 1), '2@3', {}, {}, {}),
  'linear, linear': (
    (1, 2),
    '2@3',
    dict(attention_downsampling_fn='LinearPooling'),
    dict(shorten=P(hl.AttentionShorten, pool=hl.LinearShorten)),
    dict(dense_shorten=True),
  ),
  'average, zero': (
    (2, 0),
    '2@4',
    dict(attention_upsampling_fn='NoUpsampling'),
    dict(upsample=P(hl.AttentionUpsample, expand=hl.ZeroUpsample)),
    dict(dense_upsample=False),
  ),
  'average, naive, two levels': ((1, 1), '1@2 2@6 1@2', *ATTENTION_NAIVE),
  'linear without attention': (
    (1, 1),
    '2@3',
    dict(downsampling_fn='LinearPooling', upsampling_fn='LinearUpsampling'),
    dict(shorten=hl.LinearShorten, upsample=hl.LinearUpsample),
    dict(attention_shorten=False, attention_upsample=False, dense_shorten=True),
  ),
  'average, naive without attention, two levels': (
    (0, 1),
    '1@2 1@4 1@2',
    dict(downsampling_fn='AveragePooling', upsampling_fn='NaiveUpsampling'),
    dict(shorten=hl.AverageShorten, upsample=hl.RepeatUpsample),
    dict(
      attention_shorten=False, attention_upsample=False, dense_upsample=False
    ),
  ),
  'three levels': ((0, 0), '1@2 1@4 1@12 1@4 1@2', {}, {}, {}),
}


def official(vanilla_layers, hierarchy, arguments):
  from trax.layers.research import resampling
  from trax.models.research import hourglass

  arguments = {k: getattr(resampling, name) for k, name in arguments.items()}
  return hourglass.HourglassLM(
    vanilla_layers=vanilla_layers,
    hierarchy=hierarchy,
    mode='eval',
    **SIZES,
    **arguments,
  )


def logits(model, weights, x):
  _, state = toy.shapes(model, x)
  state = toy.zeros_like(state)
  return jax.jit(lambda w: model.pure_fn(x, w, state, toy.KEY)[0])(weights)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * ('levels' in name))
    for name in CASES
  ],
)
def test_parity(name):
  vanilla_layers, hierarchy, theirs, ours, kinds = CASES[name]
  x = toy.tokens(LENGTH)
  trax_model = official(vanilla_layers, hierarchy, theirs)
  shapes, _ = toy.shapes(trax_model, x)
  weights = toy.random_like(shapes, scale=0.2)
  expected = logits(trax_model, weights, x)

  model = HourglassLM(
    vanilla_layers=vanilla_layers,
    hierarchy=hierarchy,
    mode='eval',
    **SIZES,
    **ours,
  )
  template, _ = toy.shapes(model, x)
  converted = hourglass_weights(
    weights, template, vanilla_layers, hierarchy, **kinds
  )
  np.testing.assert_allclose(logits(model, converted, x), expected, 0, 1e-5)
  sizes = [
    sum(math.prod(w.shape) for w in jax.tree.leaves(tree))
    for tree in (weights, converted)
  ]
  assert sizes[0] == sizes[1]


def test_weights_that_do_not_fit():
  model = HourglassLM(hierarchy='1@3', mode='eval', **SIZES)
  template, _ = toy.shapes(model, toy.tokens(3))
  with pytest.raises(ValueError, match='hierarchy, widths or the kinds'):
    hourglass_weights([np.zeros(3)] * 200, template, (1, 1), '1@3')
