"""From factories to a run's functions: checked, abstract, nothing compiled."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from trax_hier.compat import base
from trax_hier.training.evaluate import Evaluator
from trax_hier.training.flops import forward_flops
from trax_hier.training.mesh import (
  all_gather_weights,
  lane_shardings,
  make_mesh,
  replicated,
  split_rows,
  weight_shardings,
)
from trax_hier.training.optimizers import Optimizer
from trax_hier.training.state import (
  Batch,
  TrainState,
  init_train_state,
  lane_axes,
  shapes_of,
  store_shapes,
)
from trax_hier.training.step import apply_model, make_train_step

PyTree = object

COMPUTE_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Build:
  """The parts of a run, ready to compile.

  Attributes:
    model: the model factory.
    data: the data set.
    mesh: the devices.
    batch_shape: (b, l) of a global training batch.
    abstract: the training state's shapes and shardings.
    init: rng key -> training state; jitted.
    step: (state, batch) -> (state, metrics); jitted, the state is donated.
    evaluator: weights -> held-out metrics.
    compute_dtype: what weights are cast to for compute.
    count_flops: -> FLOPs of the model in a training step; traces it.
  """

  model: Callable[..., base.Layer]
  data: object
  mesh: Mesh
  batch_shape: tuple[int, int]
  abstract: TrainState
  init: Callable
  step: Callable
  evaluator: Evaluator
  compute_dtype: jnp.dtype
  count_flops: Callable[[], int]


def build(
  model: Callable,
  data: object,
  optimizer: Callable,
  accumulate_steps: int = 1,
  compute_dtype: str = 'float32',
  mesh: Mapping[str, int] | None = None,
) -> Build:
  """Builds model, optimizer and data, and checks that they fit.

  Arguments are those of `loop.train`.

  Raises:
    ValueError: for an argument of the wrong kind, a mesh that does not fit the
      devices, a batch that does not split over devices and parts, or a
      vocabulary larger than the model's.
  """
  check_parts(model, data, compute_dtype)
  dtype = COMPUTE_DTYPES[compute_dtype]
  if isinstance(optimizer, Optimizer) or not callable(optimizer):
    raise ValueError(
      'train.optimizer must be a factory such as @Adam (without '
      f'parentheses), got {_name(optimizer)}'
    )
  mesh = make_mesh(mesh)
  batch = shapes_of(data.train_batch(0))
  shape = batch['inputs'].shape
  _check_rows(shape[0], mesh.size, accumulate_steps)

  layer, optimizer = model(mode='train'), optimizer()

  def init(rng):
    return init_train_state(layer, optimizer, batch, rng)

  abstract = jax.eval_shape(init, jax.random.PRNGKey(0))
  initialised = layer, abstract.weights, abstract.model_state
  store_shapes(*initialised)
  check_logits(*initialised, batch, data.vocab.size)
  lanes = lane_axes(layer, batch, abstract.model_state)
  shardings = TrainState(
    step=replicated(mesh),
    weights=weight_shardings(mesh, abstract.weights),
    model_state=lane_shardings(mesh, lanes),
    opt_state=weight_shardings(mesh, abstract.opt_state),
    rng=replicated(mesh),
  )
  abstract = jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    abstract,
    shardings,
  )
  step = make_train_step(layer, optimizer, lanes, accumulate_steps, dtype)
  return Build(
    model=model,
    data=data,
    mesh=mesh,
    batch_shape=shape,
    abstract=abstract,
    init=jax.jit(
      init, out_shardings=shardings, compiler_options=_init_options()
    ),
    step=jax.jit(
      all_gather_weights(mesh, shape[0] // accumulate_steps)(step),
      donate_argnums=0,
      in_shardings=(shardings, split_rows(mesh)),
      out_shardings=(shardings, replicated(mesh)),
    ),
    evaluator=Evaluator(
      model(mode='eval'), data.eval_batches('valid'), data.unit, mesh, dtype
    ),
    compute_dtype=dtype,
    count_flops=lambda: 3 * forward_flops(*initialised, batch),
  )


def check_parts(model: Callable, data: object, compute_dtype: str) -> None:
  """Checks the kinds of what `train.model` and so on are bound to.

  Raises:
    ValueError: naming the binding.
  """
  if compute_dtype not in COMPUTE_DTYPES:
    raise ValueError(
      f'train.compute_dtype must be one of {", ".join(COMPUTE_DTYPES)}, got '
      f'{compute_dtype!r}'
    )
  if isinstance(model, base.Layer) or not callable(model):
    raise ValueError(
      'train.model must be a factory such as @HourglassLM (without '
      f'parentheses), got {_name(model)}'
    )
  if isinstance(data, type) or not hasattr(data, 'train_batch'):
    raise ValueError(
      'train.data must be a data set such as @TextFiles() (with '
      f'parentheses), got {_name(data)}'
    )


def _name(part):
  """What was given in place of a part, in a few words."""
  return f'{getattr(part, "__name__", part)!s:.80}'


def _check_rows(rows, devices, parts):
  if parts < 1:
    raise ValueError(
      f'train.accumulate_steps must be a whole number, at least 1, got {parts}'
    )
  if rows % (devices * parts):
    raise ValueError(
      f'a training batch of {rows} rows does not split evenly over {devices} '
      f'device{"s" * (devices > 1)} and train.accumulate_steps = {parts}: the '
      f'rows must be a multiple of {devices * parts}'
    )


def check_logits(
  layer: base.Layer,
  weights: PyTree,
  model_state: PyTree,
  batch: Batch,
  vocab_size: int,
) -> None:
  """Runs the whole model on shapes alone, for the first time.

  Args:
    layer: the model.
    weights: shapes of its weights, and
    model_state: of its state.
    batch: the shapes of a batch.
    vocab_size: how many ids the data has.

  Raises:
    ValueError: if the logits are not (b, l, v) with v at least `vocab_size`.
  """
  logits, _ = jax.eval_shape(
    lambda *args: apply_model(layer, *args, jnp.float32),
    weights,
    model_state,
    batch,
    jax.random.PRNGKey(0),
  )
  store_shapes(layer, weights, model_state)
  shape = batch['inputs'].shape
  if logits.shape[:-1] != shape or logits.shape[-1] < vocab_size:
    raise ValueError(
      f'train.model gives logits of shape {logits.shape}; the data needs '
      f"{(*shape, vocab_size)}: check the model's vocab_size"
    )


def _init_options():
  """Compiler options for code that runs once.

  XLA for CPU takes longer to optimise the drawing of initial weights than the
  drawing takes.
  """
  if jax.default_backend() == 'cpu':
    return {'xla_backend_optimization_level': 0}
  return {}
