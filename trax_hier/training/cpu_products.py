"""Faster gradients of matrix products on CPU.

The gradient of a product contracts the first axes of both factors, as in x.T @
y. XLA's CPU backend runs it at about half the speed of x @ y. Copying x into
the order of x.T first costs little.
"""

import functools
import math
import os
from collections.abc import Callable

import jax
from jax.extend import core
from jax.extend.core.primitives import dot_general_p

SETTING = 'TRAX_HIER_CPU_PRODUCTS'
# Below this size of an axis, the copy costs as much as it saves.
_MIN_SIZE = 32


def speed_up_products(function: Callable) -> Callable:
  """Rewrites slow products of a function of arrays, if it runs on CPU.

  Results are equal up to the order of sums. TRAX_HIER_CPU_PRODUCTS=0 leaves
  products as they are.

  Args:
    function: Trees of arrays -> tree of arrays, to be traced by `jax.jit`.

  Example:
    >>> import jax.numpy as jnp
    >>> product = functools.partial(jnp.einsum, 'bd,bf->df')
    >>> x = jnp.ones((32, 64))
    >>> program = jax.make_jaxpr(speed_up_products(product))(x, x)
    >>> str(program).count('optimization_barrier')
    2
  """

  @functools.wraps(function)
  def faster(*args):
    if jax.default_backend() != 'cpu' or os.environ.get(SETTING) == '0':
      return function(*args)
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    results = core.jaxpr_as_fun(_rewrite(program))(*jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shapes), results)

  return faster


def _rewrite(value):
  """Rewrites the products in a jaxpr, or in the jaxprs of a parameter."""
  if isinstance(value, core.Jaxpr):
    return value.replace(eqns=[_rewrite_equation(each) for each in value.eqns])
  if isinstance(value, core.ClosedJaxpr):  # The same class since JAX 0.12.
    return value.replace(jaxpr=_rewrite(value.jaxpr))
  if type(value) in (tuple, list):  # Not named tuples, such as axes.
    return type(value)(map(_rewrite, value))
  return value


def _rewrite_equation(equation):
  parameters = equation.params
  if equation.primitive is not dot_general_p:
    inner = {name: _rewrite(value) for name, value in parameters.items()}
    return equation.replace(params=inner)
  avals = [each.aval for each in equation.invars]
  if not _is_slow(*avals, parameters['dimension_numbers']):
    return equation
  product = jax.jit(functools.partial(_product, **parameters))
  (call,) = jax.make_jaxpr(product)(*avals).eqns
  return equation.replace(primitive=call.primitive, params=call.params)


def _is_slow(x, y, dimension_numbers):
  (contracted, _), (batch, _) = dimension_numbers
  free = _free_axes(x, dimension_numbers)
  n_free, n_contracted, n_batch = (
    math.prod(x.shape[axis] for axis in axes)
    for axes in (free, contracted, batch)
  )
  n_columns = y.size // max(1, n_contracted * n_batch)
  if min(n_free, n_contracted, n_columns) < _MIN_SIZE:
    return False
  return max(free) > max((*contracted, *batch))


def _free_axes(x, dimension_numbers):
  (contracted, _), (batch, _) = dimension_numbers
  return [axis for axis in range(x.ndim) if axis not in (*contracted, *batch)]


def _product(x, y, *, dimension_numbers, **parameters):
  """The product, after a copy of x with its contracted axes last."""
  (contracted, contracted_of_y), (batch, batch_of_y) = dimension_numbers
  free = _free_axes(x, dimension_numbers)
  # XLA would undo the transposition, and those of the result, without barriers.
  x = jax.lax.optimization_barrier(x.transpose(*batch, *free, *contracted))
  last = tuple(range(len(batch) + len(free), x.ndim))
  axes = (last, contracted_of_y), (tuple(range(len(batch))), batch_of_y)
  z = dot_general_p.bind(x, y, dimension_numbers=axes, **parameters)
  return jax.lax.optimization_barrier(z)
