"""Evaluation on the held-out set, or on its first batches."""

import collections
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from trax_hier import config
from trax_hier.compat import base
from trax_hier.layers.base.auxiliary import reported_names
from trax_hier.training.data_checks import check_batch
from trax_hier.training.data_error import DataError, reading
from trax_hier.training.host_rows import HeldOutRows
from trax_hier.training.initialization import Initialization
from trax_hier.training.loss import Loss
from trax_hier.training.memory_limit import check_evaluation_memory
from trax_hier.training.mesh import (
  all_gather_weights,
  lane_shardings,
  put_batch,
  replicated,
  row_sharding,
  weight_shardings,
)
from trax_hier.training.packing import multiple_of_documents
from trax_hier.training.state import (
  init_layer,
  lane_axes,
  shapes_of,
  store_shapes,
  with_rows,
)
from trax_hier.training.step import make_eval_step

PyTree = object


class Evaluator:
  """Scores weights on a fixed sequence of batches.

  Each evaluation initializes the model state and carries it from batch to
  batch; it does not touch the model state of training.
  """

  def __init__(
    self,
    layer: base.Layer,
    batches: Sequence[Mapping[str, np.ndarray]],
    unit: str,
    mesh: Mesh,
    compute_dtype: jnp.dtype = jnp.float32,
    n_batches: int | None = None,
    loss: Loss | None = None,
    n_ids: int = 1,
  ):
    """Builds the jitted functions; the first call compiles them.

    Args:
      layer: Model in eval mode.
      batches: Batches of one shape, with inputs, targets and weights (b, l).
      unit: Unit of a scored token, for the name `bits_per_<unit>`.
      mesh: Device mesh; batches are padded to split evenly over it.
      compute_dtype: Type that the weights are cast to.
      n_batches: Number of batches to score, from the first one on; None, or a
        larger number than there are, scores all.
      loss: How the loss is computed; None means the defaults.
      n_ids: Ids of the vocabulary, for a check of the first batch; 1 if it is
        not known.

    Raises:
      ValueError: if there is no batch, the first one is not a batch, or the
        model does not keep its documents apart.
    """
    if not (hasattr(batches, '__len__') and hasattr(batches, '__getitem__')):
      raise ValueError(
        'train.data: eval_batches(split) must return a sequence of batches, '
        f'such as a list, got {type(batches).__name__}'
      )
    if len(batches) == 0:
      raise ValueError('the held-out set has no batches: it is too short')
    self._batches = batches
    n = len(batches)
    self._n_batches = n if n_batches is None else min(n_batches, n)
    self._unit = unit
    self._mesh = mesh
    self._layer = layer
    self._loss = loss = loss or Loss()
    batch = _batch_shapes(batches, n_ids)
    self._local = HeldOutRows(
      batches, mesh, batch, multiple_of_documents(layer, batch)
    )
    self._batch = batch = self._local.shapes
    rows = batch['inputs'].shape[0]
    self._init_state = Initialization(
      lambda rng: init_layer(layer, batch, rng)[1]
    )
    model_state = self._init_state.shapes
    store_shapes(layer, layer.weights, model_state)
    weights = layer.weights
    self._reported = reported_names(layer, model_state)
    shardings = lane_shardings(mesh, lane_axes(layer, batch, model_state))
    self._state_shardings = shardings
    self._step = jax.jit(
      all_gather_weights(mesh, rows)(
        make_eval_step(layer, compute_dtype, loss)
      ),
      donate_argnums=1,
      in_shardings=(
        weight_shardings(mesh, weights),
        shardings,
        row_sharding(mesh),
      ),
      out_shardings=(shardings, replicated(mesh)),
    )

  def check_memory(self, n_ids: int) -> None:
    """Checks that an evaluation step fits in memory.

    Args:
      n_ids: Width of the logits.

    Raises:
      ValueError: naming the bytes, the memory and the binding of the largest
        array.
    """
    rows, length = self._batch['inputs'].shape
    logits = jax.ShapeDtypeStruct((rows, length, n_ids), jnp.float32)
    check_evaluation_memory(
      self._layer.state,
      self._batch,
      self._loss.logits_shape(logits),
      self._mesh.size,
    )

  @property
  def n_batches(self) -> int:
    """Number of batches that an evaluation scores."""
    return self._n_batches

  @property
  def coverage(self) -> float:
    """Their share of the batches of the split."""
    return self._n_batches / len(self._batches)

  @property
  def layer(self) -> base.Layer:
    """The model in eval mode, with the shapes of its weights and state."""
    return self._layer

  def batch(self, i: int) -> dict[str, np.ndarray | jax.Array]:
    """Batch `i` (b, l), from 0, padded to the devices, for a jitted step.

    Each host makes only the rows of its devices.

    Raises:
      DataError: if it cannot be read.
    """
    with reading(f'held-out batch {i + 1}'):
      local = self._local(i)
    return put_batch(self._mesh, local, self._batch['inputs'].shape[0])

  def __call__(
    self,
    weights: PyTree,
    before_batch: Callable[[int, int], None] = lambda n_done, n_all: None,
  ) -> dict[str, float]:
    """Computes the mean loss (nats) and the metrics of `TrainResult`.

    Of batches with `sources`, such as those of a mixture, also the loss and the
    bits of each source: 'loss/1', … The losses and metrics that layers report
    have their own names; they are means of the batches, weighted by token.

    Args:
      weights: Weights of the model.
      before_batch: Function called before each batch, with the number of
        batches done and of all batches; it may raise, to stop.

    Raises:
      DataError: if a batch cannot be read, or no token has a weight above 0.
    """
    model_state = self._init_state(jax.random.PRNGKey(0), self._state_shardings)
    # Those of a mixture say which source a batch is of.
    sources = getattr(self._batches, 'sources', None)
    n_sums = 5 + len(self._reported)
    by_source = collections.defaultdict(lambda: np.zeros(n_sums, np.float64))
    pending = None
    for i in range(self._n_batches):
      before_batch(i, self._n_batches)
      model_state, sums = self._step(weights, model_state, self.batch(i))
      if pending is not None:
        by_source[pending[0]] += np.asarray(pending[1])
      pending = sources[i] if sources else 1, sums
    by_source[pending[0]] += np.asarray(pending[1])
    totals = sum(by_source.values())
    nats, correct, tokens, right_rows, rows, *reported = totals.tolist()
    if tokens == 0:
      raise DataError('the held-out set has no token with a weight above 0')
    bits = f'bits_per_{self._unit}'
    losses = {i: x[0] / x[2] for i, x in by_source.items() if x[2]}
    if not sources:
      losses = {}
    return {
      **{f'loss/{i}': losses[i] for i in sorted(losses)},
      **{f'{bits}/{i}': losses[i] / math.log(2) for i in sorted(losses)},
      'loss': nats / tokens,
      bits: nats / tokens / math.log(2),
      'accuracy': correct / tokens,
      'sequence_accuracy': right_rows / rows,
      'tokens': tokens,
      'coverage': self.coverage,
      **{n: x / tokens for n, x in zip(self._reported, reported, strict=True)},
    }


def _batch_shapes(batches, n_ids):
  """The shapes of the batches, from one row where possible.

  Raises:
    ValueError: if not even that fits in memory, or if it is not a batch.
  """
  try:
    has_rows = hasattr(batches, 'rows')
    batch = batches.rows(0, 0, 1) if has_rows else batches[0]
    check_batch(batch, 'the first held-out batch', n_ids)
    return (
      with_rows(batch, batches.batch_size) if has_rows else shapes_of(batch)
    )
  except MemoryError as error:
    binding = config.size_binding(getattr(error, 'shape', ()))
    raise ValueError(
      f'an evaluation batch does not fit in memory: {error}'
      f'{f"; lower {binding}" if binding else ""}'
    ) from None
