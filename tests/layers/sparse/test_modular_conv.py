"""Convolutions over modules and time against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from sparse_reference import convolution
from toy_programs import decode

from trax_hier import layers as hl
from trax_hier.inspection.layer_tree import tree
from trax_hier.layers.sparse import modular_conv


# (5, 2): the kernel spans more modules than exist.
@pytest.mark.parametrize('sizes', [(3, 3), (1, 1), (5, 2)])
@pytest.mark.parametrize('mode', ['eval', 'predict'])
def test_modular_convolution(sizes, mode):
  x = toy.normal(2, 6, 6)
  layer = hl.ModularConv(9, 3, *sizes, mode)
  # A first call of one token is shorter than the rows prepended to it.
  weights, state = toy.make(layer, x[:, :1])
  if mode == 'eval':
    y, _ = toy.run(layer, x, weights, state)
  else:
    y = decode(layer, x, weights, [1, 3, 1, 1])
  expected = convolution(x, *map(np.asarray, jax.tree.leaves(weights)), 3)
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


def test_layer_tree_has_no_row_for_a_wrapper():
  layer = tree(hl.ModularConv(8, n_modules=2), (2, 12, 8))
  assert [child.name for child in layer.children] == [
    'PastInputs',
    'Convolution',
  ]


@pytest.mark.parametrize('kernel_size, length_kernel_size', [(3, 3), (1, 2)])
def test_gradients_of_the_convolution(kernel_size, length_kernel_size):
  x = toy.normal(2, 6, 4, 3)
  kernel = toy.normal(length_kernel_size, kernel_size, 3, 5, seed=1)

  def gradients(convolve):
    return jax.jit(
      jax.grad(lambda *args: jnp.sum(jnp.sin(convolve(*args))), (0, 1))
    )(x, kernel)

  toy.close(
    gradients(modular_conv._convolve),
    gradients(modular_conv._convolve.__wrapped__),
  )
