"""A random choice between layers that share their weights."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from trax_hier.compat import base
from trax_hier.layers.base.sharing import leaf_layers


class RandomChoice(base.Layer):
  """Applies one of several layers with the same weights, sampled per call.

  Inputs and outputs are those of each layer, for example (b, l, d) ->
  (b, l, d). In 'train' mode each of `layers` is equally likely; other modes
  always use the first. All must have weights and states of the same shapes.

  Args:
    layers: The alternatives; equal in inputs, outputs and weights.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: at `init`, if the weights of the alternatives differ in shape.

  Example:
    >>> from trax_hier.layers import AverageShorten, RepeatUpsample
    >>> from trax_hier.layers import FeedForward, ShortenedStack
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layers = [
    ...   ShortenedStack(
    ...     k, AverageShorten(k), FeedForward(8, 16), RepeatUpsample(k)
    ...   )
    ...   for k in (2, 3)
    ... ]
    >>> print(tree(RandomChoice(layers, 'train'), (2, 12, 8)).text(1))
    layer                     parameters   in           out
    RandomChoice                     280   (2, 12, 8)   (2, 12, 8)
      ShortenedStack(2) ...          280   (2, 12, 8)   (2, 12, 8)
      ShortenedStack(3) ...            -   (2, 12, 8)   (2, 12, 8)
  """

  keeps_documents_apart = True

  def __init__(self, layers: Sequence[base.Layer], mode: str):
    super().__init__(layers[0].n_in, layers[0].n_out)
    self._sublayers = (layers[0],)
    self._weights = (None,)
    self._state = (None,)
    self._choices = tuple(layers) if mode == 'train' else (layers[0],)

  @property
  def alternatives(self) -> tuple[base.Layer, ...]:
    """The layers that a call may apply."""
    return self._choices

  def init_weights_and_state(self, input_signature):
    first, *others = self._choices
    weights, state = first.init(input_signature, self.rng, use_cache=True)
    self.weights, self.state = (weights,), (state,)
    for other in others:
      shapes = _shapes_of_weights(other, input_signature, self.rng)
      if shapes != jax.tree.map(jnp.shape, weights):
        raise ValueError(
          f'the alternatives {first.name} and {other.name} must have weights '
          'of the same shapes: use layers whose weights do not depend on '
          'HourglassLM.shorten_factor_dropout, such as @AverageShorten and '
          '@RepeatUpsample'
        )

  def forward(self, x):
    (weights,), (state,) = self.weights, self.state
    choice_rng, rng = jax.random.split(self.rng)
    choice = jax.random.randint(
      choice_rng, (), 0, len(self._choices), jnp.int32
    )
    branches = [
      functools.partial(layer.pure_fn, x, weights, state, rng)
      for layer in self._choices
    ]
    y, state = jax.lax.switch(choice, branches)
    self.state = (state,)
    return y


def _shapes_of_weights(layer, input_signature, rng):
  """The shapes of a layer's weights, without marking it as initialized."""
  shared = [x for x in leaf_layers(layer).values() if x._init_cached]
  weights, _ = jax.eval_shape(
    lambda: layer.init(input_signature, rng, use_cache=True)
  )
  layer._clear_init_cache()
  for x in shared:
    x._init_cached = True
  return jax.tree.map(lambda w: w.shape, weights)
