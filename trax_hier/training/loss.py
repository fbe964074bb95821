"""The loss: cross entropy, with label smoothing, whole or in chunks.

The logits of a long sequence are its largest array. In chunks of the length,
the head of the model is applied to some positions of each row at a time, and
again in the backward pass, so the logits of the others are never in memory.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from trax_hier.compat import base, layer_hooks, tl
from trax_hier.layers.base.head import Head
from trax_hier.layers.base.memory import Lanes
from trax_hier.training.state import Batch

# Columns of the scores of rows; see `row_scores`.
_OBJECTIVE, _NATS, _CORRECT, _WRONG = range(4)


@dataclasses.dataclass(frozen=True)
class Loss:
  """How the loss of a batch is computed.

  Attributes:
    label_smoothing: Share of the target distribution that is uniform over the
      vocabulary, in training.
    chunk: Largest number of positions of a row whose logits are in memory; None
      computes all at once.
  """

  label_smoothing: float = 0.0
  chunk: int | None = None

  def __post_init__(self):
    """Raises ValueError for a number out of range."""
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(
        'train.label_smoothing must be at least 0 and below 1, got '
        f'{self.label_smoothing}'
      )
    chunk = 1 if self.chunk is None else self.chunk
    if type(chunk) is not int or chunk < 1:
      raise ValueError(
        'train.loss_chunk must be None (all positions at once) or a whole '
        f'number of positions, at least 1, got {self.chunk!r}'
      )

  def logits_shape(self, logits: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The shape of the logits in memory, from that of all logits (b, l, v)."""
    rows, length, width = logits.shape
    shape = rows, min(length, self.chunk or length), width
    return jax.ShapeDtypeStruct(shape, logits.dtype)

  def training_sums(
    self, layer: base.Layer, apply: Callable, batch: Batch
  ) -> tuple[jax.Array, jax.Array, object]:
    """Sums over a batch, weighted by token.

    Args:
      layer: Model.
      apply: Function that applies it: () -> logits (b, l, v) and model state.
      batch: `targets` int32 (b, l) and `weights` float32 (b, l).

    Returns:
      The objective, a float32 scalar; cross entropy in nats without label
      smoothing and correct predictions, float32 (2,); and the model state.
    """
    if self == Loss():
      logits, state = apply()
      nats, correct = weighted_sums(logits, batch)
      return nats, jnp.stack([nats, correct]), state
    rows, state = self._rows(layer, apply, batch)
    sums = jnp.sum(rows, axis=0)
    return sums[_OBJECTIVE], sums[jnp.array([_NATS, _CORRECT])], state

  def evaluation_sums(
    self, layer: base.Layer, apply: Callable, batch: Batch
  ) -> tuple[jax.Array, object]:
    """Sums over a batch (b, l), and the model state.

    Arguments are those of `training_sums`. The sums are float32 (5,): cross
    entropy in nats, correct predictions, token weights, rows without a wrong
    prediction, and rows with a scored token.
    """
    rows, state = self._rows(layer, apply, batch)
    is_scored = jnp.any(batch['weights'] > 0, axis=1)
    is_right = is_scored & (rows[:, _WRONG] == 0)
    sums = (
      jnp.sum(rows[:, _NATS]),
      jnp.sum(rows[:, _CORRECT]),
      jnp.sum(batch['weights']),
      jnp.sum(is_right),
      jnp.sum(is_scored),
    )
    return jnp.stack([x.astype(jnp.float32) for x in sums]), state

  def _rows(self, layer, apply, batch):
    """The scores of the rows, (b, 4), and the model state."""
    scored = batch['targets'], batch['weights']
    if self.chunk is None:
      logits, state = apply()
      return row_scores(logits, *scored, self.label_smoothing), state
    with self._in_chunks(find_head(layer), scored):
      return apply()

  def _in_chunks(
    self, head: base.Layer, scored: tuple[jax.Array, jax.Array]
  ) -> contextlib.AbstractContextManager:
    """In this context, the head returns the scores of rows, not logits."""

    def call(pure_fn, layer, x, weights, state, rng, use_cache):
      if layer is not head:
        return pure_fn(layer, x, weights, state, rng, use_cache)

      def scores(x, *scored):
        logits, _ = pure_fn(layer, x, weights, state, rng, use_cache)
        return row_scores(logits, *scored, self.label_smoothing)

      return _sum_over_chunks(scores, (x, *scored), self.chunk), state

    return layer_hooks.intercept(call)


