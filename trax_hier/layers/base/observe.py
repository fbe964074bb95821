"""Observations from inside layers: gate values and chosen units.

Layers emit observations, which cost nothing in a program unless it is traced
inside `collecting`:

    counts = Counts()

    @jax.jit
    def run(x):
      with collecting(counts):
        layer.pure_fn(x, weights, state, rng)

    run(x)
    counts.take()  # {'blocks.0.FixedGate/keep': array, ...}

Callbacks in the program report counts, which are summed, so the order and
number of loop iterations do not matter.
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import base, layer_hooks, tl
from trax_hier.layers.base.repeat import Blocks, Stack, unstack

# Number of equal bins from 0 to 1 in the histogram of a gate.
N_BINS = 50

_scope = contextvars.ContextVar('scope', default=None)


def observe_gate(name: str, x: jax.Array) -> None:
  """Emits the histogram (N_BINS,) of values in [0, 1], of any shape."""
  scope = _scope.get()
  if scope is not None:
    bins = (x.astype(jnp.float32) * N_BINS).astype(jnp.int32)
    bins = jnp.minimum(bins, N_BINS - 1).reshape(-1, 1)
    scope.emit(name, jnp.sum(bins == jnp.arange(N_BINS), axis=0))


def observe_choices(name: str, units: jax.Array, n: int) -> None:
  """Emits counts (B, n) of the chosen units (t, B), each below n."""
  scope = _scope.get()
  if scope is not None:
    scope.emit(name, jnp.sum(units[..., None] == jnp.arange(n), axis=0))


class Counts:
  """Sums of observations by name, '{path of the layer}/{name}'."""

  def __init__(self):
    self._counts = {}

  def __len__(self) -> int:
    """The number of names, known as soon as a program is traced."""
    return len(self._counts)

  def add(self, name: str, counts: Any) -> None:
    """Adds counts to those of this name."""
    self._counts[name] = self._counts[name] + np.asarray(counts, np.int64)

  def expect(self, name: str, shape: tuple[int, ...]) -> None:
    """Registers a name, with counts of zero."""
    self._counts.setdefault(name, np.zeros(shape, np.int64))

  def take(self) -> dict[str, np.ndarray]:
    """Waits for all programs, returns the counts by name and resets them.

    Counts are (N_BINS,) for gates and (B, n) for choices.
    """
    jax.effects_barrier()
    taken = self._counts
    self._counts = {name: np.zeros_like(x) for name, x in taken.items()}
    return taken


@contextlib.contextmanager
def collecting(counts: Counts) -> Iterator[None]:
  """Collects into `counts` the observations of layers traced in this context.

  The blocks of a `Repeat` are traced one by one, so that each has its own name.
  Not differentiable.
  """
  token = _scope.set(_Scope(counts))
  try:
    with layer_hooks.intercept(_call):
      yield
  finally:
    _scope.reset(token)


@dataclasses.dataclass
class _Scope:
  """The path of named layers whose calls are being traced.

  Attributes:
    counts: The sums to which observations are added.
    path: Labels of the layers, outermost first, joined by dots.
    block_labels: Directly inside a `Stack`, labels of its remaining blocks.
    labels: Labels of the layers called so far in this scope; for a `Stack`, the
      index of its first block.
  """

  counts: Counts
  path: str = ''
  block_labels: Iterator[str] | None = None
  labels: dict[base.Layer, Any] = dataclasses.field(default_factory=dict)

  def emit(self, name, counts):
    name = f'{self.path}/{name}'
    self.counts.expect(name, counts.shape)
    jax.debug.callback(functools.partial(self.counts.add, name), counts)

  def inside(self, layer):
    """The scope inside a layer that is called in this scope."""
    if self.block_labels:
      return self._below(next(self.block_labels)).inside(layer)
    if isinstance(layer, Stack):
      first = sum(other.n for other in self.labels if isinstance(other, Stack))
      first = self.labels.setdefault(layer, first)
      blocks = (f'blocks.{first + i}' for i in range(layer.n))
      return dataclasses.replace(self, block_labels=blocks)
    if isinstance(layer, tl.Serial | tl.Parallel) or len(layer.sublayers) == 1:
      return self
    name = _name(layer)
    n = sum(_name(other) == name for other in self.labels)
    label = self.labels.setdefault(layer, f'{name}_{n}' if n else name)
    return self._below(label)

  def _below(self, label):
    return _Scope(self.counts, f'{self.path}.{label}' if self.path else label)


def _call(pure_fn, layer, x, weights, state, rng, use_cache):
  """Enters the scope of the layer, and traces stacked blocks one by one."""
  stacked = isinstance(layer, Stack) and not isinstance(weights, dict)
  if stacked:
    weights, state = (_unstack(tree, layer.n) for tree in (weights, state))
  token = _scope.set(_scope.get().inside(layer))
  try:
    y, state = pure_fn(layer, x, weights, state, rng, use_cache)
  finally:
    _scope.reset(token)
  if stacked:
    # The enclosing layers expect stacked state.
    (blocks,) = state
    state = (jax.tree.map(lambda *xs: jnp.stack(xs), *blocks.trees),)
  return y, state


def _name(layer):
  return layer.name.partition('(')[0].lstrip('_')


def _unstack(stacked, n):
  """Stacked weights or states of a `Stack` as `Blocks`."""
  (tree,) = stacked
  return (Blocks(tuple(unstack(tree, n))),)
