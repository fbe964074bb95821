"""Plain-text tables: aligned columns, nothing cut off."""

from collections.abc import Sequence

import rich.console
import rich.table

_UNBOUNDED = 100_000


def text(
  columns: Sequence[str],
  rows: Sequence[Sequence[str]],
  numbers: Sequence[int] = (),
  width: int | None = None,
) -> str:
  """Returns a table of rows below the names of their columns.

  Args:
    columns: Names of the columns.
    rows: One text for each column of each row.
    numbers: Indices of the columns of numbers, which are right-aligned.
    width: Width of the table in characters, within which long cells wrap; None
      means one line for each row.
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
    width=width or _UNBOUNDED,
    color_system=None,
    highlight=False,
    markup=False,
    emoji=False,
    force_jupyter=False,
  )
  with console.capture() as printed:
    console.print(table)
  lines = printed.get().splitlines()
  return '\n'.join(line.rstrip() for line in lines)
