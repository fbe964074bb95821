"""Stop sequences: a row ends as soon as its new tokens end in one of them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.generation.arguments import are_token_ids, next_power_of_two

_PADDING = -1
# Replaces prompt tokens among recent tokens, since they match no stop sequence.
NOT_NEW = -2


def stop_array(stop: Sequence[Sequence[int]]) -> np.ndarray:
  """Stop sequences as int32 (s, w), aligned at their ends.

  Both sizes are rounded up to powers of two, at least (4, 8).

  Raises:
    ValueError: A stop sequence is empty or does not hold token ids.

  Example:
    >>> print(stop_array([[7], [13, 10]])[:2, -3:])
    [[-1 -1  7]
     [-1 13 10]]
  """
  longest = 1
  for sequence in stop:
    ids = np.asarray(sequence)
    if ids.ndim != 1 or not ids.size or not are_token_ids(ids):
      raise ValueError(
        'stop must hold sequences of token ids that are not empty, such as '
        f'[[0], [13, 10]], got {sequence!r}'
      )
    longest = max(longest, len(ids))
  n, width = max(4, len(stop)), max(8, longest)
  shape = next_power_of_two(n), next_power_of_two(width)
  array = np.full(shape, _PADDING, np.int32)
  for row, sequence in zip(array, stop, strict=False):
    row[-len(sequence) :] = sequence
  return array


def matched_length(recent: jax.Array, stop: jax.Array) -> jax.Array:
  """Length of the longest stop sequence at the end of recent tokens, or 0.

  Args:
    recent: The last w tokens, (.., w).
    stop: Stop sequences from `stop_array`, (s, w).

  Returns:
    int32 (..).
  """
  fits = (recent[..., None, :] == stop) | (stop == _PADDING)  # (.., s, w)
  lengths = jnp.sum(stop != _PADDING, axis=-1, dtype=jnp.int32)
  return jnp.max(jnp.all(fits, axis=-1) * lengths, axis=-1)
