"""Initialization of models: traced once, then evaluated without a compiler."""

from collections.abc import Callable

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from trax_hier.training.host_evaluation import evaluate_program

PyTree = object

# NumPy draws 50 million numbers per second; above this, compiling is quicker.
_MAX_ELEMENTS = 10**9


class Initialization:
  """A function of a random key that returns initial arrays.

  Attributes:
    shapes: Shapes of the arrays, a tree of `jax.ShapeDtypeStruct`.

  Example:
    >>> function = lambda key: jax.random.normal(key, (2, 3))
    >>> initialization = Initialization(function)
    >>> initialization.shapes
    ShapeDtypeStruct(shape=(2, 3), dtype=float32)
    >>> key = jax.random.PRNGKey(0)
    >>> np.allclose(initialization(key), function(key), atol=1e-5)
    True
  """

  def __init__(self, function: Callable[[jax.Array], PyTree]):
    self._program, self.shapes = jax.make_jaxpr(function, return_shape=True)(
      jax.random.PRNGKey(0)
    )

  def __call__(self, rng: jax.Array, shardings: PyTree = None) -> PyTree:
    """The initial arrays.

    Args:
      rng: Key; equal keys give equal arrays.
      shardings: Shardings of the arrays; None puts all on one device.
    """
    shapes, structure = jax.tree.flatten(self.shapes)
    if shardings is None:
      device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
      shardings = [device] * len(shapes)
    else:
      shardings = structure.flatten_up_to(shardings)
    draws_alike = (
      jax.config.jax_default_prng_impl == 'threefry2x32'
      and jax.config.jax_threefry_partitionable
    )
    if draws_alike and sum(x.size for x in shapes) <= _MAX_ELEMENTS:
      arrays = evaluate_program(self._program, np.asarray(rng))[::-1]
      # Each array is freed when it is on its device.
      leaves = [put_array(arrays.pop(), sharding) for sharding in shardings]
    else:
      program = jaxpr_as_fun(self._program)
      leaves = jax.jit(program, out_shardings=shardings)(rng)
    return structure.unflatten(leaves)


def put_array(x: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
  """Puts an array (n, ..) that every host has on devices."""
  if jax.process_count() == 1:
    # A step may donate the array, so it must own its memory.
    return jax.device_put(x, sharding, may_alias=False)
  return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i].copy())
