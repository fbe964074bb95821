"""The head of a model: the layers from vectors to logits."""

from trax_hier.compat import base, tl
from trax_hier.layers.base.sharing import leaf_layers

_POSITIONWISE = (
  tl.AssertShape,
  tl.Concatenate,
  tl.Dense,
  tl.Dropout,
  tl.Embedding,
  tl.LayerNorm,
  tl.Weights,
  base.PureLayer,
)


def is_positionwise(layer: base.Layer) -> bool:
  """Whether a layer without sublayers acts on every position by itself.

  This is about 'train' and 'eval' modes. Layers with an attribute
  `is_positionwise` say so of themselves; dense layers and functions (`tl.Fn`)
  are taken to do so, but for Trax's `ShiftRight`.
  """
  known = isinstance(layer, _POSITIONWISE) and not layer.name.startswith(
    'ShiftRight('
  )
  return getattr(layer, 'is_positionwise', known)


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
    leaves = leaf_layers(self).values()
    return next((x for x in leaves if not is_positionwise(x)), None)
