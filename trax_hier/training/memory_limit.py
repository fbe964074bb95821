"""Memory: refuses training that cannot fit, and measures what is used."""

import math
import sys

import jax

from trax_hier import config
from trax_hier.environment import check_fits
from trax_hier.training.state import Batch, TrainState

PyTree = object

_N_LARGEST = 3


def check_memory(
  abstract: TrainState,
  batch: Batch,
  logits: jax.ShapeDtypeStruct,
  n_devices: int,
  accumulate_steps: int = 1,
) -> None:
  """Raises ValueError if a training step needs more memory than there is.

  Counts what every step holds at least: weights, gradients, optimizer state,
  model state, a batch and its logits. Activations come on top, so a step that
  passes may still fail.

  Args:
    abstract: Shapes and shardings of the training state.
    batch: Shapes of a global batch.
    logits: Shape of its logits.
    n_devices: Number of devices that the batch is split over.
    accumulate_steps: Number of micro-batches in a step.

  Raises:
    ValueError: naming the largest weights, the total, the memory and the
      binding of the largest array.
  """
  n_batches = n_devices * accumulate_steps
  _check(
    'a training step',
    {
      'weights': _bytes(abstract.weights),
      'gradients': _bytes(abstract.weights),
      'optimizer state': _bytes(abstract.opt_state),
      'model state': _bytes(abstract.model_state),
      'batch': _bytes(batch) // n_devices,
      'logits': _bytes(logits) // n_batches,
    },
    (abstract, batch, logits),
    logits,
    n_devices,
    f'; the largest weights are {_largest(abstract.weights)}',
  )


def check_evaluation_memory(
  model_state: PyTree,
  batch: Batch,
  logits: jax.ShapeDtypeStruct,
  n_devices: int,
) -> None:
  """Checks that an evaluation step fits in memory, apart from the weights.

  Args:
    model_state: Shapes of the model state for a batch.
    batch: Shapes of a global batch.
    logits: Shape of its logits.
    n_devices: Number of devices that the batch is split over.

  Raises:
    ValueError: naming the total, the memory and the binding of the largest
      array.
  """
  arrays = {'model state': model_state, 'batch': batch, 'logits': logits}
  _check(
    'an evaluation step',
    {name: _bytes(x) // n_devices for name, x in arrays.items()},
    arrays,
    logits,
    n_devices,
    '',
  )


def _check(what, sizes, arrays, logits, n_devices, note):
  on_host = jax.default_backend() == 'cpu'
  # Devices that are simulated on a CPU share its memory.
  n_sharing = jax.local_device_count() if on_host and n_devices > 1 else 1
  largest = max(jax.tree.leaves(arrays), key=_array_bytes)
  binding = config.size_binding(largest.shape)
  hints = [f'lower {binding}'] if binding else []
  if largest is logits:
    hints.append('set train.loss_chunk')
  hints.append(
    'use a smaller model, a smaller batch or more devices (train.mesh)'
  )
  check_fits(
    what,
    {name: n_sharing * size for name, size in sizes.items()},
    f'{note}: {", or ".join(hints)}',
  )


def peak_memory() -> int | None:
  """The most bytes in use so far; None if unknown.

  Of the first local device, or on CPU of this process.
  """
  device = jax.local_devices()[0]
  if device.platform != 'cpu':
    return (device.memory_stats() or {}).get('peak_bytes_in_use')
  try:
    import resource
  except ImportError:  # Windows.
    return None
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else 1024 * peak


def _bytes(tree: PyTree) -> int:
  """Bytes of arrays on one device, which may hold only a shard of each."""
  return sum(map(_array_bytes, jax.tree.leaves(tree)))


def _array_bytes(x) -> int:
  sharding = getattr(x, 'sharding', None)
  shape = sharding.shard_shape(x.shape) if sharding else x.shape
  return math.prod(shape) * x.dtype.itemsize


def _largest(weights: PyTree) -> str:
  leaves = sorted(jax.tree.leaves(weights), key=_array_bytes)
  shapes = dict.fromkeys(tuple(x.shape) for x in reversed(leaves))
  return ', '.join(map(str, list(shapes)[:_N_LARGEST]))
