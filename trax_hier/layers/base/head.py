"""The head of a model: the layers from vectors to logits."""

from trax_hier.compat import base, tl
from trax_hier.layers.base.sharing import leaf_layers

_POSITIONWISE = tl.Dense, tl.Weights, base.PureLayer


class Head(tl.Serial):
  """The last layers of a model, in sequence: (b, l, d) -> logits (b, l, v).

  If each of them acts on every position by itself, training may apply them to
  a part of the positions at a time (`train.loss_chunk`). Layers with an
  attribute `is_positionwise = True` say so of themselves; dense layers and
  functions (`tl.Fn`) are taken to do so.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(Head(tl.Dense(256)), (2, 12, 32)))
    layer         parameters   in            out
    Head               8,448   (2, 12, 32)   (2, 12, 256)
      Dense_256        8,448   (2, 12, 32)   (2, 12, 256)
  """

  def mixing_layer(self) -> base.Layer | None:
    """The first layer that may read several positions for one, or None."""
    for layer in leaf_layers(self).values():
      is_positionwise = isinstance(layer, _POSITIONWISE)
      if not getattr(layer, 'is_positionwise', is_positionwise):
        return layer
    return None
