"""Losses and metrics that layers compute beside their outputs.

A layer adds an `AuxiliaryLoss` or `Metrics` to its sublayers. The values are
the state of these layers, so they pass through `Repeat`, `Remat` and gradient
accumulation like any state. Training adds the losses, times their weights, to
its objective, and logs all values by name. They count in no loss that is
reported, such as bits per byte.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from trax_hier.compat import base


class Metrics(base.Layer):
  """Keeps scalars in its state, for logging: one input for each name.

  Takes float scalars and returns nothing. The state is a tuple of float32
  scalars, or (n,) inside a `Repeat` of n blocks. In predict mode, nothing is
  kept, so that XLA drops the computation of the values.

  Args:
    *names: Names of the values, such as 'level_1/dropped'.
    mode: 'train', 'eval' or 'predict'.

  Example:
    >>> from trax_hier.compat import signature
    >>> layer = Metrics('mean')
    >>> _ = layer.init(signature(jnp.zeros(())))
    >>> layer(jnp.float32(0.5))
    ()
    >>> {name: float(value) for name, value, _ in reported(layer, layer.state)}
    {'mean': 0.5}
  """

  keeps_documents_apart = True
  # The weight of the values in the objective of training.
  weight = 0.0

  def __init__(self, *names: str, mode: str = 'train'):
    super().__init__(n_in=len(names), n_out=0)
    self._names = names
    self._mode = mode

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the values."""
    return self._names

  def init_weights_and_state(self, input_signature):
    if self._mode != 'predict':
      self.state = tuple(jnp.zeros((), jnp.float32) for _ in self._names)

  def forward(self, x):
    values = x if self.n_in > 1 else (x,)
    if self._mode != 'predict':
      self.state = tuple(value.astype(jnp.float32) for value in values)
    return ()


class AuxiliaryLoss(Metrics):
  """A loss, a scalar, that training adds to its objective.

  Takes the loss and returns nothing. It is a metric of its own, in training
  and in evaluations. The state is a tuple of the loss, a scalar, or (n,) inside
  a `Repeat` of n blocks.

  Args:
    name: Name of the loss in the metrics.
    weight: Factor of the loss in the objective.
    mode: 'train', 'eval' or 'predict'.

  Example: a layer whose outputs shall be small.
    >>> from trax_hier.compat import signature, tl
    >>> layer = tl.Serial(
    ...   tl.Fn('Double', lambda x: 2 * x),
    ...   tl.Dup(),
    ...   tl.Fn('Square', lambda x: jnp.mean(x * x)),
    ...   AuxiliaryLoss('square', weight=0.5),
    ... )
    >>> x = jnp.ones((1, 3))
    >>> _ = layer.init(signature(x))
    >>> print(layer(x))
    [[2. 2. 2.]]
    >>> objective, values = sum_reported(layer, layer.state)
    >>> print(objective, values)
    2.0 [4.]
  """

  def __init__(self, name: str, weight: float, mode: str = 'train'):
    super().__init__(name, mode=mode)
    self._weight = weight

  @property
  def weight(self) -> float:
    """Factor of the loss in the objective."""
    return self._weight


def reported(
  layer: base.Layer, state: Any
) -> Iterator[tuple[str, jax.Array, float]]:
  """Yields name, value and weight of all losses and metrics in a layer.

  Args:
    layer: The layer.
    state: Its state; from `init`, too, for the names. Values have the shape (),
      or (n,) for n blocks of a `Repeat`.
  """
  if isinstance(state, dict) or not jax.tree.leaves(state):
    return  # Trax's marker of a layer that occurs earlier is a dict.
  if isinstance(layer, Metrics):
    yield from (
      (name, value, layer.weight)
      for name, value in zip(layer.names, state, strict=True)
    )
  if layer.sublayers:
    for part in zip(layer.sublayers, state, strict=True):
      yield from reported(*part)


def reported_names(layer: base.Layer, state: Any) -> tuple[str, ...]:
  """Names of the values that `sum_reported` returns, each once."""
  return tuple(dict.fromkeys(name for name, *_ in reported(layer, state)))


def sum_reported(layer: base.Layer, state: Any) -> tuple[jax.Array, jax.Array]:
  """The term of the objective, a scalar, and all values, (n_metrics,) float32.

  A value that several layers report under one name, such as the blocks of a
  `Repeat`, is their mean; the objective has the sum of their losses.
  """
  objective, values = jnp.float32(0), {}
  for name, value, weight in reported(layer, state):
    values.setdefault(name, []).append(jnp.ravel(value))
    if weight:
      objective += weight * jnp.sum(value)
  means = [jnp.mean(jnp.concatenate(parts)) for parts in values.values()]
  return objective, jnp.stack(means) if means else jnp.zeros(0, jnp.float32)
