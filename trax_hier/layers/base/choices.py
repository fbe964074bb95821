"""Discrete choices that a recomputation replays.

The backward pass of a reversible stack recomputes activations from inputs that
it reconstructs. Rounding in these could flip a discrete choice, and with it the
gradient, so layers record their choices in the forward pass and replay them.
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
  records its choices in its new state. A layer whose state holds choices takes
  them in place of its own. Its usual state is (), which records nothing.

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
    return state  # Trax marks a layer that ran before by a dictionary.
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
