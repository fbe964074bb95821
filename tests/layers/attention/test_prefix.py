"""Causal layers over a masked prefix and new rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import base, tl
from trax_hier.layers.attention.prefix import Prefill

D = 8
P = functools.partial
ATTENTIONS = {
  'dense': hl.SelfAttention,
  'windowed': P(hl.SelfAttention, window=3),
  'rotary': P(hl.SelfAttention, positions=hl.RotaryPositions()),
  'relative': P(hl.SelfAttention, positions=hl.RelativePositions(D, 2)),
  'sparse': P(hl.SparseAttention, n_modules=2),
  'convolutions': P(
    hl.SparseAttention, n_modules=2, v_concat=True, output=hl.SparseDense
  ),
}
# Number of the 10 rows that are masked, in each row of the batch.
N_MASKED = (0, 3, 9)


def test_close_gaps():
  tokens = np.array([[0, 3, 0, 0, 5], [1, 2, 3, 4, 5], [0] * 5])
  closed, _ = toy.run(hl.CloseGaps(), tokens, (), ())
  np.testing.assert_array_equal(
    closed, [[3, 5, 0, 0, 0], [1, 2, 3, 4, 5], [0] * 5]
  )


def test_align_right():
  x = toy.normal(3, 4, D)
  mask = np.arange(4) < np.array([[4], [1], [0]])
  (y, aligned), _ = toy.run(hl.AlignRight(), (x, mask), (), ())
  np.testing.assert_array_equal(aligned, mask[:, ::-1])
  np.testing.assert_array_equal(y[0], x[0])
  np.testing.assert_array_equal(y[1, 3], x[1, 0])


@pytest.mark.parametrize('name', ATTENTIONS)
def test_masked_rows_change_nothing(name):
  x = toy.normal(3, 10, D)
  mask = np.arange(10) >= np.array(N_MASKED)[:, None]
  make = P(ATTENTIONS[name], D, 2, masked=True, max_len=12)
  owner = hl.ShareWeights(
    *getattr(make.keywords.get('positions'), 'shared', ())
  )

  def layer(mode):
    return tl.Serial(owner, make(mode=mode))

  weights, state = toy.make(layer('eval'), (x, mask))
  whole, _ = toy.run(layer('eval'), (x, mask), weights, state)
  for row, n in enumerate(N_MASKED):
    alone = x[row : row + 1, n:], np.ones((1, 10 - n), bool)
    y, _ = toy.run(layer('eval'), alone, weights, state)
    toy.close(whole[row : row + 1, n:], y)
  _, state = toy.make(layer('predict'), (x[:, :1], mask[:, :1]))
  outputs = []
  for a, b in ((0, 4), (4, 9), (9, 10)):
    y, state = toy.run(
      layer('predict'), (x[:, a:b], mask[:, a:b]), weights, state
    )
    outputs.append(y)
  visible = mask[..., None]
  toy.close(np.concatenate(outputs, axis=1) * visible, whole * visible)


def prefixed(mode, calls=None, max_len=20):
  """Causal attention over an encoded prefix and new rows."""

  def encode(x):
    if calls is not None:
      jax.debug.callback(lambda: calls.append('first'))
    return x, jnp.arange(10) >= jnp.array(N_MASKED)[:, None]

  first = tl.Serial(hl.Dense(D), tl.Fn('Encode', encode, n_out=2))
  attend = hl.SelfAttention(D, 2, masked=True, max_len=max_len, mode=mode)
  layer = tl.Branch(attend, tl.Select([1], n_in=2))
  return hl.Prefixed(first, layer, mode, max_len)


def inputs():
  return toy.normal(3, 10, 4), toy.normal(3, 6, D, seed=1)


def decode(layer, weights, state, x, y, lengths):
  outputs, begin = [], 0
  for n in lengths:
    out, state = toy.run(layer, (x, y[:, begin : begin + n]), weights, state)
    outputs.append(out)
    begin += n
    x = np.zeros_like(x)  # Later calls ignore it.
  return np.concatenate(outputs, axis=1)


def test_new_rows_follow_the_prefix():
  x, y = inputs()
  layer = prefixed('eval')
  weights, state = toy.make(layer, (x, y))
  out, _ = toy.run(layer, (x, y), weights, state)
  (kernel, bias), attend = weights[0][0], weights[1][1][0]
  p = x @ kernel + bias
  causal = hl.SelfAttention(D, 2, masked=True, mode='eval')
  for row, n in enumerate(N_MASKED):
    joined = np.concatenate([p[row, n:], y[row]])[None]
    joined = joined, np.ones(joined.shape[:2], bool)
    _, state = toy.make(causal, joined)
    expected, _ = toy.run(causal, joined, attend, state)
    toy.close(out[row], expected[0, 10 - n :])


@pytest.mark.parametrize('chunk', [4, 256])
def test_decoding_reads_the_prefix_once_in_chunks(chunk, monkeypatch):
  monkeypatch.setattr(hl.Prefixed, '_CHUNK', chunk)
  x, y = inputs()
  layer = prefixed('eval')
  weights, state = toy.make(layer, (x, y))
  expected, _ = toy.run(layer, (x, y), weights, state)
  calls = []
  layer = prefixed('predict', calls)
  _, state = toy.make(layer, (x, y[:, :1]))
  calls.clear()
  toy.close(decode(layer, weights, state, x, y, (1, 3, 2)), expected)
  jax.effects_barrier()
  assert calls == ['first']
  # A prefill before the first call keeps it out of decoding programs.
  prepared = hl.decoding_weights(layer, weights)
  prefilled = hl.decoding_state(layer, prepared, state, inputs=(x, y[:, :1]))
  assert prefilled[2] == Prefill(done=True)
  calls.clear()
  toy.close(decode(layer, prepared, prefilled, 0 * x, y, (3, 3)), expected)
  jax.effects_barrier()
  assert not calls


def test_a_prefix_that_fills_the_capacity_raises():
  with pytest.raises(base.LayerError, match='of 10 tokens leave no room'):
    toy.make(prefixed('predict', max_len=10), inputs())
