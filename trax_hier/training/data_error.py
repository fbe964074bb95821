"""Errors of the data set that appear after the model is built."""

import contextlib
from collections.abc import Iterator


class DataError(RuntimeError):
  """A batch cannot be read."""


@contextlib.contextmanager
def reading(batch: str) -> Iterator[None]:
  """Turns errors of a data set into a `DataError` that names the batch.

  Args:
    batch: Name of the batch, such as 'held-out batch 3'.

  Raises:
    DataError: for any error; its type is named unless the message is clear
      without, as in ValueError and OSError.
  """
  try:
    yield
  except Exception as error:
    is_clear = isinstance(error, ValueError | OSError)
    kind = '' if is_clear else f'{type(error).__name__}: '
    raise DataError(f'{batch} cannot be read: {kind}{error}') from error
