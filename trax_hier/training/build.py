"""Builds the jitted functions of a run from factories; compiles nothing."""

import dataclasses
import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from trax_hier import config
from trax_hier.compat import base
from trax_hier.training.data_checks import (
  check_batch,
  check_data,
  takes_shards,
)
from trax_hier.training.evaluate import Evaluator
from trax_hier.training.flops import forward_flops
from trax_hier.training.host_rows import TrainRows
from trax_hier.training.initialization import Initialization
from trax_hier.training.loss import Loss, find_head
from trax_hier.training.memory_limit import check_memory
from trax_hier.training.mesh import (
  all_gather_weights,
  lane_shardings,
  make_mesh,
  replicated,
  row_sharding,
  weight_shardings,
)
from trax_hier.training.optimizers import Optimizer
from trax_hier.training.packing import multiple_of_documents
from trax_hier.training.schedules import Schedule
from trax_hier.training.state import (
  Batch,
  TrainState,
  init_train_state,
  input_signature,
  lane_axes,
  shapes_of,
  store_shapes,
  with_rows,
)
from trax_hier.training.step import make_train_step, metric_names

PyTree = object

COMPUTE_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Build:
  """The functions of a run, ready to compile.

  Attributes:
    model: Model factory.
    data: Data set.
    mesh: Device mesh.
    batch_shape: Shape of a global training batch, (b, l).
    train_rows: Callable, step -> this host's rows of the training batch.
    abstract: Shapes and shardings of the training state.
    init: Function, rng key -> training state.
    step: Jitted function, (state, batch) -> (state, metrics); donates the
      state.
    evaluator: Callable, weights -> metrics of the held-out set.
    compute_dtype: Type that a step casts the weights to.
    count_flops: Function that traces the model and returns the FLOPs of a
      training step.
    learning_rate: Schedule of the optimizer.
    metrics: Names of the metrics of a step.
  """

  model: Callable[..., base.Layer]
  data: object
  mesh: Mesh
  batch_shape: tuple[int, int]
  train_rows: TrainRows
  abstract: TrainState
  init: Callable
  step: Callable
  evaluator: Evaluator
  compute_dtype: jnp.dtype
  count_flops: Callable[[], int]
  learning_rate: Schedule
  metrics: tuple[str, ...]


