"""The dense feed-forward part of a block."""

from collections.abc import Callable

import gin

from trax_hier.trax_compat import base, tl


@gin.configurable(module='trax_hier.layers')
def FeedForward(
  d_model: int,
  d_ff: int = 2048,
  activation: Callable[[], base.Layer] = tl.FastGelu,
  dropout: float = 0.0,
  mode: str = 'train',
):
  """Two dense layers with an activation between: (b, l, d) -> (b, l, d).

  Args:
    d_model: Width of inputs and outputs.
    d_ff: Width between the two layers.
    activation: Makes the activation layer.
    dropout: Rate of dropout after the activation.
    mode: 'train', 'eval' or 'predict'.
  """
  return tl.Serial(
    tl.Dense(d_ff),  # (b, l, f)
    activation(),
    tl.Dropout(dropout, mode=mode),
    tl.Dense(d_model),  # (b, l, d)
  )
