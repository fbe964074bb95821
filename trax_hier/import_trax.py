"""Weights of Trax's own models, rearranged for ours.

Trax keeps one layer after another; we stack the equal blocks of a `Repeat`,
keep the shared biases in front, and order the projections of an attention
layer otherwise. The numbers are the same.
"""

from typing import Any

import jax
import numpy as np

from trax_hier.models.hourglass import parse_hierarchy


def hourglass_weights(
  weights: Any,
  template: Any,
  vanilla_layers: tuple[int, int] = (1, 1),
  hierarchy: str = '6@3',
  dense_shorten: bool = False,
  dense_upsample: bool = True,
  attention_shorten: bool = True,
  attention_upsample: bool = True,
) -> Any:
  """Converts the weights of `trax.models.research.hourglass.HourglassLM`.

  Args:
    weights: The Trax model's weights, with relative attention throughout.
    template: Weights of our `HourglassLM` of the same configuration, or their
      shapes; the result has this structure.
    vanilla_layers: As given to both models.
    hierarchy: As given to both models.
    dense_shorten: Whether shortening has a dense layer: `LinearPooling`, alone
      or inside `AttentionResampling`.
    dense_upsample: Whether upsampling has one: `LinearUpsampling`, likewise.
    attention_shorten: Whether shortening is `AttentionResampling`.
    attention_upsample: Whether upsampling is `AttentionResampling`.

  Raises:
    ValueError: the numbers or shapes of the weights differ.
  """
  source = jax.tree.leaves(weights)
  position = 0
  shared = []

  def take(n):
    nonlocal position
    position += n
    return source[position - n : position]

  def attention():
    """The query, key, value, position and output projections."""
    r, q, k, v = take(2), take(2), take(2), take(2)
    if not shared:
      shared.extend(take(2))
    return q, k, v, r, take(2)

  def norm():
    return take(2)

  def feed_forward():
    return take(4)

  def block():
    before = norm()
    q, k, v, r, out = attention()
    return [*before, *q, *k, *v, *r, *out, *norm(), *feed_forward()]

  def stack(n):
    blocks = [block() for _ in range(n)]
    return [np.stack(same) for same in zip(*blocks, strict=True)] + norm()

  def shorten():
    dense = 2 * dense_shorten
    if not attention_shorten:
      return take(dense)
    return norm() + take(dense) + block()

  def upsample():
    dense = 2 * dense_upsample
    if not attention_upsample:
      return take(dense)
    before = norm() + take(dense) + norm()
    q, k, v, r, out = attention()
    after = [*norm(), *feed_forward()]
    return [*before, *k, *v, *q, *r, *out, *after]

  def valley(levels):
    (n, _), *deeper = levels
    inner = shorten() + stack(n)
    if deeper:
      inner += valley(deeper) + stack(n)
    return inner + upsample() + norm()

  n_before, n_after = vanilla_layers
  result = take(1) + stack(n_before)
  result += valley(parse_hierarchy(hierarchy)) + stack(n_after) + take(2)
  result = [*shared, *result]

  expected = jax.tree.leaves(template)
  shapes = [np.shape(x) for x in result]
  if position != len(source) or shapes != [x.shape for x in expected]:
    raise ValueError(
      f"the Trax model's {len(source)} weights do not fit the "
      f'{len(expected)} of ours: vanilla_layers, hierarchy, widths or the '
      'kinds of shortening and upsampling differ'
    )
  return jax.tree.unflatten(jax.tree.structure(template), result)
