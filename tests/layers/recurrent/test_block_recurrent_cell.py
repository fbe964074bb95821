"""Sliding attention, the recurrent cell and its gates, against numpy."""

import functools

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.layers.attention.positions import t5_buckets
from trax_hier.layers.recurrent.gates import CONFIGURATIONS

P = functools.partial
B, D, H, W = 2, 16, 2, 4
POSITIONS = {
  'none': hl.NoPositions,
  'rotary': hl.RotaryPositions,
  't5': lambda: hl.T5Positions(H, n_buckets=6, max_distance=8),
  'relative': lambda: hl.RelativePositions(D, H),
}
ATTENTIONS = {
  'sliding': P(hl.SlidingAttention, D, n_heads=H, window=W),
  'recurrent': P(hl.BlockRecurrentCell, D, 8, n_heads=H, window=W, n_states=3),
}


def softmax(x):
  x = np.exp(x - x.max(axis=-1, keepdims=True))
  return x / x.sum(axis=-1, keepdims=True)


def sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x)))


# Sliding attention
# ------------------------------------------------------------------------------
def heads_of(x, kernel, normalised=True):
  y = (x @ kernel).reshape(*x.shape[:2], H, -1).swapaxes(1, 2)
  if normalised:
    y = y / np.sqrt((y * y).sum(-1, keepdims=True) + 1e-6)
  return y


@pytest.mark.parametrize('length', [1, 4, 5, 11])
@pytest.mark.parametrize('d_head', [None, 5])
def test_sliding_attention_is_a_softmax_over_the_window(length, d_head):
  x = toy.normal(B, length, D)
  layer = ATTENTIONS['sliding'](
    positions=POSITIONS['t5'](), d_head=d_head, mode='eval'
  )
  weights, state = toy.make(layer, x, scale=1.0)
  y, _ = toy.run(layer, x, weights, state)
  np.testing.assert_array_equal(y[:, 0], 0)

  wq, wk, wv, table, scale, wo = map(np.asarray, jax.tree.leaves(weights))
  assert wq.shape == (D, H * (d_head or D // H)) and wo.shape == wq.shape[::-1]
  # Before a sequence there are zeros, which are not masked.
  rows = np.pad(x, [(0, 0), (W, 0), (0, 0)])
  q, k, v = heads_of(x, wq), heads_of(rows, wk), heads_of(rows, wv, False)
  distances = np.arange(W, 0, -1)
  bias = table[:, np.asarray(t5_buckets(distances, 6, 8))]
  expected = []
  for i in range(length):
    logits = np.einsum('bhd,bhkd->bhk', q[:, :, i], k[:, :, i : i + W])
    p = softmax((logits + bias) * np.abs(scale)[:, None])
    o = np.einsum('bhk,bhkd->bhd', p, v[:, :, i : i + W])
    expected.append(o.reshape(B, -1) @ wo)
  np.testing.assert_allclose(y, np.stack(expected, 1), 1e-4, 1e-5)


@pytest.mark.parametrize('length', [4, 11])
def test_sliding_attention_sees_the_window_without_itself(length):
  x = toy.normal(B, length, D)
  layer = ATTENTIONS['sliding'](mode='eval')
  weights, state = toy.make(layer, x)
  run = jax.jit(lambda x: layer.pure_fn(x, weights, state, toy.KEY)[0])
  y = run(x)
  for p in range(length):
    changed = x.copy()
    # The query of row p moves y[p] unless all values that it weighs are zeros.
    changed[:, p] = toy.normal(D, seed=1)
    moved = np.asarray((run(changed) != y).any(axis=(0, 2)))
    seen = np.arange(length) - p
    expected = (seen >= (p == 0)) & (seen <= W)
    np.testing.assert_array_equal(moved, expected, err_msg=str(p))


def test_a_row_does_not_see_its_own_key_and_value():
  # Without queries, weights are uniform: what is left are the values.
  x = toy.normal(B, 11, D)
  layer = ATTENTIONS['sliding'](mode='eval')
  weights, state = toy.make(layer, x)
  (wq, *others), treedef = jax.tree.flatten(weights)
  weights = jax.tree.unflatten(treedef, [0 * wq, *others])
  y, _ = toy.run(layer, x, weights, state)
  _, wv, _, wo = map(np.asarray, others)
  rows = np.pad(x, [(0, 0), (W, 0), (0, 0)])
  means = np.stack([rows[:, i : i + W].mean(1) for i in range(11)], 1)
  np.testing.assert_allclose(y, means @ wv @ wo, 1e-5, 1e-5)


@pytest.mark.parametrize('kind', ATTENTIONS)
@pytest.mark.parametrize(
  'positions',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name in ('none', 't5')))
    for name in POSITIONS
  ],
)
def test_decoding_is_evaluation(kind, positions):
  x = toy.normal(B, 14, D)

  def make(mode):
    return ATTENTIONS[kind](positions=POSITIONS[positions](), mode=mode)

  layer = make('eval')
  weights, state = toy.make(layer, x)
  expected, _ = toy.run(layer, x, weights, state)
  layer = make('predict')
  _, fresh = toy.make(layer, x[:, :1])
  step = jax.jit(lambda x, state: layer.pure_fn(x, weights, state, toy.KEY))
  for lengths in ([1] * 14, [3, 1, 1, 9]):
    state, outputs = fresh, []
    for part in np.split(x, np.cumsum(lengths)[:-1], axis=1):
      y, state = step(part, state)
      outputs.append(y)
    np.testing.assert_allclose(
      np.concatenate(outputs, 1), expected, 1e-5, 1e-5, err_msg=str(lengths)
    )


