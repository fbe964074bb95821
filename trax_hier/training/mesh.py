"""Where arrays live: the device mesh and the shardings of what training holds.

Data parallel over every local device: the batch, and state kept per batch
row, are split along the mesh axis `data`; everything else is replicated.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

PyTree = object


def data_mesh() -> Mesh:
  """A mesh of all local devices along one axis named `data`."""
  devices = jax.local_devices()
  return jax.make_mesh(
    (len(devices),), ('data',), (AxisType.Auto,), devices=devices
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that is whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """The sharding of an array whose `axis` holds the rows of a batch."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, 'data'))


def lane_shardings(mesh: Mesh, lanes: PyTree) -> PyTree:
  """Shardings of a model state from the tree of its `state.lane_axes`."""
  return jax.tree.map(
    lambda axis: replicated(mesh) if axis < 0 else split_rows(mesh, axis),
    lanes,
  )


def pad_rows(
  mesh: Mesh, batch: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Adds rows of zeros (weights too) until the rows split over the devices."""

  def pad(array):
    extra = -len(array) % mesh.shape['data']
    return np.pad(array, [(0, extra)] + [(0, 0)] * (array.ndim - 1))

  return {name: pad(array) for name, array in batch.items()}
