"""Every call of a layer, seen by whoever stands around it.

For what concerns all layers and is the business of none: where weights live,
what shapes go by.
"""

import contextlib
import contextvars
import functools
import types
from collections.abc import Callable, Iterator

_around = contextvars.ContextVar('around', default=None)


@contextlib.contextmanager
def intercept(call: Callable) -> Iterator[None]:
  """Has `pure_fn` of each layer called as `call(pure_fn, layer, *args)`.

  Args:
    call: gets the method, the layer, and the arguments of the method (inputs,
      weights, state, rng, use_cache); returns what the method does. It may call
      the method with others. Inner layers are called through it in turn.
  """
  token = _around.set(call)
  try:
    yield
  finally:
    _around.reset(token)


def patch(module: types.ModuleType) -> None:
  """Lets calls of the layers of `trax.layers.base` be stood around."""
  plain = module.Layer.pure_fn

  @functools.wraps(plain)
  def pure_fn(self, x, weights, state, rng, use_cache=False):
    call = _around.get()
    if call is None:
      return plain(self, x, weights, state, rng, use_cache)
    return call(plain, self, x, weights, state, rng, use_cache)

  module.Layer.pure_fn = pure_fn
