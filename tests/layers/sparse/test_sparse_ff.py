"""SparseFF against plain numpy: training, evaluation and decoding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jaxprs import inner_jaxprs

from trax_hier import layers as hl
from trax_hier.compat import ShapeDtype, tl
from trax_hier.layers.base.choices import Choices, record_choices
from trax_hier.layers.base.dense import Rows

D = 8
C1, C2, BIAS, W1, W2 = range(5)


def make(x, mode='eval', **arguments):
  """A layer with random weights, all of one scale."""
  layer = hl.SparseFF(mode=mode, **arguments)
  return layer, toy.make(layer, x, scale=0.5)[0]


def probabilities(x, weights, n):
  """The controller's probabilities, (t, B, N)."""
  c1, c2, bias, *_ = weights
  logits = (x @ c1 @ c2 + bias).reshape(len(x), -1, n)
  y = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return y / y.sum(axis=-1, keepdims=True)


def one_hot(units, n):
  return np.eye(n)[np.asarray(units)].reshape(len(units), -1)


def masked(x, weights, mask):
  """A dense feed-forward layer whose hidden units are masked."""
  *_, w1, w2, b2 = weights
  return (np.maximum(x @ w1, 0) * mask) @ w2 + b2


def sparse(x, weights, n, multiply=False):
  """The expected output of evaluation and decoding."""
  x = x.reshape(-1, x.shape[-1]).astype(np.float64)
  weights = [np.asarray(w, np.float64) for w in weights]
  p = probabilities(x, weights, n)
  mask = one_hot(p.argmax(axis=-1), n)
  return masked(x, weights, mask * p.reshape(mask.shape) if multiply else mask)


def check(y, x, weights, n, multiply=False):
  expected = sparse(x, weights, n, multiply).reshape(x.shape)
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


@pytest.mark.parametrize('multiply', [False, True])
def test_evaluation_is_a_masked_feed_forward(multiply):
  x = toy.normal(2, 5, D)
  # These values would change the output if evaluation used them.
  layer, weights = make(
    x,
    d_ff=24,
    n_elements_in_block=4,
    multiply_by_controller_output=multiply,
    temperature=100.0,
    quant_prob=0.0,
  )
  y, state = toy.run(layer, x, weights, ())
  check(y, x, weights, 4, multiply)
  assert state == ()
  again, _ = toy.run(layer, x, weights, (), jax.random.PRNGKey(1))
  np.testing.assert_array_equal(y, again)


def test_blocks_of_one_are_a_dense_feed_forward():
  x = toy.normal(2, 3, D)
  for mode in ('train', 'eval', 'predict'):
    layer, weights = make(x, mode, d_ff=12, n_elements_in_block=1)
    y, _ = toy.run(layer, x, weights, ())
    *_, w1, w2, b2 = map(np.asarray, weights)
    expected = np.maximum(x @ w1, 0) @ w2 + b2
    np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


# In the last two cases, one token fewer would gather rows.
@pytest.mark.parametrize(
  'd_ff, n, n_tokens', [(24, 4, 1), (24, 4, 2), (24, 4, 3), (128, 64, 33)]
)
@pytest.mark.parametrize('multiply', [False, True])
def test_decoding_is_evaluation(d_ff, n, n_tokens, multiply):
  x = toy.normal(n_tokens, 1, D)
  layer, weights = make(
    x,
    'predict',
    d_ff=d_ff,
    n_elements_in_block=n,
    multiply_by_controller_output=multiply,
  )
  y, _ = toy.run(layer, x, weights, ())
  check(y, x, weights, n, multiply)
  rows = hl.decoding_weights(layer, weights)
  assert isinstance(rows[W1], Rows) and isinstance(rows[W2], Rows)
  y, _ = toy.run(layer, x, rows, ())
  check(y, x, weights, n, multiply)


def test_blocks_of_more_than_256_units():
  n, x = 300, toy.normal(3, D)
  layer, weights = make(x, 'predict', d_ff=900, n_elements_in_block=n)
  # The last unit of a block wins; its index would overflow a byte to 43.
  weights = list(weights)
  weights[BIAS] = weights[BIAS].at[n - 1 :: n].add(100)
  y, _ = toy.run(layer, x, tuple(weights), ())
  check(y, x, weights, n)
  train = hl.SparseFF(900, n, quant_prob=1.0, temperature=0.0)
  y, state = toy.run(train, x, tuple(weights), Choices(None))
  check(y, x, weights, n)
  assert state.indices.dtype == jnp.uint16 and (state.indices == n - 1).all()


