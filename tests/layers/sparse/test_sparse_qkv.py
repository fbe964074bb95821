"""Sparse projections against plain numpy."""

import jax
import numpy as np
import pytest
import toy
from sparse_reference import convolution, multiplicative

from trax_hier import layers as hl

D, H = 16, 2


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
