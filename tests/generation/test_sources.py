"""Sources of encoder-decoder models, in generation and in training."""

import functools

import jax
import numpy as np
import pytest
import toy

from trax_hier import data
from trax_hier import layers as hl
from trax_hier.compat import ShapeDtype, base, tl
from trax_hier.generation import generate, prepare, sample_text
from trax_hier.layers.base.once import Computed, Once
from trax_hier.models import (
  BlockRecurrentLM,
  ScalingTransformer,
  TransformerLM,
)
from trax_hier.training.build import build
from trax_hier.training.optimizers import SGD

SIZES = {name: n for name, n in toy.SIZES.items() if name != 'max_len'}
MODEL = functools.partial(
  ScalingTransformer,
  n_encoder_layers=1,
  n_decoder_layers=2,
  attention=functools.partial(hl.SparseAttention, n_modules=4),
  feed_forward=functools.partial(hl.SparseFF, n_elements_in_block=8),
  positions=functools.partial(hl.LearnedPositions, 20),
  **SIZES,
)
# Fewer positions than the largest chunk of a prompt has tokens.
SHORT = dict(
  n_encoder_layers=0,
  n_decoder_layers=1,
  attention=hl.SelfAttention,
  positions=functools.partial(hl.LearnedPositions, 200),
)
SOURCES = [toy.tokens(9, seed=5)[0], toy.tokens(6, seed=6)[0]]
PROMPTS = [np.array([3, 4, 5]), np.array([], np.int32)]


@functools.cache
def weights():
  shapes, _ = toy.shapes(MODEL(mode='eval'), (SOURCES[0][None],) * 2)
  return toy.random_like(shapes, scale=0.6)


def evaluated(source, tokens):
  """Logits (l, v) of tokens (l,) in eval mode."""
  layer = MODEL(mode='eval')
  x = np.stack([source]), np.stack([tokens])
  _, state = toy.shapes(layer, x)
  return toy.run(layer, x, weights(), toy.zeros_like(state))[0][0]


def test_sources_of_unequal_lengths_equal_one_at_a_time():
  new = generate(MODEL, weights(), PROMPTS, 8, temperature=0, sources=SOURCES)
  for source, start, row in zip(SOURCES, PROMPTS, new, strict=True):
    tokens = np.concatenate([start, row])
    best = np.argmax(evaluated(source, tokens), axis=-1)
    np.testing.assert_array_equal(best[len(start) :], row)
  # An empty source gives the same tokens at any padded length.
  for empty in ([], np.zeros(3, np.int32)):
    first = generate(
      MODEL, weights(), [[1]] * 2, 8, temperature=0, sources=[empty, SOURCES[0]]
    )[0]
    alone = generate(MODEL, weights(), [[1]], 8, temperature=0, sources=[[0]])[
      0
    ]
    np.testing.assert_array_equal(first, alone)
  # Other sources give other tokens.
  swapped = generate(
    MODEL, weights(), PROMPTS, 8, temperature=0, sources=SOURCES[::-1]
  )
  assert not np.array_equal(new[0], swapped[0])


@pytest.mark.slow
@pytest.mark.parametrize('precision', ['bfloat16', 'int8'])
def test_precisions(precision):
  prepared = prepare(MODEL, weights(), precision)
  rows = generate(MODEL, prepared, PROMPTS, 4, temperature=0, sources=SOURCES)
  for source, start, row in zip(SOURCES, PROMPTS, rows, strict=True):
    tokens = np.concatenate([start, row])
    logits = np.asarray(evaluated(source, tokens))[len(start) :]
    chosen = np.take_along_axis(logits, row[:, None], axis=-1)[:, 0]
    spread = logits.max() - logits.min()
    assert (logits.max(-1) - chosen < 0.05 * spread).all()


def test_sample_text_takes_a_source():
  class Letters:
    size = toy.VOCAB

    def encode(self, text):
      return np.array([ord(c) - 96 for c in text], np.int32)

    def decode(self, ids):
      return ''.join(chr(96 + i) for i in ids)

  text = sample_text(
    MODEL, weights(), Letters(), 'cde', 4, 0.0, source=SOURCES[0]
  )
  (row,) = generate(
    MODEL,
    weights(),
    [[3, 4, 5]],
    4,
    temperature=0,
    stop=[[0]],
    sources=SOURCES[:1],
  )
  assert text == Letters().decode(row)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(sources=None), 'needs sources'),
    (dict(sources=SOURCES * 2), '4 sources for 2 prompts'),
    (dict(sources=[[17], [1]]), 'sources holds token 17'),
    (dict(sources=[[1.5], [1]]), 'sources must be non-negative token ids'),
    (
      dict(sources=[[1, 0, 0], [3, 4, 0, 5]]),
      'row 1 has 0 at position 2, .* padding, which is allowed only at the end',
    ),
    (
      dict(sources=[np.ones(21, int)] * 2),
      '21 positions .* a source, .* only 20, .*LearnedPositions.n_positions',
    ),
    (dict(n_tokens=18), '21 positions .* new tokens, .* has only 20, '),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    generate(
      **{
        'model': MODEL,
        'weights': weights(),
        'prompt': PROMPTS,
        'n_tokens': 4,
        'sources': SOURCES,
        **arguments,
      }
    )


