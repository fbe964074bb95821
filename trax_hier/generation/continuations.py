"""The result of `generate`."""

import numpy as np

_N_SHOWN = 4


class Continuations(list[np.ndarray]):
  """The new tokens of each row, int32 (n,): a list whose repr is one line.

  Example:
    >>> Continuations([np.arange(100), np.arange(2)])
    <Continuations of 2 rows: 100 tokens [0, 1, 2, 3, ...]; 2 tokens [0, 1]>
  """

  def __repr__(self) -> str:
    """Counts the tokens of the first rows, and shows their beginnings."""
    shown = [self._row(row) for row in self[:_N_SHOWN]]
    shown += ['...'] * (len(self) > _N_SHOWN)
    return f'<{type(self).__name__} of {len(self)} rows: {"; ".join(shown)}>'

  @staticmethod
  def _row(row):
    ids = [*map(str, row[:_N_SHOWN].tolist()), *['...'] * (len(row) > _N_SHOWN)]
    return f'{len(row):,} tokens [{", ".join(ids)}]'
