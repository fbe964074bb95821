"""Parity of Scaling Transformers with trax 1.4.1 for the same weights."""

import functools

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.models import ScalingTransformer, ScalingTransformerLM
from trax_hier.storage.trax_order import convert

# After trax_hier.compat, which patches trax for current JAX and makes these
# imports fast.
from trax.models.research import configurable_transformer  # isort: skip

P = functools.partial
VOCAB, D, F, N, R, S = 20, 16, 32, 8, 5, 4
SIZES = dict(d_model=D, d_ff=F, n_heads=2, dropout=0.0, mode='eval')
MAX_LEN = 16

THEIR_SPARSE = dict(ff_sparsity=(N, R), loss_sparsity=S)
THEIR_ATTENTION = P(tl.MultiplicativeConvCausalAttention, sparsity=S)

OUR_DENSE = dict(
  attention=hl.SelfAttention,
  feed_forward=P(hl.FeedForward, activation=tl.Relu),
)
OUR_SPARSE = dict(
  attention=P(hl.SparseAttention, n_modules=S),
  feed_forward=P(hl.SparseFF, n_elements_in_block=N, d_lowrank=R),
  logits=P(hl.MultiplicativeDense, n_modules=S),
)
OUR_CROSS = dict(cross_attention=P(hl.SparseCrossAttention, n_modules=S))


def check_same_logits(official, model, inputs):
  weights, state = toy.make(official, inputs)
  expected, _ = toy.run(official, inputs, weights, state)
  shapes, state = toy.shapes(model, inputs)
  weights = convert(jax.tree.leaves(weights), model, shapes)
  logits, _ = toy.run(model, inputs, weights, toy.zeros_like(state))
  # The encoder-decoder of trax also returns the tokens.
  expected = expected[0] if isinstance(expected, tuple) else expected
  toy.close(logits, expected)


def positions():
  return hl.LearnedPositions(MAX_LEN)


def ids(*shape, seed):
  """Random tokens without padding."""
  rng = np.random.default_rng(seed)
  return rng.integers(1, VOCAB, shape).astype(np.int32)


@pytest.mark.parametrize('sparse', [False, True], ids=['dense', 'sparse'])
def test_encoder_decoder_equals_trax(sparse):
  theirs = dict(
    THEIR_SPARSE,
    encoder_decoder_attention_type=THEIR_ATTENTION,
    enc_dec_attention_sparsity=S,
  )
  layers = dict(n_encoder_layers=2, n_decoder_layers=2)
  official = configurable_transformer.ConfigurableTransformer(
    VOCAB, max_len=MAX_LEN, **layers, **SIZES, **(theirs if sparse else {})
  )
  model = ScalingTransformer(
    VOCAB,
    positions=positions,
    **layers,
    **SIZES,
    **(dict(OUR_SPARSE, **OUR_CROSS) if sparse else OUR_DENSE),
  )
  sources = ids(2, 7, seed=1) * (np.arange(7) < np.array([[6], [3]]))
  inputs = sources.astype(np.int32), ids(2, 6, seed=2)
  check_same_logits(official, model, inputs)


def test_language_model_equals_trax():
  official = configurable_transformer.ConfigurableTransformerLM(
    VOCAB,
    n_layers=2,
    max_len=MAX_LEN,
    attention_type=THEIR_ATTENTION,
    **SIZES,
    **THEIR_SPARSE,
  )
  model = ScalingTransformerLM(
    VOCAB, n_layers=2, positions=positions, **SIZES, **OUR_SPARSE
  )
  check_same_logits(official, model, ids(2, 9, seed=3))