@pytest.mark.slow
def test_a_cache_larger_than_the_positions():
  model = functools.partial(MODEL, **SHORT)
  given = toy.random_like(
    toy.shapes(model(mode='eval'), (SOURCES[0][None],) * 2)[0]
  )
  prompt = [np.ones(140, np.int32)]
  settings = dict(temperature=0, sources=SOURCES[:1])
  (row,) = generate(model, given, prompt, 10, **settings)
  (same,) = generate(model, given, prompt, 10, max_len=160, **settings)
  np.testing.assert_array_equal(row, same)


def test_only_encoder_decoder_models_take_sources():
  model = functools.partial(TransformerLM, n_layers=1, **SIZES)
  shapes, _ = toy.shapes(model(mode='eval'), PROMPTS[0][None])
  with pytest.raises(ValueError, match='only encoder-decoder models take'):
    generate(model, toy.random_like(shapes), PROMPTS, 4, sources=SOURCES)


@pytest.mark.slow
def test_decoding_does_not_recompute_the_encoder():
  layer = MODEL(mode='predict', max_len=16)
  first = np.stack([SOURCES[0]]), np.zeros((1, 1), np.int32)
  _, state = toy.shapes(layer, first)
  converted = hl.decoding_weights(layer, weights())
  fresh = hl.decoding_state(layer, converted, toy.zeros_like(state))
  known = hl.decoding_state(
    layer, converted, toy.zeros_like(state), inputs=first
  )

  def n_products(state):
    jaxpr = jax.make_jaxpr(layer.pure_fn)(first, converted, state, toy.KEY)
    return str(jaxpr).count('dot_general')

  # The encoder block has 4 products in attention, 6 in the feed-forward layer;
  # two decoder blocks also compute keys and values.
  assert n_products(fresh) - n_products(known) >= 8
  outputs = [
    layer.pure_fn(first, converted, s, toy.KEY)[0] for s in (fresh, known)
  ]
  toy.close(*outputs)


def test_once_returns_its_computed_value():
  layer = Once(tl.Dense(3), 'predict')
  x = toy.normal(1, 2)
  layer.init(toy.signature(x), toy.KEY)
  value = toy.normal(1, 3, seed=1)
  y, state = layer.pure_fn(x, layer.weights, ((), Computed(value)), toy.KEY)
  np.testing.assert_array_equal(y, value)
  np.testing.assert_array_equal(state[1].value, value)


def spans(**changes):
  synthetic = data.Synthetic('copy', batch_size=4, length=48, n_eval_rows=4)
  sizes = dict(source_length=64, target_length=32, vocab_size=300)
  return data.SpanCorruption(synthetic, **{**sizes, **changes})


def byte_model(mode, **changes):
  sizes = {**SIZES, 'vocab_size': 300}
  positions = functools.partial(hl.LearnedPositions, 64)
  return MODEL(mode=mode, **{**sizes, 'positions': positions, **changes})


@pytest.mark.slow  # CI trains on pairs in test_rouge.py.
def test_training_on_sources():
  built = build(byte_model, spans(), SGD, accumulate_steps=2)
  state = built.init(jax.random.PRNGKey(0))
  before = jax.tree.map(np.asarray, state.weights)
  state, metrics = built.step(state, spans().train_batch(0))
  assert np.isfinite(metrics).all()
  moved = jax.tree.map(
    lambda a, b: bool((a != np.asarray(b)).any()), before, state.weights
  )
  assert sum(jax.tree.leaves(moved)) > 0.9 * len(jax.tree.leaves(moved))
  evaluation = built.evaluator(state.weights)
  assert np.isfinite(evaluation['loss']) and evaluation['tokens'] > 0


@pytest.mark.slow
def test_the_loss_depends_on_the_sources():
  built = build(byte_model, spans(), SGD)
  batch = spans().train_batch(0)
  other = {**batch, 'sources': np.flip(batch['sources'], axis=0)}
  losses = [
    built.step(built.init(jax.random.PRNGKey(0)), b)[1][0]
    for b in (batch, other)
  ]
  assert losses[0] != losses[1]


def test_data_and_model_must_fit():
  decoder_only = functools.partial(
    TransformerLM, **{**SIZES, 'vocab_size': 300}
  )
  with pytest.raises(ValueError, match=r'train\.model is a decoder-only model'):
    build(decoder_only, spans(), SGD)
  with pytest.raises(ValueError, match=r'train\.data has no sources'):
    build(byte_model, data.Synthetic('copy', batch_size=4, length=48), SGD)


def test_a_model_with_a_memory_takes_no_sources():
  model = functools.partial(
    BlockRecurrentLM,
    n_layers=1,
    recurrent_layers=(),
    attention=functools.partial(hl.SlidingAttention, window=8),
    **{**SIZES, 'vocab_size': 300},
  )
  with pytest.raises(ValueError, match='is a decoder-only model'):
    build(model, spans(), SGD)


def test_attention_with_a_wrong_number_of_inputs():
  for name in ('encoder_attention', 'cross_attention'):
    with pytest.raises(ValueError, match=rf'{name[-9:]} .* 1 input'):
      MODEL(mode='eval', **{name: hl.SelfAttention})


def test_bad_sizes():
  for name in ('n_encoder_layers', 'n_decoder_layers'):
    with pytest.raises(ValueError, match=f'ScalingTransformer.{name} = -1'):
      MODEL(mode='eval', **{name: -1})
  signature = ShapeDtype((1, 21), np.int32)
  with pytest.raises(base.LayerError, match='n_positions = 20'):
    MODEL(mode='eval').init((signature, signature), toy.KEY)
