"""Weights that several places of a model share."""

from trax_hier.compat import base


class ShareWeights(base.Layer):
  """Owns the weights of layers that occur at several places of a model.

  Takes and returns nothing. Trax keeps the weights of a layer object at its
  first occurrence, and every other occurrence reads them from there. This layer
  makes the first occurrence explicit, outside any `Repeat` or `Remat`.

  Example:
    >>> from trax_hier.compat import tl
    >>> from trax_hier.inspection.layer_tree import tree
    >>> table = tl.Weights(tl.RandomNormalInitializer(1.0), (256, 8))
    >>> model = tl.Serial(  # tokens
    ...   ShareWeights(table),
    ...   table,
    ...   tl.Fn('Embed', lambda table, tokens: table[tokens]),  # (b, l, d)
    ...   table,
    ...   tl.Fn('Logits', lambda table, x: x @ table.T),  # (b, l, v)
    ... )
    >>> print(tree(model, (2, 12)).text(1))
    layer                parameters   in                    out
    Serial                    2,048   (2, 12)               (2, 12, 256)
      ShareWeights ...        2,048
      Logits                      -   (256, 8) (2, 12, 8)   (2, 12, 256)
  """

  keeps_documents_apart = True

  def __init__(self, *layers: base.Layer):
    super().__init__(n_in=0, n_out=0)
    self._sublayers = layers
    self._weights = (None,) * len(layers)
    self._state = (None,) * len(layers)

  def init_weights_and_state(self, input_signature):
    inits = [layer.init((), use_cache=True) for layer in self.sublayers]
    self.weights = tuple(weights for weights, _ in inits)
    self.state = tuple(state for _, state in inits)

  def forward(self, x):
    states = []
    parts = zip(self.sublayers, self.weights, self.state, strict=True)
    for layer, weights, state in parts:
      _, state = layer.pure_fn((), weights, state, self.rng, use_cache=True)
      states.append(state)
    self.state = tuple(states)
    return ()


def leaf_layers(layer: base.Layer) -> dict[int, base.Layer]:
  """The layers without sublayers inside `layer`, by `id`."""
  if not layer.sublayers:
    return {id(layer): layer}
  return {i: x for sub in layer.sublayers for i, x in leaf_layers(sub).items()}