@pytest.mark.parametrize('kind', ATTENTIONS)
def test_segments_are_one_sequence(kind):
  x = toy.normal(B, 16, D)
  layer = ATTENTIONS[kind](carry=True, d_head=6, mode='eval')
  weights, state = toy.make(layer, x)
  run = jax.jit(layer.pure_fn)
  y, _ = run(x, weights, state, toy.KEY)
  first, after = run(x[:, :4], weights, state, toy.KEY)
  second, _ = run(x[:, 4:], weights, after, toy.KEY)
  toy.close(np.concatenate([first, second], 1), y)


# Gates
# ------------------------------------------------------------------------------
def gate(layer, s, z, h):
  weights, state = toy.make(layer, (s, z, h), scale=1.0)
  y, _ = toy.run(layer, (s, z, h), weights, state)
  return y, [np.asarray(w) for w in jax.tree.leaves(weights)]


def gate_inputs():
  s, z = (toy.normal(B, 3, D, seed=seed) for seed in (0, 1))
  return s, z, toy.normal(B, 3, 5, seed=2)


def test_fixed_gate():
  s, z, h = gate_inputs()
  y, (b_g,) = gate(hl.FixedGate(), s, z, h)
  g = sigmoid(b_g)
  np.testing.assert_allclose(y, g * s + (1 - g) * z, 1e-5, 1e-5)
  y, (b_g, b_z) = gate(hl.FixedGate(paper_candidate=True), s, z, h)
  g = sigmoid(b_g)
  np.testing.assert_allclose(y, g * s + (1 - g) * (z + b_z), 1e-5, 1e-5)


def test_lstm_gate():
  s, z, h = gate_inputs()
  y, (wf, bf, wi, bi) = gate(hl.LSTMGate(), s, z, h)
  expected = sigmoid(h @ wf + bf + 1) * s + sigmoid(h @ wi + bi - 1) * z
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)
  layer = hl.LSTMGate(bias=2.0, paper_candidate=True)
  y, (wf, bf, wi, bi, bz) = gate(layer, s, z, h)
  z = np.tanh(z + bz)
  expected = sigmoid(h @ wf + bf + 2) * s + sigmoid(h @ wi + bi - 2) * z
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


@pytest.mark.parametrize('b_g, chosen', [(20.0, 0), (-20.0, 1)])
def test_fixed_gate_at_its_ends(b_g, chosen):
  inputs = gate_inputs()
  weights = (np.full(D, b_g, np.float32),)
  y, _ = toy.run(hl.FixedGate(), inputs, weights, ())
  np.testing.assert_allclose(y, inputs[chosen], 1e-6, 1e-6)


def first_weights(layer, *inputs):
  weights, _ = jax.jit(lambda: layer.init(toy.signature(inputs), toy.KEY))()
  return [np.asarray(w) for w in jax.tree.leaves(weights)]


