"""Tables of plain text: columns that line up, nothing cut off."""

import math
import shutil
import sys
from collections.abc import Sequence

from trax_hier.inspection import tables

_PREFIXES = ('', 'k', 'M', 'G', 'T', 'P', 'E')


def heading(title: str) -> None:
  """Prints the title of a section."""
  print(f'\n{title}\n{"-" * len(title)}')


def print_table(
  columns: Sequence[str],
  rows: Sequence[Sequence[str]],
  numbers: Sequence[int] = (),
) -> None:
  """Prints rows of text below the names of their columns.

  On a terminal, cells that are too long for it go on in the next line;
  elsewhere each row is one line.

  Args:
    columns: the names.
    rows: a text for each column.
    numbers: which columns are of numbers: these end at the same place.
  """
  width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
  print(tables.text(columns, rows, numbers, width))


def amount(n: float, unit: str) -> str:
  """A number in units of 1000, such as '3.71 MB'."""
  power = min(len(_PREFIXES) - 1, int(math.log10(n)) // 3) if n >= 1 else 0
  return f'{n / 1000**power:.3g} {_PREFIXES[power]}{unit}'
