"""Parts in `BlockRecurrentLM`: segments are one call, and predict is eval."""

import functools

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.models import BlockRecurrentLM

P = functools.partial
LENGTH, WINDOW = 12, 4
SPARSE = P(hl.SparseAttention, n_modules=4)
SIZES = dict(
  toy.SIZES,
  n_layers=2,
  recurrent_layers=(2,),
  attention=P(hl.SlidingAttention, window=WINDOW),
  recurrent_attention=P(hl.BlockRecurrentCell, window=WINDOW, n_states=2),
)
FEEDBACK = dict(
  feedback=P(hl.FeedbackStack, window=WINDOW, n_states=2),
  carry=False,
  # In place of these:
  attention=hl.SlidingAttention,
  recurrent_attention=hl.BlockRecurrentCell,
)
NO_D_FF = 4096  # The default, which no layer takes.
CARRIED = {
  'windowed': dict(attention=P(hl.SelfAttention, window=3)),
  'windowed, relative': dict(
    attention=P(hl.SelfAttention, window=3), positions=hl.RelativePositions
  ),
  'windowed, longer than a segment': dict(
    attention=P(hl.SelfAttention, window=6), d_head=3
  ),
  'sparse': dict(
    attention=P(SPARSE, window=3, v_concat=True, output=hl.SparseDense)
  ),
  'memory': dict(
    attention=P(
      hl.MemorizingAttention, window=3, memory=5, n_neighbors=2, segment=2
    )
  ),
  'recurrence': dict(feed_forward=P(hl.SRUBranch, d_sru=4), d_ff=NO_D_FF),
  'feedback, recurrence': dict(
    feed_forward=hl.SRUBranch, d_ff=NO_D_FF, **FEEDBACK
  ),
  'feedback, positions added to embeddings': dict(
    positions=P(hl.LearnedPositions, n_positions=LENGTH), **FEEDBACK
  ),
  'feedback, carried recurrence': dict(
    feed_forward=hl.SRUBranch,
    d_ff=NO_D_FF,
    **FEEDBACK | dict(carry=True),
  ),
}
SOME = (
  'windowed',
  'recurrence',
  'feedback, recurrence',
  'feedback, positions added to embeddings',
)
REFUSED = {
  'whole': dict(attention=hl.SelfAttention),
  'sparse, whole': dict(attention=SPARSE),
  'retina': dict(attention=P(hl.RetinaAttention, window=16)),
  'hashing': dict(attention=P(hl.LSHAttention, chunk_len=4)),
  'retina as feed-forward layer': dict(
    feed_forward=P(hl.RetinaAttention, window=16), d_ff=NO_D_FF
  ),
  'retina as recurrence': dict(
    recurrent_attention=P(hl.RetinaAttention, window=16)
  ),
}


@pytest.mark.parametrize(
  'name',
  [
    name if name in SOME else pytest.param(name, marks=pytest.mark.slow)
    for name in CARRIED
  ],
)
def test_segments_are_one_call_and_decoding_is_evaluation(name):
  model = P(BlockRecurrentLM, **SIZES | CARRIED[name])
  x, start = toy.tokens(LENGTH), np.array([True, True])
  layer = model(mode='eval')
  takes_start = layer.takes_start_of_sequence
  inputs = (x, start) if takes_start else x
  weights, state = toy.make(layer, inputs)
  run = jax.jit(layer.pure_fn)
  whole, _ = run(inputs, weights, state, toy.KEY)
  if takes_start:
    outputs = []
    for i in range(0, LENGTH, WINDOW):
      segment = x[:, i : i + WINDOW], start & (i == 0)
      y, state = run(segment, weights, state, toy.KEY)
      outputs.append(y)
    toy.close(np.concatenate(outputs, axis=1), whole)
    # A second sequence sees nothing of the first.
    again, _ = run((x[:, :WINDOW], start), weights, state, toy.KEY)
    toy.close(again, whole[:, :WINDOW])
  decoder = model(mode='predict', max_len=LENGTH)
  _, state = decoder.init(toy.signature(x[:, :1]), toy.KEY)
  tokens = np.pad(x, [(0, 0), (1, 0)])[:, :LENGTH]
  step, outputs = jax.jit(decoder.pure_fn), []
  for a, b in ((0, 5), *((i, i + 1) for i in range(5, LENGTH))):
    y, state = step(tokens[:, a:b], weights, state, toy.KEY)
    outputs.append(y)
  toy.close(np.concatenate(outputs, axis=1), whole)


@pytest.mark.parametrize('name', REFUSED)
def test_parts_without_memory_are_refused_by_name(name):
  arguments = SIZES | REFUSED[name]
  slot, part = next(iter(REFUSED[name].items()))
  part = getattr(part, 'func', part).__name__
  with pytest.raises(
    ValueError,
    match=rf'^BlockRecurrentLM.{slot} = @{part}: .*BlockRecurrentLM.carry',
  ):
    BlockRecurrentLM(**arguments, mode='train')
  if name != 'hashing':
    BlockRecurrentLM(**arguments, mode='predict')
  BlockRecurrentLM(**arguments, mode='train', carry=False)


@pytest.mark.parametrize('carry', [False, True])
def test_feedback_says_which_positions_its_blocks_cannot_keep(carry):
  def build(positions):
    arguments = SIZES | FEEDBACK | dict(positions=positions, carry=carry)
    BlockRecurrentLM(**arguments, mode='train')

  with pytest.raises(ValueError, match=r'without .*@RotaryPositions must'):
    build(hl.RotaryPositions)
  if carry:
    with pytest.raises(ValueError, match=r'from one call to the next'):
      build(hl.LearnedPositions)
  else:
    build(hl.LearnedPositions)


@pytest.mark.parametrize(
  'attention',
  [
    P(hl.SelfAttention, window=3),
    P(SPARSE, window=3, output=hl.Dense),
    P(hl.RetinaAttention, window=16),
  ],
)
def test_the_width_of_heads_reaches_the_attention(attention):
  def n_weights(d_head):
    arguments = SIZES | dict(attention=attention, carry=False, d_head=d_head)
    layer = BlockRecurrentLM(**arguments, mode='eval')
    shapes, _ = toy.shapes(layer, toy.tokens(LENGTH))
    return [s.size for s in jax.tree.leaves(shapes)]

  assert n_weights(8) == n_weights(None) != n_weights(4)


def test_a_width_of_heads_without_effect_is_refused():
  attention = P(hl.LSHAttention, chunk_len=4)
  arguments = SIZES | dict(attention=attention, carry=False)
  with pytest.raises(
    ValueError, match=r'd_head = 4 has no effect: .*LSHAttention'
  ):
    BlockRecurrentLM(**arguments, d_head=4)
  BlockRecurrentLM(**arguments)


def test_heads_of_sparse_attention_without_projection_have_one_width():
  with pytest.raises(ValueError, match=r'SelfAttention.output = @NoProjection'):
    SPARSE(16, n_heads=2, d_head=4)
