"""Parity of Hourglass with trax 1.4.1 for the same weights."""

import functools

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.models import HourglassLM
from trax_hier.storage.trax_order import convert

# After trax_hier.compat, which patches trax for current JAX and makes these
# imports fast.
from trax.layers.research import resampling  # isort: skip
from trax.models.research import hourglass  # isort: skip

P = functools.partial
LENGTH = 24
SIZES = {key: value for key, value in toy.SIZES.items() if key != 'max_len'}

# As in the published ImageNet64. Two chunks attend to each other, so that the
# result does not depend on the hashes, which are random.
THEIR_HASHED = P(
  tl.PureLSHSelfAttentionWrapper,
  pure_lsh_implementation=P(
    tl.PureLSHSelfAttention, chunk_len=LENGTH // 2, n_hashes=1
  ),
  num_weights=2,
  rotary_position_emb=True,
)
OUR_HASHED = P(
  hl.DecoderBlock,
  attention=P(hl.LSHAttention, chunk_len=LENGTH // 2, n_hashes=1),
)
# vanilla_layers, hierarchy, and the arguments of Trax's model and of ours.
CASES = {
  'average, linear': ((1, 1), '2@3', {}, {}),
  'linear, linear': (
    (1, 2),
    '2@3',
    dict(attention_downsampling_fn=resampling.LinearPooling),
    dict(shorten=P(hl.AttentionShorten, pool=hl.LinearShorten)),
  ),
  'average, zero': (
    (2, 0),
    '2@4',
    dict(attention_upsampling_fn=resampling.NoUpsampling),
    dict(upsample=P(hl.AttentionUpsample, expand=hl.ZeroUpsample)),
  ),
  'average, naive, two levels': (
    (1, 1),
    '1@2 2@6 1@2',
    dict(attention_upsampling_fn=resampling.NaiveUpsampling),
    dict(upsample=P(hl.AttentionUpsample, expand=hl.RepeatUpsample)),
  ),
  'linear without attention': (
    (1, 1),
    '2@3',
    dict(
      downsampling_fn=resampling.LinearPooling,
      upsampling_fn=resampling.LinearUpsampling,
    ),
    dict(shorten=hl.LinearShorten, upsample=hl.LinearUpsample),
  ),
  'average, naive without attention, two levels': (
    (0, 1),
    '1@2 1@4 1@2',
    dict(
      downsampling_fn=resampling.AveragePooling,
      upsampling_fn=resampling.NaiveUpsampling,
    ),
    dict(shorten=hl.AverageShorten, upsample=hl.RepeatUpsample),
  ),
  'three levels': ((0, 0), '1@2 1@4 1@12 1@4 1@2', {}, {}),
  'hashed': (
    (1, 2),
    '1@3',
    dict(
      vanilla_attn_type=THEIR_HASHED,
      downsampling_fn=resampling.LinearPooling,
      upsampling_fn=resampling.LinearUpsampling,
    ),
    dict(
      vanilla_block=OUR_HASHED,
      shorten=hl.LinearShorten,
      upsample=hl.LinearUpsample,
    ),
  ),
}

QUICK = 'average, zero', 'hashed'


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
    for name in CASES
  ],
)
def test_logits_equal_those_of_trax(name):
  vanilla_layers, hierarchy, theirs, ours = CASES[name]
  sizes = dict(
    vanilla_layers=vanilla_layers, hierarchy=hierarchy, mode='eval', **SIZES
  )
  x = toy.tokens(LENGTH)
  official = hourglass.HourglassLM(**sizes, **theirs)
  shapes, state = toy.shapes(official, x)
  weights = toy.random_like(shapes, scale=0.2)
  expected, _ = toy.run(official, x, weights, toy.zeros_like(state))

  model = HourglassLM(**sizes, **ours)
  shapes, state = toy.shapes(model, x)
  converted = convert(jax.tree.leaves(weights), model, shapes)
  logits, _ = toy.run(model, x, converted, toy.zeros_like(state))
  np.testing.assert_allclose(logits, expected, 0, 1e-5)
