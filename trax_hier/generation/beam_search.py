"""Beam search: extends the most likely continuations of each row in parallel.

Each of b rows has k beams; beam i of row r is row r k + i of the model. When
beams change slots, only the state of the model is reordered. Tokens stay where
they were written, each with its parent: the beam that it extends.

Source: Google's Neural Machine Translation System (arXiv 1609.08144) section 7,
without its coverage penalty.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.generation.continuations import Continuations
from trax_hier.generation.stop_sequences import matched_length
from trax_hier.layers.base.once import Computed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypothesis:
  """A finished continuation of each row.

  Attributes:
    score: Log probability divided by the length penalty, (b,); -inf before any
      continuation has finished.
    position: Position of its last token, from which `trace_back` starts, (b,).
    beam: Beam of that token, 0 to k - 1, (b,).
    n_new: Number of its new tokens without the stop sequence, (b,).
  """

  score: jax.Array
  position: jax.Array
  beam: jax.Array
  n_new: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Search:
  """The state of beam search for a batch.

  Attributes:
    log_p: Log probabilities of the beams, (b, k); -inf for empty slots.
    parents: Parent of the token of each beam at each position, 0 to k - 1,
      int32 (b k, l).
    best: The best finished continuation of each row; others are discarded.
    length_penalty: Exponent of the length penalty.
  """

  log_p: jax.Array
  parents: jax.Array
  best: Hypothesis
  length_penalty: jax.Array

  def score(self, log_p: jax.Array, length: jax.Array) -> jax.Array:
    """Score of `length` tokens, stop sequence included: equation 14."""
    return log_p / ((5 + length) / 6) ** self.length_penalty


def start(b: int, k: int, length: int, length_penalty: float) -> Search:
  """The search before the first token, with space for `length` positions.

  The beams of a row are still equal, so only the first slot is filled.
  """
  zeros = jnp.zeros(b, jnp.int32)
  return Search(
    jnp.full((b, k), -jnp.inf, jnp.float32).at[:, 0].set(0),
    jnp.zeros((b * k, length), jnp.int32),
    Hypothesis(jnp.full(b, -jnp.inf, jnp.float32), zeros, zeros, zeros),
    jnp.float32(length_penalty),
  )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
  """Beams extended by one token: (b, n), the most likely of each row first.

  Attributes:
    log_p: Log probabilities.
    parents: The extended beams, int32.
    tokens: The new tokens, int32.
    recent: The last w new tokens, (b, n, w).
    matched: Length of the stop sequence that ends the candidate, or 0.
  """

  log_p: jax.Array
  parents: jax.Array
  tokens: jax.Array
  recent: jax.Array
  matched: jax.Array


def extend(
  log_p: jax.Array,
  recent: jax.Array,
  logits: jax.Array,
  n_ids: jax.Array,
  stop: jax.Array,
) -> Candidates:
  """The most likely candidates, enough that k end in no stop sequence.

  Args:
    log_p: Log probabilities of the beams, (b, k).
    recent: Their last w new tokens, (b k, w).
    logits: Logits of their next tokens, (b k, v).
    n_ids: Number of allowed token ids: 0 to n_ids - 1.
    stop: Stop sequences, (s, w).
  """
  b, k = log_p.shape
  v = logits.shape[-1]
  logits = jnp.where(jnp.arange(v) < n_ids, logits, -jnp.inf)
  steps = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(b, k, v)
  total = (log_p[..., None] + steps).reshape(b, k * v)
  # A stop sequence ends at most one candidate of each beam.
  n = min((1 + len(stop)) * k, k * v)
  log_p, index = jax.lax.top_k(total, n)
  parents, tokens = index // v, index % v
  recent = _gather(recent.reshape(b, k, -1), parents)[..., 1:]
  recent = jnp.concatenate([recent, tokens[..., None]], axis=-1)
  matched = matched_length(recent, stop)
  return Candidates(log_p, parents, tokens, recent, matched)


def select_beams(candidates: Candidates, k: int) -> Candidates:
  """The next beams: the k most likely candidates that end in no stop sequence.

  The most likely child of a beam takes its slot. The other children take the
  slots of beams without children.
  """
  log_p = jnp.where(candidates.matched > 0, -jnp.inf, candidates.log_p)
  log_p, index = jax.lax.top_k(log_p, k)
  children = jax.tree.map(lambda x: _gather(x, index), candidates)
  children = dataclasses.replace(children, log_p=log_p)
  is_child = children.parents[:, None] == jnp.arange(k)[:, None]  # Beam, child.
  has_child = jnp.any(is_child, axis=-1)
  first = jnp.argmax(is_child, axis=-1)
  is_first = _gather(first, children.parents) == jnp.arange(k)
  others = jnp.argsort(is_first, axis=-1, stable=True)
  other = _gather(others, jnp.cumsum(~has_child, axis=-1) - 1)
  index = jnp.where(has_child, first, other)
  return jax.tree.map(lambda x: _gather(x, index), children)


def update_best(
  search: Search,
  candidates: Candidates,
  beams: Candidates,
  t: jax.Array,
  length: jax.Array,
  n_tokens: jax.Array,
) -> tuple[Hypothesis, jax.Array]:
  """Returns the best finished continuations, and which rows are done, (b,).

  Args:
    search: The search before these tokens.
    candidates: From `extend`.
    beams: From `select_beams`.
    t: Position of these tokens.
    length: Number of new tokens, these included, (b,).
    n_tokens: Maximum number of new tokens.
  """
  k = search.log_p.shape[1]

  def at(t):
    return jnp.full_like(length, t)

  # Only the 2 k most likely candidates count. They have the same length, so the
  # most likely has the best score.
  first = jnp.argmax(candidates.matched > 0, axis=1)
  stop = jax.tree.map(lambda x: _gather(x, first[:, None])[:, 0], candidates)
  is_stopped = (stop.matched > 0) & (first < 2 * k)
  score = search.score(stop.log_p, length)
  # The last token belongs to the stop sequence, which is left out.
  stopped = Hypothesis(score, at(t - 1), stop.parents, length - stop.matched)
  best = _better(search.best, stopped, is_stopped)
  last = length >= n_tokens
  log_p = jnp.max(beams.log_p, axis=1)
  beam = jax.lax.argmax(beams.log_p, 1, jnp.int32)
  full = Hypothesis(search.score(log_p, length), at(t), beam, length)
  best = _better(best, full, last)
  # An upper bound: log probabilities only fall, and the divisor only grows.
  reachable = search.score(log_p, n_tokens)
  return best, last | (best.score >= reachable)


def _better(a, b, where):
  """Takes b in the rows of `where` (b,) where its score is higher, else a."""
  take = where & (b.score > a.score)
  return jax.tree.map(lambda a, b: jnp.where(take, b, a), a, b)


def _gather(x, index):
  """Gathers from each row of x (b, n, ..) at index (b, m): (b, m, ..)."""
  return jax.vmap(lambda x, index: x[index])(x, index)


def trace_back(
  search: Search, tokens: jax.Array, lengths: np.ndarray
) -> list[np.ndarray]:
  """The new tokens of the best continuation of each row.

  Args:
    search: The finished search.
    tokens: Tokens of the beams at each position, int32 (b k, l).
    lengths: Position of the last prompt token of each row, 0 if none, (b,).
  """
  best = jax.tree.map(np.asarray, search.best)
  shape = *search.log_p.shape, -1
  parents = np.asarray(search.parents).reshape(shape)
  tokens = np.asarray(tokens).reshape(shape)
  rows = Continuations()
  for row, (first, beam) in enumerate(zip(lengths, best.beam, strict=True)):
    new = []
    for position in range(best.position[row], first, -1):
      new.append(tokens[row, beam, position])
      beam = parents[row, beam, position]
    new = np.array(new[::-1], np.int32)
    rows.append(new[: best.n_new[row]])
  return rows


def row_axes(state: Any, other: Any) -> Any:
  """The axis of the rows in each array of a model's state; -1 if there is none.

  It is the axis whose size changes with the number of rows. Where an axis
  combines rows with something else, such as heads, rows are the outer part.

  Args:
    state: The state, or its shapes.
    other: The same for another number of rows.

  Example:
    >>> state = {'cache': jnp.zeros((2, 8, 4)), 't': jnp.zeros(())}
    >>> other = {'cache': jnp.zeros((6, 8, 4)), 't': jnp.zeros(())}
    >>> row_axes(state, other)
    {'cache': 0, 't': -1}
  """

  def axis(x, y):
    sizes = zip(x.shape, y.shape, strict=True)
    return next((i for i, (n, m) in enumerate(sizes) if n != m), -1)

  return jax.tree.map(axis, state, other)


def repeat_rows(state: Any, axes: Any, b: int, k: int) -> Any:
  """The state of b rows, repeated for k equal beams of each row."""

  def repeat(x, axis):
    if axis < 0:
      return x
    shape = list(x.shape)
    by_row = x.reshape(*shape[:axis], b, shape[axis] // b, *shape[axis + 1 :])
    shape[axis] *= k
    return jnp.repeat(by_row, k, axis).reshape(shape)

  return jax.tree.map(repeat, state, axes)


def reorder_state(state: Any, axes: Any, parents: jax.Array) -> Any:
  """The state of the new beams: each slot gets the state of its parent.

  Only slots whose parent is another slot are written, in place. Values computed
  once from a source stay: they are the same for all beams of a row.

  Args:
    state: State of the model.
    axes: From `row_axes`.
    parents: Parents of the beams from `select_beams`, (b, k).
  """
  b, k = parents.shape
  moves = (parents != jnp.arange(k)).reshape(-1)
  rows = (jnp.arange(b)[:, None] * k + parents).reshape(-1)
  order = jnp.argsort(~moves, stable=True)  # Moving rows first.

  def move(i, x, axis):
    if isinstance(x, Computed) or axis < 0:
      return x
    # No row is read after it was written: a parent's first child keeps its
    # slot, so a parent never moves.
    size = x.shape[axis] // (b * k)
    to, source = size * order[i], size * rows[order[i]]
    row = jax.lax.dynamic_slice_in_dim(x, source, size, axis)
    return jax.lax.dynamic_update_slice_in_dim(x, row, to, axis)

  def move_all(i, state):
    return jax.tree.map(
      functools.partial(move, i),
      state,
      axes,
      is_leaf=lambda x: isinstance(x, Computed),
    )

  return jax.lax.fori_loop(0, jnp.sum(moves), move_all, state)
