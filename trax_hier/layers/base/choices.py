"""Discrete choices that rematerialization replays.

The backward pass of a reversible stack recomputes activations from inputs that
it reconstructs. Their rounding errors could flip a discrete choice, and so
change the gradient. Layers therefore record choices in the forward pass, and
replay them in the backward pass.
"""

import dataclasses
from typing import Any

import jax

from trax_hier.compat import base


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choices:
  """The state of a layer that records or replays its choices.

  In 'train' mode, a `ReplaysChoices` layer whose state is `Choices(None)`
  records its choices in its new state. A layer whose state holds choices uses
  them instead of its own. With its usual state, (), it does neither.

  Attributes:
    indices: The choices, an integer array; None before they are recorded.
  """

  indices: jax.Array | None


class ReplaysChoices(base.Layer):
  """A layer without state of its own that can run with `Choices` as state."""


def record_choices(layer: base.Layer, state: Any) -> Any:
  """`state`, with `Choices(None)` for each `ReplaysChoices` layer."""
  if isinstance(layer, ReplaysChoices):
    return Choices(None)
  if isinstance(state, dict) or not layer.sublayers:
    return state  # Trax's marker of a layer that occurs earlier is a dict.
  parts = zip(layer.sublayers, state, strict=True)
  return tuple(record_choices(*part) for part in parts)


def with_choices(layer: base.Layer, state: Any, other: Any) -> Any:
  """`state`, with the states of `ReplaysChoices` layers taken from `other`."""
  if isinstance(layer, ReplaysChoices):
    return other
  if isinstance(state, dict) or not layer.sublayers:
    return state
  parts = zip(layer.sublayers, state, other, strict=True)
  return tuple(with_choices(*part) for part in parts)
