"""What training holds between steps, and how a trax layer is initialised.

Trax layers keep weights in the layer object. Here they never do: a layer is
initialised under `jax.jit` or `jax.eval_shape`, its weights and state live in
a `TrainState`, and the object is left holding shapes only.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.training.optimizers import Optimizer
from trax_hier.trax_compat import ShapeDtype, base

PyTree = object


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


def init_layer(
  layer: base.Layer, shape: tuple[int, ...], rng: jax.Array
) -> tuple[PyTree, PyTree]:
  """Weights and state of a layer for int32 tokens of `shape` (b, l).

  A layer of two inputs takes `start_of_sequence` (b,) as the second.
  Meant to be traced (`jax.jit`, `jax.eval_shape`): eager init is slow. Call
  `clean` on the layer afterwards.
  """
  signature = ShapeDtype(shape, np.int32)
  if layer.n_in == 2:
    signature = signature, ShapeDtype(shape[:1], np.bool_)
  return _strong_types(layer.init(signature, rng=rng))


def clean(layer: base.Layer, weights: PyTree, model_state: PyTree) -> None:
  """Puts shapes in the layer object in place of tracers or arrays."""
  layer.rng = jax.random.PRNGKey(0)
  layer.weights = jax.tree.map(_shape_of, weights)
  layer.state = jax.tree.map(_shape_of, model_state)


def abstract_init(
  layer: base.Layer, shape: tuple[int, ...]
) -> tuple[PyTree, PyTree]:
  """Shapes of the layer's weights and state, without computing any.

  Args:
    layer: a layer from tokens (b, l) to logits (b, l, v).
    shape: (b, l).

  Returns:
    Two trees of `jax.ShapeDtypeStruct`: weights and state.
  """
  weights, model_state = jax.eval_shape(
    lambda rng: init_layer(layer, shape, rng), jax.random.PRNGKey(0)
  )
  clean(layer, weights, model_state)
  return weights, model_state


def n_weights(weights: PyTree) -> int:
  """How many numbers a tree of weights (or of their shapes) holds."""
  return sum(int(np.prod(w.shape)) for w in jax.tree.leaves(weights))


def lane_axes(
  layer: base.Layer, shape: tuple[int, ...], model_state: PyTree
) -> PyTree:
  """For each array of the model state, the axis of the batch rows, else -1.

  A state array is per row ("lane") where its shape depends on the batch size,
  so the layer is asked for its shapes at another batch size.

  Args:
    layer: a layer from tokens (b, l) to logits (b, l, v).
    shape: (b, l).
    model_state: the layer's state, or its shapes, for `shape`.

  Returns:
    A tree of integers like the layer's state.
  """
  if not any(shape[0] in x.shape for x in jax.tree.leaves(model_state)):
    return jax.tree.map(lambda _: -1, model_state)
  weights, other = abstract_init(layer, (2 * shape[0], *shape[1:]))
  clean(layer, weights, model_state)

  def axis(a, b):
    moved = [i for i, n in enumerate(a.shape) if n != b.shape[i]]
    return moved[0] if moved else -1

  return jax.tree.map(axis, model_state, other)


def init_train_state(
  layer: base.Layer,
  optimizer: Optimizer,
  shape: tuple[int, ...],
  rng: jax.Array,
) -> TrainState:
  """The state before the first step; to be jitted.

  Args:
    layer: the model in train mode.
    optimizer: its `transform` initialises the optimizer state.
    shape: (b, l) of a global training batch.
    rng: uint32 (2,) key; the same key gives the same state.
  """
  init_rng, run_rng = jax.random.split(rng)
  weights, model_state = init_layer(layer, shape, init_rng)
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
