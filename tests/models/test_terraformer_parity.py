"""Parity of Terraformers with trax 1.4.1 for the same weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from test_scaling_transformer_parity import (
  VOCAB,
  D,
  F,
  N,
  R,
  S,
)

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.models import Terraformer
from trax_hier.storage.trax_order import convert

# After trax_hier.compat, which patches trax for current JAX and makes these
# imports fast.
from trax.layers import reversible  # isort: skip
from trax.models.research import terraformer  # isort: skip

P = functools.partial
U = 4  # Width of the SRUs.
MAX_LEN = 32  # Number of learned positions.
SIZES = dict(
  d_model=D,
  d_ff=F,
  n_encoder_layers=2,
  n_decoder_layers=2,
  n_heads=2,
  dropout=0.0,
)
M, LENGTH = 9, 7


@dataclasses.dataclass(frozen=True)
class Variant:
  """Arguments of one model for trax and for us."""

  theirs: dict
  ours: dict

  def official(self, mode):
    return terraformer.ConfigurableTerraformer(
      VOCAB,
      max_len=MAX_LEN,
      mode=mode,
      encoder_attention_type=tl.Attention,
      pos_type=None,  # `tl.PositionalEncoding`, which is learned.
      reversible_encoder=True,
      use_two_swaps_per_encoder_block=True,
      center_layernorm=True,
      **SIZES,
      **self.theirs,
    )

  def model(self, mode):
    return Terraformer(
      VOCAB,
      max_len=M + LENGTH,
      mode=mode,
      encoder_attention=hl.EncoderAttention,
      positions=lambda: hl.LearnedPositions(MAX_LEN),
      **SIZES,
      **self.ours,
    )


def sparse_attention(**options):
  return P(
    tl.MultiplicativeConvCausalAttention,
    sparsity=S,
    length_kernel_size=3,
    **options,
  )


# A small terraformer_c4_medium.gin of trax.
MEDIUM = Variant(
  dict(
    encoder_decoder_attention_type=sparse_attention(),
    n_decoder_attention_layers=2,
    ff_sparsity=(N, R),
    ff_use_sru=(1, U),
    loss_sparsity_type='mult',
    loss_sparsity=S,
  ),
  dict(
    attention=P(hl.SparseAttention, n_modules=S),
    n_decoder_attentions=2,
    feed_forward=P(hl.SparseFF, n_elements_in_block=N, d_lowrank=R),
    recurrence=P(hl.SRUBranch, d_sru=U),
    logits=P(hl.MultiplicativeDense, n_modules=S),
  ),
)
DENSE = Variant(
  dict(
    encoder_decoder_attention_type=tl.CausalAttention,
    n_decoder_attention_layers=1,
  ),
  dict(
    attention=hl.SelfAttention,
    n_decoder_attentions=1,
    feed_forward=P(hl.FeedForward, activation=tl.Relu),
    recurrence=None,
  ),
)
DEEP = Variant(
  dict(
    encoder_decoder_attention_type=sparse_attention(
      share_qk=True, v_concat_type='fixed', output_layer_type='multconv'
    ),
    n_decoder_attention_layers=3,
    ff_use_sru=(2, U),
    loss_sparsity=S,
  ),
  dict(
    attention=P(
      hl.SparseAttention,
      n_modules=S,
      share_qk=True,
      v_concat=True,
      output=hl.SparseDense,
    ),
    n_decoder_attentions=3,
    feed_forward=P(hl.FeedForward, activation=tl.Relu),
    recurrence=P(hl.SRUBranch, d_sru=U, n_layers=2),
    logits=P(hl.MultiplicativeDense, n_modules=S),
  ),
)


def pair(*lengths):
  """Sources of these lengths, padded on the right, and tokens."""
  rng = np.random.default_rng(0)
  shape = len(lengths), M
  sources = rng.integers(1, VOCAB, shape)
  sources *= np.arange(M) < np.array(lengths)[:, None]
  tokens = rng.integers(1, VOCAB, (len(lengths), LENGTH))
  tokens[-1, -2:] = 0  # Padding of targets is a token like any other.
  return sources.astype(np.int32), tokens.astype(np.int32)


BATCH = pair(M, 5, 1)


def near(y, expected):
  """Asserts that y is near `expected`, relative to its largest number."""
  y, expected = np.asarray(y), np.asarray(expected)
  assert y.shape == expected.shape
  gap, scale = np.max(np.abs(y - expected)), np.max(np.abs(expected))
  assert gap <= 1e-5 * scale, f'{gap} at scale {scale}'


def same_weights(variant, mode, inputs):
  """Both models in a mode, with random weights and their state."""
  official, model = variant.official(mode), variant.model(mode)
  weights, state = toy.make(official, inputs)
  shapes, our_state = toy.shapes(model, inputs)
  ours = convert(jax.tree.leaves(weights), model, shapes)
  return (official, weights, state), (model, ours, toy.zeros_like(our_state))


def evaluate(layer, weights, state, inputs):
  return toy.run(layer, inputs, weights, state)[0]


SLOW_DEEP = pytest.param(DEEP, id='deep', marks=pytest.mark.slow)


@pytest.mark.parametrize(
  'variant',
  [
    pytest.param(MEDIUM, id='medium'),
    pytest.param(DENSE, id='dense'),
    SLOW_DEEP,
  ],
)
def test_evaluation_equals_trax(variant):
  official, ours = same_weights(variant, 'eval', BATCH)
  expected, tokens = evaluate(*official, BATCH)
  np.testing.assert_array_equal(tokens, BATCH[1])
  for row in zip(evaluate(*ours, BATCH), expected, strict=True):
    near(*row)


def decode(step, weights, state, inputs):
  """Logits (b, length, vocab) of a model in predict mode, token by token."""
  sources, tokens = inputs
  outputs = []
  # Models in predict mode do not shift.
  for token in np.pad(tokens, [(0, 0), (1, 0)]).T[:-1]:
    y, state = step((sources, token[:, None]), weights, state, toy.KEY)
    outputs.append(y[0] if isinstance(y, tuple) else y)
  return jnp.concatenate(outputs, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(
  'variant', [MEDIUM, DENSE, DEEP], ids=['medium', 'dense', 'deep']
)
def test_decoding_equals_trax(variant):
  model = variant.model('predict')
  sources, tokens = BATCH
  (official, weights, state), (_, ours, _) = same_weights(
    variant, 'predict', (sources[:1], tokens[:1, :1])
  )
  _, our_state = toy.make(model, (sources, tokens[:, :1]))
  logits = decode(jax.jit(model.pure_fn), ours, our_state, BATCH)
  # The model of trax decodes only one row at a time.
  step = jax.jit(official.pure_fn)
  for i in range(len(sources)):
    row = sources[i : i + 1], tokens[i : i + 1]
    near(logits[i : i + 1], decode(step, weights, state, row))


# Gradients
# ------------------------------------------------------------------------------
def gradients(layer, weights, state, inputs):
  """Gradients of the cross-entropy of tokens."""

  def loss(weights):
    y, _ = layer.pure_fn(inputs, weights, state, toy.KEY)
    logits = y[0] if isinstance(y, tuple) else y
    log_p = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_p, inputs[1][..., None], -1))

  return jax.jit(jax.grad(loss))(weights)


@pytest.mark.parametrize(
  'variant', [pytest.param(DENSE, id='dense'), SLOW_DEEP]
)
def test_gradients_equal_trax(monkeypatch, variant):
  official, (model, weights, state) = same_weights(variant, 'train', BATCH)
  ours = gradients(model, weights, state, BATCH)
  # Trax by automatic differentiation, without reconstructed activations.
  plain = property(lambda self: False)
  monkeypatch.setattr(reversible.ReversibleLayer, 'has_backward', plain)
  theirs = gradients(*official, BATCH)
  theirs = convert(jax.tree.leaves(theirs), model, weights)
  leaves = jax.tree.leaves(theirs)
  scale = max(np.max(np.abs(g)) for g in leaves)
  for gradient, expected in zip(jax.tree.leaves(ours), leaves, strict=True):
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-5 * scale)
