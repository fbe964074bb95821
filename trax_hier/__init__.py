"""Trax-style layer combinators for efficient, hierarchical Transformers.

    import trax_hier
    exported = trax_hier.load('my_model')

Subpackages are imported on first use, so `import trax_hier` is quick. It
warns of versions of JAX and trax that the tests do not cover.
"""

import importlib

from trax_hier.versions import warn_of_untested

warn_of_untested()
del warn_of_untested

__version__ = '0.1.0'

_PACKAGES = (
  'compat',
  'config',
  'data',
  'generation',
  'inspection',
  'layers',
  'models',
  'storage',
  'training',
)

__all__ = ['__version__', 'load', *_PACKAGES]


def __getattr__(name):
  if name == 'load':
    from trax_hier.storage.export import load

    return load
  if name in _PACKAGES:
    return importlib.import_module(f'{__name__}.{name}')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return sorted({*globals(), *__all__})
