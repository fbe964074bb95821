"""The versions of JAX and trax that the tests cover.

trax_hier patches trax and follows changes of JAX, so others may fail in ways
that are hard to read. pip installs none of them unless it is told to.
"""

import importlib.metadata
import operator
import re
import sys
import warnings

# As in pyproject.toml, which a test holds to it.
TESTED = ('jax>=0.10,<0.13', 'trax==1.4.1')

_COMPARISONS = {'>=': operator.ge, '==': operator.eq, '<': operator.lt}


def warn_of_untested() -> None:
  """Warns, in one line, of a JAX or trax whose version is not in `TESTED`."""
  untested = {}
  for requirement in TESTED:
    name = re.match(r'\w+', requirement)[0]
    version = _version(name)
    if version and not _satisfies(version, requirement):
      untested[requirement] = f'{name} {version}'
  if untested:
    here = ' and '.join(untested.values())
    install = ' '.join(f"'{requirement}'" for requirement in untested)
    # The place of the import tells nothing, and would add a line of source.
    warnings.warn_explicit(
      f'trax_hier is not tested with {here}; if something fails, pip install '
      f'{install}',
      UserWarning,
      filename='trax_hier',
      lineno=1,
    )


def _version(name):
  """The version of a package, or None if it is not known."""
  # A loaded package may be another one than that which pip has installed.
  loaded = getattr(sys.modules.get(name), '__version__', None)
  try:
    return loaded or importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _satisfies(version, requirement):
  return all(
    _COMPARISONS[comparison](_release(version), _release(bound))
    for comparison, bound in re.findall(r'([<>=]+)([\d.]+)', requirement)
  )


def _release(version):
  """The numbers of a version: '0.13.0.dev1' -> (0, 13, 0)."""
  numbers = re.match(r'[\d.]*', version)[0]
  return tuple(map(int, re.findall(r'\d+', numbers)))
