"""Looking into layers: what gates let through, which units are chosen.

Layers say what there is to see, which is nothing to a program unless it is
traced within `collecting`:

    seen = Seen()

    @jax.jit
    def run(x):
      with collecting(seen):
        layer.pure_fn(x, weights, state, rng)

    run(x)
    seen.take()  # {'blocks.0.FixedGate/keep': counts, ...}

Counts leave the program by callbacks and are added up, so that it does not
matter in which order, or how often, a loop comes by.
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
from trax_hier.layers.base.stacking import Blocks, Stack

# Counts of a gate are of so many equal parts of 0 to 1.
N_BINS = 50

_place = contextvars.ContextVar('place', default=None)


def observe_gate(name: str, x: jax.Array) -> None:
  """Shows numbers between 0 and 1, of any shape, as counts (N_PARTS,)."""
  place = _place.get()
  if place is not None:
    parts = (x.astype(jnp.float32) * N_BINS).astype(jnp.int32)
    parts = jnp.minimum(parts, N_BINS - 1).reshape(-1, 1)
    place.emit(name, jnp.sum(parts == jnp.arange(N_BINS), axis=0))


def observe_choices(name: str, units: jax.Array, n: int) -> None:
  """Shows which of n units are chosen in blocks, (t, B), as counts (B, n)."""
  place = _place.get()
  if place is not None:
    place.emit(name, jnp.sum(units[..., None] == jnp.arange(n), axis=0))


class Seen:
  """What was observed, by name: the way to the layer, then what it calls it."""

  def __init__(self):
    """Nothing is seen yet."""
    self._counts = {}

  def __len__(self) -> int:
    """The number of names, known as soon as a program is traced."""
    return len(self._counts)

  def add(self, name: str, counts: Any) -> None:
    """Adds to what has this name."""
    self._counts[name] = self._counts[name] + np.asarray(counts, np.int64)

  def expect(self, name: str, shape: tuple[int, ...]) -> None:
    """Begins a name."""
    self._counts.setdefault(name, np.zeros(shape, np.int64))

  def take(self) -> dict[str, np.ndarray]:
    """The counts so far, when all programs have ended; then begins anew.

    Those of a gate are (N_PARTS,), those of choices (B, n).
    """
    jax.effects_barrier()
    taken = self._counts
    self._counts = {name: np.zeros_like(x) for name, x in taken.items()}
    return taken


@contextlib.contextmanager
def collecting(seen: Seen) -> Iterator[None]:
  """Has what is traced within it hand what layers show to `seen`.

  The blocks of a `Repeat` are traced one by one, to be told apart. Not for
  gradients.
  """
  token = _place.set(_Place(seen))
  try:
    with layer_hooks.intercept(_call):
      yield
  finally:
    _place.reset(token)


@dataclasses.dataclass
class _Place:
  """Where in the model calls are: inside of layers that have names.

  Attributes:
    seen: what gets the counts.
    name: the way here.
    turns: directly inside of a `Stack`, the names of its blocks to come.
    labels: of the layers called here: what they are called.
  """

  seen: Seen
  name: str = ''
  turns: Iterator[str] | None = None
  labels: dict[base.Layer, Any] = dataclasses.field(default_factory=dict)

  def emit(self, name, counts):
    name = f'{self.name}/{name}'
    self.seen.expect(name, counts.shape)
    jax.debug.callback(functools.partial(self.seen.add, name), counts)

  def inside(self, layer):
    """The place inside of a layer that is called here."""
    if self.turns:
      return self._below(next(self.turns)).inside(layer)
    if isinstance(layer, Stack):
      first = sum(other.n for other in self.labels if isinstance(other, Stack))
      first = self.labels.setdefault(layer, first)
      turns = (f'blocks.{first + i}' for i in range(layer.n))
      return dataclasses.replace(self, turns=turns)
    if isinstance(layer, tl.Serial | tl.Parallel) or len(layer.sublayers) == 1:
      return self
    name = _name(layer)
    n = sum(_name(other) == name for other in self.labels)
    label = self.labels.setdefault(layer, f'{name}_{n}' if n else name)
    return self._below(label)

  def _below(self, label):
    return _Place(self.seen, f'{self.name}.{label}' if self.name else label)


def _call(pure_fn, layer, x, weights, state, rng, use_cache):
  """Keeps account of the place, and has blocks traced one by one."""
  stacked = isinstance(layer, Stack) and not isinstance(weights, dict)
  if stacked:
    weights, state = (_taken_apart(tree, layer.n) for tree in (weights, state))
  token = _place.set(_place.get().inside(layer))
  try:
    y, state = pure_fn(layer, x, weights, state, rng, use_cache)
  finally:
    _place.reset(token)
  if stacked:
    # What is around it knows the states of blocks as they were.
    (blocks,) = state
    state = (jax.tree.map(lambda *parts: jnp.stack(parts), *blocks.trees),)
  return y, state


def _name(layer):
  return layer.name.partition('(')[0].lstrip('_')


def _taken_apart(stacked, n):
  """Stacked weights or states of a `Stack`, each block on its own."""
  (tree,) = stacked
  parts = (jax.tree.map(lambda x, i=i: x[i], tree) for i in range(n))
  return (Blocks(tuple(parts)),)
