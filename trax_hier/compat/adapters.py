"""Fits models of trax_hier to Trax's losses and training loop."""

from collections.abc import Callable

from trax_hier.compat import base, tl
from trax_hier.config import configurable


@configurable(module='trax_hier.compat.adapters')
def KeepTargets(
  model: Callable[..., base.Layer], mode: str = 'train'
) -> base.Layer:
  """An encoder-decoder that also returns its targets, as Trax's losses need.

  Sources (b, m) int32, targets (b, l) int32 -> logits (b, l, v) float32,
  targets (b, l) int32. In a batch of Trax the weights of the loss follow, so
  that the loss gets logits, targets, weights.

  Args:
    model: Factory of the model: sources, targets -> logits. @Terraformer or
      @ScalingTransformer.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: The model is a language model, whose targets stay anyway.

  Example:
    >>> import functools
    >>> from trax_hier.models import ScalingTransformer
    >>> sizes = dict(vocab_size=9, d_model=16, d_ff=32, n_heads=2)
    >>> model = KeepTargets(functools.partial(ScalingTransformer, **sizes))
    >>> model.n_in, model.n_out
    (2, 2)
  """
  layer = model(mode=mode)
  if (layer.n_in, layer.n_out) != (2, 1):
    raise ValueError(
      f'KeepTargets.model = {layer.n_in} inputs and {layer.n_out} outputs, but '
      'must be sources, targets -> logits; a language model needs no '
      'KeepTargets'
    )
  return tl.Serial(tl.Select([0, 1, 1]), layer)
