"""Checks the arguments of `generate` before anything is compiled."""

import math
from collections.abc import Sequence

import numpy as np

_SMALLEST_CAPACITY = 64
_LARGEST_CAPACITY = 1 << 30


def token_rows(name: str, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Returns rows of token ids as arrays (l,).

  Args:
    name: Name of the argument, for the message.
    rows: Token ids of each row.

  Raises:
    ValueError: There are no rows, or a row does not hold token ids.
  """
  rows = [np.asarray(row) for row in rows]
  if not rows:
    raise ValueError(f'{name} has no rows')
  for row in rows:
    if row.ndim != 1 or not are_token_ids(row):
      raise ValueError(
        f'{name} must be non-negative token ids, (batch, length) or a '
        f'sequence of arrays (length,), got a row {row!r:.80}'
      )
  return rows


def are_token_ids(array: np.ndarray) -> bool:
  """Whether an array (l,) holds only integers of at least 0."""
  if not array.size:
    return True
  return np.issubdtype(array.dtype, np.integer) and array.min() >= 0


def source_rows(
  sources: Sequence[np.ndarray], n_prompts: int
) -> list[np.ndarray]:
  """Returns sources as arrays (m,).

  Raises:
    ValueError: A row does not hold token ids or has a 0 before another token,
      or the number of rows is not n_prompts.
  """
  sources = token_rows('sources', sources)
  if len(sources) != n_prompts:
    raise ValueError(f'got {len(sources)} sources for {n_prompts} prompts')
  for row, source in enumerate(sources):
    (padding,) = np.nonzero(source == 0)
    if len(padding) and source[padding[0] :].any():
      raise ValueError(
        f'sources: row {row} has 0 at position {padding[0]}, followed by other '
        'tokens: 0 is padding, which is allowed only at the end'
      )
  return sources


def check_at_least_1(**numbers: int | None) -> None:
  """Raises ValueError if a number is below 1; None is allowed."""
  for name, value in numbers.items():
    if value is not None and value < 1:
      raise ValueError(f'{name} = {value} must be at least 1')


def check_sampling(temperature: float, top_p: float | None, seed: int) -> None:
  """Raises ValueError if a sampling setting is out of range."""
  if not (np.isfinite(temperature) and temperature >= 0):
    raise ValueError(f'temperature = {temperature} must be a number >= 0')
  if top_p is not None and not 0 < top_p <= 1:
    raise ValueError(f'top_p = {top_p} must be above 0 and at most 1')
  if not 0 <= seed < 1 << 63:
    raise ValueError(f'seed = {seed} must be at least 0 and below 2 ** 63')


def check_beams(n_beams: int, length_penalty: float, **is_given: bool) -> None:
  """Raises ValueError if settings of beam search are out of range or conflict.

  Args:
    n_beams: Number of beams.
    length_penalty: Exponent of the length penalty.
    **is_given: For each argument that beam search does not use, whether the
      caller gave it.
  """
  if not (math.isfinite(length_penalty) and length_penalty >= 0):
    raise ValueError(f'length_penalty = {length_penalty} must be a number >= 0')
  unused = [name for name, given in is_given.items() if given]
  if n_beams > 1 and unused:
    raise ValueError(
      f'n_beams = {n_beams}: beam search does not sample and returns tokens '
      f'only at its end: leave out {", ".join(unused)}'
    )


def next_power_of_two(n: int) -> int:
  """The smallest power of two that is at least n.

  A program is compiled for each size, so rounding sizes up saves compilations.
  """
  return 1 << (n - 1).bit_length()


def capacity(longest: int, n_tokens: int, max_len: int | None) -> int:
  """Capacity of the caches in tokens.

  Args:
    longest: Length of the longest prompt.
    n_tokens: Maximum number of new tokens.
    max_len: Capacity that the caller asked for; None means as many tokens as
      needed, rounded up to a power of two.

  Raises:
    ValueError: max_len is too small, or positions would exceed 32 bits.
  """
  needed = longest + n_tokens
  if max(needed, max_len or 0) > _LARGEST_CAPACITY:
    raise ValueError(
      f'n_tokens = {n_tokens} after a prompt of {longest} tokens, max_len = '
      f'{max_len}: at most {_LARGEST_CAPACITY:,} tokens are possible'
    )
  if max_len is None:
    return max(_SMALLEST_CAPACITY, next_power_of_two(needed))
  if needed > max_len:
    raise ValueError(
      f'a prompt of {longest} tokens and n_tokens = {n_tokens} exceed max_len '
      f'= {max_len}: set max_len = {needed} or more, or ask for fewer tokens'
    )
  return max_len


def check_fits(
  n_ids: int,
  n_positions: int | None,
  prompts: list[np.ndarray],
  n_tokens: int,
  sources: list[np.ndarray] | None,
) -> None:
  """Raises ValueError if tokens or lengths exceed the limits of the model.

  Args:
    n_ids: Number of token ids of the model.
    n_positions: Number of its positions; None means any number.
    prompts: Prompts, (l,) each.
    n_tokens: Maximum number of new tokens.
    sources: Sources, (m,) each, or None.
  """
  sources = sources or []
  for name, rows in dict(prompt=prompts, sources=sources).items():
    largest = max((int(row.max()) for row in rows if row.size), default=0)
    if largest >= n_ids:
      raise ValueError(
        f'{name} holds token {largest}, but the model has {n_ids} ids'
      )
  needed = {
    'a prompt and its new tokens': max(map(len, prompts)) + n_tokens,
    'a source': max(map(len, sources), default=0),
  }
  for name, length in needed.items():
    if n_positions and length > n_positions:
      raise ValueError(
        f'{length} positions are needed for {name}, but the model has only '
        f'{n_positions}, see LearnedPositions.n_positions or '
        'FixedBasePositions.n_digits'
      )
