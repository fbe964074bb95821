"""Slots that pass a part on to another slot."""

import functools

import pytest

from trax_hier.layers import LearnedPositions, SelfAttention
from trax_hier.layers.base.slots import (
  ATTENTION,
  POSITIONS,
  build_part,
  forwarded,
)

P = functools.partial


@pytest.mark.parametrize(
  'factory, n',
  [
    (LearnedPositions, 2048),
    (P(LearnedPositions, 24), 24),
    (P(LearnedPositions, n_positions=24), 24),
    (P(P(LearnedPositions, 12), n_positions=24), None),
  ],
)
@pytest.mark.parametrize('n_slots', [0, 1, 2])
def test_a_forwarded_part_keeps_its_arguments(factory, n, n_slots):
  for i in range(n_slots):
    factory = forwarded(f'Model{i}.positions', factory)

  def build():
    return build_part('Block.positions', factory, POSITIONS, d_model=8)

  if n is None:  # Two values for one argument.
    with pytest.raises(Exception, match='n_positions'):
      build()
  else:
    assert build()._n_positions == n


def test_a_slot_does_not_offer_what_a_forwarded_part_has():
  attention = forwarded('Model.attention', P(SelfAttention, 8, n_heads=2))
  sizes = dict(n_heads=2, dropout=0.0, mode='eval')
  layer = build_part('Block.attention', attention, ATTENTION, **sizes)
  assert (layer.n_in, layer.n_out) == (1, 1)
