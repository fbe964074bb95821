"""Sparse projections, and decoding around them, against plain numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jax.extend.core import jaxprs_in_params

from trax_hier import layers as hl
from trax_hier.compat import ShapeDtype, base, tl
from trax_hier.layers.attention.positions import sinusoid
from trax_hier.layers.sparse import sparse_qkv
from trax_hier.models import (
  BlockRecurrentLM,
  HourglassLM,
  ScalingTransformer,
  ScalingTransformerLM,
  TransformerLM,
)

D, H = 16, 2
P = functools.partial
OUTPUTS = {
  'none': hl.NoProjection,
  'mult': hl.MultiplicativeDense,
  'conv': hl.ModularConv,
  'multconv': hl.SparseDense,
  'dense': hl.Dense,
}


def decode(layer, x, weights, lengths, *others):
  """Outputs of predict calls that bring so many positions each."""
  first = (x[:, : lengths[0]], *others) if others else x[:, : lengths[0]]
  state = toy.make(layer, first)[1]
  step = jax.jit(layer.pure_fn)
  outputs = []
  assert sum(lengths) == x.shape[1]
  for new in np.split(x, np.cumsum(lengths)[:-1], axis=1):
    inputs = (new, *others) if others else new
    y, state = step(inputs, weights, state, toy.KEY)
    outputs.append(y)
  return np.concatenate(outputs, axis=1)


def count(layer, d):
  weights, _ = toy.shapes(layer, ShapeDtype((1, 1, d), np.float32))
  return sum(w.size for w in jax.tree.leaves(weights))


def equations(jaxpr):
  """All equations of a program, those inside others too."""
  for equation in jaxpr.eqns:
    yield equation
    for sub in jaxprs_in_params(equation.params):
      yield from equations(getattr(sub, 'jaxpr', sub))


def program(layer, *arguments):
  return jax.make_jaxpr(layer.pure_fn)(*arguments).jaxpr


def multiplicative(x, gates, kernel, bias=0.0):
  y = np.einsum('...i,si,im->...sm', x, gates, kernel)
  return y.reshape(*x.shape[:-1], -1) + bias


def convolution(x, kernel, bias, n_modules):
  """A loop over everything; what is outside the input is zero."""
  b, length, d = x.shape
  past, n_neighbours, _, width = kernel.shape
  x = x.reshape(b, length, n_modules, d // n_modules)
  y = np.tile(bias, (b, length, n_modules, 1)).astype(np.float64)
  for t in range(length):
    for module in range(n_modules):
      for i in range(past):
        for j in range(n_neighbours):
          before = t - (past - 1 - i)
          other = module + j - n_neighbours // 2
          if before >= 0 and 0 <= other < n_modules:
            y[:, t, module] += x[:, before, other] @ kernel[i, j]
  return y.reshape(b, length, n_modules * width)


# Fewer tokens than the 4 numbers of a module, and more: two ways to compute.
@pytest.mark.parametrize('shape', [(1, 3), (2, 3), (2, 2, 5)])
@pytest.mark.parametrize('use_bias', [True, False])
def test_multiplicative(shape, use_bias):
  x = toy.normal(*shape, 6)
  layer = hl.MultiplicativeDense(12, 3, use_bias)
  weights, state = toy.make(layer, x, scale=1.0)
  assert len(weights) == 2 + use_bias
  y, _ = toy.run(layer, x, weights, state)
  expected = multiplicative(x, *map(np.asarray, weights))
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


def test_both_ways_of_multiplying_have_one_gradient():
  g = toy.normal(8, 12, seed=1)
  g[3:] = 0  # These tokens choose the way to compute, and add nothing.
  x = toy.normal(8, 6)
  layer = hl.MultiplicativeDense(12, 3)
  weights, state = toy.make(layer, x)

  def gradient(x, g):
    def loss(weights, x):
      return jnp.sum(g * layer.pure_fn(x, weights, state, toy.KEY)[0])

    return jax.jit(jax.grad(loss, (0, 1)))(weights, x)

  few, by_few = gradient(x[:3], g[:3])
  many, by_many = gradient(x, g)
  toy.close((few, by_few), (many, by_many[:3]))
  gates, kernel, _ = map(np.asarray, weights)
  parts = g.reshape(8, 3, 4)
  expected = (
    np.einsum('ti,tsm,im->si', x, parts, kernel),
    np.einsum('ti,tsm,si->im', x, parts, gates),
    g.sum(axis=0),
  )
  toy.close(many, expected)


@pytest.mark.parametrize('n_tokens', [2, 100])
def test_multiplying_takes_little_memory(n_tokens):
  layer = hl.MultiplicativeDense(64, 8)
  x = ShapeDtype((n_tokens, 64), np.float32)
  weights, _ = toy.shapes(layer, x)
  jaxpr = program(layer, x, weights, (), jax.eval_shape(lambda: toy.KEY))
  largest = max(v.aval.size for e in equations(jaxpr) for v in e.outvars)
  # Neither the matrix for few tokens, nor copies of the tokens if many.
  assert largest <= (n_tokens * 64 * 8 if n_tokens < 8 else n_tokens * 64)


@pytest.mark.parametrize('n_tokens', [2, 9])
def test_all_permutations_are_exact(n_tokens):
  n_modules, width = 3, 4
  order = np.random.default_rng(0).permutation(12)
  gates = np.zeros((n_modules, 12), np.float32)
  kernel = np.zeros((12, width), np.float32)
  for to, source in enumerate(order):
    gates[to // width, source] = kernel[source, to % width] = 1
  x = toy.normal(n_tokens, 12)
  layer = hl.MultiplicativeDense(12, n_modules, use_bias=False)
  y, _ = toy.run(layer, x, (gates, kernel), ())
  np.testing.assert_array_equal(y, x[:, order])


# Its weights are few: there is little to gain by storing them in 8 bits.
@pytest.mark.parametrize('precision', ['float32', 'int8'])
@pytest.mark.parametrize('n_tokens', [1, 40])
def test_multiplicative_is_not_rounded_to_decode(precision, n_tokens):
  x = toy.normal(n_tokens, 6)
  layer = hl.MultiplicativeDense(12, 3)
  weights, _ = toy.make(layer, x)
  stored = hl.decoding_weights(layer, weights, precision)
  y, _ = toy.run(layer, x, stored, ())
  expected = multiplicative(x, *map(np.asarray, weights))
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


@pytest.mark.parametrize('n_tokens', [1, 40])
def test_multiplicative_in_bfloat16(n_tokens):
  x = toy.normal(n_tokens, 6).astype(jnp.bfloat16)
  layer = hl.MultiplicativeDense(12, 3)
  weights, _ = toy.make(layer, x)
  stored = hl.decoding_weights(layer, weights, 'bfloat16')
  assert all(w.dtype == jnp.bfloat16 for w in jax.tree.leaves(stored))
  y, _ = toy.run(layer, x, stored, ())
  assert y.dtype == jnp.bfloat16
  x, *weights = (
    np.asarray(a.astype(jnp.bfloat16), np.float64) for a in (x, *weights)
  )
  expected = multiplicative(x, *weights)
  # A few roundings of 2 ** -9 each.
  gap = np.linalg.norm(np.asarray(y, np.float64) - expected)
  assert gap < 0.01 * np.linalg.norm(expected)


def test_first_weights():
  layer = hl.MultiplicativeDense(512, 16)
  x = ShapeDtype((1, 300), np.float32)
  gates, kernel, bias = jax.jit(lambda: layer.init(x, toy.KEY)[0])()
  assert np.std(gates) == pytest.approx(0.5, rel=0.05)
  bound = np.sqrt(6 / (300 + 32))
  assert 0.98 * bound < np.abs(kernel).max() <= bound
  assert np.std(bias) == pytest.approx(1e-6, rel=0.2)


# (5, 2): a module sees more neighbours than there are.
@pytest.mark.parametrize('sizes', [(3, 3), (1, 1), (5, 2)])
@pytest.mark.parametrize('mode', ['eval', 'predict'])
def test_modular_convolution(sizes, mode):
  x = toy.normal(2, 6, 6)
  layer = hl.ModularConv(9, 3, *sizes, mode)
  # A first call of one token is shorter than the past that it is given.
  weights, state = toy.make(layer, x[:, :1])
  if mode == 'eval':
    y, _ = toy.run(layer, x, weights, state)
  else:
    y = decode(layer, x, weights, [1, 3, 1, 1])
  expected = convolution(x, *map(np.asarray, jax.tree.leaves(weights)), 3)
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


def test_sparse_dense_is_both():
  x = toy.normal(2, 5, 8)
  layer = hl.SparseDense(12, 4, 3, 2, 'eval')
  weights, state = toy.make(layer, x)
  y, _ = toy.run(layer, x, weights, state)
  *first, kernel, bias = map(np.asarray, jax.tree.leaves(weights))
  expected = convolution(multiplicative(x, *first), kernel, bias, 4)
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


@pytest.mark.parametrize('share_qk', [False, True])
@pytest.mark.parametrize('v_concat', [False, True])
def test_queries_keys_and_values(share_qk, v_concat):
  x = toy.normal(2, 5, 8)
  layer = hl.SparseQKV(
    8, 4, 2, share_qk=share_qk, v_concat=v_concat, mode='eval'
  )
  weights, state = toy.make(layer, x)
  y, _ = toy.run(layer, x, weights, state)
  leaves = list(map(np.asarray, jax.tree.leaves(weights)))
  z = multiplicative(x, *leaves[:3])
  *kernels, v_kernel, v_bias = leaves[3:]
  q = convolution(z, *kernels[:2], 4)
  k = convolution(z, *kernels[-2:], 4)
  assert len(kernels) == (2 if share_qk else 4)
  if v_concat:
    modules = [a.reshape(2, 5, 4, 2) for a in (z, x)]
    z = np.concatenate(modules, axis=-1).reshape(2, 5, 16)
  assert v_kernel.shape[:2] == (2, 1)
  toy.close(y, (q, k, convolution(z, v_kernel, v_bias, 4)))


COMBINATIONS = [
  (share_qk, v_concat, output)
  for share_qk in (False, True)
  for v_concat in (False, True)
  for output in OUTPUTS
]
QUICK = [
  (False, False, 'none'),
  (True, False, 'mult'),
  (False, True, 'conv'),
  (True, True, 'multconv'),
]


@pytest.mark.parametrize(
  'share_qk, v_concat, output',
  [
    pytest.param(
      *row, marks=[] if row in QUICK else pytest.mark.slow, id=f'{row}'
    )
    for row in COMBINATIONS
  ],
)
@pytest.mark.parametrize('n_modules', [4, 8])
def test_sparse_attention(share_qk, v_concat, output, n_modules):
  make = P(
    hl.SparseAttention,
    D,
    H,
    n_modules,
    share_qk=share_qk,
    v_concat=v_concat,
    output=OUTPUTS[output],
    max_len=8,
  )
  x = toy.normal(2, 7, D)
  layer = make(mode='eval')
  weights, state = toy.make(layer, x)
  step = jax.jit(layer.pure_fn)
  y, _ = step(x, weights, state, toy.KEY)
  edited = x.copy()
  edited[:, 3] += 1
  other, _ = step(edited, weights, state, toy.KEY)
  np.testing.assert_array_equal(other[:, :3], y[:, :3])
  assert (np.abs(other - y)[:, 3:].max(axis=-1) > 1e-3).all()
  decoded = decode(make(mode='predict'), x, weights, [1, 3, 1, 1, 1])
  np.testing.assert_allclose(decoded, y, 1e-5, 1e-5)


@pytest.mark.parametrize('output', ['none', 'multconv'])
def test_sparse_cross_attention(output):
  make = P(hl.SparseCrossAttention, D, H, 4, output=OUTPUTS[output])
  x, context = toy.normal(2, 6, D), toy.normal(2, 5, D, seed=1)
  mask = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]], bool)
  layer = make(mode='eval')
  weights, state = toy.make(layer, (x, context, mask))
  step = jax.jit(layer.pure_fn)
  y, _ = step((x, context, mask), weights, state, toy.KEY)
  padded = np.where(mask[..., None], context, 100)
  hidden, _ = step((x, padded, mask), weights, state, toy.KEY)
  np.testing.assert_array_equal(hidden, y)
  moved, _ = step((x, context, mask[::-1]), weights, state, toy.KEY)
  assert np.abs(moved - y).max() > 0.01
  decoded = decode(
    make(mode='predict'), x, weights, [1, 3, 1, 1], context, mask
  )
  np.testing.assert_allclose(decoded, y, 1e-5, 1e-5)


@pytest.mark.parametrize(
  'arguments, number',
  [
    (dict(), 169_152),
    (dict(share_qk=True), 132_224),
    (dict(v_concat=True), 181_440),
    (dict(output=hl.MultiplicativeDense), 252_096),
    (dict(output=hl.ModularConv), 206_080),
    (dict(output=hl.SparseDense), 289_024),
  ],
)
def test_number_of_parameters(arguments, number):
  layer = hl.SparseAttention(
    1024, n_modules=16, length_kernel_size=3, **arguments
  )
  assert count(layer, 1024) == number


def test_number_of_parameters_of_a_sparse_last_layer():
  assert count(hl.MultiplicativeDense(32_000, 4), 1024) == 8_228_096
  assert count(hl.SelfAttention(1024, 16), 1024) == 4_198_400


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


SCHEMES = {
  'none': (hl.NoPositions, 16),
  'relative': (P(hl.RelativePositions, D, H), 15),
  't5': (P(hl.T5Positions, H, n_buckets=6, max_distance=8), 14),
  'rotary': (hl.RotaryPositions, 13),
}


@pytest.mark.parametrize('scheme', SCHEMES)
def test_a_cache_filled_to_all_lengths(scheme, monkeypatch):
  monkeypatch.setattr(hl.DotProductAttention, '_MIN_CACHE', 4)
  positions, n = SCHEMES[scheme]
  make = P(hl.SelfAttention, D, H, positions=positions(), max_len=n)
  x = toy.normal(2, n, D)
  layer = make(mode='eval')
  weights, state = toy.make(layer, x)
  y, _ = toy.run(layer, x, weights, state)
  # Single tokens, so that every edge but the last lies between two calls.
  decoded = decode(make(mode='predict'), x, weights, [3, *[1] * (n - 6), 3])
  np.testing.assert_allclose(decoded, y, 1e-5, 1e-5)
  # Calls that begin below an edge and end above it.
  lengths = [2, 5, n - 7]
  decoded = decode(make(mode='predict'), x, weights, lengths)
  np.testing.assert_allclose(decoded, y, 1e-5, 1e-5)


@pytest.mark.parametrize('strides', [(1, 2), (2, 1), (3, 1)])
def test_a_cache_of_another_resolution(strides, monkeypatch):
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
  # What one call brings must be whole rows of both.
  n_calls = min(q_rows, k_rows)
  parts = [np.split(a, n_calls, axis=1) for a in (x, y)]
  _, state = toy.make(layer, (parts[0][0], parts[1][0]))
  outputs = []
  step = jax.jit(layer.pure_fn)
  for part in zip(*parts, strict=True):
    out, state = step(part, weights, state, toy.KEY)
    outputs.append(out)
  decoded = np.concatenate(outputs, axis=1)
  np.testing.assert_allclose(decoded, expected, 1e-5, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('model', [TransformerLM, HourglassLM])
def test_models_whose_caches_are_partly_read(model, monkeypatch):
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


def test_a_cache_as_large_as_real_ones():
  x = toy.normal(1, CAPACITY, D)
  layer = hl.SelfAttention(D, H, mode='eval')
  weights, state = toy.make(layer, x)
  y, _ = toy.run(layer, x, weights, state)
  # The edges 75, 150, 300 and 600 are passed by single tokens or ended at.
  lengths = [74, 1, 1, 74, 1, 74, 74, 1, 1, *[74] * 4, 1, 1, 1]
  decoded = decode(
    hl.SelfAttention(D, H, mode='predict', max_len=CAPACITY),
    x,
    weights,
    lengths,
  )
  np.testing.assert_allclose(decoded, y, 1e-5, 1e-5)


def test_a_token_reads_a_cache_as_far_as_it_is_filled():
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
  # Nothing but the branches multiplies with the cache.
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


@pytest.mark.parametrize(
  'factory, arguments, message',
  [
    (hl.MultiplicativeDense, dict(n_modules=5), 'n_modules = 5 must divide 16'),
    (hl.MultiplicativeDense, dict(n_modules=0), 'n_modules = 0 must divide 16'),
    (hl.ModularConv, dict(n_modules=5), 'n_modules = 5 must divide 16'),
    (hl.ModularConv, dict(kernel_size=2), 'kernel_size = 2 must be odd'),
    (hl.ModularConv, dict(kernel_size=-1), 'kernel_size = -1 must be odd'),
    (hl.ModularConv, dict(length_kernel_size=0), 'length_kernel_size = 0 must'),
    (hl.SparseQKV, dict(n_modules=5), 'n_modules = 5 must divide 16'),
    (hl.SparseQKV, dict(length_kernel_size=0), 'length_kernel_size = 0 must'),
  ],
)
def test_bad_arguments(factory, arguments, message):
  with pytest.raises(ValueError, match=rf'^{factory.__name__}\.{message}'):
    factory(D, **arguments)


@pytest.mark.parametrize(
  'factory', [hl.SparseAttention, hl.SparseCrossAttention]
)
@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(n_modules=5), r'n_modules = 5 must divide 16'),
    (dict(length_kernel_size=0), r'length_kernel_size = 0 must be positive'),
    (dict(n_heads=3), r'n_heads = 3 must divide d_model = 16'),
  ],
)
def test_bad_arguments_of_attention(factory, arguments, message):
  with pytest.raises(ValueError, match=message):
    factory(D, **{'n_heads': H, **arguments})


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
  # Or they would be added twice.
  assert not scheme.rotate(1, 'eval') and not scheme.shared


@pytest.mark.parametrize('mode', ['train', 'eval', 'predict'])
def test_a_sequence_longer_than_its_positions(mode):
  x = toy.normal(1, 5, 2)
  (layer,) = hl.LearnedPositions(4).embed(mode)
  weights, state = toy.make(layer, x[:, :1])
  message = r'5 tokens exceeds LearnedPositions\.n_positions = 4'
  with pytest.raises(base.LayerError, match=message):
    toy.run(layer, x, weights, state)


def test_learned_positions_need_a_position():
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
def test_learned_positions_are_refused_where_keys_are_carried(mode):
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


@pytest.mark.parametrize('kernel_size, length_kernel_size', [(3, 3), (1, 2)])
def test_gradients_of_the_convolution(kernel_size, length_kernel_size):
  x = toy.normal(2, 6, 4, 3)
  kernel = toy.normal(length_kernel_size, kernel_size, 3, 5, seed=1)

  def gradients(convolve):
    return jax.jit(
      jax.grad(lambda *args: jnp.sum(jnp.sin(convolve(*args))), (0, 1))
    )(x, kernel)

  toy.close(
    gradients(sparse_qkv._convolve),
    gradients(sparse_qkv._convolve.__wrapped__),
  )
