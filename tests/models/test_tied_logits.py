"""Tied embeddings: `TiedLogits` in the slot `logits` of every model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier import models
from trax_hier.compat import tl
from trax_hier.generation import generate, prepare
from trax_hier.layers.base.slots import MisfitError
from trax_hier.training.state import n_parameters

P = functools.partial
SIZES = dict(vocab_size=17, d_model=16, n_heads=2, dropout=0.0)
N_EMBEDDINGS = 17 * 16
SPARSE = dict(attention=hl.SelfAttention, feed_forward=hl.FeedForward)
SCALES = dict(scales=(1, 2), n_layers=(1, 1))
SEQ2SEQ = dict(n_encoder_layers=1, n_decoder_layers=1, **SPARSE)
MODELS = {
  'TransformerLM': P(models.TransformerLM, n_layers=1),
  'HourglassLM': P(models.HourglassLM, hierarchy='1@2'),
  'TopDownLM': P(models.TopDownLM, **SCALES),
  'BottomUpLM': P(models.BottomUpLM, **SCALES),
  'RetinaLM': P(models.RetinaLM, scales=(1, 2), window=2, n_layers=1),
  'BlockRecurrentLM': P(
    models.BlockRecurrentLM, n_layers=1, recurrent_layers=(), carry=False
  ),
  'ScalingTransformerLM': P(models.ScalingTransformerLM, n_layers=1, **SPARSE),
  'ReversibleLM': P(models.ReversibleLM, n_layers=1, **SPARSE),
  'ScalingTransformer': P(models.ScalingTransformer, **SEQ2SEQ),
  'Terraformer': P(models.Terraformer, recurrence=None, **SEQ2SEQ),
}
TOKENS = toy.tokens(9)


def inputs(name):
  is_seq2seq = name in ('ScalingTransformer', 'Terraformer')
  return (toy.tokens(5, seed=1), TOKENS) if is_seq2seq else TOKENS


@pytest.mark.parametrize('name', MODELS)
def test_no_model_has_weights_for_tied_logits(name):
  tied, dense = (
    toy.shapes(MODELS[name](logits=logits, **SIZES), inputs(name))[0]
    for logits in (hl.TiedLogits, P(hl.Dense, use_bias=False))
  )
  assert n_parameters(dense) - n_parameters(tied) == N_EMBEDDINGS
  tables = [x for x in jax.tree.leaves(tied) if x.shape == (17, 16)]
  assert len(tables) == 1


def without_layers(logits=hl.TiedLogits):
  """A model that only embeds, normalizes and computes logits."""
  return models.TransformerLM(
    17,
    d_model=16,
    n_layers=0,
    positions=hl.NoPositions,
    logits=logits,
    mode='eval',
  )


def normalized(x):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def test_logits_are_products_with_the_embeddings():
  model = without_layers()
  weights, state = toy.make(model, TOKENS, scale=1.0)
  table, scale, bias = map(np.asarray, jax.tree.leaves(weights))
  shifted = np.pad(TOKENS, [(0, 0), (1, 0)])[:, :-1]
  expected = (normalized(table[shifted]) * scale + bias) @ table.T
  toy.close(toy.run(model, TOKENS, weights, state)[0], expected)


def test_gradients_of_both_uses_add_up():
  tied, dense = (
    without_layers(logits)
    for logits in (hl.TiedLogits, P(hl.Dense, use_bias=False))
  )
  weights, state = toy.make(tied, TOKENS)
  (table, *norm), tree = jax.tree.flatten(weights)
  shapes, dense_state = toy.shapes(dense, TOKENS)
  dense_tree = jax.tree.structure(shapes)

  def loss(model, tree, state):
    def value(leaves):
      weights = jax.tree.unflatten(tree, leaves)
      y, _ = model.pure_fn(TOKENS, weights, state, toy.KEY)
      return jnp.mean(jax.nn.log_softmax(y)[..., ::2])

    return jax.jit(jax.grad(value))

  found, *_ = loss(tied, tree, state)([table, *norm])
  embedding, *_, kernel = loss(dense, dense_tree, toy.zeros_like(dense_state))(
    [table, *norm, table.T]
  )
  toy.close(found, embedding + kernel.T)


def test_initial_logits_have_about_variance_1():
  x = toy.tokens(17, batch=4)
  for name in ('TransformerLM', 'BlockRecurrentLM'):
    model = MODELS[name](
      logits=hl.TiedLogits, mode='eval', **{**SIZES, 'd_model': 64}
    )
    weights, state = jax.jit(
      lambda m=model: m.init(toy.signature(x), toy.KEY)
    )()
    logits = toy.run(model, x, weights, state)[0]
    assert 0.5 < np.std(logits) < 2, name


@pytest.mark.parametrize('precision', ['bfloat16', 'int8'])
def test_decoding_in_other_precisions(precision):
  factory = P(MODELS['TransformerLM'], logits=hl.TiedLogits, **SIZES)
  weights, _ = toy.make(factory(mode='eval'), TOKENS)
  prepared = prepare(factory, weights, precision)
  (new,) = generate(factory, prepared, [TOKENS[0, :4]], 3, max_len=16)
  assert new.shape == (3,)


def test_a_part_from_elsewhere_shares_the_embedding():
  def scaled(embedding):
    return tl.Serial(embedding, tl.Fn('Logits', lambda t, x: 2 * x @ t.T))

  model, other = without_layers(), without_layers(scaled)
  weights, state = toy.make(model, TOKENS)
  twice, _ = toy.run(other, TOKENS, weights, state)
  toy.close(twice, 2 * toy.run(model, TOKENS, weights, state)[0])


def test_tied_logits_fit_only_where_there_are_embeddings():
  with pytest.raises(MisfitError, match=r'TiedLogits\.embedding has no value'):
    hl.SelfAttention(16, n_heads=2, output=hl.TiedLogits)
