"""Plain gin (`gin.parse_config`), the parser of Trax's trainer and notebooks.

`parsing` is that of this library. `install` changes what are errors in plain
gin, in the whole process:

*   A name that both trax_hier and another module register means that of the
    other module: files for Trax keep their meaning when our models are
    imported. A warning says so. The full name selects ours.
*   A name that no module registers is searched for again after a function that
    may import its module, and may be the name in Python, which files of older
    Trax use: `trax.data.inputs.batcher` for `trax.data.batcher`.
*   An included file is also searched for beside the file that includes it.
"""

import contextlib
import os
import pkgutil
import warnings
from collections.abc import Callable

import gin

from trax_hier.config import names

# Folders of the files being parsed, outermost first.
_open_folders: list[str] = []


def install(load: Callable[[str], None]) -> None:
  """Installs the changes that the module docstring lists.

  Args:
    load: Function of a name that is not registered; may import modules.
  """
  registry = names.registry()

  def find(name):
    matches = registry.matching_selectors(name)
    if not matches:
      load(name)
      matches = registry.matching_selectors(name) or _under_python_name(name)
    if len(matches) > 1:
      others = [m for m in matches if not m.startswith(names.OWN)]
      if len(others) == 1:
        own = ' or '.join(sorted(set(matches) - set(others)))
        # Python shows a warning once.
        warnings.warn(
          f'{name} means {others[0]} here; write {own} for that of trax_hier',
          stacklevel=1,
        )
        return others
    return matches

  plain_match, plain_skip = registry.get_match, gin.config._should_skip

  def get_match(name, default=None):
    found = find(name)
    return plain_match(found[0] if len(found) == 1 else name, default)

  def should_skip(name, skip_unknown):
    find(name)
    return plain_skip(name, skip_unknown)

  registry.get_match = get_match
  gin.config._should_skip = should_skip
  gin.config._FILE_READERS[:1] = [
    (_open, os.path.isfile),
    (_open_beside, _is_beside),
  ]


def _under_python_name(name):
  """The selector of a configurable given by its module and name in Python."""
  with contextlib.suppress(ImportError, AttributeError, ValueError):
    found = gin.config._inverse_lookup(pkgutil.resolve_name(name))
    return [found.selector] if found else []
  return []


@contextlib.contextmanager
def _open(path):
  """Opens a gin file; files that it includes may lie beside it."""
  with open(path, encoding='utf-8') as file:
    _open_folders.append(os.path.dirname(path))
    try:
      yield file
    finally:
      _open_folders.pop()


def _beside(path):
  """The path relative to the folder of the including file."""
  return os.path.join(_open_folders[-1], path)


def _open_beside(path):
  return _open(_beside(path))


def _is_beside(path):
  return bool(_open_folders) and os.path.isfile(_beside(path))