WIDE = np.zeros((1, 1, 1024), np.float32)


@pytest.mark.parametrize('bias', [0.0, 1.0])
def test_fixed_gate_at_first(bias):
  b_g, b_z = first_weights(hl.FixedGate(bias, True), WIDE, WIDE, WIDE)
  assert abs(sigmoid(b_g).mean() - sigmoid(bias)) < 0.01
  slope = sigmoid(bias) * sigmoid(-bias)
  assert abs(sigmoid(b_g).std() - 0.1 * slope) < 0.003
  assert abs(b_z.mean()) < 0.01 and abs(b_z.std() - 0.1) < 0.01
  assert len(first_weights(hl.FixedGate(bias), WIDE, WIDE, WIDE)) == 1
  assert (b_g - bias != b_z).all()


def test_lstm_gate_at_first():
  layer, h = hl.LSTMGate(), WIDE[..., :64]
  wf, bf, wi, bi = first_weights(layer, WIDE, WIDE, h)
  for w in (wf, wi):
    assert abs(w.mean()) < 1e-3 and abs(w.std() - (0.1 / 64) ** 0.5) < 1e-3
  for b in (bf, bi):
    assert abs(b.std() - 0.1) < 0.01
  assert (wf != wi).mean() > 0.99 and (bf != bi).mean() > 0.99
  weights = (0 * wf, bf), (0 * wi, bi)
  one = np.ones_like(WIDE)
  forget, _ = toy.run(layer, (one, WIDE, h), weights, ())
  enter, _ = toy.run(layer, (WIDE, one, h), weights, ())
  assert abs(forget.mean() - 0.7311) < 0.003
  assert abs(enter.mean() - 0.2689) < 0.003
  assert np.abs(forget - 0.7311).max() < 0.1


# The cell
# ------------------------------------------------------------------------------
class Cell:
  """A carrying cell with named weights, run for one block."""

  names = (
    *('wq', 'wk', 'wv', 'wq2', 'scale', 'initial', 'norm', 'ids', 'wk_s'),
    *('wv_s', 'wq_s', 'wq2_s', 'scale_s', 'scale2_s', 'wa', 'b_g', 'scale2'),
    'wo',
  )

  def __init__(self, n_states=3, n_read_blocks=2):
    self.x = toy.normal(B, W, D)
    self.layer = hl.BlockRecurrentCell(
      D,
      n_heads=H,
      window=W,
      n_states=n_states,
      n_read_blocks=n_read_blocks,
      carry=True,
      mode='eval',
    )
    weights, self.state = toy.make(self.layer, self.x)
    leaves, self.treedef = jax.tree.flatten(weights)
    self.weights = dict(zip(self.names, leaves, strict=True))
    self.shape = B, n_states, D

  def after(self, **weights):
    """The states after the block, for other weights."""
    leaves = list({**self.weights, **weights}.values())
    weights = jax.tree.unflatten(self.treedef, leaves)
    _, state = toy.run(self.layer, self.x, weights, self.state)
    (s,) = (a for a in jax.tree.leaves(state) if a.shape == self.shape)
    return np.asarray(s)


def test_without_a_candidate_states_decay():
  cell = Cell()
  s = cell.after(wa=0 * cell.weights['wa'])
  kept = jax.nn.sigmoid(cell.weights['b_g']) * cell.weights['initial']
  np.testing.assert_array_equal(s, np.broadcast_to(kept, s.shape))
  moved = cell.after()
  assert np.abs(moved - s).max() > 0.01
  # Lanes have had other tokens.
  assert np.abs(moved[0] - moved[1]).max() > 1e-3


def test_an_open_gate_keeps_the_states():
  cell = Cell()
  s = cell.after(b_g=np.full(D, 20.0, np.float32))
  expected = np.broadcast_to(cell.weights['initial'], s.shape)
  np.testing.assert_allclose(s, expected, 1e-6, 1e-6)
  s = cell.after(b_g=np.full(D, -20.0, np.float32))
  lost = cell.after(
    b_g=np.full(D, -20.0, np.float32), wa=0 * cell.weights['wa']
  )
  assert np.abs(lost).max() < 1e-6 < np.abs(s).min()


