"""Refuses generation that cannot fit in memory, before anything compiles."""

import math
from typing import Any

import jax

from trax_hier import config
from trax_hier.environment import check_fits


def check_memory(
  state: Any, batch: int, max_len: int, n_ids: int, n_beams: int
) -> None:
  """Checks that the state of decoding fits in memory, beside the weights.

  Args:
    state: Shapes of the state of the model.
    batch: Number of prompts.
    max_len: Capacity in tokens.
    n_ids: Number of token ids.
    n_beams: Number of beams of each prompt.

  Raises:
    ValueError: naming the bytes, the memory and the binding of the largest
      cache.
  """
  arrays = jax.tree.leaves(state)
  sizes = {
    'caches': sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays),
    'tokens': 4 * batch * (1 + max_len),
    'logits': 4 * batch * n_ids,
  }
  largest = max((x.shape for x in arrays), key=math.prod, default=())
  binding = config.size_binding(largest)
  check_fits(
    f'generation of up to {max_len:,} tokens (prompts: {batch:,}, beams: '
    f'{n_beams:,})',
    {name: n_beams * size for name, size in sizes.items()},
    f': ask for fewer{f", or lower {binding}" if binding else ""}',
  )
