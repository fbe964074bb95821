"""Terraformer: padding, decoding from sources, memory of training."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import generation
from trax_hier import layers as hl
from trax_hier.compat import base
from trax_hier.generation import programs
from trax_hier.generation.stop_sequences import stop_array
from trax_hier.layers.attention import dot_product
from trax_hier.models import ReversibleLM, Terraformer

P = functools.partial
SPARSE = P(hl.SparseAttention, n_modules=4)
SIZES = dict(
  toy.SIZES,
  n_encoder_layers=2,
  n_decoder_layers=2,
  attention=SPARSE,
  feed_forward=P(hl.SparseFF, n_elements_in_block=8),
  recurrence=P(hl.SRUBranch, d_sru=4),
  positions=P(hl.LearnedPositions, 64),
)
MODEL = P(Terraformer, **SIZES)
SOURCES = np.maximum(toy.tokens(9, seed=1), 1)
SOURCES[1, 5:] = 0
TOKENS = toy.tokens(7, seed=2)


@functools.cache
def weights():
  shapes, _ = toy.shapes(MODEL(mode='eval'), (SOURCES, TOKENS))
  return toy.random_like(shapes, scale=0.5)


def evaluated(sources, tokens):
  """Logits in eval mode."""
  layer = MODEL(mode='eval')
  _, state = toy.shapes(layer, (sources, tokens))
  return toy.run(layer, (sources, tokens), weights(), toy.zeros_like(state))[0]


def test_padding_anywhere_does_not_change_the_logits():
  expected = evaluated(SOURCES, TOKENS)
  toy.close(evaluated(np.pad(SOURCES, [(0, 0), (0, 4)]), TOKENS), expected)
  with_gaps = np.zeros((2, 20), np.int32)
  with_gaps[:, 2::2] = SOURCES
  toy.close(evaluated(with_gaps, TOKENS), expected)
  alone = evaluated(SOURCES[1:, :5], TOKENS[1:])
  toy.close(alone, expected[1:])
  # Other sources do.
  assert np.abs(evaluated(SOURCES[::-1], TOKENS) - expected).max() > 0.01


@pytest.mark.slow
def test_a_batch_of_several_lengths_decodes_as_its_rows_alone():
  sources, prompts = [SOURCES[0], SOURCES[1, :5]], [[3, 4, 5], []]
  rows = generation.generate(
    MODEL, weights(), prompts, 6, temperature=0, sources=sources, max_len=9
  )
  for source, prompt, row in zip(sources, prompts, rows, strict=True):
    tokens = np.concatenate([prompt, row]).astype(np.int32)
    logits = evaluated(source[None], tokens[None])[0]
    np.testing.assert_array_equal(logits.argmax(-1)[len(prompt) :], row)


@pytest.mark.slow
@pytest.mark.parametrize('precision', ['bfloat16', 'int8'])
def test_precisions(precision):
  prepared = generation.prepare(MODEL, weights(), precision)
  (row,) = generation.generate(
    MODEL, prepared, [[3]], 4, temperature=0, sources=SOURCES[:1]
  )
  tokens = np.concatenate([[3], row]).astype(np.int32)
  logits = np.asarray(evaluated(SOURCES[:1], tokens[None])[0])[1:]
  chosen = np.take_along_axis(logits, row[:, None], axis=-1)[:, 0]
  spread = logits.max() - logits.min()
  assert (logits.max(-1) - chosen < 0.05 * spread).all()


def prefill(length):
  """Temporary bytes and number of operations of the prefill program."""
  model = P(
    MODEL,
    n_encoder_layers=1,
    n_decoder_layers=1,
    d_ff=256,
    positions=P(hl.LearnedPositions, 4096),
  )
  program = programs.programs_of(model, '', 1, 64, 'float32', length)
  x = np.ones((1, length), np.int32), np.ones((1, 1), np.int32)
  shapes, _ = toy.shapes(model(mode='eval'), x)
  convert = programs.weights_converter(model, '', 'float32')
  shapes = jax.eval_shape(convert, shapes)
  request = programs.Request(None, None, jnp.int32(4), stop_array([]))
  lowered = program.start.lower(
    shapes,
    np.zeros((1, 65), np.int32),
    np.zeros(1, np.int32),
    request,
    np.zeros((1, length), np.int32),
  )
  memory = lowered.compile().memory_analysis().temp_size_in_bytes
  return memory, lowered.as_text().count('stablehlo')


@pytest.mark.slow
def test_memory_of_prefill_is_linear_and_its_program_hardly_grows(
  monkeypatch,
):
  # A long encoder attends in spans of queries.
  monkeypatch.setattr(dot_product, 'MAX_ROWS', 128)
  (memory, n), (longer, more) = prefill(1024), prefill(2048)
  # The larger cache may be half full, which is one more branch of attention.
  assert more < 1.1 * n
  assert longer < 2.2 * memory


def memory_of_training(depth, **changes):
  """Temporary bytes of a gradient, with dropout and noise."""
  sizes = {**SIZES, **changes, 'dropout': 0.1}
  layer = Terraformer(
    **{**sizes, 'n_encoder_layers': depth, 'n_decoder_layers': depth}
  )
  x = np.ones((2, 64), np.int32), np.ones((2, 32), np.int32)
  weights, state = toy.shapes(layer, x)

  def loss(weights, state, rng):
    return jnp.mean(layer.pure_fn(x, weights, state, rng)[0] ** 2)

  compiled = jax.jit(jax.grad(loss)).lower(weights, state, toy.KEY).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_training_memory_is_flat_in_depth():
  shallow, deep = memory_of_training(2), memory_of_training(16)
  # A layer keeps its choices, one byte for each token and each of 4 blocks.
  choices = 14 * 4 * (2 * 64 + 2 * 96)
  assert deep < 1.05 * shallow + choices


SHARDED = """
import functools, sys
sys.path[:0] = {paths!r}
import conftest
import jax, jax.numpy as jnp, numpy as np, toy
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import test_terraformer as t
from trax_hier.layers.base.dtypes import cast_floats

