"""The last layers of a model."""

import pytest

from trax_hier import layers as hl
from trax_hier.compat import tl


@pytest.mark.parametrize(
  ('layer', 'is_mixing'),
  [
    (tl.Dense(4), False),
    (hl.LayerNorm(), False),
    (tl.ShiftRight(mode='train'), True),
    (tl.Dropout(0.1, mode='train'), True),
  ],
)
def test_layers_that_need_all_positions_at_once(layer, is_mixing):
  found = hl.Head(layer, tl.Dense(4)).mixing_layer()
  assert (found is not None) == is_mixing
