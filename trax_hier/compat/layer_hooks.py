"""A hook that intercepts every call of a layer.

It serves concerns that cut across all layers, such as the sharding of weights
and the shapes of activations.
"""

import contextlib
import contextvars
import functools
import types
from collections.abc import Callable, Iterator

from trax_hier.compat import layer_tracing

_hook = contextvars.ContextVar('hook', default=None)


@contextlib.contextmanager
def intercept(hook: Callable) -> Iterator[None]:
  """In this context, `layer.pure_fn(*args)` is `hook(pure_fn, layer, *args)`.

  Args:
    hook: Function of the original method, the layer, and the method's arguments
      (inputs, weights, state, rng, use_cache); returns outputs and state. It
      may call the method with other arguments. The calls of sublayers go
      through the hook too. Inside another such context, the method that it
      gets goes through the outer hook.
  """
  outer = _hook.get()

  def inner(pure_fn, *args):
    return hook(functools.partial(outer, pure_fn), *args)

  token = _hook.set(hook if outer is None else inner)
  try:
    yield
  finally:
    _hook.reset(token)


def patch(module: types.ModuleType) -> None:
  """Adds the hook to `trax.layers.base`."""
  plain = module.Layer.pure_fn

  @functools.wraps(plain)
  def pure_fn(self, x, weights, state, rng, use_cache=False):
    hook = _hook.get()
    if hook is None:
      return plain(self, x, weights, state, rng, use_cache)
    key = layer_tracing.as_array(rng)
    return hook(plain, self, x, weights, state, key, use_cache)

  module.Layer.pure_fn = pure_fn
