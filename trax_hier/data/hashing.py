"""A counter-based integer hash: the only source of randomness in `data`.

Equal integers hash to the same 64 bits on every machine and in every version
of Python and numpy, so a batch can be a pure function of its index.
`tests/data/test_hashing.py` pins some hashes.
"""

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, rounded to odd
_FACTOR_1 = 0xBF58476D1CE4E5B9
_FACTOR_2 = 0x94D049BB133111EB

# Domain separation: `hash64(seed, TAG, ...)` makes uses of a seed independent.
SHUFFLE, OFFSET, NOISE, LINE_SPLIT, MIXTURE = 1, 2, 3, 4, 5

# Tags of the splits, so that no two splits share random numbers.
SPLIT_TAGS = {'train': 0, 'valid': 1, 'test': 2}


def mix64(x: np.ndarray) -> np.ndarray:
  """Mixes 64 bits reversibly: the output function of SplitMix64.

  Args:
    x: uint64 array of any shape except (), such as (b, l): numpy warns of
      overflow in scalars but not in arrays.

  Returns:
    A uint64 array of the same shape.

  Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
  OOPSLA 2014, with the constants of variant 13 of the MurmurHash3 finalizer.
  """
  x = (x ^ (x >> np.uint64(30))) * np.uint64(_FACTOR_1)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(_FACTOR_2)
  return x ^ (x >> np.uint64(31))


def hash64(*values: int | np.ndarray) -> np.ndarray:
  """Hashes a tuple of integers, elementwise and with broadcasting.

  Args:
    *values: Non-negative integers or integer arrays; their order matters.

  Returns:
    A uint64 array of the broadcast shape: (b, n) for values (b, 1) and (n,),
    (1,) if every value is an int.
  """
  state = np.full(1, _GOLDEN, np.uint64)
  for value in values:
    if isinstance(value, int):
      value = np.full(1, value & _MASK, np.uint64)
    state = mix64((state ^ value.astype(np.uint64)) + np.uint64(_GOLDEN))
  return state
