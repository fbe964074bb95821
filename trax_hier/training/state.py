"""Training state, and functional initialization of trax layers.

In trax, the layer object holds its weights. Here, a layer is initialized under
`jax.jit` or `jax.eval_shape`, its weights and state live in a `TrainState`, and
the layer object holds only shapes.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import ShapeDtype, base
from trax_hier.layers.base.dtypes import in_32_bits
from trax_hier.training.optimizers import Optimizer

PyTree = object
Batch = Mapping[str, jax.Array | np.ndarray | jax.ShapeDtypeStruct]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """The state that training steps update and checkpoints store.

  Attributes:
    step: Number of steps done, int32 scalar.
    weights: Weights of the layer, float32, as nested tuples.
    model_state: State of the layer (caches, recurrent states), nested tuples.
    opt_state: State of the optax optimizer.
    rng: Random key of the run, uint32 (2,); each step folds in its number.
  """

  step: jax.Array
  weights: PyTree
  model_state: PyTree
  opt_state: PyTree
  rng: jax.Array


def shapes_of(batch: Batch) -> Batch:
  """The shapes of the arrays of a batch."""
  return {name: _shape_of(x) for name, x in batch.items()}


def with_rows(batch: Batch, rows: int) -> Batch:
  """The shapes of a batch with another number of rows."""
  return {
    name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)
    for name, x in batch.items()
  }


def token_shapes(shape: tuple[int, int]) -> Batch:
  """The shapes of a batch of tokens (b, l) without sources or targets.

  Example:
    >>> token_shapes((2, 12))['inputs']
    ShapeDtypeStruct(shape=(2, 12), dtype=int32)
  """
  return {
    'inputs': jax.ShapeDtypeStruct(shape, np.int32),
    'start_of_sequence': jax.ShapeDtypeStruct(shape[:1], np.bool_),
  }


def model_inputs(layer: base.Layer, batch: Batch) -> PyTree:
  """Selects the inputs of a layer from a batch of arrays or shapes.

  Every model takes tokens (b, l). An encoder-decoder model takes `sources`
  (b, m) before them. A layer with a memory across steps, marked by a property
  `takes_start_of_sequence`, takes `start_of_sequence` (b,) bool after them and
  resets the memory of the rows where it is true.

  Raises:
    ValueError: if the model takes sources and the batch has none, or the other
      way round, or if a model with a memory gets no `start_of_sequence`.
  """
  has_memory = getattr(layer, 'takes_start_of_sequence', False)
  wants_sources = layer.n_in == 2 and not has_memory
  if wants_sources and 'sources' in batch:
    return batch['sources'], batch['inputs']
  if wants_sources:
    raise ValueError(
      'train.model is an encoder-decoder model, but train.data has no '
      'sources: use @TextPairs(), @SpanCorruption(), which takes any text, or '
      'a decoder-only model'
    )
  if 'sources' in batch:
    raise ValueError(
      'train.data has sources and targets, but train.model is a decoder-only '
      'model: use an encoder-decoder model, such as @ScalingTransformer, or '
      'data without sources'
    )
  if has_memory and 'start_of_sequence' not in batch:
    raise ValueError(
      'train.model carries a memory from batch to batch, but the batches of '
      "train.data have no 'start_of_sequence', (b,) booleans that are True for "
      'rows that begin a sequence'
    )
  if has_memory:
    return batch['inputs'], batch['start_of_sequence']
  return batch['inputs']


def input_signature(layer: base.Layer, batch: Batch) -> PyTree:
  """The argument of `Layer.init` for a batch; see `model_inputs`."""
  return jax.tree.map(
    lambda x: ShapeDtype(x.shape, x.dtype), model_inputs(layer, batch)
  )


def init_layer(
  layer: base.Layer, batch: Batch, rng: jax.Array
) -> tuple[PyTree, PyTree]:
  """Initializes the weights and state of a layer for tokens (b, l).

  Trace this function (`Initialization`, `jax.eval_shape`): eager initialization
  is slow. Call `store_shapes` on the layer afterwards.
  """
  signature = input_signature(layer, batch)
  return _stored_types(layer.init(signature, rng=rng))


def store_shapes(
  layer: base.Layer, weights: PyTree, model_state: PyTree
) -> None:
  """Replaces tracers or arrays in the layer object by their shapes."""
  layer.rng = jax.random.PRNGKey(0)
  layer.weights = jax.tree.map(_shape_of, weights)
  layer.state = jax.tree.map(_shape_of, model_state)


def abstract_init(layer: base.Layer, batch: Batch) -> tuple[PyTree, PyTree]:
  """Shapes of the weights and state of a layer; computes no arrays.

  Args:
    layer: Model.
    batch: Batch, or the shapes of its arrays.

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
  """Number of parameters in a tree of weights, or of their shapes.

  Example:
    >>> n_parameters((jnp.zeros((8, 16)), jnp.zeros(16)))
    144
  """
  return sum(int(np.prod(w.shape)) for w in jax.tree.leaves(weights))


def lane_axes(layer: base.Layer, batch: Batch, model_state: PyTree) -> PyTree:
  """Axis of the batch rows in each array of the model state; -1 if none.

  A state array is kept per row ("lane") if its shape depends on the batch size,
  so this compares shapes for two batch sizes.

  Args:
    layer: Model.
    batch: Batch, or the shapes of its arrays.
    model_state: State of the layer for that batch, or its shapes.

  Returns:
    A tree of integers with the structure of the model state.
  """
  rows = batch['inputs'].shape[0]
  if not any(rows in x.shape for x in jax.tree.leaves(model_state)):
    return jax.tree.map(lambda _: -1, model_state)
  weights, other = abstract_init(layer, with_rows(batch, 2 * rows))
  store_shapes(layer, weights, model_state)

  def axis(a, b):
    changed = [i for i, n in enumerate(a.shape) if n != b.shape[i]]
    return changed[0] if changed else -1

  return jax.tree.map(axis, model_state, other)


def init_train_state(
  layer: base.Layer,
  optimizer: Optimizer,
  batch: Batch,
  rng: jax.Array,
) -> TrainState:
  """Initializes the state before the first step; jit this function.

  Args:
    layer: Model in train mode.
    optimizer: Optimizer, whose `transform` initializes the optimizer state.
    batch: Global training batch of tokens (b, l), or the shapes of its arrays.
    rng: Key, uint32 (2,); equal keys give equal states.
  """
  init_rng, run_rng = jax.random.split(rng)
  weights, model_state = init_layer(layer, batch, init_rng)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    weights=weights,
    model_state=model_state,
    opt_state=_stored_types(optimizer.transform.init(weights)),
    rng=run_rng,
  )


def _stored_types(tree: PyTree) -> PyTree:
  """Removes weak types, which make the step compile twice, and 64-bit types."""
  return in_32_bits(
    jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), tree)
  )


def _shape_of(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype)
