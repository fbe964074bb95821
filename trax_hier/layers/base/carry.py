"""Which layers can continue the sequence of the previous call.

With `carry`, calls in 'train' and 'eval' modes are segments of one sequence. A
factory with an argument `carry` declares that its layers carry, that is, keep
what they need of earlier segments in `Memory`, or that it raises an error. Any
other factory must make layers that are position-wise: an output depends on the
input at its own position alone. Tests check this for all layers of this
library; `check_carries` tries out a layer from elsewhere.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import base, signature
from trax_hier.layers.base.build import accepts, build
from trax_hier.layers.base.memory import map_memory
from trax_hier.layers.base.slots import MisfitError, open_slot

_SEGMENT = 64  # Positions in each of the two segments of a trial.
_HINT = (
  'use @SlidingAttention or @SelfAttention with a window for attention, a '
  'layer whose factory has an argument `carry`, or a position-wise layer such '
  'as @FeedForward; or, without FeedbackStack, BlockRecurrentLM.carry = False'
)


def refuse_carry(name: str, carry: bool, mode: str, reason: str) -> None:
  """Raises MisfitError if `carry` asks a layer for what it cannot do.

  In predict mode, every layer continues the sequence, whatever `carry` is.

  Args:
    name: The layer, for the message.
    carry: Whether calls in 'train' and 'eval' modes continue one sequence.
    mode: 'train', 'eval' or 'predict'.
    reason: Why the layer cannot carry.

  Example:
    >>> refuse_carry('RetinaAttention', False, 'train', 'has no memory')
  """
  if carry and mode != 'predict':
    raise MisfitError(
      f'{open_slot() or name}: {name} {reason}, so it cannot carry from '
      f'segment to segment: {_HINT}'
    )


def check_carries(
  binding: str, factory: Callable[..., Any], **dimensions: Any
) -> None:
  """Raises ValueError if the layers of a factory cannot carry.

  Without `carry` among the dimensions, and in predict mode, all layers may be
  used. A factory from outside this library without an argument `carry` is
  called, and its layer applied to two short segments.

  Args:
    binding: Name of the binding of the factory, such as 'DecoderBlock.norm'.
    factory: Factory of a layer (b, l, d) -> (b, l, ..).
    **dimensions: What `build` passes to the factory; includes `d_model`.
  """
  ours = _module(factory).partition('.')[0] == 'trax_hier'
  if (
    not dimensions.get('carry')
    or dimensions.get('mode') == 'predict'
    or accepts(factory, 'carry')
    or ours
  ):
    return
  reason = _fault(factory, tuple({**dimensions, 'mode': 'eval'}.items()))
  if reason:
    raise ValueError(
      f'{binding} makes a layer that {reason}, so it cannot carry from segment '
      f'to segment: {_HINT}'
    )


def _module(factory):
  """The module of the function or class that partials and wrappers call."""
  while True:
    if isinstance(factory, functools.partial):
      factory = factory.func
    elif hasattr(factory, '__wrapped__'):
      factory = inspect.unwrap(factory)
    else:
      return getattr(factory, '__module__', None) or ''


@functools.lru_cache(maxsize=16)
def _fault(factory, dimensions):
  """What a layer does wrong in two segments; '' if nothing."""
  dimensions = dict(dimensions)
  layer = build(factory, **dimensions)
  try:
    with jax.ensure_compile_time_eval():
      return _try(layer, dimensions['d_model'])
  except (base.LayerError, TypeError, ValueError) as error:
    lines = str(error).strip().splitlines()
    return f'fails for segments of {_SEGMENT} positions ({lines[-1].strip()})'


def _try(layer, d_model):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 2 * _SEGMENT, d_model)).astype(np.float32)
  key = jax.random.PRNGKey(0)
  apply = jax.jit(layer.pure_fn)

  @jax.jit
  def start(x):
    weights, state = layer.init(signature(x), key)
    leaves, tree = jax.tree.flatten(weights)
    # Layers may be position-wise only with their initial weights.
    leaves = [
      a + 0.1 * jax.random.normal(jax.random.fold_in(key, i), a.shape, a.dtype)
      for i, a in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, leaves), state

  first, second = x[:, :_SEGMENT], x[:, _SEGMENT:]
  weights, state = start(x)
  _, fresh = start(first)
  y, _ = apply(x, weights, state, key)
  _, later = apply(first, weights, fresh, key)
  z, _ = apply(second, weights, later, key)
  reset = map_memory(lambda a, _: jnp.zeros_like(a), layer, later)
  new, _ = apply(second, weights, reset, key)
  alone, _ = apply(second, weights, fresh, key)
  if not _same(y[:, _SEGMENT:], z):
    return 'looks at other positions or counts them'
  return '' if _same(new, alone) else 'keeps state outside of a `Memory`'


def _same(a, b):
  return np.allclose(a, b, 1e-3, 1e-3)