def find_head(layer: base.Layer) -> Head:
  """Finds the head that ends a model.

  Raises:
    ValueError: if the model does not end in one, or the head may read several
      positions for one.
  """
  last = layer
  while isinstance(last, tl.Serial | Lanes) and not isinstance(last, Head):
    last = last.sublayers[-1]
  if not isinstance(last, Head):
    raise ValueError(
      'train.loss_chunk needs a model that ends in a trax_hier.layers.Head, as '
      f'those of trax_hier do, but train.model ends in {last.name}: set '
      'train.loss_chunk = None, or put the layers that make logits into a Head'
    )
  if mixing := last.mixing_layer():
    raise ValueError(
      'train.loss_chunk needs logits that are computed for each position by '
      f'itself, but those of train.model contain a {mixing.name}: set '
      'train.loss_chunk = None, or use @Dense, @MultiplicativeDense or '
      "@TiedLogits for the model's argument `logits`"
    )
  return last


def weighted_sums(
  logits: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array]:
  """Sums of cross entropy and correct predictions, weighted by token.

  Args:
    logits: Logits of any floating type, (b, l, v).
    batch: `targets` int32 (b, l) and `weights` float32 (b, l).

  Returns:
    Cross entropy in nats and correct predictions, both float32 scalars.
  """
  logits = logits.astype(jnp.float32)
  targets, weights = batch['targets'], batch['weights']
  nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  correct = _is_best(logits, targets)
  return jnp.sum(nats * weights), jnp.sum(correct * weights)


def row_scores(
  logits: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  label_smoothing: float = 0.0,
) -> jax.Array:
  """Scores of each row, weighted by token.

  Args:
    logits: Logits of any floating type, (b, l, v).
    targets: Ids to predict, int32 (b, l).
    weights: Weights of the predictions, float32 (b, l).
    label_smoothing: Share of the target distribution that is uniform.

  Returns:
    float32 (b, 4): the objective, cross entropy in nats, correct predictions,
    and the number of wrong predictions of a weight above 0.
  """
  logits = logits.astype(jnp.float32)
  nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  objective = nats
  if label_smoothing:
    to_uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
    objective = (1 - label_smoothing) * nats + label_smoothing * to_uniform
  correct = _is_best(logits, targets)
  columns = (
    objective * weights,
    nats * weights,
    correct * weights,
    ~correct & (weights > 0),
  )
  return jnp.stack([jnp.sum(x, axis=1) for x in columns], axis=-1)


def _is_best(logits, targets):
  """Whether `argmax` of the logits (b, l, v) gives the targets (b, l).

  XLA for CPU computes two maxima faster than one `argmax`.
  """
  own = jnp.take_along_axis(logits, targets[..., None], axis=-1)
  is_lower = jnp.arange(logits.shape[-1]) < targets[..., None]
  best_lower = jnp.max(jnp.where(is_lower, logits, -jnp.inf), axis=-1)
  best = jnp.max(logits, axis=-1)
  return (own[..., 0] >= best) & (own[..., 0] > best_lower)


def _sum_over_chunks(
  function: Callable[..., jax.Array], arrays: Sequence[jax.Array], size: int
) -> jax.Array:
  """Adds the values of a function for chunks of axis 1; recomputes them.

  Args:
    function: Function of arrays (b, c, ..), whose values for zeros count 0.
    arrays: Its arguments for the whole length, (b, l, ..).
    size: Largest length c of a chunk.
  """
  length = arrays[0].shape[1]
  n = -(-length // size)
  chunks = [_split(x, n) for x in arrays]
  # The weights of the head. Their gradients are added up in float32, whatever
  # the type that it computes in.
  function, closed_over = jax.closure_convert(function, *[x[0] for x in chunks])
  wide = [x.astype(jnp.float32) for x in closed_over]

  @jax.checkpoint
  def add(total, chunk, wide):
    narrow = [x.astype(y.dtype) for x, y in zip(wide, closed_over, strict=True)]
    return total + function(*chunk, *narrow)

  total = jax.eval_shape(function, *[x[0] for x in chunks], *closed_over)
  total, _ = jax.lax.scan(
    lambda total, chunk: (add(total, chunk, wide), None),
    jnp.zeros(total.shape, total.dtype),
    chunks,
  )
  return total


def _split(x, n):
  """Splits (b, l, ..) into n chunks of equal length: (n, b, c, ..)."""
  rows, length = x.shape[:2]
  x = jnp.pad(x, [(0, 0), (0, -length % n)] + [(0, 0)] * (x.ndim - 2))
  return jnp.moveaxis(x.reshape(rows, n, -1, *x.shape[2:]), 1, 0)