def rounded_rows(matrix):
  """Rounds each row to the nearest of 255 levels of its own range."""
  step = np.abs(matrix).max(axis=1, keepdims=True) / 127
  return np.round(matrix / step) * step


# Few enough tokens to gather rows, and too many.
@pytest.mark.parametrize('n_tokens', [2, 9])
def test_decoding_in_8_bits(n_tokens):
  n, x = 8, toy.normal(n_tokens, D)
  layer, weights = make(x, 'predict', d_ff=48, n_elements_in_block=n)
  weights = list(weights)
  # Ranges too different for one scale per matrix or per column.
  sizes = np.logspace(-2, 1, 48, dtype=np.float32)
  weights[W1], weights[W2] = (
    weights[W1] * sizes,
    weights[W2] * sizes[::-1, None],
  )
  small = hl.decoding_weights(layer, tuple(weights), 'int8')
  assert [x.dtype.name for x in jax.tree.leaves(small)] == [
    *['float32'] * 3,
    *['int8', 'float32'] * 2,
    'float32',
  ]
  y, _ = toy.run(layer, x, small, ())
  weights = [np.asarray(w, np.float64) for w in weights]
  weights[W1] = rounded_rows(weights[W1].T).T
  weights[W2] = rounded_rows(weights[W2])
  check(y, x, weights, n)


@pytest.mark.parametrize('n_tokens', [2, 9])
def test_decoding_in_bfloat16(n_tokens):
  n, x = 8, np.round(2 * toy.normal(n_tokens, D))
  layer, weights = make(x, 'predict', d_ff=48, n_elements_in_block=n)
  # Small whole numbers keep the controller exact: a choice flipped by rounding
  # would not be an error of the layer.
  c1, c2, *others = weights
  weights = (jnp.round(2 * c1), jnp.round(2 * c2), *others)
  x = x.astype(jnp.bfloat16)
  half = hl.decoding_weights(layer, weights, 'bfloat16')
  assert all(w.dtype == jnp.bfloat16 for w in jax.tree.leaves(half))
  y, _ = toy.run(layer, x, half, ())
  assert y.dtype == jnp.bfloat16
  weights = [w.astype(jnp.bfloat16) for w in weights]
  expected = sparse(np.asarray(x, np.float64), weights, n)
  gap = np.linalg.norm(np.asarray(y, np.float64) - expected)
  # A few roundings of 2 ** -9 each.
  assert gap < 0.01 * np.linalg.norm(expected)


def training_step(layer, x, weights, g, state=()):
  """Output, and gradients of sum(g * output) by weights and input."""

  @jax.jit
  def step(x, weights):
    def loss(weights, x):
      y, _ = layer.pure_fn(x, weights, state, toy.KEY)
      return jnp.sum(y * g), y

    (_, y), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(
      weights, x
    )
    return y, gradients

  return step(x, weights)


@pytest.mark.parametrize('multiply', [False, True])
@pytest.mark.parametrize('hard', [False, True])
def test_training_has_the_gradient_of_the_softmax(hard, multiply):
  n, f, t = 8, 64, 12
  x, g = toy.normal(t, D), toy.normal(t, D, seed=1)
  layer, weights = make(
    x,
    'train',
    d_ff=f,
    n_elements_in_block=n,
    d_lowrank=3,
    temperature=0.0,
    quant_prob=float(hard),
    multiply_by_controller_output=multiply,
  )
  y, gradients = training_step(layer, x, weights, g)

  x, g, *weights = (np.asarray(a, np.float64) for a in (x, g, *weights))
  c1, c2, _, w1, w2, _ = weights
  p = probabilities(x, weights, n)
  soft = p.reshape(t, f)
  chosen = one_hot(p.argmax(axis=-1), n)
  mask = chosen if hard else soft
  # The gradient treats the probability that multiplies a choice as a constant.
  factor = soft if hard and multiply else np.ones((t, f))
  np.testing.assert_allclose(y, masked(x, weights, mask * factor), 1e-5, 1e-5)

  # The derivatives of y = (relu((x W1) * mask) * factor) W2 + b2, by hand.
  inner = x @ w1
  by_product = g @ w2.T * factor * (inner * mask > 0)
  by_mask = (by_product * inner).reshape(p.shape)
  by_logits = p * (by_mask - (by_mask * p).sum(axis=-1, keepdims=True))
  by_logits = by_logits.reshape(t, f)
  by_inner = by_product * mask
  hidden = np.maximum(inner * mask, 0) * factor
  expected = (
    x.T @ by_logits @ c2.T,
    (x @ c1).T @ by_logits,
    by_logits.sum(axis=0),
    x.T @ by_inner,
    hidden.T @ g,
    g.sum(axis=0),
  )
  by_x = by_inner @ w1.T + by_logits @ c2.T @ c1.T
  toy.close(gradients, (expected, by_x), 1e-4)

  by_weights, _ = gradients
  assert all(np.abs(w).max() > 1e-3 for w in by_weights[:W1])
  idle = ~chosen.astype(bool).any(axis=0)
  assert idle.any()
  moved = np.asarray(by_weights[W1] != 0).any(axis=0)
  assert not moved[idle].any() if hard else moved.all()


