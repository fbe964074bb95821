"""Tables of plain text: columns that line up, nothing cut off."""

import math
import sys
from collections.abc import Sequence

import rich.console
import rich.table

# Columns that a pipe or a file has room for.
_UNBOUNDED = 100_000
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
  table = rich.table.Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
  for i, name in enumerate(columns):
    is_number = i in numbers
    table.add_column(
      name,
      justify='right' if is_number else 'left',
      no_wrap=is_number,
      overflow='fold',
    )
  for row in rows:
    table.add_row(*row)
  console = rich.console.Console(
    width=None if sys.stdout.isatty() else _UNBOUNDED,
    color_system=None,
    highlight=False,
    markup=False,
    emoji=False,
  )
  with console.capture() as text:
    console.print(table)
  for line in text.get().splitlines():
    print(line.rstrip())


def amount(n: float, unit: str) -> str:
  """A number in units of 1000, such as '3.71 MB'."""
  power = min(len(_PREFIXES) - 1, int(math.log10(n)) // 3) if n >= 1 else 0
  return f'{n / 1000**power:.3g} {_PREFIXES[power]}{unit}'
