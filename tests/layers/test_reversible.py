"""Reversible stacks: gradients, memory, and replay of discrete choices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import base, tl
from trax_hier.layers import reversible

D = 8
P = functools.partial
FF = P(hl.SparseFF, 32, 4)


def sublayers(mode='train', dropout=0.2, feed_forward=FF):
  return [
    tl.Serial(
      hl.LayerNorm(),
      hl.SelfAttention(D, 2, dropout=dropout, mode=mode),
      tl.Dropout(dropout, mode=mode),
    ),
    tl.Serial(
      hl.LayerNorm(), feed_forward(mode=mode), tl.Dropout(dropout, mode=mode)
    ),
  ]


def inputs(length=5, batch=2, d=D):
  return toy.normal(batch, length, d), toy.normal(batch, length, d, seed=1)


def loss(layer, state, rng):
  def value(weights, x):
    y, _ = layer.pure_fn(x, weights, state, rng)
    return sum(jnp.sum(jnp.sin(z) * (i + 1)) for i, z in enumerate(y[:2]))

  return value


def gradients(layer, weights, x, state, rng=toy.KEY):
  return jax.jit(jax.grad(loss(layer, state, rng), argnums=(0, 1)))(weights, x)


def use_autodiff(monkeypatch):
  """Removes the custom backward pass."""
  monkeypatch.setattr(reversible, '_run', reversible._run.fun)


def test_gradients_equal_autodiff(monkeypatch):
  layer, x = hl.ReversibleRepeat(sublayers, 3), inputs()
  weights, state = toy.make(layer, x)
  y, _ = toy.run(layer, x, weights, state)
  ours = gradients(layer, weights, x, state)
  use_autodiff(monkeypatch)
  expected, _ = toy.run(layer, x, weights, state)
  toy.close(y, expected)
  toy.close(ours, gradients(layer, weights, x, state), 2e-5)
  assert all(np.any(g) for g in jax.tree.leaves(ours[1]))


def test_gradients_of_alternating_blocks_equal_autodiff(monkeypatch):
  kinds = sublayers, P(sublayers, feed_forward=P(hl.FeedForward, D, 12))
  layer, x = hl.ReversibleRepeat(kinds, 4), inputs()
  weights, state = toy.make(layer, x)
  ours = gradients(layer, weights, x, state)
  use_autodiff(monkeypatch)
  toy.close(ours, gradients(layer, weights, x, state), 2e-5)
  with pytest.raises(ValueError, match='has 2 parts'):
    hl.ReversibleRepeat(kinds, 3)


def test_a_sublayer_is_added_to_the_stream_that_it_does_not_read():
  layer = hl.ReversibleRepeat(lambda: [hl.Dense(D), tl.Relu()], 2)
  x1, x2 = inputs()
  weights, state = toy.make(layer, (x1, x2))
  (y1, y2), _ = toy.run(layer, (x1, x2), weights, state)
  kernels, biases = (np.asarray(w) for w in jax.tree.leaves(weights))
  for kernel, bias in zip(kernels, biases, strict=True):
    x1, x2 = x2, x1 + x2 @ kernel + bias
    x1, x2 = x2, x1 + np.maximum(x2, 0)
  toy.close((y1, y2), (x1, x2))


def test_evaluation_is_training_without_noise():
  noiseless = P(FF, temperature=0.0, quant_prob=1.0)
  layers = {
    mode: hl.ReversibleRepeat(P(sublayers, mode, 0.0, noiseless), 2, mode)
    for mode in ('train', 'eval')
  }
  x = inputs()
  weights, state = toy.make(layers['train'], x)
  outputs = [toy.run(layer, x, weights, state)[0] for layer in layers.values()]
  toy.close(*outputs)


def test_decoding_is_evaluation():
  def stack(mode):
    return hl.ReversibleRepeat(P(sublayers, mode), 2, mode)

  x = inputs()
  weights, state = toy.make(stack('eval'), x)
  y, _ = toy.run(stack('eval'), x, weights, state)
  _, state = toy.make(stack('predict'), tuple(z[:, :1] for z in x))
  step = jax.jit(stack('predict').pure_fn)
  decoded, start = [], 0
  for n in (2, 1, 1, 1):
    chunk = tuple(z[:, start : start + n] for z in x)
    z, state = step(chunk, weights, state, toy.KEY)
    decoded.append(z)
    start += n
  joined = [np.concatenate(z, axis=1) for z in zip(*decoded, strict=True)]
  toy.close(joined, list(y))


class Masked(base.Layer):
  """x, context, mask -> tanh((x + sum of context rows in mask) W)."""

  def __init__(self):
    super().__init__(n_in=3, n_out=1)

  def init_weights_and_state(self, input_signature):
    self.weights = jax.random.normal(self.rng, (D, D)) / D

  def forward(self, inputs):
    x, context, mask = inputs
    rows = jnp.sum(jnp.where(mask[..., None], context, 0), 1, keepdims=True)
    return jnp.tanh((x + rows) @ self.weights)


def test_context_gets_gradients_and_a_mask_does_not(monkeypatch):
  layer = hl.ReversibleRepeat(lambda: [Masked(), hl.Dense(D)], 3)
  mask = np.array([[True, True, False], [True, False, False]])
  x = (*inputs(), toy.normal(2, 3, D, seed=2), mask)
  weights, state = toy.make(layer, x)

  def context_gradient():
    value = loss(layer, state, toy.KEY)
    return jax.jit(
      jax.grad(lambda w, context: value(w, (*x[:2], context, mask)), (0, 1))
    )(weights, x[2])

  ours = context_gradient()
  use_autodiff(monkeypatch)
  toy.close(ours, context_gradient())
  assert np.all(np.any(ours[1], axis=-1) == mask)


def growth(layers, depths, x):
  """Temporary bytes of the gradient at each depth."""
  sizes = []
  for n in depths:
    layer = layers(n)
    weights, state = toy.shapes(layer, x)
    state = toy.zeros_like(state)
    compiled = (
      jax.jit(jax.grad(loss(layer, state, toy.KEY), argnums=(0, 1)))
      .lower(weights, x)
      .compile()
    )
    sizes.append(compiled.memory_analysis().temp_size_in_bytes)
  return sizes


def test_memory_is_flat_in_depth_with_dropout_and_noise(monkeypatch):
  x = inputs(length=256)
  # Dense attention's scores do not depend on depth either.
  stack = P(hl.ReversibleRepeat, sublayers)
  shallow, deep = growth(stack, (2, 16), x)
  # Each block keeps its choices: a byte for each of 8 units.
  assert deep <= 1.05 * shallow + 14 * 2 * 256 * 8
  use_autodiff(monkeypatch)
  shallow, deep = growth(stack, (2, 16), x)
  assert deep > 3 * shallow


def near_ties():
  """A stack whose choices are so close to ties that rounding flips them."""

  def make():
    return [
      hl.SparseFF(32, 4, temperature=0.0, quant_prob=1.0),
      tl.Fn('Scale', lambda x: 0.3 * x),
    ]

  layer, x = hl.ReversibleRepeat(make, 4), inputs(length=24)
  weights, state = toy.make(layer, x)
  (((c1, c2, bias, *rest), scale),) = weights
  # The weights of each pair of units differ by one ulp, and biases are 0.
  even = np.repeat(np.asarray(c2)[..., ::2], 2, axis=-1)
  c2 = np.where(np.arange(32) % 2, np.nextafter(even, np.inf), even)
  return layer, (((c1, c2, 0 * bias, *rest), scale),), x, state


def relative_gap(a, b):
  """The norm of the difference, relative to the norm of the second tree."""
  a, b = (
    np.concatenate([np.ravel(x).astype(np.float32) for x in jax.tree.leaves(t)])
    for t in (a, b)
  )
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_the_backward_pass_replays_the_choices(monkeypatch):
  layer, weights, x, state = near_ties()
  found = {}
  # Two compiled forward passes would round differently too.
  with jax.disable_jit():
    found['ours'] = gradients(layer, weights, x, state)
    with monkeypatch.context() as patch:
      patch.setattr(reversible, 'record_choices', lambda block, state: state)
      found['no replay'] = gradients(layer, weights, x, state)
    use_autodiff(monkeypatch)
    exact = gradients(layer, weights, x, state)
  gaps = {name: relative_gap(g[1], exact[1]) for name, g in found.items()}
  assert gaps['ours'] < 1e-5 < 1e-2 < gaps['no replay']


def test_bfloat16(monkeypatch):
  layer, x = hl.ReversibleRepeat(P(sublayers, dropout=0.0), 3), inputs()
  weights, state = toy.make(layer, x)
  halves = jax.tree.map(lambda w: w.astype(jnp.bfloat16), weights)
  ours = gradients(layer, halves, x, state)
  assert {g.dtype.name for g in jax.tree.leaves(ours[0])} == {'bfloat16'}
  use_autodiff(monkeypatch)
  assert relative_gap(ours, gradients(layer, halves, x, state)) < 0.02


def test_invalid_arguments():
  shared = hl.Dense(D)
  with pytest.raises(
    ValueError, match=r'cannot share layers, .* the same Dense'
  ):
    hl.ReversibleRepeat(lambda: [tl.Serial(shared)], 2)
  with pytest.raises(ValueError, match='at least one layer'):
    hl.ReversibleRepeat(list, 2)
  with pytest.raises(ValueError, match=r'ReversibleRepeat\.n = -1'):
    hl.ReversibleRepeat(sublayers, -1)
  with pytest.raises(ValueError, match='mode'):
    hl.ReversibleRepeat(sublayers, 1, 'test')


def test_lsh_attention_recomputes_from_its_initial_state(monkeypatch):
  # LSH attention samples from a key in its state and advances it.
  def make():
    return [
      tl.Serial(hl.LayerNorm(), hl.LSHAttention(D, 2, chunk_len=4)),
      tl.Serial(hl.LayerNorm(), FF()),
    ]

  layer, x = hl.ReversibleRepeat(make, 2), inputs(length=16)
  weights, state = toy.make(layer, x)
  y, after = toy.run(layer, x, weights, state)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  ours = gradients(layer, weights, x, state)
  use_autodiff(monkeypatch)
  expected, kept = toy.run(layer, x, weights, state)
  toy.close((y, after), (expected, kept))
  toy.close(ours, gradients(layer, weights, x, state), 2e-5)
  changed = [
    np.any(a != b)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True)
  ]
  assert any(changed)
