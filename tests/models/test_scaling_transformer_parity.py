"""Parity of Scaling Transformers with trax 1.4.1 for the same weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.layers.base.repeat import Stack
from trax_hier.models import ScalingTransformer, ScalingTransformerLM

# After trax_hier.compat, which patches trax for current JAX and makes these
# imports fast.
from trax.layers.research import sparsity  # isort: skip
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


def their_arrays(layer, weights):
  """The arrays of trax's model in the order of their use, in our layout."""
  if isinstance(weights, dict):  # Marker of a layer that occurs earlier.
    return
  if isinstance(layer, sparsity._SparseFFController):
    m1, m2, mb = weights
    yield from (m1, m2.reshape(R, F), mb.reshape(F))
  elif isinstance(layer, sparsity._SparseFFMain):
    w1, w2, b2 = weights
    assert w2.shape == (N, F // N, D)
    # Units in order of their blocks, as in the other arrays.
    yield from (w1.reshape(D, F), w2.swapaxes(0, 1).reshape(F, D), b2)
  elif layer.sublayers:
    for sub, part in zip(layer.sublayers, weights, strict=True):
      yield from their_arrays(sub, part)
  else:
    yield from jax.tree.leaves(weights)


def our_weights(layer, shapes, arrays):
  """Our model's weights, taken one after another from trax's arrays.

  Both models use the same arrays in the same order, but our `Stack` stacks the
  arrays of its blocks.
  """
  if isinstance(shapes, dict):
    return shapes
  if isinstance(layer, Stack):
    (block,), (shapes,) = layer.sublayers, shapes
    of_block = jax.tree.map(
      lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), shapes
    )
    blocks = [our_weights(block, of_block, arrays) for _ in range(layer.n)]
    return (jax.tree.map(lambda *parts: jnp.stack(parts), *blocks),)
  if layer.sublayers:
    parts = zip(layer.sublayers, shapes, strict=True)
    return tuple(our_weights(sub, part, arrays) for sub, part in parts)

  def take(shape):
    array = next(arrays)
    assert array.shape == shape.shape
    return array

  return jax.tree.map(take, shapes)


def check_same_logits(official, model, inputs):
  weights, state = toy.make(official, inputs)
  expected, _ = toy.run(official, inputs, weights, state)
  arrays = their_arrays(official, weights)
  shapes, state = toy.shapes(model, inputs)
  weights = our_weights(model, shapes, arrays)
  assert next(arrays, None) is None, 'trax has more arrays'
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
