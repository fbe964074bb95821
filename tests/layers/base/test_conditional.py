"""Conditional computation."""

import jax
import pytest

from trax_hier.layers.base.conditional import apply_if


@pytest.mark.parametrize('condition', [True, False])
def test_apply_if(condition):
  y = jax.jit(lambda c, x: apply_if(c, lambda x: (x[1], x[0] + 1), x))(
    condition, (1, 2)
  )
  assert y == ((2, 2) if condition else (1, 2))
