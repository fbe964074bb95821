"""Block-Recurrent Transformer: parity with the paper's equations, and memory.

The reference in `block_recurrent_reference.py` states the paper's section 3 on
plain arrays; it was written from the equations, not from the layers.
"""

import functools

import block_recurrent_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.models import BlockRecurrentLM
from trax_hier.trax_compat import ShapeDtype

P = functools.partial
WINDOW, N_STATES, LENGTH, VOCAB = 16, 8, 64, 50
GATES = {'fixed': hl.FixedGate, 'lstm': hl.LSTMGate}
VARIANTS = {
  f'{gate} {update}': dict(gate=gate, update=update)
  for gate in GATES
  for update in ('skip', 'dual', 'single')
}
VARIANTS['one block read'] = dict(gate='fixed', update='skip', n_read_blocks=1)


def lm(gate='fixed', update='skip', n_read_blocks=2, **kwargs):
  """The toy model of the published code's properties, as a factory."""
  cell = P(
    hl.BlockRecurrentCell,
    window=WINDOW,
    n_states=N_STATES,
    gate=GATES[gate],
    configuration=update,
    n_read_blocks=n_read_blocks,
  )
  sizes = dict(
    vocab_size=VOCAB,
    d_model=32,
    d_ff=64,
    n_layers=3,
    recurrent_layers=(2,),
    n_heads=2,
    dropout=0.0,
    attention=P(hl.SlidingAttention, window=WINDOW),
    recurrent_attention=cell,
  )
  return P(BlockRecurrentLM, **{**sizes, **kwargs})


def slide(**kwargs):
  return lm(recurrent_layers=(), **kwargs)


class Subject:
  """A model with random weights, whose effects are of order 1."""

  def __init__(self, model, batch=2, length=LENGTH, mode='eval'):
    self.layer = model(mode=mode)
    x = np.zeros((batch, length), np.int32), np.ones(batch, bool)
    shapes, state = toy.shapes(self.layer, x)
    self.weights = weights_like(shapes)
    self.fresh = toy.zeros_like(state)
    self.run = jax.jit(
      lambda weights, x, start, state: self.layer.pure_fn(
        (x, start), weights, state, toy.KEY
      )
    )

  def __call__(self, x, start, state):
    """Logits and new state."""
    return self.run(self.weights, x, np.asarray(start), state)


def weights_like(shapes, seed=0):
  """Matrices that keep variance, and vectors around 1 with both signs."""
  rng = np.random.default_rng(seed)

  def draw(s):
    x = rng.normal(size=s.shape)
    if s.shape[-2:] in ((VOCAB, 32), (N_STATES, 32)):
      return jnp.asarray(x, jnp.float32)
    is_matrix = s.shape[-1] > 2 and s.ndim > 1 and s.shape[-2] > 3
    scale = s.shape[-2] ** -0.5 if is_matrix else 1.0
    return jnp.asarray(x * scale + (not is_matrix), jnp.float32)

  return jax.tree.map(draw, shapes)


@functools.cache
def subject(name):
  return Subject(slide() if name == 'slide' else lm(**VARIANTS[name]))


def tokens(length=LENGTH, batch=2, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(1, VOCAB, (batch, length)).astype(np.int32)


# Parity
# ------------------------------------------------------------------------------
def as_reference(weights, recurrent_layers, gate='fixed', update='skip'):
  """The weights of a model as the reference names them."""
  leaves = iter(jax.tree.leaves(weights))

  def take(*names):
    return {name: next(leaves) for name in names}

  def take_gate():
    return take(*(['bias'] if gate == 'fixed' else ['wf', 'bf', 'wi', 'bi']))

  def update_of_states():
    if update == 'single':
      return {'ffn': take('w1', 'w2') | {'gate': take_gate()}}
    parts = {'attention': take('w') | {'gate': take_gate()}}
    if update == 'dual':
      parts |= take('norm2')
      parts['ffn'] = take('w1', 'w2') | {'gate': take_gate()}
    return parts

  def layer(is_recurrent):
    names = ['norm', 'wq', 'wk', 'wv'] + ['wq2'] * is_recurrent
    parts = take(*names, 't5', 'scale')
    if is_recurrent:
      state = take('norm', 'ids', 'wk', 'wv', 'wq', 'wq2')
      parts |= take('scale2')
      state |= take('scale', 'scale2') | update_of_states() | take('initial')
      parts['state'] = state
    return parts | take('wo', 'ffn_norm', 'w1', 'w2')

  def blocks(n, is_recurrent=False):
    nonlocal leaves
    if not n:
      return []
    before, stacked = leaves, layer(is_recurrent)
    del before
    return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(n)]

  params = take('embed') | {'layers': []}
  below = 0
  for i in recurrent_layers:
    params['layers'] += blocks(i - below - 1) + blocks(1, True)
    below = i
  params['layers'] += blocks(3 - below)
  params |= take('norm')
  assert next(leaves, None) is None
  return params


@pytest.mark.parametrize('name', [*VARIANTS, 'slide'])
def test_parity_with_the_equations(name):
  ours, variant = subject(name), VARIANTS.get(name, {})
  variant = {'gate': 'fixed', 'update': 'skip'} | variant
  params = as_reference(
    ours.weights,
    () if name == 'slide' else (2,),
    variant['gate'],
    variant['update'],
  )
  config = reference.Config(n_heads=2, window=WINDOW, **variant)
  forward = jax.jit(
    lambda x, start, memory: reference.forward(params, x, start, memory, config)
  )
  memory = reference.fresh_memory(params, 2, config)
  state, last = ours.fresh, np.zeros((2, 1), np.int32)
  starts = [True, True], [False, False], [True, False]
  for i, start in enumerate(starts):
    x = tokens(seed=i)
    last = np.where(np.asarray(start)[:, None], 0, last)
    shifted = np.concatenate([last, x[:, :-1]], axis=1)
    y, state = ours(x, start, state)
    expected, memory = forward(shifted, np.asarray(start), memory)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(y, expected, 1e-5, 1e-5)
    last = x[:, -1:]
