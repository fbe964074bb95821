"""Rows of a batch that advance at different times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.layers import decoding
from trax_hier.layers.base.rows import over_rows, row_axes, row_states

LENGTH, D = 9, 8


def block(mode='predict', **kwargs):
  return hl.Repeat(
    lambda: hl.DecoderBlock(
      D, 16, 2, mode=mode, max_len=LENGTH, positions=kwargs['positions']
    ),
    2,
  )


@pytest.mark.parametrize('unstacked', [False, True])
def test_rows_advance_on_their_own(unstacked):
  scheme = hl.RelativePositions(D, 2)
  make = lambda mode: tl.Serial(  # noqa: E731
    hl.ShareWeights(*scheme.shared), block(mode, positions=scheme)
  )
  x = toy.normal(3, LENGTH, D)
  whole, layer = make('eval'), make('predict')
  weights, state = toy.make(whole, x)
  expected, _ = toy.run(whole, x, weights, state)
  state = layer.init(toy.signature(x[:1, :1]), toy.KEY)[1]
  state = row_states(layer, state, 3)
  if unstacked:
    weights = decoding.decoding_weights(layer, weights)
    state = decoding.decoding_state(layer, weights, state)
  axes = row_axes(layer, state)

  def advance(state, x, moves):
    def step(own_state):
      return layer.pure_fn(x, weights, own_state, toy.KEY)

    y, new = step(state)
    keep = moves[0]
    return y, jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, state)

  run = jax.jit(lambda *args: over_rows(advance, axes, *args))
  rng, t = np.random.default_rng(0), np.zeros(3, int)
  for _ in range(LENGTH):
    moves = (rng.random(3) < 0.6) & (t < LENGTH)
    now = x[np.arange(3), np.minimum(t, LENGTH - 1)][:, None]
    y, state = run(state, now, moves)
    for row in np.flatnonzero(moves):
      np.testing.assert_allclose(y[row, 0], expected[row, t[row]], 1e-5, 1e-5)
    t += moves
  assert len(set(t)) > 1 and t.min() > 2