def test_quant_prob_is_the_frequency_of_hard_steps():
  x = toy.normal(3, 4)
  layer, weights = make(
    x, 'train', d_ff=16, n_elements_in_block=4, quant_prob=0.3, temperature=0.0
  )
  keys = jax.random.split(toy.KEY, 2000)
  y = jax.jit(jax.vmap(lambda key: layer.pure_fn(x, weights, (), key)[0]))(keys)
  weights = [np.asarray(w) for w in weights]
  p = probabilities(x, weights, 4)
  hard = masked(x, weights, one_hot(p.argmax(axis=-1), 4))
  soft = masked(x, weights, p.reshape(3, -1))
  assert np.abs(hard - soft).max(axis=-1).min() > 0.01
  is_hard, is_soft = (
    np.isclose(y, value, 1e-4, 1e-4).all(axis=-1) for value in (hard, soft)
  )
  assert (is_hard != is_soft).all()
  assert (is_hard == is_hard[:, :1]).all()  # Sampled once per batch.
  # Three standard deviations of 2000 samples.
  assert abs(is_hard[:, 0].mean() - 0.3) < 0.031


@pytest.mark.parametrize('temperature', [1.0, 0.5])
def test_noise_samples_units_by_their_probabilities(temperature):
  n, t = 4, 4096
  x = np.repeat(toy.normal(1, D), t, axis=0)
  layer, weights = make(
    x,
    'train',
    d_ff=12,
    n_elements_in_block=n,
    temperature=temperature,
    quant_prob=1.0,
  )
  y, state = toy.run(layer, x, weights, Choices(None))
  assert state.indices.shape == (t, 3)
  assert state.indices.dtype == jnp.uint8
  weights = [np.asarray(w) for w in weights]
  expected = probabilities(x[:1], weights, n)[0] ** (1 / temperature)
  expected /= expected.sum(axis=-1, keepdims=True)
  sampled = one_hot(state.indices, n)
  # At least four standard deviations of 4096 samples.
  frequencies = sampled.mean(axis=0).reshape(3, n)
  np.testing.assert_allclose(frequencies, expected, 0, 0.03)
  np.testing.assert_allclose(y, masked(x, weights, sampled), 1e-4, 1e-4)


def near_ties(weights, n):
  """Weights of a controller with two near-equal best units in each block."""
  c1, c2, bias, *others = map(np.array, weights)
  c2[:, 1::n] = c2[:, ::n] + 1e-3 * toy.normal(*c2[:, ::n].shape, seed=5)
  bias = bias.reshape(-1, n)
  bias[:] = -100
  bias[:, :2] = 0
  return tuple(map(jnp.asarray, (c1, c2, bias.ravel(), *others)))


@pytest.mark.parametrize('chunk_size', [None, 6])
@pytest.mark.parametrize('temperature', [0.0, 0.1])
def test_choices_are_recorded_and_replayed(temperature, chunk_size):
  n, x = 4, toy.normal(2, 8, D)
  arguments = dict(d_ff=32, n_elements_in_block=n, chunk_size=chunk_size)
  layer, weights = make(
    x, 'train', temperature=temperature, quant_prob=1.0, **arguments
  )
  weights = near_ties(weights, n)
  step = jax.jit(layer.pure_fn)
  _, first = step(x, weights, Choices(None), toy.KEY)
  assert first.indices.shape == (16, 8) and first.indices.dtype == jnp.uint8

  # Enough to flip choices even without noise.
  x = x + toy.normal(*x.shape, seed=3, scale=0.1)
  key = jax.random.PRNGKey(1)
  _, other = step(x, weights, Choices(None), key)
  assert 0 < (first.indices != other.indices).mean() < 0.7
  y, second = step(x, weights, first, key)
  np.testing.assert_array_equal(second.indices, first.indices)
  expected = masked(
    x.reshape(-1, D), list(map(np.asarray, weights)), one_hot(first.indices, n)
  )
  np.testing.assert_allclose(y, expected.reshape(x.shape), 1e-4, 1e-4)


