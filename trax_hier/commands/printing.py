"""Plain-text sections, tables and amounts on standard output."""

import math
import shutil
import sys
from collections.abc import Sequence

from trax_hier.inspection import tables

_PREFIXES = ('', 'k', 'M', 'G', 'T', 'P', 'E')


def print_heading(title: str) -> None:
  """Prints the title of a section."""
  print(f'\n{title}\n{"-" * len(title)}')


def print_table(
  columns: Sequence[str],
  rows: Sequence[Sequence[str]],
  numbers: Sequence[int] = (),
) -> None:
  """Prints a table with aligned columns.

  Long cells are wrapped on a terminal; elsewhere each row is one line.

  Args:
    columns: Titles of the columns.
    rows: Rows; each has one text per column.
    numbers: Indices of the columns of numbers, which are aligned to the right.
  """
  width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
  print(tables.text(columns, rows, numbers, width))


def format_amount(n: float, unit: str) -> str:
  """Formats a number with a decimal prefix, such as '3.71 MB'."""
  power = min(len(_PREFIXES) - 1, int(math.log10(n)) // 3) if n >= 1 else 0
  return f'{n / 1000**power:.3g} {_PREFIXES[power]}{unit}'
