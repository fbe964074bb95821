"""Positions in tokens, for vectors at irregular distances.

A vector of a `DynamicStack` stands for a segment of the text. By default,
attention counts segments. With `TokenPositions`, a vector has the position of
the token at the start of its segment; the `DynamicStack` puts these positions
into the state of the layers that need them, by `set_positions`.

Letters: b batch, h heads, l length.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.base.repeat import Blocks, Stack


class TokenPositions(NoPositions):
  """A scheme that rotates queries and keys by the positions of tokens.

  (b, h, l, d_head) -> same.

  Args:
    scheme: A scheme that encodes any positions, `RotaryPositions`.

  Raises:
    ValueError: `scheme` needs positions at regular distances.

  Example:
    >>> from trax_hier.layers import RelativePositions
    >>> try:
    ...   TokenPositions(RelativePositions(8, 2))
    ... except ValueError as error:
    ...   print(str(error).partition(':')[0])
    @RelativePositions needs vectors at regular distances, not those of segments
  """

  def __init__(self, scheme: NoPositions):
    if type(scheme).encode is NoPositions.encode:
      raise ValueError(
        f'@{type(scheme).__name__} needs vectors at regular distances, not '
        'those of segments: use @RotaryPositions, or dynamic_positions = '
        "'segments'"
      )
    self._scheme = scheme

  def rotate(self, stride: int, mode: str) -> list[base.Layer]:
    """Returns layers that rotate (b, h, l, d_head) by positions of tokens."""
    del stride, mode
    return [
      tl.Branch(PositionsOfTokens(), None),  # positions, x
      tl.Fn('Rotate', lambda t, x: self._scheme.encode(x, t)),
    ]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Positions:
  """The state of `PositionsOfTokens` during a call.

  Attributes:
    tokens: Positions in tokens, int32 (b, l).
  """

  tokens: jax.Array


class PositionsOfTokens(base.Layer):
  """Positions of vectors in tokens: x (b, h, l, d_head) -> int32 (b, 1, l)."""

  def forward(self, x):
    if isinstance(self.state, Positions):
      return self.state.tokens[:, None]
    return jnp.arange(x.shape[-2])  # While shapes are inferred.


def positions_in(state: Any) -> jax.Array | None:
  """The positions (b, l) in the state of `PositionsOfTokens`, if any."""
  return state.tokens if isinstance(state, Positions) else None


def set_positions(layer: base.Layer, state: Any, positions: Any) -> Any:
  """`state`, with `positions` as that of each `PositionsOfTokens`.

  A layer with an attribute `makes_positions` gets them in its last sublayer
  only: it makes those of the layers inside it.

  Args:
    layer: The layer.
    state: Its state.
    positions: `Positions` (b, l) of its inputs; () takes them out.
  """
  if isinstance(layer, PositionsOfTokens):
    return positions
  if isinstance(state, dict) or not layer.sublayers:
    return state  # Trax's marker of a layer that occurs earlier is a dict.
  if isinstance(layer, Stack):
    ((inner,), (stacked,)) = layer.sublayers, state
    if isinstance(stacked, Blocks):
      trees = (set_positions(inner, x, positions) for x in stacked.trees)
      return (Blocks(tuple(trees)),)
    positions = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (layer.n, *x.shape)), positions
    )
  if hasattr(layer, 'makes_positions'):
    return *state[:-1], set_positions(layer.sublayers[-1], state[-1], positions)
  pairs = zip(layer.sublayers, state, strict=True)
  return tuple(set_positions(*pair, positions) for pair in pairs)
