"""Caches of keys, values and inputs: decoding equals evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jaxprs import equations
from toy_programs import decode, program

from trax_hier import layers as hl
from trax_hier.models import HourglassLM, TransformerLM

D, H = 16, 2
P = functools.partial


@pytest.mark.parametrize('n', [0, 2])
def test_past_inputs(n):
  x = toy.normal(2, 6, 3)
  y, _ = toy.run(hl.PastInputs(n, 'eval'), x, (), ())
  expected = np.pad(x, [(0, 0), (n, 0), (0, 0)])
  np.testing.assert_array_equal(y, expected)
  layer = hl.PastInputs(n, 'predict')
  _, state = toy.make(layer, x[:, :1])
  start = 0
  for length in (1, 1, 3, 1):
    end = start + length
    half = x[:, start:end].astype(jnp.bfloat16)
    y, state = toy.run(layer, half, (), state)
    # Keeping float32 lets one state serve weights of any precision.
    assert y.dtype == jnp.bfloat16 and state.dtype == jnp.float32
    np.testing.assert_array_equal(
      y, expected[:, start : end + n].astype(jnp.bfloat16)
    )
    start = end


@pytest.mark.parametrize('carry', [False, True])
def test_past_rows(carry):
  window, calls = 4, [6, 1, 3]
  k, v = (toy.normal(2, 3, 10, 5, seed=seed) for seed in (0, 1))
  layer = hl.PastRows(window, carry, 'eval')
  weights, state = toy.make(layer, (k[..., :6, :], v[..., :6, :]))
  start = 0
  for n in calls:
    end = start + n
    rows = k[..., start:end, :], v[..., start:end, :]
    outputs, state = toy.run(layer, rows, weights, state)
    for y, x in zip(outputs, (k, v), strict=True):
      past = np.pad(x, [(0, 0), (0, 0), (window, 0), (0, 0)])
      expected = past[..., start : end + window, :].copy()
      if not carry:
        expected[..., :window, :] = 0
      np.testing.assert_array_equal(y, expected)
    start = end


SCHEMES = {
  'none': (hl.NoPositions, 16),
  'relative': (P(hl.RelativePositions, D, H), 15),
  't5': (P(hl.T5Positions, H, n_buckets=6, max_distance=8), 14),
  'rotary': (hl.RotaryPositions, 13),
}


@pytest.mark.parametrize('scheme', SCHEMES)
def test_decoding_reads_every_size_of_a_cache(scheme, monkeypatch):
  monkeypatch.setattr(hl.DotProductAttention, '_MIN_CACHE', 4)
  positions, n = SCHEMES[scheme]
  make = P(hl.SelfAttention, D, H, positions=positions(), max_len=n)
  x = toy.normal(2, n, D)
  layer = make(mode='eval')
  weights, state = toy.make(layer, x)
  y, _ = toy.run(layer, x, weights, state)
  # Calls of one token fill the cache exactly to each read size but the last.
  decoded = decode(make(mode='predict'), x, weights, [3, *[1] * (n - 6), 3])
  np.testing.assert_allclose(decoded, y, 1e-5, 1e-5)
  # Calls that begin below a read size and end above it.
  lengths = [2, 5, n - 7]
  decoded = decode(make(mode='predict'), x, weights, lengths)
  np.testing.assert_allclose(decoded, y, 1e-5, 1e-5)


@pytest.mark.parametrize('strides', [(1, 2), (2, 1), (3, 1)])
def test_decoding_between_resolutions(strides, monkeypatch):
  monkeypatch.setattr(hl.DotProductAttention, '_MIN_CACHE', 2)
  n = 12
  make = P(
    hl.CausalAttention,
    D,
    H,
    *strides,
    max_len=n,
    positions=hl.RelativePositions(D, H),
  )
  q_rows, k_rows = (n // stride for stride in strides)
  x, y = toy.normal(2, q_rows, D), toy.normal(2, k_rows, D, seed=1)
  layer = make(mode='eval')
  weights, state = toy.make(layer, (x, y))
  expected, _ = toy.run(layer, (x, y), weights, state)
  layer = make(mode='predict')
  # Each call must get whole rows of both sequences.
  n_calls = min(q_rows, k_rows)
  chunks = [np.split(a, n_calls, axis=1) for a in (x, y)]
  _, state = toy.make(layer, (chunks[0][0], chunks[1][0]))
  outputs = []
  step = jax.jit(layer.pure_fn)
  for chunk in zip(*chunks, strict=True):
    out, state = step(chunk, weights, state, toy.KEY)
    outputs.append(out)
  decoded = np.concatenate(outputs, axis=1)
  np.testing.assert_allclose(decoded, expected, 1e-5, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('model', [TransformerLM, HourglassLM])
def test_models_that_read_part_of_their_caches(model, monkeypatch):
  monkeypatch.setattr(hl.DotProductAttention, '_MIN_CACHE', 2)
  layers = dict(hierarchy='2@3') if model is HourglassLM else dict(n_layers=2)
  make = P(model, **toy.SIZES, **layers)
  tokens = toy.tokens(16)
  layer = make(mode='eval')
  weights, state = toy.make(layer, tokens)
  y, _ = toy.run(layer, tokens, weights, state)
  shifted = np.pad(tokens[:, :-1], [(0, 0), (1, 0)])
  decoded = decode(make(mode='predict'), shifted, weights, [4, *[1] * 12])
  np.testing.assert_allclose(decoded, y, 1e-4, 1e-4)


CAPACITY, READ = 600, {75, 150, 300, 600}


def test_a_cache_of_realistic_capacity():
  x = toy.normal(1, CAPACITY, D)
  layer = hl.SelfAttention(D, H, mode='eval')
  weights, state = toy.make(layer, x)
  y, _ = toy.run(layer, x, weights, state)
  # Calls end at the read sizes 75, 150, 300 and 600, or one token crosses them.
  lengths = [74, 1, 1, 74, 1, 74, 74, 1, 1, *[74] * 4, 1, 1, 1]
  decoded = decode(
    hl.SelfAttention(D, H, mode='predict', max_len=CAPACITY),
    x,
    weights,
    lengths,
  )
  np.testing.assert_allclose(decoded, y, 1e-5, 1e-5)


def test_a_token_reads_only_the_filled_rows_of_a_cache():
  layer = hl.SelfAttention(D, H, mode='predict', max_len=CAPACITY)
  x = toy.normal(1, 1, D)
  weights, state = toy.make(layer, x)
  jaxpr = program(layer, x, weights, state, toy.KEY)
  (branching,) = (e for e in equations(jaxpr) if e.primitive.name == 'cond')
  read = []
  for branch in branching.params['branches']:
    products = [
      e for e in equations(branch.jaxpr) if e.primitive.name == 'dot_general'
    ]
    assert len(products) == 2
    sizes = {n for e in products for v in e.invars for n in v.aval.shape}
    (size,) = sizes & READ
    read.append(size)
  assert read == sorted(READ)
  # Only the branches multiply by the cache.
  products = [e for e in equations(jaxpr) if e.primitive.name == 'dot_general']
  with_cache = [
    e for e in products if any(v.aval.size >= 75 * D for v in e.invars)
  ]
  assert len(with_cache) == 8
  lowered = jax.jit(layer.pure_fn).lower(x, weights, state, toy.KEY)
  assert 'stablehlo.case' in lowered.as_text()


def test_a_small_cache_is_read_whole():
  layer = hl.SelfAttention(D, H, mode='predict', max_len=128)
  x = toy.normal(1, 1, D)
  jaxpr = program(layer, x, *toy.make(layer, x), toy.KEY)
  assert 'cond' not in {e.primitive.name for e in equations(jaxpr)}
