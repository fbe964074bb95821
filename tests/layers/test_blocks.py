"""Residual blocks: several kinds of attention, a recurrence, own positions."""

import functools

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl

P = functools.partial
D = 8
X = toy.normal(2, 6, D)


def apply(block, *inputs, weights=None):
  x = inputs if len(inputs) > 1 else inputs[0]
  made, state = toy.make(block, x)
  return toy.run(block, x, made if weights is None else weights, state)[0]


def zeros(d_model):
  del d_model
  return tl.Fn('Zeros', lambda x: 0 * x)


def test_a_recurrence_is_added_beside_the_feed_forward_layer():
  block = hl.DecoderBlock(
    D,
    attention=zeros,
    feed_forward=zeros,
    recurrence=P(hl.SRUBranch, d_sru=3),
    norm=hl.RMSNorm,
    mode='eval',
  )
  branch = tl.Serial(hl.RMSNorm(), hl.SRUBranch(D, d_sru=3, mode='eval'))
  weights, _ = toy.make(block, X)
  # The norms before the zeros come first.
  _, _, *leaves = jax.tree.leaves(weights)
  shapes, _ = toy.shapes(branch, X)
  own = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
  toy.close(apply(block, X) - X, apply(branch, X, weights=own))


def test_padding_does_not_change_a_recurrence_in_an_encoder():
  block = hl.EncoderBlock(
    D, 16, 2, recurrence=P(hl.SRUBranch, d_sru=3), mode='eval'
  )
  mask = np.ones((2, 6), bool)
  mask[1, 2:4] = False
  y, kept = apply(block, X, mask)
  np.testing.assert_array_equal(kept, mask)
  other = np.where(mask[..., None], X, 7.0).astype(np.float32)
  z, _ = apply(block, other, mask)
  np.testing.assert_allclose(y[mask], z[mask], 1e-5, 1e-5)
  assert not np.allclose(y[~mask], z[~mask])


def test_own_positions_are_those_of_the_attention():
  arguments = dict(d_ff=16, n_heads=2, mode='eval')
  own = hl.DecoderBlock(D, own_positions=hl.RotaryPositions, **arguments)
  rotary, plain = (
    hl.DecoderBlock(D, positions=positions, **arguments)
    for positions in (hl.RotaryPositions(), hl.NoPositions())
  )
  np.testing.assert_array_equal(apply(own, X), apply(rotary, X))
  assert not np.allclose(apply(own, X), apply(plain, X), 1e-3, 1e-3)


@pytest.mark.parametrize('make', [hl.DecoderBlock, hl.EncoderDecoderBlock])
def test_blocks_with_several_attentions_are_blocks_in_sequence(make):
  kinds = hl.SelfAttention, P(hl.SelfAttention, window=2)
  inputs = [X]
  if make is hl.EncoderDecoderBlock:
    inputs += [toy.normal(2, 5, D, seed=1), np.ones((2, 5), bool)]
  make = P(make, D, 16, 2, mode='eval')
  both = make(attention=kinds)
  single = tl.Serial(*(make(attention=kind) for kind in kinds))
  for found, expected in zip(
    apply(both, *inputs), apply(single, *inputs), strict=True
  ):
    np.testing.assert_array_equal(found, expected)