def choices(state):
  leaves = jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, Choices))
  return [s for s in leaves if isinstance(s, Choices)]


def test_all_layers_of_a_model_record_their_choices():
  def block():
    return hl.DecoderBlock(
      D,
      24,
      n_heads=2,
      feed_forward=functools.partial(hl.SparseFF, n_elements_in_block=4),
    )

  model = tl.Serial(
    tl.Residual(hl.SparseFF(24, 4)),
    hl.Repeat(block, 2, remat=True),
    hl.LayerNorm(),
    hl.FeedForward(D, 8),
  )
  x = toy.normal(2, 3, D)
  weights, state = toy.make(model, x)
  assert not choices(state)
  recording = record_choices(model, state)
  assert choices(recording) == [Choices(None)] * 2

  def run(state, key):
    return jax.jit(model.pure_fn)(x, weights, state, key)

  _, usual = run(state, toy.KEY)
  toy.close(usual, state, 0)
  _, first = run(recording, toy.KEY)
  assert [c.indices.shape for c in choices(first)] == [(6, 6), (2, 6, 6)]
  assert all(c.indices.dtype == jnp.uint8 for c in choices(first))
  _, second = run(first, jax.random.PRNGKey(1))
  toy.close(second, first, 0)
  assert choices(record_choices(model, first)) == [Choices(None)] * 2


@pytest.mark.parametrize('length', [1, 4, 7])
def test_chunks_change_nothing_in_evaluation(length):
  x = toy.normal(2, length, D)
  layer, weights = make(x, d_ff=24, n_elements_in_block=4, chunk_size=4)
  y, _ = toy.run(layer, x, weights, ())
  check(y, x, weights, 4)


def test_chunks_change_nothing_in_training():
  x, g = toy.normal(10, D), toy.normal(10, D, seed=1)
  results = []
  for chunk_size in (None, 4):
    layer, weights = make(
      x,
      'train',
      d_ff=24,
      n_elements_in_block=4,
      chunk_size=chunk_size,
      temperature=0.0,
      quant_prob=1.0,
    )
    results.append(training_step(layer, x, weights, g))
  toy.close(*results, 1e-5)


def test_chunks_differ_in_noise_but_are_all_hard_or_all_soft():
  x = np.repeat(toy.normal(1, D), 32, axis=0)

  def run(**arguments):
    layer, weights = make(
      x, 'train', d_ff=32, n_elements_in_block=4, chunk_size=16, **arguments
    )
    keys = jax.random.split(toy.KEY, 20)
    return jax.jit(
      jax.vmap(lambda key: layer.pure_fn(x, weights, Choices(None), key))
    )(keys)

  _, state = run(temperature=1.0)
  units = state.indices.reshape(20, 2, 16, -1)
  assert (units[:, 0] != units[:, 1]).any(axis=(1, 2)).all()
  y, _ = run(temperature=0.0, quant_prob=0.5)
  np.testing.assert_allclose(y - y[:, :1], 0, atol=1e-6)
  kinds = np.abs(y[:, 0] - y[0, 0]).max(axis=-1) < 1e-6
  assert 0 < kinds.sum() < 20


def temporary_bytes(function, *arguments):
  compiled = jax.jit(function).lower(*arguments).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_chunks_save_memory_in_training():
  x = ShapeDtype((512, 16), np.float32)

  def of_gradient(chunk_size):
    layer = hl.SparseFF(512, 8, d_lowrank=8, chunk_size=chunk_size)
    weights, _ = toy.shapes(layer, x)

    def loss(weights, x):
      return jnp.sum(layer.pure_fn(x, weights, (), toy.KEY)[0])

    return temporary_bytes(jax.grad(loss, (0, 1)), weights, x)

  assert of_gradient(16) < of_gradient(None) / 8


def leaf_equations(jaxpr):
  """The equations of a program that contain no other equations."""
  for equation in jaxpr.eqns:
    inner = list(inner_jaxprs(equation))
    if not inner:
      yield equation
    for sub in inner:
      yield from leaf_equations(sub)


