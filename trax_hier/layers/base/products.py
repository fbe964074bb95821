"""Matrix products of 16-bit numbers with a float32 result."""

import functools

import jax
import jax.numpy as jnp


def wide_einsum(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """The einsum of two arrays, in float32 if they are bfloat16 or float16.

  It is accumulated in float32, as all products are, and is not rounded. The
  products of its gradient have inputs of the types of x and y. Those of the
  gradient of `jnp.einsum` would multiply float32 by 16-bit numbers, for which
  GPUs and TPUs have no fast instruction.

  Args:
    equation: Equation of `jnp.einsum`.
    x: First array, (.., d) for example.
    y: Second array, (d, e) for example.

  Example:
    >>> x = jnp.ones((1, 3), jnp.bfloat16) / 3
    >>> print(wide_einsum('ij,kj->ik', x, x).round(4))
    [[0.3346]]
  """
  if jnp.result_type(x, y).itemsize > 2:
    return jnp.einsum(equation, x, y)
  return _wide(equation, x, y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _wide(equation, x, y):
  return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def _forward(equation, x, y):
  return _wide(equation, x, y), (x, y)


def _backward(equation, inputs, gradient):
  x, y = inputs
  gradient = gradient.astype(jnp.result_type(x, y))
  to_x = jax.linear_transpose(lambda x: jnp.einsum(equation, x, y), x)
  to_y = jax.linear_transpose(lambda y: jnp.einsum(equation, x, y), y)
  return *to_x(gradient), *to_y(gradient)


_wide.defvjp(_forward, _backward)
