"""Refuses training that cannot fit in memory, before anything compiles."""

import contextlib
import math
import os
import pathlib

import jax

from trax_hier.training.state import Batch, TrainState

PyTree = object

# Limits of the container, in cgroups of version 2 and 1.
_CGROUP_LIMITS = (
  '/sys/fs/cgroup/memory.max',
  '/sys/fs/cgroup/memory/memory.limit_in_bytes',
)
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
    ValueError: naming the largest weights, the total and the memory.
  """
  available, place = memory()
  if available is None:
    return
  on_host = jax.default_backend() == 'cpu'
  # Devices that are simulated on a CPU share its memory.
  n_sharing = jax.local_device_count() if on_host and n_devices > 1 else 1
  sizes = {
    'weights': _bytes(abstract.weights),
    'gradients': _bytes(abstract.weights),
    'optimizer state': _bytes(abstract.opt_state),
    'model state': _bytes(abstract.model_state),
    'batch': _bytes(batch) // n_devices,
    'logits': _bytes(logits) // (n_devices * accumulate_steps),
  }
  total = n_sharing * sum(sizes.values())
  if total <= available:
    return
  parts = ', '.join(
    f'{name} {_gigabytes(n_sharing * size)}'
    for name, size in sizes.items()
    if size
  )
  raise ValueError(
    f'a training step needs at least {_gigabytes(total)} ({parts}), but '
    f'{place} has {_gigabytes(available)}; the largest weights are '
    f'{_largest(abstract.weights)}: use a smaller model, a smaller batch or '
    'more devices (train.mesh)'
  )


def memory() -> tuple[int | None, str]:
  """Bytes of memory for arrays, and whose they are; None if unknown.

  On CPU, the smaller of the machine's memory and the container's limit.
  """
  device = jax.local_devices()[0]
  if device.platform != 'cpu':
    stats = device.memory_stats() or {}
    return stats.get('bytes_limit'), f'the device {device.device_kind}'
  limits = []
  if hasattr(os, 'sysconf') and 'SC_PHYS_PAGES' in os.sysconf_names:
    limits.append(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))
  for path in map(pathlib.Path, _CGROUP_LIMITS):
    with contextlib.suppress(OSError, ValueError):  # No such file, or 'max'.
      limits.append(int(path.read_text('utf-8')))
  return min(limits, default=None), 'this machine'


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


def _gigabytes(n: int) -> str:
  return f'{n / 1e9:,.1f} GB'
