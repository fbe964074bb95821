"""Rotary positions (RoPE): rotations of queries and keys."""

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.attention.positions import Clock, NoPositions


@configurable(module='trax_hier.layers')
class RotaryPositions(NoPositions):
  """Rotary positions: rotates queries and keys in proportion to position.

  (.., l, d_head) -> (.., l, d_head), d_head even

  Args:
    base: Base of the frequencies: pair i of n turns by base^(-i / n) radians
      per token.

  Example: dot products depend only on the distance.
    >>> import numpy as np
    >>> q = RotaryPositions().encode(jnp.ones((3, 2)), jnp.arange(3))
    >>> print(np.asarray(q @ q.T).round(2))
    [[ 2.    1.08 -0.83]
     [ 1.08  2.    1.08]
     [-0.83  1.08  2.  ]]

  Source: RoFormer (arXiv 2104.09864); here dimension i of a head is paired with
  dimension i + d_head / 2.
  """

  def __init__(self, base: float = 10000.0):
    self._base = base

  def rotate(self, stride: int, mode: str) -> list[base.Layer]:
    """Returns a layer that rotates (b, h, l, d_head) by its positions."""

    def rotate(t, x):
      return self.encode(x, (t + jnp.arange(x.shape[-2])) * stride)

    return [
      tl.Branch(Clock(mode), None),  # t, x
      tl.Fn('Rotate', rotate),
    ]

  def encode(self, x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotates queries or keys (.., l, d_head) in proportion to `positions`."""
    half, odd = divmod(x.shape[-1], 2)
    if odd:
      raise ValueError(
        f'RotaryPositions needs heads of even width, not {x.shape[-1]}: '
        'choose another n_heads, d_model or d_head'
      )
    frequencies = self._base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None] * frequencies
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    x1, x2 = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    y = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
    return y.astype(x.dtype)
