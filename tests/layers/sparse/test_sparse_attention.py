"""Attention with sparse projections."""

import functools

import jax
import numpy as np
import pytest
import toy
from toy_programs import decode

from trax_hier import layers as hl
from trax_hier.compat import ShapeDtype

D, H = 16, 2
P = functools.partial
OUTPUTS = {
  'none': hl.NoProjection,
  'mult': hl.MultiplicativeDense,
  'conv': hl.ModularConv,
  'multconv': hl.SparseDense,
  'dense': hl.Dense,
}
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


def count(layer, d):
  weights, _ = toy.shapes(layer, ShapeDtype((1, 1, d), np.float32))
  return sum(w.size for w in jax.tree.leaves(weights))


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
