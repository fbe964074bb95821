"""What training holds between steps, and how a trax layer is initialised.

Trax layers keep weights in the layer object. Here they never do: a layer is
initialised under `jax.jit` or `jax.eval_shape`, its weights and state live in
a `TrainState`, and the object is left holding shapes only.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import ShapeDtype, base
from trax_hier.training.optimizers import Optimizer

PyTree = object
Batch = Mapping[str, jax.Array | np.ndarray | jax.ShapeDtypeStruct]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything a step reads and writes; all of it is in a checkpoint.

  Attributes:
    step: int32 scalar, the number of steps done.
    weights: the layer's weights, float32, as nested tuples.
    model_state: the layer's state (caches, recurrent states), nested tuples.
    opt_state: optax state.
    rng: uint32 (2,) key of the run; a step folds its number into it.
  """

  step: jax.Array
  weights: PyTree
  model_state: PyTree
  opt_state: PyTree
  rng: jax.Array


def shapes_of(batch: Batch) -> Batch:
  """The shapes of the arrays of a batch."""
  return {name: _shape_of(x) for name, x in batch.items()}


def token_shapes(shape: tuple[int, int]) -> Batch:
  """What is needed of a batch of tokens (b, l) alone, as shapes.

  Example:
    >>> token_shapes((2, 12))['inputs']
    ShapeDtypeStruct(shape=(2, 12), dtype=int32)
  """
  return {
    'inputs': jax.ShapeDtypeStruct(shape, np.int32),
    'start_of_sequence': jax.ShapeDtypeStruct(shape[:1], np.bool_),
  }


def model_inputs(layer: base.Layer, batch: Batch) -> PyTree:
  """What a layer takes of a batch, arrays or shapes.

  The tokens (b, l) and, by an encoder-decoder model, before them `sources`
  (b, m); by a layer with a memory across steps, which says so by a property
  `takes_start_of_sequence`, after them `start_of_sequence` (b,) bool: which
  rows begin a sequence, so that the state of those lanes is to be reset.

  Raises:
    ValueError: sources are there and not wanted, or the other way round.
  """
  has_memory = getattr(layer, 'takes_start_of_sequence', False)
  wants_sources = layer.n_in == 2 and not has_memory
  if wants_sources and 'sources' in batch:
    return batch['sources'], batch['inputs']
  if wants_sources:
    raise ValueError(
      'train.model is an encoder-decoder model, but train.data gives no '
      'sources: use @TextPairs(), @SpanCorruption(), whose data may be any '
      'text, or a model of tokens alone'
    )
  if 'sources' in batch:
    raise ValueError(
      'train.data gives sources and targets, but train.model takes tokens '
      'alone: use an encoder-decoder model, such as @ScalingTransformer, or '
      'data without sources'
    )
  if has_memory:
    return batch['inputs'], batch['start_of_sequence']
  return batch['inputs']


def init_layer(
  layer: base.Layer, batch: Batch, rng: jax.Array
) -> tuple[PyTree, PyTree]:
  """Weights and state of a layer for batches like `batch`, of tokens (b, l).

  Meant to be traced (`jax.jit`, `jax.eval_shape`): eager init is slow. Call
  `store_shapes` on the layer afterwards.
  """
  signature = jax.tree.map(
    lambda x: ShapeDtype(x.shape, x.dtype), model_inputs(layer, batch)
  )
  return _strong_types(layer.init(signature, rng=rng))


def store_shapes(
  layer: base.Layer, weights: PyTree, model_state: PyTree
) -> None:
  """Puts shapes in the layer object in place of tracers or arrays."""
  layer.rng = jax.random.PRNGKey(0)
  layer.weights = jax.tree.map(_shape_of, weights)
  layer.state = jax.tree.map(_shape_of, model_state)


def abstract_init(layer: base.Layer, batch: Batch) -> tuple[PyTree, PyTree]:
  """Shapes of the layer's weights and state, without computing any.

  Args:
    layer: a model.
    batch: a batch, or the shapes of its arrays.

  Returns:
    Two trees of `jax.ShapeDtypeStruct`: weights and state.

  Example:
    >>> from trax_hier.compat import tl
    >>> abstract_init(tl.Embedding(256, 8), token_shapes((2, 12)))
    (ShapeDtypeStruct(shape=(256, 8), dtype=float32), ())
  """
  weights, model_state = jax.eval_shape(
    lambda rng: init_layer(layer, batch, rng), jax.random.PRNGKey(0)
  )
  store_shapes(layer, weights, model_state)
  return weights, model_state


def n_parameters(weights: PyTree) -> int:
  """How many numbers a tree of weights (or of their shapes) holds.

  Example:
    >>> n_parameters((jnp.zeros((8, 16)), jnp.zeros(16)))
    144
  """
  return sum(int(np.prod(w.shape)) for w in jax.tree.leaves(weights))


def lane_axes(layer: base.Layer, batch: Batch, model_state: PyTree) -> PyTree:
  """For each array of the model state, the axis of the batch rows, else -1.

  A state array is per row ("lane") where its shape depends on the batch size,
  so the layer is asked for its shapes at another batch size.

  Args:
    layer: a model.
    batch: a batch, or the shapes of its arrays.
    model_state: the layer's state, or its shapes, for that batch.

  Returns:
    A tree of integers like the layer's state.
  """
  rows = batch['inputs'].shape[0]
  if not any(rows in x.shape for x in jax.tree.leaves(model_state)):
    return jax.tree.map(lambda _: -1, model_state)
  doubled = {
    name: jax.ShapeDtypeStruct((2 * rows, *x.shape[1:]), x.dtype)
    for name, x in batch.items()
  }
  weights, other = abstract_init(layer, doubled)
  store_shapes(layer, weights, model_state)

  def axis(a, b):
    moved = [i for i, n in enumerate(a.shape) if n != b.shape[i]]
    return moved[0] if moved else -1

  return jax.tree.map(axis, model_state, other)


def init_train_state(
  layer: base.Layer,
  optimizer: Optimizer,
  batch: Batch,
  rng: jax.Array,
) -> TrainState:
  """The state before the first step; to be jitted.

  Args:
    layer: the model in train mode.
    optimizer: its `transform` initialises the optimizer state.
    batch: a global training batch of tokens (b, l), or the shapes of its
      arrays.
    rng: uint32 (2,) key; the same key gives the same state.
  """
  init_rng, run_rng = jax.random.split(rng)
  weights, model_state = init_layer(layer, batch, init_rng)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    weights=weights,
    model_state=model_state,
    opt_state=_strong_types(optimizer.transform.init(weights)),
    rng=run_rng,
  )


def _strong_types(tree: PyTree) -> PyTree:
  """Arrays without weak types, which would compile the step a second time."""
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), tree)


def _shape_of(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype)
