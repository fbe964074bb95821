"""Keeps what is compiled for models, and releases it with them."""

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import TypeVar

Made = TypeVar('Made')

_RECENT = 2  # Factories that stay alive; configurations of each factory.
_SHAPES = 16  # Programs of a configuration.
_FACTORIES = 16
_lock = threading.RLock()
# A factory's programs are released with it. A bound method, or a new factory
# that equals an earlier one, is found among the most recent.
_recent = {}
_kept = weakref.WeakKeyDictionary()


def keep(
  model: Callable, fingerprint: str, key: Hashable, make: Callable[[], Made]
) -> Made:
  """Calls `make` unless its result for a model and a key is kept.

  Args:
    model: Factory of the model.
    fingerprint: `config.fingerprint()`: a factory's model depends on gin
      bindings.
    key: What else the result depends on.
    make: Function without arguments.
  """
  with _lock:
    model = _get(_recent, model, lambda: model, _RECENT)
    configurations = _get(_kept, model, dict, _FACTORIES)
    found = _get(configurations, fingerprint, dict, _RECENT)
    return _get(found, key, make, _SHAPES)


def _get(kept, key, make, most):
  """kept[key], or make() at first; keeps only the `most` last used."""
  value = kept.pop(key) if key in kept else make()
  kept[key] = value
  while len(kept) > most:
    del kept[next(iter(kept))]
  return value
