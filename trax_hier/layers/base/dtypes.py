"""Dtypes of weights and states."""

from typing import Any

import jax
import jax.numpy as jnp


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