def test_memory_of_a_prompt_is_linear_in_hidden_units():
  d, f, n = 64, 1024, 32
  layer = hl.SparseFF(f, n, mode='predict')
  sizes = {}
  for t in (64, 256, 1024):
    x = ShapeDtype((1, t, d), np.float32)
    weights, _ = toy.shapes(layer, x)
    weights = jax.eval_shape(lambda w: hl.decoding_weights(layer, w), weights)
    arguments = x, weights, (), jax.eval_shape(lambda: toy.KEY)
    sizes[t] = temporary_bytes(layer.pure_fn, *arguments)
    # Gathering rows for each token would take t * d * f / n numbers, twice.
    jaxpr = jax.make_jaxpr(layer.pure_fn)(*arguments).jaxpr
    largest = max(v.aval.size for e in leaf_equations(jaxpr) for v in e.outvars)
    assert largest <= max(t * f, d * f)
  assert sizes[1024] < 3 * 1024 * f * 4
  assert sizes[1024] < 4.2 * sizes[256] < 4.2**2 * sizes[64]


@pytest.mark.parametrize('precision', ['float32', 'int8'])
def test_a_token_reads_only_the_chosen_rows(precision):
  d, f, n = 16, 256, 32
  layer = hl.SparseFF(f, n, mode='predict')
  x = ShapeDtype((1, 1, d), np.float32)
  weights, _ = toy.shapes(layer, x)
  weights = jax.eval_shape(
    lambda w: hl.decoding_weights(layer, w, precision), weights
  )
  jaxpr = jax.make_jaxpr(layer.pure_fn)(
    x, weights, (), jax.eval_shape(lambda: toy.KEY)
  ).jaxpr
  readers = [
    e.primitive.name
    for e in leaf_equations(jaxpr)
    if any(v.aval.size >= d * f for v in e.invars)
  ]
  assert readers == ['gather', 'gather']


@pytest.mark.parametrize(
  'd_ff, n, count',
  [(4096, 64, 8_721_408), (6144, 64, 13_278_208), (4096, 128, 8_557_568)],
)
def test_number_of_parameters(d_ff, n, count):
  x = ShapeDtype((1, 1, 1024), np.float32)
  weights, _ = toy.shapes(hl.SparseFF(d_ff, n), x)
  assert weights[C1].shape == (1024, d_ff // n)
  assert sum(w.size for w in weights) == count
  weights, _ = toy.shapes(hl.SparseFF(d_ff, n, d_lowrank=7), x)
  assert weights[C2].shape == (7, d_ff)


def test_initial_weights():
  x = ShapeDtype((1, 1, 48), np.float32)

  def first(**arguments):
    layer = hl.SparseFF(512, 16, d_lowrank=20, **arguments)
    return jax.jit(lambda: layer.init(x, toy.KEY)[0])()

  weights = first()
  assert len({float(w.ravel()[0]) for w in weights}) == 6
  for w in weights:
    if w.ndim == 2:
      bound = np.sqrt(6 / sum(w.shape))
      assert 0.98 * bound < np.abs(w).max() <= bound
      assert np.std(w) == pytest.approx(bound / 3**0.5, rel=0.1)
    else:
      assert 0.7e-6 < np.std(w) < 1.3e-6
  scaled = list(first(kernel_scaling=True))
  np.testing.assert_allclose(scaled[W2], 4 * weights[W2], 1e-6)
  scaled[W2] = weights[W2]
  toy.close(tuple(scaled), weights, 0)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(n_elements_in_block=5), r'SparseFF\.n_elements_in_block = 5 must'),
    (dict(n_elements_in_block=0), r'SparseFF\.n_elements_in_block = 0 must'),
    (dict(quant_prob=-0.1), r'SparseFF\.quant_prob = -0\.1 must'),
    (dict(quant_prob=1.1), r'SparseFF\.quant_prob = 1\.1 must'),
    (dict(temperature=-1.0), r'SparseFF\.temperature = -1\.0 must not be'),
    (dict(d_lowrank=0), r'SparseFF\.d_lowrank = 0 must be positive'),
    (dict(chunk_size=0), r'SparseFF\.chunk_size = 0 must be positive'),
    (dict(chunk_size=-4), r'SparseFF\.chunk_size = -4 must be positive'),
    (dict(mode='test'), r"SparseFF\.mode = 'test' must be 'train', 'eval'"),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    hl.SparseFF(**{'d_ff': 32, **arguments})
