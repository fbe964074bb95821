"""Tables of plain text: columns that line up, nothing cut off."""

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
  """Rows of text below the names of their columns.

  Args:
    columns: the names.
    rows: a text for each column.
    numbers: which columns are of numbers: these end at the same place.
    width: in characters; cells that are too long for it go on in the next line.
      None: each row is one line.
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
