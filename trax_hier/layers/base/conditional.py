"""Conditional computation that XLA runs in place."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def apply_if(condition: jax.Array, fn: Callable, x):
  """fn(x) if the scalar `condition` is true, else x; not differentiable.

  A loop of at most one iteration, whose carry XLA updates in place. Decoding is
  8 % faster on CPU than with `lax.cond` (benchmarks/generation.py
  --parts=coarse).

  Example:
    >>> print(apply_if(jnp.bool_(True), lambda x: x + 1, jnp.zeros(2)))
    [1. 1.]
  """
  return jax.lax.fori_loop(
    0, condition.astype(jnp.int32), lambda _, x: fn(x), x
  )
