"""Data and fully sharded data parallelism: device mesh and array shardings.

The mesh has two axes, `data` and `fsdp`. Rows of a batch, and model state kept
per row, are sharded over both; weights and optimizer state are sharded over
`fsdp` and replicated along `data`. Layers are written for one device: inside
`all_gather_weights`, a call of a layer all-gathers the weights of this layer.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from trax_hier.compat import layer_hooks

PyTree = object

ROWS = ('data', 'fsdp')

# Smaller arrays are replicated: all-gathering one costs more than it saves.
_SMALL = 1024

_GATHERED = 'all-gathered weights'


def make_mesh(axes: Mapping[str, int] | None = None) -> Mesh:
  """Makes a mesh of all devices of all hosts.

  Args:
    axes: Number of devices along 'data' and along 'fsdp'; -1 for one of them
      means all remaining devices. A missing axis has one device. None puts all
      devices along 'data'.

  Raises:
    ValueError: for another axis, or a product that is not the number of
      devices.
  """
  n_devices = jax.device_count()
  axes = {'data': -1} if axes is None else axes
  shape = {name: axes.get(name, 1) for name in ROWS}
  rest = [name for name, n in shape.items() if n == -1]
  known = math.prod(n for n in shape.values() if n != -1)
  fits = (
    set(axes) <= set(ROWS)
    and all(type(n) is int and (n > 0 or n == -1) for n in shape.values())
    and len(rest) < 2
    and n_devices % known == 0
  )
  if fits:
    shape |= dict.fromkeys(rest, n_devices // known)
  if not fits or math.prod(shape.values()) != n_devices:
    raise ValueError(
      f'train.mesh = {dict(axes)}: must give the numbers of devices along '
      "'data' and 'fsdp', whole numbers whose product is the number of "
      f'devices, here {n_devices}; one of them may be -1 for the rest'
    )
  return jax.make_mesh(
    tuple(shape.values()), ROWS, (AxisType.Auto,) * 2, devices=jax.devices()
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device holds in full."""
  return NamedSharding(mesh, PartitionSpec())


def row_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """The sharding of an array whose `axis` holds the rows of a batch."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, ROWS))


def lane_shardings(mesh: Mesh, lanes: PyTree) -> PyTree:
  """The shardings of a model state, from the tree of `state.lane_axes`."""
  return jax.tree.map(
    lambda axis: replicated(mesh) if axis < 0 else row_sharding(mesh, axis),
    lanes,
  )


def weight_shardings(mesh: Mesh, weights: PyTree) -> PyTree:
  """The shardings of weights, or of optimizer state.

  An array is sharded along the longest axis that `fsdp` divides. The leading
  axis of stacked blocks is hardly ever the longest, so each block is sharded
  within itself and a loop over blocks all-gathers one block at a time.

  Args:
    mesh: Device mesh.
    weights: Tree of arrays, or of their shapes.
  """
  n = mesh.shape['fsdp']

  def sharding(x):
    divisible = [i for i, size in enumerate(x.shape) if size % n == 0]
    if n == 1 or not divisible or math.prod(x.shape) < _SMALL:
      return replicated(mesh)
    axis = max(divisible, key=lambda i: (x.shape[i], i))
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, 'fsdp'))

  return jax.tree.map(sharding, weights)


@contextlib.contextmanager
def all_gather_weights(mesh: Mesh, rows: int) -> Iterator[None]:
  """All-gathers the weights of each layer when it is called (FSDP).

  Enter this context where a model or its gradient is traced, or decorate the
  traced function. Otherwise XLA may all-gather activations of the whole batch
  instead. The backward pass all-gathers the weights of a layer a second time,
  so that one layer at a time is held in full, and shards the gradients.

  Args:
    mesh: Device mesh; one device along `fsdp` disables this.
    rows: Rows of the model's inputs; arrays with this number of rows stay
      sharded.
  """
  if mesh.shape['fsdp'] == 1:
    yield
    return

  @jax.custom_vjp
  def all_gather(x):
    x = jax.lax.with_sharding_constraint(x, replicated(mesh))
    return checkpoint_name(x, _GATHERED)

  def reduce_scatter(_, grad):
    sharding = weight_shardings(mesh, grad)
    return (jax.lax.with_sharding_constraint(grad, sharding),)

  all_gather.defvjp(lambda x: (all_gather(x), ()), reduce_scatter)
  # Saves all intermediates except gathered weights for the backward pass. In a
  # loop over blocks, CSE cannot merge the two all-gathers; elsewhere it may: a
  # second all-gather saves no memory there.
  regather = functools.partial(
    jax.checkpoint,
    policy=jax.checkpoint_policies.save_anything_except_these_names(_GATHERED),
    prevent_cse=False,
  )

  def shard_rows(x):
    if not x.shape or x.shape[0] != rows:
      return x
    return jax.lax.with_sharding_constraint(x, row_sharding(mesh))

  def call(pure_fn, layer, x, weights, state, rng, use_cache):
    if layer.sublayers:  # Its sublayers are intercepted in turn.
      return pure_fn(layer, x, weights, state, rng, use_cache)

    def forward(x, weights, state, rng):
      if not isinstance(weights, dict):
        weights = jax.tree.map(all_gather, weights)
      x = jax.tree.map(shard_rows, x)
      y, state = pure_fn(layer, x, weights, state, rng, use_cache)
      return jax.tree.map(shard_rows, y), state

    # A dictionary marks a shared layer, whose first call cached its weights.
    if isinstance(weights, dict) or not jax.tree.leaves(weights):
      return forward(x, weights, state, rng)
    y, state = regather(forward)(x, weights, state, rng)
    if use_cache:  # Tracers of the inner trace must not stay in the layer.
      layer.weights, layer.state = jax.tree.map(all_gather, weights), state
    return y, state

  with layer_hooks.intercept(call):
    yield


def put_batch(
  mesh: Mesh, batch: Mapping[str, np.ndarray], n_rows: int
) -> dict[str, np.ndarray | jax.Array]:
  """Prepares a global batch for a jitted step.

  Args:
    mesh: Device mesh.
    batch: The rows of this host's devices, (b, ..), in the order of the batch.
      With one host they stay as they are: jit shards them.
    n_rows: Rows of the global batch.
  """
  if jax.process_count() == 1:
    return dict(batch)
  rows = row_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(
      rows, np.asarray(x), (n_rows, *x.shape[1:])
    )
    for name, x in batch.items()
  }
