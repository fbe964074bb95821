"""Learned positions, and the maximum sequence length of a model."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import toy
from toy_programs import decode

from trax_hier import layers as hl
from trax_hier.compat import ShapeDtype, base, tl
from trax_hier.layers.attention.positions import sinusoid
from trax_hier.models import (
  BlockRecurrentLM,
  ScalingTransformer,
  ScalingTransformerLM,
  TransformerLM,
)

P = functools.partial


def test_learned_positions():
  x = toy.normal(2, 7, 6)
  scheme = hl.LearnedPositions(9)
  (layer,) = scheme.embed('eval')
  weights, state = toy.make(layer, x)
  assert weights.shape == (9, 6)
  y, _ = toy.run(layer, x, weights, state)
  np.testing.assert_array_equal(y, x + weights[:7])
  (layer,) = scheme.embed('predict')
  decoded = decode(layer, x, weights, [1, 3, 1, 2])
  np.testing.assert_array_equal(decoded, y)
  first, _ = layer.init(ShapeDtype((1, 1, 6), np.float32), toy.KEY)
  np.testing.assert_array_equal(first, sinusoid(jnp.arange(9), 6))
  # Positions must be added only once.
  assert not scheme.rotate(1, 'eval') and not scheme.shared


@pytest.mark.parametrize('mode', ['train', 'eval', 'predict'])
def test_a_sequence_longer_than_the_table_raises(mode):
  x = toy.normal(1, 5, 2)
  (layer,) = hl.LearnedPositions(4).embed(mode)
  weights, state = toy.make(layer, x[:, :1])
  message = r'5 tokens exceeds LearnedPositions\.n_positions = 4'
  with pytest.raises(base.LayerError, match=message):
    toy.run(layer, x, weights, state)


def test_learned_positions_of_length_zero_raise():
  with pytest.raises(ValueError, match=r'LearnedPositions\.n_positions = 0'):
    hl.LearnedPositions(0)


def test_longest_sequence():
  sizes = dict(toy.SIZES, n_layers=2)
  learned = P(hl.LearnedPositions, n_positions=12)
  assert (
    hl.longest_sequence(
      ScalingTransformerLM(
        positions=learned,
        attention=hl.SelfAttention,
        feed_forward=hl.FeedForward,
        **sizes,
      )
    )
    == 12
  )
  assert hl.longest_sequence(TransformerLM(positions=learned, **sizes)) == 12
  assert hl.longest_sequence(TransformerLM(**sizes)) is None
  both = ScalingTransformer(
    positions=learned,
    attention=hl.SelfAttention,
    feed_forward=hl.FeedForward,
    n_encoder_layers=1,
    n_decoder_layers=1,
    **toy.SIZES,
  )
  assert hl.longest_sequence(both) == 12
  tables = [hl.LearnedPositions(n).embed('eval') for n in (9, 7)]
  assert hl.longest_sequence(tl.Serial(*tables)) == 7


@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_learned_positions_with_carried_keys_raise(mode):
  make = P(
    BlockRecurrentLM,
    **toy.SIZES,
    n_layers=2,
    recurrent_layers=(),
    positions=hl.LearnedPositions,
    mode=mode,
  )
  with pytest.raises(ValueError, match='LearnedPositions'):
    make(carry=True)
  assert hl.longest_sequence(make(carry=False)) == 2048
