"""Beam search: the likeliest continuations of each row, followed together.

Each of b rows has k beams, beam i of row r being row r k + i of the model.
Beams change places as they are drawn. Of their tokens nothing is moved for it:
each beam's token is kept where it was drawn, and beside it the beam that it
went on from. Only the model's state follows the beams.

Source: Google's Neural Machine Translation System (arXiv 1609.08144) section 7,
without its coverage penalty.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.layers.base.stacking import Computed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypothesis:
  """A continuation of each row that has ended.

  Attributes:
    score: Its log probability over the penalty of its length, (b,); -inf where
      there is none.
    position: From where to trace back its tokens, (b,).
    beam: That of the row which has a token of it there, (b,).
    n_new: Number of its new tokens, a stop not counted, (b,).
  """

  score: jax.Array
  position: jax.Array
  beam: jax.Array
  n_new: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Search:
  """Where the search of a batch is.

  Attributes:
    log_p: Log probabilities of the beams, -inf of those that are none yet,
      (b, k).
    parents: For the token of each beam at each position, the beam (0 to k - 1)
      that it went on from, int32 (b k, l).
    best: The best continuation that has ended. No other can be the outcome.
    length_penalty: The exponent of the penalty.
  """

  log_p: jax.Array
  parents: jax.Array
  best: Hypothesis
  length_penalty: jax.Array

  def score(self, log_p: jax.Array, length: jax.Array) -> jax.Array:
    """The score of so many tokens, stops included: equation 14."""
    return log_p / ((5 + length) / 6) ** self.length_penalty


def begin(b: int, k: int, length: int, length_penalty: float) -> Search:
  """The search before the first token, with places for `length`.

  The beams of a row are equal then, so that only the first one counts.
  """
  none = jnp.zeros(b, jnp.int32)
  return Search(
    jnp.full((b, k), -jnp.inf, jnp.float32).at[:, 0].set(0),
    jnp.zeros((b * k, length), jnp.int32),
    Hypothesis(jnp.full(b, -jnp.inf, jnp.float32), none, none, none),
    jnp.float32(length_penalty),
  )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Continuations:
  """Beams and one token more: (b, n), the likeliest of each row first.

  Attributes:
    log_p: Log probabilities.
    beams: The beams, int32.
    tokens: The tokens, int32.
    recent: The last w new tokens, (b, n, w).
    stopped: The lengths of the stops in which they end, or 0.
  """

  log_p: jax.Array
  beams: jax.Array
  tokens: jax.Array
  recent: jax.Array
  stopped: jax.Array


def extend(
  log_p: jax.Array,
  recent: jax.Array,
  logits: jax.Array,
  n_ids: jax.Array,
  stop: jax.Array,
  stopped: Callable[[jax.Array, jax.Array], jax.Array],
) -> Continuations:
  """The likeliest continuations, so many that k of them do not end in a stop.

  Args:
    log_p: Of the beams, (b, k).
    recent: Their last w new tokens, (b k, w).
    logits: Of their next tokens, (b k, v).
    n_ids: Tokens are among the first so many ids.
    stop: Stop sequences, (s, w).
    stopped: recent (.., w), stop -> the length of the stop that ends it, or 0.
  """
  b, k = log_p.shape
  v = logits.shape[-1]
  logits = jnp.where(jnp.arange(v) < n_ids, logits, -jnp.inf)
  steps = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(b, k, v)
  total = (log_p[..., None] + steps).reshape(b, k * v)
  # Of the continuations of one beam, each stop ends one at most.
  n = min((1 + len(stop)) * k, k * v)
  log_p, index = jax.lax.top_k(total, n)
  beams, tokens = index // v, index % v
  recent = _pick(recent.reshape(b, k, -1), beams)[..., 1:]
  recent = jnp.concatenate([recent, tokens[..., None]], axis=-1)
  return Continuations(log_p, beams, tokens, recent, stopped(recent, stop))


def choose(found: Continuations, k: int) -> Continuations:
  """The k likeliest that do not end in a stop: the next beams.

  The likeliest that goes on from a beam takes its place; the others take those
  of beams that nothing goes on from.
  """
  log_p = jnp.where(found.stopped > 0, -jnp.inf, found.log_p)
  log_p, index = jax.lax.top_k(log_p, k)
  children = jax.tree.map(lambda x: _pick(x, index), found)
  children = dataclasses.replace(children, log_p=log_p)
  of_beam = children.beams[:, None] == jnp.arange(k)[:, None]  # Beam, child.
  goes_on = jnp.any(of_beam, axis=-1)
  heir = jnp.argmax(of_beam, axis=-1)
  is_heir = _pick(heir, children.beams) == jnp.arange(k)
  others = jnp.argsort(is_heir, axis=-1, stable=True)
  other = _pick(others, jnp.cumsum(~goes_on, axis=-1) - 1)
  index = jnp.where(goes_on, heir, other)
  return jax.tree.map(lambda x: _pick(x, index), children)


def compare(
  search: Search,
  found: Continuations,
  beams: Continuations,
  t: jax.Array,
  n_drawn: jax.Array,
  n_tokens: jax.Array,
) -> tuple[Hypothesis, jax.Array]:
  """The best that has ended, and whether it is the best of all, (b,).

  Args:
    search: Before these tokens.
    found: From `extend`.
    beams: From `choose`.
    t: The position of these tokens.
    n_drawn: Number of new tokens with them, (b,).
    n_tokens: The most that there may be.
  """
  k = search.log_p.shape[1]

  def at(t):
    return jnp.full_like(n_drawn, t)

  # Of those that end now the likeliest has the best score: they are as long.
  first = jnp.argmax(found.stopped > 0, axis=1)
  stop = jax.tree.map(lambda x: _pick(x, first[:, None])[:, 0], found)
  counts = (stop.stopped > 0) & (first < 2 * k)
  score = search.score(stop.log_p, n_drawn)
  # Its last token is of the stop, which is left out.
  ended = Hypothesis(score, at(t - 1), stop.beams, n_drawn - stop.stopped)
  best = _better(search.best, ended, counts)
  last = n_drawn >= n_tokens
  log_p, beam = jnp.max(beams.log_p, axis=1), jnp.argmax(beams.log_p, axis=1)
  whole = Hypothesis(search.score(log_p, n_drawn), at(t), beam, n_drawn)
  best = _better(best, whole, last)
  # What goes on gets no likelier, and its penalty is the least at the end.
  reachable = search.score(log_p, n_tokens)
  return best, last | (best.score >= reachable)


def _better(a, b, where):
  """b in rows `where` (b,) it has the higher score, else a."""
  take = where & (b.score > a.score)
  return jax.tree.map(lambda a, b: jnp.where(take, b, a), a, b)


def _pick(x, index):
  """Of x (b, n, ..) what index (b, m) says of each row: (b, m, ..)."""
  return jax.vmap(lambda x, index: x[index])(x, index)


def trace_back(
  search: Search, tokens: jax.Array, lengths: np.ndarray
) -> list[np.ndarray]:
  """The new tokens of the best continuation of each row.

  Args:
    search: At its end.
    tokens: Of the beams at each position, int32 (b k, l).
    lengths: The position before each row's first new token, (b,).
  """
  best = jax.tree.map(np.asarray, search.best)
  shape = *search.log_p.shape, -1
  parents = np.asarray(search.parents).reshape(shape)
  tokens = np.asarray(tokens).reshape(shape)
  rows = []
  for row, (first, beam) in enumerate(zip(lengths, best.beam, strict=True)):
    new = []
    for position in range(best.position[row], first, -1):
      new.append(tokens[row, beam, position])
      beam = parents[row, beam, position]
    new = np.array(new[::-1], np.int32)
    rows.append(new[: best.n_new[row]])
  return rows


def row_axes(state: Any, other: Any) -> Any:
  """For each array of a model's state, the axis with the rows, else -1.

  That is where its shape differs from what it is with another number of rows.
  Of an axis that is rows and more, such as heads, rows are the outer part.

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
  """The state of b rows for k equal beams of each."""

  def repeat(x, axis):
    if axis < 0:
      return x
    shape = list(x.shape)
    apart = x.reshape(*shape[:axis], b, shape[axis] // b, *shape[axis + 1 :])
    shape[axis] *= k
    return jnp.repeat(apart, k, axis).reshape(shape)

  return jax.tree.map(repeat, state, axes)


def follow(state: Any, axes: Any, beams: jax.Array) -> Any:
  """The state after beams (b, k) of each row, from `choose`, became its beams.

  Only rows of the model whose beam has changed are written, each in its place.
  What is computed once from a source is the same for all beams of a row.
  """
  b, k = beams.shape
  moves = (beams != jnp.arange(k)).reshape(-1)
  rows = (jnp.arange(b)[:, None] * k + beams).reshape(-1)
  order = jnp.argsort(~moves, stable=True)  # Those that move first.

  def move(i, x, axis):
    if isinstance(x, Computed) or axis < 0:
      return x
    # What is read stays: one that goes on from a beam has kept its place.
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


def check(n_beams: int, length_penalty: float, unused: Sequence[str]) -> None:
  """Raises ValueError for what cannot be asked for.

  Args:
    n_beams: Number of beams.
    length_penalty: The exponent of the penalty.
    unused: Names of arguments that are given and mean nothing for beams.
  """
  if not (math.isfinite(length_penalty) and length_penalty >= 0):
    raise ValueError(f'length_penalty = {length_penalty} must be a number >= 0')
  if n_beams > 1 and unused:
    names = ', '.join(unused)
    raise ValueError(
      f'n_beams = {n_beams} follows the likeliest tokens and draws none, and '
      f'gives them when it has ended: leave out {names}'
    )
