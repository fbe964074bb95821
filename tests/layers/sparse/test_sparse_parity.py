"""Parity of the sparse layers with Trax 1.4.1, given the same weights."""

import contextlib
import functools
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from toy_programs import decode

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.layers.base.choices import Choices

# Imported after trax_hier.compat, which patches trax for current JAX.
from trax import fastmath  # isort: skip

B, L, D, H = 2, 10, 16, 2
F, N, R = 32, 8, 5  # d_ff, units in a block, d_lowrank
S, D_OUT = 4, 24  # n_modules unlike n_heads; a width unlike the input's.
X = toy.normal(B, L, D)
FEW = toy.normal(B, 1, D)  # Few enough tokens that `SparseFF` gathers rows.


def in_our_layout(weights):
  """Weights or gradients of Trax's SparseFF in our shapes."""
  m1, m2, mb, w1, w2, b2 = jax.tree.leaves(weights)
  assert w2.shape == (N, F // N, D)
  # Order the units block by block, as in the other arrays.
  w2 = w2.swapaxes(0, 1)
  return (
    m1,
    m2.reshape(R, F),
    mb.reshape(F),
    w1.reshape(D, F),
    w2.reshape(F, D),
    b2,
  )


def in_our_structure(layer, x, weights):
  """Weights of Trax's layer in the tree of our layer, for inputs like x.

  Both layers have the same arrays, ordered by use.
  """
  shapes, structure = jax.tree.flatten(toy.shapes(layer, x)[0])
  arrays = jax.tree.leaves(weights)
  assert [a.shape for a in arrays] == [s.shape for s in shapes]
  return structure.unflatten(arrays)


def reference(layer, x):
  """Random weights for Trax's layer, and its output for x."""
  weights, state = toy.make(layer, x)
  return weights, toy.run(layer, x, weights, state)[0]


def evaluate(layer, x, weights):
  """Output of one of our layers, which must have no state, for x."""
  _, state = toy.shapes(layer, x)
  assert not jax.tree.leaves(state)
  return toy.run(layer, x, weights, state)[0]


def with_gradients(layer, x, weights):
  """A layer's output, and gradients of its weighted sum by x and weights."""
  _, state = toy.shapes(layer, x)

  def loss(x, weights):
    y, _ = layer.pure_fn(x, weights, state, toy.KEY)
    return (y * toy.normal(*y.shape, seed=3)).sum(), y

  compute = jax.value_and_grad(loss, (0, 1), has_aux=True)
  (_, y), grads = jax.jit(compute)(x, weights)
  return y, *grads


# SparseFF.

MULTIPLY = pytest.mark.parametrize('multiply', [False, True])


def sparse_ff_pair(mode, multiply, **options):
  """Trax's `SparseFF` and ours."""
  options.update(mode=mode, multiply_by_controller_output=multiply)
  return tl.SparseFF(F, N, R, **options), hl.SparseFF(F, N, R, **options)


@MULTIPLY
def test_sparse_ff_evaluates_as_in_trax(multiply):
  official, layer = sparse_ff_pair('eval', multiply)
  weights, expected = reference(official, X)
  toy.close(evaluate(layer, X, in_our_layout(weights)), expected)


@MULTIPLY
@pytest.mark.parametrize('x', [FEW, X], ids=['few', 'many'])
def test_sparse_ff_decodes_as_in_trax(x, multiply):
  official, layer = sparse_ff_pair('predict', multiply)
  weights, expected = reference(official, x)
  weights = in_our_layout(weights)
  toy.close(evaluate(layer, x, weights), expected)
  weights = hl.decoding_weights(layer, weights)
  toy.close(evaluate(layer, x, weights), expected)


@contextlib.contextmanager
def fixed_uniforms(noise, select):
  """Replaces the uniform samples of Trax's SparseFF and ours, in [0, 1).

  Yields the shapes and bounds that they request.
  """
  requests = set()

  def uniform(rng, shape=(), dtype=jnp.float32, minval=0.0, maxval=1.0):
    requests.add((shape, minval, maxval))
    numbers = noise if shape else select
    return numbers.reshape(shape) * (maxval - minval) + minval

  with (
    mock.patch.object(fastmath.random, 'uniform', uniform),
    mock.patch.object(jax.random, 'uniform', uniform),
  ):
    yield requests


def training_step(layer, state):
  """A training step with given uniform samples, and its sample requests."""
  requests = set()

  def loss(x, weights, noise, select):
    with fixed_uniforms(noise, select) as new:
      y, new_state = layer.pure_fn(x, weights, state, toy.KEY)
    requests.update(new)
    return (y * toy.normal(*y.shape, seed=3)).sum(), (y, new_state)

  return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True)), requests


