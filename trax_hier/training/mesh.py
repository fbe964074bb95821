"""Where arrays live: the device mesh and the shardings of what training holds.

Two axes. The rows of a batch, and state kept per row, are split over both;
weights and optimizer state are split over `fsdp` alone (fully sharded data
parallel) and stand as copies along `data`. Layers know nothing of it: within
`all_gather_weights` each has its weights put together when it is called.
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

# Arrays of fewer numbers stay whole: to put one together costs more than it
# saves.
_SMALL = 1024

_WHOLE = 'whole weights'


def make_mesh(axes: Mapping[str, int] | None = None) -> Mesh:
  """A mesh of all devices of all hosts.

  Args:
    axes: how many devices lie along 'data' and along 'fsdp'; -1 for one of
      them: as many as the other leaves. An axis not named has one device.
      None: all along 'data'.

  Raises:
    ValueError: if this does not come out at the number of devices.
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
      f'train.mesh = {dict(axes)}: must say how many devices lie along '
      "'data' and 'fsdp', whole numbers whose product is the number of "
      f'devices, here {n_devices}; one of them may be -1 for the rest'
    )
  return jax.make_mesh(
    tuple(shape.values()), ROWS, (AxisType.Auto,) * 2, devices=jax.devices()
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that is whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """The sharding of an array whose `axis` holds the rows of a batch."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, ROWS))


def lane_shardings(mesh: Mesh, lanes: PyTree) -> PyTree:
  """Shardings of a model state from the tree of its `state.lane_axes`."""
  return jax.tree.map(
    lambda axis: replicated(mesh) if axis < 0 else split_rows(mesh, axis),
    lanes,
  )


def weight_shardings(mesh: Mesh, weights: PyTree) -> PyTree:
  """Shardings of weights, or of what an optimizer keeps for each of them.

  An array is split along its longest axis of those that `fsdp` divides. Blocks
  stacked on a leading axis, which is hardly ever the longest, are so split each
  within itself: a loop over blocks puts one together at a time.

  Args:
    mesh: the devices.
    weights: a tree of arrays, or of their shapes.
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
  """Has each layer put its weights together when it is called.

  To be entered where a model, or its gradient, is traced; or as a decorator of
  what is traced. Left to itself, XLA may rather put together the activations of
  a whole batch. The backward pass puts the weights together again, so that
  those of one layer at a time are whole, and splits their gradients.

  Args:
    mesh: the devices; without effect if it has one along `fsdp`.
    rows: the rows of what the model is called with; arrays of as many are kept
      split.
  """
  if mesh.shape['fsdp'] == 1:
    yield
    return

  @jax.custom_vjp
  def whole(x):
    x = jax.lax.with_sharding_constraint(x, replicated(mesh))
    return checkpoint_name(x, _WHOLE)

  def split(_, grad):
    sharding = weight_shardings(mesh, grad)
    return (jax.lax.with_sharding_constraint(grad, sharding),)

  whole.defvjp(lambda x: (whole(x), ()), split)
  # All but the weights is kept for the backward pass. In a loop over blocks
  # nothing undoes that, and elsewhere it saves nothing.
  again = functools.partial(
    jax.checkpoint,
    policy=jax.checkpoint_policies.save_anything_except_these_names(_WHOLE),
    prevent_cse=False,
  )

  def split_batch(x):
    if not x.shape or x.shape[0] != rows:
      return x
    return jax.lax.with_sharding_constraint(x, split_rows(mesh))

  def call(pure_fn, layer, x, weights, state, rng, use_cache):
    if layer.sublayers:  # They call in turn.
      return pure_fn(layer, x, weights, state, rng, use_cache)

    def forward(x, weights, state, rng):
      if not isinstance(weights, dict):
        weights = jax.tree.map(whole, weights)
      x = jax.tree.map(split_batch, x)
      y, state = pure_fn(layer, x, weights, state, rng, use_cache)
      return jax.tree.map(split_batch, y), state

    # A dictionary marks a layer that ran before and has its weights still.
    if isinstance(weights, dict) or not jax.tree.leaves(weights):
      return forward(x, weights, state, rng)
    y, state = again(forward)(x, weights, state, rng)
    if use_cache:  # What is left in the layer must not be of that trace.
      layer.weights, layer.state = jax.tree.map(whole, weights), state
    return y, state

  with layer_hooks.intercept(call):
    yield


def put_batch(
  mesh: Mesh, batch: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray | jax.Array]:
  """A batch that every host has whole, as an argument of a jitted step.

  Arrays are (b, ..), those of the global batch.

  With one host the arrays are taken as they are: jit splits them.
  """
  if jax.process_count() == 1:
    return dict(batch)
  rows = split_rows(mesh)
  return {
    name: jax.make_array_from_callback(x.shape, rows, lambda i, x=x: x[i])
    for name, x in batch.items()
  }


def pad_rows(
  mesh: Mesh, batch: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Adds rows of zeros (weights too) until the rows split over the devices.

  Arrays (b, ..) -> (b + n, ..), where b + n is a multiple of their number.
  """

  def pad(array):
    extra = -len(array) % mesh.size
    return np.pad(array, [(0, extra)] + [(0, 0)] * (array.ndim - 1))

  return {name: pad(array) for name, array in batch.items()}
