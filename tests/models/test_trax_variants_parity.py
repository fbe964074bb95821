"""Parity with trax 1.4.1 of variants that its published files leave out.

Most are the defaults of trax's ConfigurableTerraformer: fixed-base positions,
an encoder that is not reversible. Others are options of it: RMS normalization,
attention that alternates.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
import trax_arrays

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.models import (
  ScalingTransformer,
  ScalingTransformerLM,
  Terraformer,
)

# After trax_hier.compat, which patches trax for current JAX and makes these
# imports fast.
from trax.models.research import configurable_transformer, terraformer  # isort: skip

P = functools.partial
VOCAB, M, LENGTH, MAX_LEN = 20, 9, 7, 32
SIZES = dict(d_model=16, d_ff=32, n_heads=2, dropout=0.0)
RELU = P(hl.FeedForward, activation=tl.Relu)
SPARSE = P(
  tl.MultiplicativeConvCausalAttention, sparsity=4, length_kernel_size=3
)
OUR_SPARSE = P(hl.SparseAttention, n_modules=4)
# Arguments of ConfigurableTerraformer and of Terraformer.
TERRAFORMERS = {
  'default': (
    dict(
      encoder_decoder_attention_type=tl.CausalAttention,
      pos_type='fixed-base',
      reversible_encoder=False,
      center_layernorm=False,
      ff_use_sru=(1, 4),
    ),
    dict(
      attention=hl.SelfAttention,
      positions=hl.FixedBasePositions,
      reversible_encoder=False,
      norm=hl.RMSNorm,
      recurrence=P(hl.SRUBranch, d_sru=4),
    ),
  ),
  'alternating': (
    dict(
      encoder_decoder_attention_type=(SPARSE, tl.CausalAttention),
      n_decoder_layers=4,
      n_decoder_attention_layers=1,
      pos_type=None,
      reversible_encoder=True,
    ),
    dict(
      attention=(OUR_SPARSE, hl.SelfAttention),
      n_decoder_layers=4,
      n_decoder_attentions=1,
      positions=P(hl.LearnedPositions, MAX_LEN),
      recurrence=None,
    ),
  ),
}


def make_terraformers(name, mode):
  theirs, ours = TERRAFORMERS[name]
  layers = dict(n_encoder_layers=2, n_decoder_layers=2)
  official = terraformer.ConfigurableTerraformer(
    VOCAB,
    max_len=MAX_LEN,
    mode=mode,
    encoder_attention_type=tl.Attention,
    **SIZES,
    **(layers | theirs),
  )
  model = Terraformer(
    VOCAB,
    max_len=M + LENGTH,
    mode=mode,
    feed_forward=RELU,
    **SIZES,
    **(layers | ours),
  )
  return official, model


def batch(*lengths):
  """Sources of these lengths, padded on the right, and tokens."""
  rng = np.random.default_rng(0)
  shape = len(lengths), M
  sources = rng.integers(1, VOCAB, shape)
  sources *= np.arange(M) < np.array(lengths)[:, None]
  tokens = rng.integers(1, VOCAB, (len(lengths), LENGTH))
  return sources.astype(np.int32), tokens.astype(np.int32)


BATCH = batch(M, 5, 1)


def same_weights(models, inputs):
  """Both models' weights, and trax's state."""
  official, model = models
  weights, state = toy.make(official, inputs)
  layers = zip(official.sublayers, weights, strict=True)
  groups = [list(trax_arrays.their_arrays(*pair)) for pair in layers]
  # The embedding of the sources precedes that of the targets in trax.
  (table, *sources), targets, *others = filter(None, groups)
  others = itertools.chain.from_iterable(others)
  arrays = iter([table, *targets, *sources, *others])
  ours = trax_arrays.our_weights(model, toy.shapes(model, inputs)[0], arrays)
  assert next(arrays, None) is None, 'trax has more arrays'
  return weights, state, ours


def near(y, expected):
  """Asserts that y is near `expected`, relative to its largest number."""
  scale = np.abs(expected).max()
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize('name', TERRAFORMERS)
def test_evaluation_of_a_terraformer_equals_trax(name):
  official, model = models = make_terraformers(name, 'eval')
  weights, state, ours = same_weights(models, BATCH)
  (expected, _), _ = toy.run(official, BATCH, weights, state)
  our_state = toy.zeros_like(toy.shapes(model, BATCH)[1])
  near(toy.run(model, BATCH, ours, our_state)[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize('name', TERRAFORMERS)
def test_decoding_of_a_terraformer_equals_trax(name):
  official, model = models = make_terraformers(name, 'predict')
  sources, tokens = BATCH
  weights, state, ours = same_weights(models, (sources[:1], tokens[:1, :1]))
  _, our_state = toy.make(model, (sources, tokens[:, :1]))

  def decode(layer, weights, state, sources, tokens):
    step, outputs = jax.jit(layer.pure_fn), []
    # Models in predict mode do not shift.
    for token in np.pad(tokens, [(0, 0), (1, 0)]).T[:-1]:
      y, state = step((sources, token[:, None]), weights, state, toy.KEY)
      outputs.append(y[0] if isinstance(y, tuple) else y)
    return jnp.concatenate(outputs, axis=1)

  logits = decode(model, ours, our_state, sources, tokens)
  for i in range(len(sources)):  # Trax's decodes only one row at a time.
    row = sources[i : i + 1], tokens[i : i + 1]
    near(logits[i : i + 1], decode(official, weights, state, *row))


def check_same_logits(official, model, inputs):
  """For models that use their arrays in the same order."""
  weights, state = toy.make(official, inputs)
  expected, _ = toy.run(official, inputs, weights, state)
  arrays = trax_arrays.their_arrays(official, weights)
  shapes, state = toy.shapes(model, inputs)
  ours = trax_arrays.our_weights(model, shapes, arrays)
  assert next(arrays, None) is None, 'trax has more arrays'
  logits, _ = toy.run(model, inputs, ours, toy.zeros_like(state))
  near(logits, expected[0] if isinstance(expected, tuple) else expected)


def test_recurrence_of_a_language_model_equals_trax():
  official = configurable_transformer.ConfigurableTransformerLM(
    VOCAB,
    n_layers=2,
    attention_type=SPARSE,
    pos_type='fixed-base',
    ff_sparsity=(8, 5),
    ff_use_sru=(2, 3),
    mode='eval',
    **SIZES,
  )
  model = ScalingTransformerLM(
    VOCAB,
    n_layers=2,
    attention=OUR_SPARSE,
    positions=hl.FixedBasePositions,
    feed_forward=P(hl.SparseFF, n_elements_in_block=8, d_lowrank=5),
    recurrence=P(hl.SRUBranch, n_layers=2, d_sru=3),
    mode='eval',
    **SIZES,
  )
  check_same_logits(official, model, BATCH[1])


@pytest.mark.slow
def test_recurrence_of_an_encoder_decoder_equals_trax():
  layers = dict(n_encoder_layers=2, n_decoder_layers=2, mode='eval')
  official = configurable_transformer.ConfigurableTransformer(
    VOCAB, max_len=MAX_LEN, ff_use_sru=(1, 3), **layers, **SIZES
  )
  model = ScalingTransformer(
    VOCAB,
    attention=hl.SelfAttention,
    positions=P(hl.LearnedPositions, MAX_LEN),
    feed_forward=RELU,
    recurrence=P(hl.SRUBranch, d_sru=3),
    **layers,
    **SIZES,
  )
  check_same_logits(official, model, BATCH)
