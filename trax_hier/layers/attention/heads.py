"""Splitting into attention heads and merging them.

Letters: b batch, h heads, l length, d d_model.
"""

from collections.abc import Callable, Sequence

from trax_hier.compat import base, tl
from trax_hier.layers.base.checks import check_arguments, check_positive
from trax_hier.layers.base.dense import Dense, Projections


def Heads(
  d_model: int,
  n_heads: int,
  *rotations: Sequence[base.Layer],
  d_head: int | None = None,
  dense: Callable[[int], base.Layer] = Dense,
  project: base.Layer | None = None,
) -> base.Layer:
  """Projects to heads: (b, l, d) -> (b, h, l, d_head) for each of `rotations`.

  Args:
    d_model: Width of the input.
    n_heads: Number of heads.
    *rotations: For each output, the layers that encode positions into it.
    d_head: Width of a head; None means d_model / n_heads, an integer.
    dense: Factory of a projection, given its width.
    project: Layer that computes all outputs, (b, l, h d_head) each, instead of
      projections by `dense`.

  Raises:
    ValueError: n_heads or d_head is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(Heads(8, 2, [], []), (2, 6, 8)))
    layer           parameters   in          out
    Heads                  144   (2, 6, 8)   (2, 2, 6, 4) (2, 2, 6, 4)
      Projections          144   (2, 6, 8)   (2, 6, 8) (2, 6, 8)
  """
  if d_head is None:
    check_arguments('', d_model=d_model, n_heads=n_heads)
    d_head = d_model // n_heads
  check_positive('', n_heads=n_heads, d_head=d_head)

  def split(x):
    b, l, _ = x.shape
    return x.reshape(b, l, n_heads, -1).swapaxes(1, 2)

  outputs = [
    tl.Serial(tl.Fn('SplitHeads', split), *layers) for layers in rotations
  ]
  return tl.Serial(
    project or Projections(n_heads * d_head, len(outputs), dense),
    tl.Parallel(*outputs) if len(outputs) > 1 else outputs[0],
  )


def MergeHeads() -> base.Layer:
  """Concatenates the heads: (b, h, l, d / h) -> (b, l, d).

  Example:
    >>> import jax.numpy as jnp
    >>> MergeHeads()(jnp.zeros((2, 4, 6, 8))).shape
    (2, 6, 32)
  """

  def merge(x):
    b, _, l, _ = x.shape
    return x.swapaxes(1, 2).reshape(b, l, -1)

  return tl.Fn('MergeHeads', merge)
