"""Huge memory pages for the arrays of a CPU.

XLA allocates the arrays of a training step anew in each step. In pages of 4 KB,
the system takes a seventh of the step to provide them. In pages of 2 MB, it
takes a few percent.
"""

import importlib.util
import os
import sys
from pathlib import Path

# Read by glibc when a process starts.
_VARIABLE = 'GLIBC_TUNABLES'
_TUNABLE = 'glibc.malloc.hugetlb=1'
_FIRST_GLIBC = (2, 35)
_SYSTEM = Path('/sys/kernel/mm/transparent_hugepage/enabled')


def add_huge_pages(parser) -> None:
  """Adds --no_huge_pages."""
  parser.add_argument(
    '--no_huge_pages',
    action='store_true',
    help='do not restart the program with huge memory pages, which make '
    f'training on CPU faster (Linux; {_VARIABLE}={_TUNABLE})',
  )


def restart_with_huge_pages() -> None:
  """Starts this process again with huge pages, if that is of use and allowed.

  The process keeps its number, arguments and files. Nothing happens where
  GLIBC_TUNABLES is set, even if it is empty.
  """
  if _VARIABLE in os.environ or not (_uses_cpu() and _are_available()):
    return
  environment = {**os.environ, _VARIABLE: _TUNABLE}
  arguments = [sys.executable, *sys.orig_argv[1:]]
  sys.stdout.flush()
  sys.stderr.flush()
  os.execve(sys.executable, arguments, environment)


def _uses_cpu():
  """Whether JAX will use the CPU, as far as one can say without JAX."""
  if platforms := os.environ.get('JAX_PLATFORMS'):
    return platforms.split(',')[0] == 'cpu'
  plugins = 'jax_plugins', 'libtpu'
  return not any(map(importlib.util.find_spec, plugins))


def _are_available():
  try:
    name, version = os.confstr('CS_GNU_LIBC_VERSION').split()
    setting = _SYSTEM.read_text('utf-8')
  except (AttributeError, OSError, ValueError):
    return False  # Another system, or another C library.
  glibc = tuple(map(int, version.split('.')[:2]))
  # With '[always]', the system needs no request.
  return name == 'glibc' and glibc >= _FIRST_GLIBC and '[madvise]' in setting
