"""Walks through jaxprs, for tests of the cost and dtypes of programs."""

import math

import jax


def inner_jaxprs(equation):
  """The jaxprs among the parameters of an equation."""
  for inner in jax.tree.leaves(list(equation.params.values())):
    inner = getattr(inner, 'jaxpr', inner)
    if hasattr(inner, 'eqns'):
      yield inner


def equations(jaxpr):
  """All equations of a jaxpr and of the jaxprs inside it."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in inner_jaxprs(equation):
      yield from equations(inner)


def flops(jaxpr):
  """FLOPs of all products; XLA's own analysis counts the body of a loop once.

  Raises AssertionError for a `while` loop.
  """
  total = 0
  for e in jaxpr.eqns:
    if e.primitive.name == 'dot_general':
      left, _ = (x.aval.shape for x in e.invars)
      (contracted, _), _ = e.params['dimension_numbers']
      width = math.prod(left[i] for i in contracted)
      total += 2 * width * e.outvars[0].aval.size
    assert e.primitive.name != 'while'
    times = e.params['length'] if e.primitive.name == 'scan' else 1
    total += times * sum(map(flops, inner_jaxprs(e)))
  return total
