"""Argument checks whose error messages name the gin binding."""

# Upper limits, by the end of an argument's name: rows of a batch, tokens of a
# row. All other numbers must fit in 32 bits.
_MOST = {'batch_size': 2**20, 'length': 2**26, '': 2**31 - 1}


def check_positive(binding: str, value: int) -> None:
  """Raises ValueError unless `value` is an int from 1 to its limit in `_MOST`.

  Example:
    >>> check_positive('TextFiles.length', 10**9)
    Traceback (most recent call last):
    ...
    ValueError: TextFiles.length = 1000000000: must be at most 67,108,864
  """
  if not _is_int(value) or value < 1:
    raise ValueError(f'{binding} = {value!r}: must be an integer of 1 or more')
  most = next(n for end, n in _MOST.items() if binding.endswith(end))
  if value > most:
    raise ValueError(f'{binding} = {value!r}: must be at most {most:,}')


def check_not_negative(binding: str, value: int) -> None:
  """Raises ValueError unless `value` is an int of at least 0."""
  if not _is_int(value) or value < 0:
    raise ValueError(f'{binding} = {value!r}: must be an integer of 0 or more')


def check_seed(binding: str, value: int) -> None:
  """Raises ValueError unless `value` is an int of 64 bits without a sign.

  `hash64` would take the lowest 64 bits of other integers.
  """
  if not _is_int(value) or not 0 <= value < 2**64:
    raise ValueError(
      f'{binding} = {value!r}: must be an integer of at least 0 and below '
      '2 ** 64'
    )


def check_fractions(name: str, valid: float, test: float) -> None:
  """Raises ValueError unless both are in [0, 1) and their sum is below 1.

  Args:
    name: Name of the configurable, for messages.
    valid: Fraction of the data held out for validation, its `valid_fraction`.
    test: Fraction of the data held out for the test, its `test_fraction`.
  """
  for binding, value in (('valid_fraction', valid), ('test_fraction', test)):
    if not 0 <= value < 1:
      raise ValueError(f'{name}.{binding} = {value!r}: must be in [0, 1)')
  if valid + test >= 1:
    raise ValueError(
      f'{name}.valid_fraction + {name}.test_fraction = {valid + test:g}: '
      'must be less than 1, or nothing is left to train on'
    )


def check_choice(binding: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises ValueError unless `value` is one of `choices`."""
  if value not in choices:
    allowed = ', '.join(map(repr, choices))
    raise ValueError(f'{binding} = {value!r}: must be one of {allowed}')


def _is_int(value):
  # bool is an int to Python, but `batch_size = True` is a mistake.
  return isinstance(value, int) and not isinstance(value, bool)
