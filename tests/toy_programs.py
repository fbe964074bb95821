"""Programs of layers: decoding in several predict calls, and jaxprs."""

import jax
import numpy as np
import toy


def decode(layer, x, weights, lengths, *others):
  """Joined outputs of predict calls on successive slices of x, of `lengths`."""
  first = (x[:, : lengths[0]], *others) if others else x[:, : lengths[0]]
  state = toy.make(layer, first)[1]
  step = jax.jit(layer.pure_fn)
  outputs = []
  assert sum(lengths) == x.shape[1]
  for new in np.split(x, np.cumsum(lengths)[:-1], axis=1):
    inputs = (new, *others) if others else new
    y, state = step(inputs, weights, state, toy.KEY)
    outputs.append(y)
  return np.concatenate(outputs, axis=1)


def program(layer, *arguments):
  """The jaxpr of a layer for its input, weights, state and key."""
  return jax.make_jaxpr(layer.pure_fn)(*arguments).jaxpr