@MULTIPLY
@pytest.mark.parametrize('temperature', [0.1, 1.0])
def test_sparse_ff_trains_as_in_trax(temperature, multiply):
  official, layer = sparse_ff_pair(
    'train', multiply, temperature=temperature, quant_prob=0.3
  )
  weights, state = toy.make(official, X)
  their_step, their_requests = training_step(official, state)
  our_step, our_requests = training_step(layer, Choices(None))
  noise = np.random.default_rng(4).uniform(size=(B * L * F,))
  # Below quant_prob a step uses the choices, above it the probabilities.
  for select in 0.29, 0.31:
    numbers = np.float32(noise), np.float32(select)
    (_, (expected, kept)), their_grads = their_step(X, weights, *numbers)
    (_, (y, choices)), our_grads = our_step(X, in_our_layout(weights), *numbers)
    toy.close(y, expected)
    toy.close(our_grads[0], their_grads[0])
    toy.close(our_grads[1], in_our_layout(their_grads[1]))
    np.testing.assert_array_equal(choices.indices, recorded_choices(kept))
  assert our_requests == their_requests


def recorded_choices(state):
  """The choices that Trax keeps for a reversible backward pass."""
  (units,) = (x for x in jax.tree.leaves(state) if x.dtype == jnp.int32)
  return units


# Multiplicative layers and convolutions.


@pytest.mark.parametrize('use_bias', [False, True])
@pytest.mark.parametrize('length', [1, L], ids=['few', 'many'])
def test_multiplicative_dense_is_factored_dense(length, use_bias):
  x = X[:, :length]
  official = tl.FactoredDense(S, D, D_OUT, use_bias=use_bias)
  layer = hl.MultiplicativeDense(D_OUT, S, use_bias=use_bias)
  weights, _ = toy.make(official, x)
  expected, their_dx, their_dw = with_gradients(official, x, weights)
  y, dx, dw = with_gradients(layer, x, in_our_structure(layer, x, weights))
  toy.close(y, expected)
  toy.close(dx, their_dx)
  toy.close(dw, in_our_structure(layer, x, their_dw))


@pytest.mark.parametrize('kernel', [1, 3])
@pytest.mark.parametrize('length_kernel', [1, 3])
def test_modular_conv_is_locally_conv_dense(kernel, length_kernel):
  def official(mode):
    return tl.LocallyConvDense(S, D_OUT // S, mode, kernel, length_kernel)

  def ours(mode):
    return hl.ModularConv(D_OUT, S, kernel, length_kernel, mode)

  x = X[:, :4]
  weights, expected = reference(official('eval'), x)
  our_weights = in_our_structure(ours('eval'), x, weights)
  toy.close(evaluate(ours('eval'), x, our_weights), expected)
  tokens = [1] * x.shape[1]
  expected = decode(official('predict'), x, weights, tokens)
  toy.close(decode(ours('predict'), x, our_weights, tokens), expected)


# Attention.

OUTPUTS = {
  'none': hl.NoProjection,
  'mult': hl.MultiplicativeDense,
  'conv': hl.ModularConv,
  'multconv': hl.SparseDense,
}
# Each option occurs at least once; a case compiles five programs.
QUICK = [
  (False, 'none', 'none'),
  (False, 'conv', 'fixed'),
  (True, 'mult', 'none'),
  (True, 'multconv', 'fixed'),
]
VARIANTS = [
  pytest.param(*variant, marks=() if variant in QUICK else pytest.mark.slow)
  for variant in itertools.product((False, True), OUTPUTS, ('none', 'fixed'))
]


@pytest.mark.parametrize('share_qk, output, v_concat', VARIANTS)
def test_sparse_attention_as_in_trax(share_qk, output, v_concat):
  official = tl.MultiplicativeConvCausalAttention(
    D,
    H,
    S,
    share_qk=share_qk,
    output_layer_type=output,
    v_concat_type=v_concat,
    mode='eval',
  )
  ours = functools.partial(
    hl.SparseAttention,
    D,
    H,
    S,
    share_qk=share_qk,
    v_concat=v_concat == 'fixed',
    output=OUTPUTS[output],
    max_len=L,
  )
  weights, expected = reference(official, X)
  layer = ours(mode='eval')
  weights = in_our_structure(layer, X, weights)
  toy.close(evaluate(layer, X, weights), expected)
  y = decode(ours(mode='predict'), X, weights, [4, 1, 1, 3, 1])
  toy.close(y, expected)


def test_sparse_cross_attention_as_in_trax():
  context = toy.normal(B, 7, D, seed=5)
  mask = np.arange(7) < np.array([[5], [3]])
  official = tl.AttentionQKV(
    D, H, mode='eval', q_sparsity=S, result_sparsity='noop'
  )
  inputs = X, context, context, mask[:, None, None]
  weights, (expected, _) = reference(official, inputs)
  layer = hl.SparseCrossAttention(D, H, S, mode='eval')
  inputs = X, context, mask
  weights = in_our_structure(layer, inputs, weights)
  toy.close(evaluate(layer, inputs, weights), expected)
