"""Dtypes of weights and states."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def cast_floats(tree: Any, dtype: jnp.dtype) -> Any:
  """The tree with its floating-point arrays in `dtype`, others unchanged.

  Example:
    >>> tree = jnp.zeros(2), jnp.zeros(3, jnp.int32)
    >>> [x.dtype.name for x in cast_floats(tree, jnp.bfloat16)]
    ['bfloat16', 'int32']
  """
  return jax.tree.map(
    lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
    tree,
  )


def in_32_bits(tree: Any) -> Any:
  """The tree with its arrays of 64-bit numbers in 32 bits, others unchanged.

  With jax_enable_x64, 64 bits are JAX's default. Weights and states keep the
  types that they have without it, so that checkpoints fit both.

  Example:
    >>> tree = np.zeros(2), np.zeros(3, np.int64), np.zeros(4, np.int8)
    >>> [x.dtype.name for x in in_32_bits(tree)]
    ['float32', 'int32', 'int8']
  """
  return jax.tree.map(lambda x: jnp.asarray(x, _narrow(x.dtype)), tree)


def _narrow(dtype):
  is_wide = dtype in (np.float64, np.int64, np.uint64)
  return np.dtype(f'{dtype.kind}4') if is_wide else dtype
