"""Documents that share a row; tests/test_contract.py tests whole models."""

import functools
import itertools

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import base, tl
from trax_hier.layers.base.documents import (
  Documents,
  document_multiple,
  mixing_layer,
  set_documents,
)
from trax_hier.models import HourglassLM


class Cumulative(base.Layer):
  """Reads all positions before."""

  def forward(self, x):
    return x.cumsum(axis=1)


class Twice(base.Layer):
  """Arranges another layer in its own way."""

  def __init__(self, layer):
    super().__init__()
    self._sublayers = (layer,)


def documents(lengths):
  """The documents of two rows, of these lengths."""
  ids = np.repeat(np.arange(len(lengths)), lengths)
  return Documents.from_ids(np.broadcast_to(ids, (2, len(ids))))


# Sizes at which attention is whole, in spans, in blocks, and in chunks.
@pytest.mark.parametrize(
  ('window', 'lengths'),
  [
    (None, (50, 1, 49)),
    (None, (100, 300, 112)),
    (None, (700, 1100, 504)),
    (24, (7, 13)),
    (24, (50, 1, 49)),
    (600, (700, 1100, 504)),
  ],
)
@pytest.mark.parametrize(
  'positions',
  [
    hl.NoPositions,
    functools.partial(hl.RelativePositions, 4, n_heads=1),
    functools.partial(hl.T5Positions, n_heads=1),
  ],
  ids=['none', 'relative', 't5'],
)
def test_attention_of_any_size(positions, window, lengths):
  scheme = positions()
  layer = hl.SelfAttention(
    4, n_heads=1, window=window, positions=scheme, mode='eval'
  )
  x = toy.normal(2, sum(lengths), 4)
  weights, state = toy.make(layer, x)
  packed = set_documents(layer, state, documents(lengths))
  y, after = toy.run(layer, x, weights, packed)
  assert jax.tree.structure(after) == jax.tree.structure(packed)
  assert set_documents(layer, after, ()) == state
  for begin, end in itertools.pairwise(np.cumsum([0, *lengths])):
    alone, _ = toy.run(layer, x[:, begin:end], weights, state)
    np.testing.assert_allclose(y[:, begin:end], alone, 0, 1e-5)


def test_stacks_inside_stacks():
  def block():
    return hl.SelfAttention(4, n_heads=1, mode='eval')

  layer = hl.Repeat(lambda: hl.Repeat(block, 3), 2)
  x = toy.normal(2, 8, 4)
  weights, state = toy.make(layer, x)
  y, _ = toy.run(
    layer, x, weights, set_documents(layer, state, documents((3, 5)))
  )
  alone, _ = toy.run(layer, x[:, 3:], weights, state)
  np.testing.assert_allclose(y[:, 3:], alone, 0, 1e-5)


@pytest.mark.parametrize(
  ('layer', 'path'),
  [
    (tl.Serial(tl.Dense(4), hl.ShiftRight(False, 'train')), ''),
    (tl.Serial(tl.Dense(4), tl.ShiftRight(mode='train')), 'ShiftRight(1)'),
    (hl.SlidingAttention(4, n_heads=1), 'SlidingAttention / PastRows'),
    (
      hl.LSHAttention(4, n_heads=1),
      'LSHAttention / PureLSHSelfAttentionWrapper / PureLSHSelfAttention',
    ),
    (
      hl.Repeat(lambda: hl.Remat(Cumulative()), 2),
      'Repeat(2) / Remat / Cumulative',
    ),
    (Twice(tl.Dense(4)), 'Twice'),
    (hl.Repeat(lambda: hl.SRUBranch(4), 2), ''),
  ],
)
def test_layers_that_mix_documents_are_found(layer, path):
  assert mixing_layer(layer) == path


def test_layers_may_say_that_they_keep_documents_apart():
  class Own(Twice):
    keeps_documents_apart = True

  class OwnLeaf(Cumulative):
    is_positionwise = True

  assert not mixing_layer(Own(OwnLeaf()))
  assert mixing_layer(Own(Cumulative())) == 'Own / Cumulative'


@pytest.mark.parametrize(
  ('sizes', 'multiple'),
  [
    (dict(hierarchy='2@3'), 3),
    (dict(hierarchy='1@2 1@4 1@2'), 4),
    (
      dict(
        hierarchy='1@2',
        shorten=hl.AverageShorten,
        upsample=hl.RepeatUpsample,
        shorten_factor_dropout=(2, 3, 4),
      ),
      12,
    ),
  ],
)
def test_multiple_of_an_hourglass(sizes, multiple):
  assert document_multiple(HourglassLM(9, d_model=8, n_heads=1, **sizes)) == (
    multiple
  )


def test_a_layer_that_occurs_twice():
  recurrence = hl.SRU()
  layer = tl.Serial(recurrence, tl.Dense(4), recurrence)
  x = toy.normal(2, 6, 4)
  weights, state = toy.make(layer, x)
  packed = set_documents(layer, state, documents([2, 4]))
  y, after = toy.run(layer, x, weights, packed)
  assert set_documents(layer, after, ()) == state
  alone, _ = toy.run(layer, x[:, 2:], weights, state)
  np.testing.assert_allclose(y[:, 2:], alone, 0, 1e-5)