@pytest.mark.parametrize('n_read_blocks', [1, 2])
def test_blocks_that_an_update_reads(n_read_blocks):
  cell = Cell(n_read_blocks=n_read_blocks)
  s = cell.after()
  rows = B, H, W, D // H
  cell.state = jax.tree.map(
    lambda a: a + (a.shape == rows), cell.state
  )  # Of the block before, the keys and values alone.
  assert (cell.after() != s).any() == (n_read_blocks == 2)


def test_states_at_first():
  d, n = 64, 128
  layer = hl.BlockRecurrentCell(d, n_heads=2, window=W, n_states=n, mode='eval')
  x = np.zeros((1, W, d), np.float32)
  weights, _ = jax.jit(lambda: layer.init(toy.signature(x), toy.KEY))()
  weights = dict(zip(Cell.names, jax.tree.leaves(weights), strict=True))
  assert weights['ids'].shape == weights['initial'].shape == (n, d)
  assert abs(weights['ids'].std() - 1) < 0.03
  assert abs(weights['initial'].std() - 0.1) < 0.003
  for name in ('scale', 'scale2', 'scale_s', 'scale2_s'):
    np.testing.assert_array_equal(weights[name], 1)


@pytest.mark.parametrize('paper', [False, True])
@pytest.mark.parametrize('make', [hl.FixedGate, hl.LSTMGate])
def test_candidate_of_a_single_gate(make, paper):
  gate = P(make, paper_candidate=paper)
  layer = CONFIGURATIONS['single'](D, 7, gate, hl.RMSNorm)
  s, _, o = gate_inputs()
  weights, state = toy.make(layer, (s, o), scale=1.0)
  y, _ = toy.run(layer, (s, o), weights, state)
  w1, w2, *rest = (np.asarray(w) for w in jax.tree.leaves(weights))
  hidden = np.maximum(o @ w1, 0)
  z = hidden @ w2
  if not paper:
    z = np.tanh(z)
  elif make is hl.FixedGate:
    z = z + rest[1]
  else:
    z = np.tanh(z + rest[4])
  if make is hl.FixedGate:
    g = sigmoid(rest[0])
    expected = g * s + (1 - g) * z
  else:
    wf, bf, wi, bi = rest[:4]
    forget, enter = sigmoid(hidden @ wf + bf + 1), sigmoid(hidden @ wi + bi - 1)
    expected = forget * s + enter * z
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


def test_dropout_is_for_training_and_spares_states():
  x = toy.normal(B, W, D)
  outputs, states = {}, {}
  for mode in ('train', 'eval'):
    layer = ATTENTIONS['recurrent'](dropout=0.5, carry=True, mode=mode)
    weights, state = toy.make(layer, x)
    outputs[mode], state = toy.run(layer, x, weights, state)
    states[mode] = jax.tree.leaves(state)
  assert (outputs['train'] != outputs['eval']).any()
  toy.close(states['train'], states['eval'], 0)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(window=0), r'BlockRecurrentCell\.window = 0 must be positive'),
    (dict(n_states=0), r'BlockRecurrentCell\.n_states = 0 must be positive'),
    (
      dict(configuration='x'),
      r"BlockRecurrentCell\.configuration = 'x' .* 'skip', 'dual', 'single'",
    ),
    (
      dict(n_read_blocks=3),
      r'BlockRecurrentCell\.n_read_blocks = 3 must be 1 or 2',
    ),
    (dict(n_heads=3), 'n_heads = 3 must divide d_model = 16'),
    (dict(mode='test'), "got 'test'"),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    ATTENTIONS['recurrent'](**arguments)


def test_bad_arguments_of_sliding_attention():
  with pytest.raises(ValueError, match=r'SlidingAttention\.window = 0 must be'):
    hl.SlidingAttention(D, window=0)
  with pytest.raises(ValueError, match='n_heads = 3 must divide d_model = 16'):
    hl.SlidingAttention(D, n_heads=3)
  with pytest.raises(ValueError, match="got 'test'"):
    hl.SlidingAttention(D, mode='test')


# In a hierarchy
# ------------------------------------------------------------------------------
LENGTH = 40
