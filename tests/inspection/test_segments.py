"""Segments of a text, by level."""

import functools

import numpy as np
import toy

from trax_hier import layers as hl
from trax_hier.inspection.segments import marked, segment_starts
from trax_hier.models import HourglassLM

P = functools.partial
TEXT = 'one two three four, five six'
TOKENS = np.array([[*TEXT.encode()]] * 2, np.int32)
WORDS, PAIRS = (
  P(hl.DynamicStack, boundaries=P(hl.WordRule, n), capacity=2) for n in (1, 2)
)


def starts(hierarchy, dynamic):
  sizes = {**toy.SIZES, 'vocab_size': 128}
  model = HourglassLM(
    **sizes, hierarchy=hierarchy, dynamic=dynamic, mode='eval'
  )
  weights, _ = toy.make(model, TOKENS)
  return segment_starts(model, weights, TOKENS)


def test_levels_inside_each_other():
  words, pairs = starts('1@~4 1@~8 1@~4', (WORDS, PAIRS))
  assert marked(TEXT, words[1]) == '|one |two |three |four,| |five |six'
  assert marked(TEXT, pairs[1]) == '|one two |three four,| five |six'


def test_levels_in_fixed_levels_are_left_out():
  fixed = P(hl.DynamicStack, boundaries=hl.FixedBoundaries)
  assert starts('1@2 1@~4 1@2', fixed) == []
  assert len(starts('1@~2 1@4 1@~2', fixed)) == 1