assert jax.device_count() == 4
mesh = jax.make_mesh((2, 2), ('data', 'fsdp'), (AxisType.Auto,) * 2)
layer = t.MODEL(mode='train', dropout=0.1)
x = t.SOURCES, t.TOKENS
weights, state = toy.make(layer, x)

def shard(w):
  axes = [a for a, n in enumerate(w.shape) if n % 2 == 0]
  spec = [None] * w.ndim
  if axes:
    spec[axes[-1]] = 'fsdp'
  return NamedSharding(mesh, PartitionSpec(*spec))

def loss(dtype, weights, x):
  y, _ = layer.pure_fn(x, cast_floats(weights, dtype), state, toy.KEY)
  return jnp.mean(jnp.sin(y.astype(jnp.float32)))

rows = NamedSharding(mesh, PartitionSpec('data'))
for dtype, tolerance in (jnp.float32, 1e-5), (jnp.bfloat16, 2e-2):
  f = functools.partial(loss, dtype)
  expected = jax.jit(jax.value_and_grad(f))(weights, x)
  split = jax.tree.map(shard, weights)
  found = jax.jit(
    jax.value_and_grad(f),
    in_shardings=(split, (rows, rows)),
    out_shardings=(None, split),
  )(weights, x)
  a, b = (np.concatenate([np.ravel(g) for g in jax.tree.leaves(y)])
          for y in (found, expected))
  assert np.isfinite(b).all() and np.abs(b).max() > 1e-4
  gap = np.linalg.norm(a - b) / np.linalg.norm(b)
  assert gap < tolerance, (dtype, gap)
"""


@pytest.mark.slow
def test_gradients_of_shards_equal_those_of_one_device():
  here = os.path.dirname(__file__)
  code = SHARDED.format(paths=[os.path.dirname(here), here])
  flags = '--xla_force_host_platform_device_count=4'
  done = subprocess.run(
    [sys.executable, '-c', code],
    env={**os.environ, 'XLA_FLAGS': flags},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(n_decoder_layers=0), r'Terraformer\.n_decoder_layers = 0'),
    (dict(n_heads=3), r'Terraformer\.n_heads = 3 must divide d_model'),
    (dict(attention=hl.SlidingAttention), r'Terraformer\.attention .* causal'),
    (dict(attention=hl.EncoderAttention), r'Terraformer\.attention .* causal'),
    (
      dict(encoder_attention=hl.CrossAttention),
      r'Terraformer\.encoder_attention = .* must make attention to all rows',
    ),
    (
      dict(encoder_attention=SPARSE),
      r'Terraformer\.encoder_attention .* all rows',
    ),
    (dict(mode='decode'), r"Terraformer\.mode = 'decode' must be 'train'"),
  ],
)
def test_bad_arguments(changes, message):
  with pytest.raises((ValueError, TypeError), match=message):
    Terraformer(**{**SIZES, **changes})


def test_hashed_attention_is_causal_in_the_decoder_alone():
  hashed = P(hl.LSHAttention, chunk_len=4)
  layer = MODEL(mode='train', attention=hashed, encoder_attention=hashed)
  x = SOURCES[:1, :8], TOKENS[:1, :4]
  weights, state = toy.make(layer, x)
  logits = jax.jit(
    lambda x: layer.pure_fn(x, weights, state, toy.KEY)[0],
  )(x)
  assert logits.shape == (1, 4, toy.VOCAB) and np.isfinite(logits).all()

  def found(layer):
    if type(layer).__name__ == '_PureLSHSelfAttention':
      return [layer._causal]
    return [c for sub in layer.sublayers for c in found(sub)]

  # A stack has one template for all its layers.
  assert found(layer) == [False, True, True]


def test_shared_positions_raise():
  with pytest.raises(ValueError, match='which reversible layers cannot'):
    Terraformer(**{**SIZES, 'positions': hl.RelativePositions})


def test_a_cache_too_small_for_the_sources():
  layer = MODEL(mode='predict', max_len=9)
  with pytest.raises(base.LayerError, match='of 9 tokens leave no room'):
    toy.shapes(layer, (SOURCES, TOKENS[:, :1]))


def test_the_language_model_is_the_decoder_alone():
  sizes = dict(
    toy.SIZES, n_layers=2, feed_forward=hl.FeedForward, recurrence=None
  )
  layer = ReversibleLM(**sizes, mode='eval')
  weights, state = toy.make(layer, TOKENS)
  y, _ = toy.run(layer, TOKENS, weights, state)
  assert y.shape == (2, 7, toy.VOCAB)
  with pytest.raises(ValueError, match=r'ReversibleLM\.n_layers = 0'):
    ReversibleLM(**{**sizes, 'n_layers': 0})
