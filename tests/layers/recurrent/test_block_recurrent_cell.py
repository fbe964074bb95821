"""The block-recurrent cell: decoding, segments and updates of the states."""

import functools

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl

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
  'recurrent': P(hl.BlockRecurrentCell, D, n_heads=H, window=W, n_states=3),
}


@pytest.mark.parametrize('kind', ATTENTIONS)
@pytest.mark.parametrize(
  'positions',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name in ('none', 't5')))
    for name in POSITIONS
  ],
)
def test_decoding_equals_evaluation(kind, positions):
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
def test_segments_equal_one_sequence(kind):
  x = toy.normal(B, 16, D)
  layer = ATTENTIONS[kind](carry=True, d_head=6, mode='eval')
  weights, state = toy.make(layer, x)
  run = jax.jit(layer.pure_fn)
  y, _ = run(x, weights, state, toy.KEY)
  first, after = run(x[:, :4], weights, state, toy.KEY)
  second, _ = run(x[:, 4:], weights, after, toy.KEY)
  toy.close(np.concatenate([first, second], 1), y)


# The states
# ------------------------------------------------------------------------------
class Cell:
  """A cell that carries states, with named weights; runs one block."""

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
    """The states after the block, with some weights replaced."""
    leaves = list({**self.weights, **weights}.values())
    weights = jax.tree.unflatten(self.treedef, leaves)
    _, state = toy.run(self.layer, self.x, weights, self.state)
    (s,) = (a for a in jax.tree.leaves(state) if a.shape == self.shape)
    return np.asarray(s)


def test_without_candidates_states_decay():
  cell = Cell()
  s = cell.after(wa=0 * cell.weights['wa'])
  kept = jax.nn.sigmoid(cell.weights['b_g']) * cell.weights['initial']
  np.testing.assert_array_equal(s, np.broadcast_to(kept, s.shape))
  moved = cell.after()
  assert np.abs(moved - s).max() > 0.01
  # The tokens of the two lanes differ.
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
def test_number_of_blocks_that_an_update_reads(n_read_blocks):
  cell = Cell(n_read_blocks=n_read_blocks)
  s = cell.after()
  rows = B, H, W, D // H
  cell.state = jax.tree.map(
    lambda a: a + (a.shape == rows), cell.state
  )  # Changes only the keys and values of the block before.
  assert (cell.after() != s).any() == (n_read_blocks == 2)


def test_initial_weights_of_states():
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


def test_dropout_is_only_in_training_and_not_in_states():
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
    (dict(mode='test'), r"BlockRecurrentCell\.mode = 'test' must be"),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    ATTENTIONS['recurrent'](**arguments)