def build(
  model: Callable,
  data: object,
  optimizer: Callable,
  accumulate_steps: int = 1,
  compute_dtype: str = 'float32',
  mesh: Mapping[str, int] | None = None,
  must_fit: bool = False,
  eval_batches: int | None = None,
  label_smoothing: float = 0.0,
  loss_chunk: int | None = None,
) -> Build:
  """Builds model and optimizer and checks that they fit data and devices.

  Arguments are those of `loop.train`, and `must_fit`: whether to check that a
  step fits in memory.

  Raises:
    ValueError: for an argument of the wrong type, a mesh that does not fit the
      devices, a batch that does not split evenly over devices and
      micro-batches, a vocabulary larger than the model's, or a step that does
      not fit in memory.
  """
  check_bindings(model, data, compute_dtype)
  loss = Loss(label_smoothing, loss_chunk)
  _check_optimizer(optimizer)
  _check_eval_batches(eval_batches)
  dtype = COMPUTE_DTYPES[compute_dtype]
  if data.vocab.size > 1:  # 1 in `describe --batch`, which has no vocabulary.
    config.set_vocab_size('train.model', data.vocab.size)
  mesh = make_mesh(mesh)
  batch = batch_shapes(data)
  shape = batch['inputs'].shape
  _check_rows(shape[0], mesh.size, accumulate_steps)
  layer, optimizer = model(mode='train'), optimizer()
  multiple = multiple_of_documents(layer, batch)
  train_rows = TrainRows(data, mesh, shape[0], multiple)
  initialization = Initialization(
    lambda rng: init_train_state(layer, optimizer, batch, rng)
  )
  abstract = initialization.shapes
  initialized = layer, abstract.weights, abstract.model_state
  store_shapes(*initialized)
  logits = check_logits(layer, batch, data.vocab.size)
  if loss.chunk is not None:
    find_head(layer)
  lanes = lane_axes(layer, batch, abstract.model_state)
  shardings = TrainState(
    step=replicated(mesh),
    weights=weight_shardings(mesh, abstract.weights),
    model_state=lane_shardings(mesh, lanes),
    opt_state=weight_shardings(mesh, abstract.opt_state),
    rng=replicated(mesh),
  )
  abstract = jax.tree.map(_with_sharding, abstract, shardings)
  if must_fit:
    held = loss.logits_shape(logits)
    check_memory(abstract, batch, held, mesh.size, accumulate_steps)
  evaluator = Evaluator(
    model(mode='eval'),
    data.eval_batches('valid'),
    data.unit,
    mesh,
    dtype,
    eval_batches,
    loss,
    data.vocab.size,
  )
  if must_fit:
    evaluator.check_memory(logits.shape[-1])
  step = make_train_step(layer, optimizer, lanes, accumulate_steps, dtype, loss)
  return Build(
    model=model,
    data=data,
    mesh=mesh,
    batch_shape=shape,
    train_rows=train_rows,
    abstract=abstract,
    init=lambda rng: initialization(rng, shardings),
    step=jax.jit(
      all_gather_weights(mesh, shape[0] // accumulate_steps)(step),
      donate_argnums=0,
      in_shardings=(shardings, row_sharding(mesh)),
      out_shardings=(shardings, replicated(mesh)),
    ),
    evaluator=evaluator,
    compute_dtype=dtype,
    count_flops=lambda: 3 * forward_flops(*initialized, batch),
    learning_rate=optimizer.learning_rate,
    metrics=metric_names(layer, abstract.model_state),
  )


def check_bindings(model: Callable, data: object, compute_dtype: str) -> None:
  """Checks the values bound to `train.model`, `.data` and `.compute_dtype`.

  Args:
    model: Value of `train.model`, which must be a factory.
    data: Value of `train.data`, which must be a data set.
    compute_dtype: Value of `train.compute_dtype`.

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
  module = getattr(model, '__module__', None) or ''
  if re.match(r'trax_hier\.(?!models\b)', module):
    raise ValueError(
      f'train.model = @{_name(model)} is not a model, such as @HourglassLM'
    )
  check_data(data)


def _check_optimizer(optimizer):
  if isinstance(optimizer, Optimizer) or not callable(optimizer):
    raise ValueError(
      'train.optimizer must be a factory such as @Adam (without '
      f'parentheses), got {_name(optimizer)}'
    )


def _check_eval_batches(n):
  if n is not None and (type(n) is not int or n < 1):
    raise ValueError(
      'train.eval_batches must be None (the whole split) or a whole number, at '
      f'least 1, got {n!r}'
    )


def _name(value):
  return f'{getattr(value, "__name__", value)!s:.80}'


def _with_sharding(x, sharding):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def batch_shapes(data: object) -> Batch:
  """The shapes of a global batch, from one of its rows where possible.

  Raises:
    ValueError: if it is not a batch; see `check_batch`.
  """
  rows = getattr(data, 'batch_size', None)
  if rows is None or not takes_shards(data):
    batch, rows = data.train_batch(0), None
  else:
    batch = data.train_batch(0, 0, rows)
  if not _is_abstract(batch):
    check_batch(batch, 'train_batch(0)', data.vocab.size)
  if rows is not None and len(batch['inputs']) != 1:
    return shapes_of(data.train_batch(0))
  return shapes_of(batch) if rows is None else with_rows(batch, rows)


def _is_abstract(batch):
  """Whether a batch has shapes only, such as that of an export."""
  return isinstance(batch, Mapping) and all(
    isinstance(x, jax.ShapeDtypeStruct) for x in batch.values()
  )


def _check_rows(rows, devices, accumulate_steps):
  n = accumulate_steps
  if n < 1:
    raise ValueError(
      f'train.accumulate_steps must be a whole number, at least 1, got {n}'
    )
  if rows % (devices * n):
    raise ValueError(
      f'a training batch of {rows} rows does not split evenly over {devices} '
      f'device{"s" * (devices > 1)} and train.accumulate_steps = {n}: the '
      f'rows must be a multiple of {devices * n}'
    )


def check_logits(
  layer: base.Layer, batch: Batch, vocab_size: int
) -> jax.ShapeDtypeStruct:
  """Evaluates the model abstractly and returns the shape of its logits.

  Args:
    layer: Initialized model.
    batch: Shapes of the batch it was initialized for.
    vocab_size: Number of token ids in the data.

  Raises:
    ValueError: if the logits are not (b, l, v) with v at least `vocab_size`.
  """
  logits = layer.output_signature(input_signature(layer, batch))
  shape = batch['inputs'].shape
  if logits.shape[:-1] != shape or logits.shape[-1] < vocab_size:
    raise ValueError(
      f'train.model gives logits of shape {logits.shape}; the data needs '
      f"{(*shape, vocab_size)}: check the model's vocab_size"
    )
  return jax.ShapeDtypeStruct(logits.shape, logits.dtype)
