"""Receptive fields, against models whose receptive field is known."""

import functools

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.inspection.receptive_field import receptive_field
from trax_hier.models import BlockRecurrentLM, TransformerLM
from trax_hier.training.state import init_layer, token_shapes

TOKENS = toy.tokens(9)[0]


def transformer(**kwargs):
  return TransformerLM(n_layers=1, mode='eval', **toy.SIZES, **kwargs)


def weights_of(layer):
  like = token_shapes((1, len(TOKENS)))
  weights, _ = jax.eval_shape(lambda: init_layer(layer, like, toy.KEY))
  return toy.random_like(weights)


def distances(layer):
  return receptive_field(layer, weights_of(layer), TOKENS)


def test_a_window_of_three_depends_on_three_tokens():
  attention = functools.partial(hl.SelfAttention, window=3)
  block = functools.partial(hl.DecoderBlock, attention=attention)
  moved = distances(transformer(block=block))
  t, u = np.indices(moved.shape)
  # The input at t is token t - 1.
  np.testing.assert_array_equal(moved > 0, (u < t) & (u >= t - 3))


def test_distances_between_logits():
  layer = transformer()
  weights = weights_of(layer)
  changed = TOKENS.copy()
  changed[4] = 1 + changed[4] % (toy.VOCAB - 1)
  _, state = toy.make(layer, TOKENS[None])
  y, z = (
    toy.run(layer, x[None], weights, state)[0][0] for x in (TOKENS, changed)
  )
  want = np.sqrt(np.mean((y - z) ** 2, axis=-1))
  np.testing.assert_allclose(
    receptive_field(layer, weights, TOKENS)[:, 4], want, 1e-4, 1e-6
  )


def test_recurrent_models_start_from_their_initial_state():
  layer = BlockRecurrentLM(
    n_layers=2,
    recurrent_layers=(1,),
    attention=functools.partial(hl.SlidingAttention, window=3),
    recurrent_attention=functools.partial(
      hl.BlockRecurrentCell, window=3, n_states=2
    ),
    mode='eval',
    **toy.SIZES,
  )
  moved = distances(layer)
  assert (moved[-1, :-1] > 0).all() and not np.triu(moved).any()


@pytest.mark.parametrize('tokens', [[], [[1, 2]]])
def test_tokens_must_be_one_sequence(tokens):
  with pytest.raises(ValueError, match=r'tokens must be an array \(length,\)'):
    receptive_field(transformer(), (), np.array(tokens))


def test_a_vocabulary_of_two_is_too_small():
  layer = TransformerLM(
    n_layers=0, mode='eval', **{**toy.SIZES, 'vocab_size': 2}
  )
  with pytest.raises(ValueError, match='the vocabulary has 2 ids'):
    receptive_field(layer, weights_of(layer), np.array([1, 0]))
