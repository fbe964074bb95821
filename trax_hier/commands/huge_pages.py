"""Huge memory pages for the arrays of a CPU.

XLA allocates the arrays of a training step anew in each step. In pages of 4 KB,
the system takes a seventh of the step to provide them. In pages of 2 MB, it
takes a few percent.
"""

import argparse
import contextlib
import importlib.util
import os
import sys
from pathlib import Path

# Read by glibc when a process starts.
_VARIABLE = 'GLIBC_TUNABLES'
_TUNABLE = 'glibc.malloc.hugetlb=1'
_FIRST_GLIBC = (2, 35)
_SYSTEM = Path('/sys/kernel/mm/transparent_hugepage/enabled')


def add_huge_pages(parser: argparse.ArgumentParser) -> None:
  """Adds --no_huge_pages.

  Args:
    parser: The parser.
  """
  parser.add_argument(
    '--no_huge_pages',
    action='store_true',
    help='do not restart the program with huge memory pages, which are faster '
    f'on CPUs (Linux; {_VARIABLE}={_TUNABLE})',
  )


def restart_with_huge_pages() -> None:
  """Starts this process again with huge pages, if that is of use and allowed.

  The process keeps its number, arguments and files. Nothing happens where
  GLIBC_TUNABLES is set, even if it is empty, and in a process of another
  program, such as a notebook or a debugger.
  """
  if _VARIABLE in os.environ or not (_uses_cpu() and _are_available()):
    return
  if not _can_restart():
    return
  environment = {**os.environ, _VARIABLE: _TUNABLE}
  arguments = [sys.executable, *sys.orig_argv[1:]]
  for stream in filter(None, (sys.stdout, sys.stderr)):  # None if closed.
    stream.flush()
  with contextlib.suppress(OSError):  # It goes on without them.
    os.execve(sys.executable, arguments, environment)


def _can_restart():
  """Whether the command of this process, given again, starts this program."""
  given = sys.argv[1:]
  return (
    bool(sys.executable)
    and sys.orig_argv[len(sys.orig_argv) - len(given) :] == given
    # Not '-c' or '-', and not a relative path after a change of folders.
    and os.path.isfile(sys.argv[0])
    and sys.gettrace() is None
  )


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
