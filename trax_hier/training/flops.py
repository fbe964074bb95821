"""Counts model FLOPs in a JAX trace; nothing is compiled or computed.

    flops(jax.nn.softmax, x)                              # 0: no matmul
    3 * forward_flops(layer, weights, model_state, batch)  # a training step

Only matrix multiplications and convolutions count: two operations for each
multiplication with its addition. A training step counts as three forward
passes, of which two stand for the gradients of inputs and weights; forward
passes that are recomputed to save memory (rematerialization) do not count.
FLOPs per second divided by the peak of the devices are the model FLOPs
utilization (MFU) of PaLM (arXiv 2204.02311), appendix B.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from trax_hier.compat import base
from trax_hier.training.state import Batch
from trax_hier.training.step import apply_model

PyTree = object


def flops(fn: Callable, *args: PyTree) -> int:
  """FLOPs of the matrix multiplications and convolutions of a function.

  A scan counts its body once per iteration; a conditional counts its most
  expensive branch. A `while` loop counts one iteration, as its number of
  iterations is unknown when it is traced. Elementwise operations, reductions,
  sorts and gathers do not count.

  Args:
    fn: Function that `jax.jit` can trace.
    *args: Arrays or their shapes.

  Example:
    >>> x, w = jnp.zeros((12, 8)), jnp.zeros((8, 16))
    >>> flops(jnp.matmul, x, w) == 2 * 12 * 8 * 16
    True
  """
  return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def forward_flops(
  layer: base.Layer, weights: PyTree, model_state: PyTree, batch: Batch
) -> int:
  """FLOPs of one forward pass of a model on one batch; see `flops`.

  Args:
    layer: Initialized model.
    weights: Weights of the model, or their shapes.
    model_state: State of the model, or its shapes.
    batch: Global batch, or the shapes of its arrays.
  """
  return flops(
    lambda *args: apply_model(layer, *args, jnp.float32),
    weights,
    model_state,
    batch,
    jax.random.PRNGKey(0),
  )


def _count(jaxpr: Jaxpr) -> int:
  return sum(map(_count_equation, jaxpr.eqns))


def _count_equation(equation: JaxprEqn) -> int:
  parameters = equation.params
  inside = [_count(jaxpr) for jaxpr in _jaxprs(list(parameters.values()))]
  match equation.primitive.name:
    case 'dot_general':
      (contracted, _), _ = parameters['dimension_numbers']
      left, _ = equation.invars
      per_output = math.prod(left.aval.shape[axis] for axis in contracted)
    case 'conv_general_dilated':
      _, kernel = equation.invars
      _, *rest = parameters['dimension_numbers'].rhs_spec
      # The kernel has the input features of one group only.
      per_output = math.prod(kernel.aval.shape[axis] for axis in rest)
    case 'scan':
      return parameters['length'] * sum(inside)
    case 'cond':
      return max(inside)
    case _:
      return sum(inside)
  return 2 * per_output * math.prod(equation.outvars[0].aval.shape)


def _jaxprs(value: Any) -> Iterator[Jaxpr]:
  """Yields the jaxprs in the parameters of an equation."""
  if isinstance(value, ClosedJaxpr):
    yield value.jaxpr
  elif isinstance(value, Jaxpr):
    yield value
  elif isinstance(value, tuple | list):
    for item in value:
      yield from _jaxprs(item)
