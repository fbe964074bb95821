"""Registers the configurables of Trax in gin when gin asks for one.

`import trax` registers them all in Trax itself, but takes a second; the import
hook delays it.
"""

import contextlib
import importlib

_MODULES = (
  'trax_hier.compat.adapters',
  # What `trax/__init__.py` imports and registers configurables.
  'trax.data',
  'trax.layers',
  'trax.models',
  'trax.optimizers',
  'trax.supervised',
)


def register(name: str) -> None:
  """Imports the modules that may register a configurable.

  Args:
    name: Its name, which gin does not know yet. A full name of trax_hier, such
      as 'trax_hier.models.Terraformer', imports its module.
  """
  module, _, _ = name.rpartition('.')
  if module.partition('.')[0] == 'trax_hier':
    with contextlib.suppress(ImportError):  # Gin says that there is no name.
      importlib.import_module(module)
    return
  for module in _MODULES:
    importlib.import_module(module)
