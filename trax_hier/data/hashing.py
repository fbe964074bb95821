"""A counter-based integer hash: the only source of randomness in `data`.

The same words give the same 64 bits on every machine, Python and numpy, so a
batch can be a pure function of its index. `tests/data` pins values.
"""

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, rounded to odd
_FACTOR_1 = 0xBF58476D1CE4E5B9
_FACTOR_2 = 0x94D049BB133111EB


def mix64(x: np.ndarray) -> np.ndarray:
  """Scrambles 64 bits reversibly: the output step of SplitMix64.

  Args:
    x: uint64 array, such as (b, l), of any shape but (): numpy warns when
      scalars overflow, not when arrays do.

  Returns:
    A uint64 array of the same shape.

  Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
  OOPSLA 2014, with the constants of its variant 13 of the MurmurHash3 mixer.
  """
  x = (x ^ (x >> np.uint64(30))) * np.uint64(_FACTOR_1)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(_FACTOR_2)
  return x ^ (x >> np.uint64(31))


def hash64(*words: int | np.ndarray) -> np.ndarray:
  """Hashes a tuple of integers, elementwise and with broadcasting.

  Args:
    *words: non-negative integers or integer arrays; the order matters.

  Returns:
    A uint64 array of the broadcast shape: (b, n) of words (b, 1) and (n,), (1,)
    when every word is an int.
  """
  state = np.full(1, _GOLDEN, np.uint64)
  for word in words:
    if isinstance(word, int):
      word = np.full(1, word & _MASK, np.uint64)
    state = mix64((state ^ word.astype(np.uint64)) + np.uint64(_GOLDEN))
  return state
