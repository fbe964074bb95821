"""Rematerialization: recompute activations in the backward pass."""

from collections.abc import Sequence
from typing import Literal

import jax

from trax_hier.compat import base

# What the backward pass recomputes; see `Repeat`.
RematPolicy = bool | Literal['projections', 'products']

_POLICIES = {
  True: jax.checkpoint_policies.nothing_saveable,
  'projections': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'products': jax.checkpoint_policies.dots_saveable,
}


class Remat(base.Layer):
  """Runs a layer without keeping its activations for the backward pass.

  Inputs, outputs, weights and state are those of `layer`, for example (b, l, d)
  -> (b, l, d). The backward pass recomputes the forward pass.

  Args:
    layer: The layer.
    policy: True, 'projections' or 'products', as in `Repeat`.

  Raises:
    ValueError: `policy` has another value.

  Example:
    >>> from trax_hier.layers import FeedForward
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = Remat(FeedForward(8, 16), 'projections')
    >>> print(tree(layer, (2, 12, 8)).text(0))
    layer       parameters   in           out
    Remat ...          280   (2, 12, 8)   (2, 12, 8)
  """

  keeps_documents_apart = True

  def __init__(self, layer: base.Layer, policy: RematPolicy = True):
    super().__init__(layer.n_in, layer.n_out)
    if policy not in _POLICIES:
      raise ValueError(
        f'remat = {policy!r} must be False or one of '
        f'{", ".join(map(repr, _POLICIES))}'
      )
    self._policy = _POLICIES[policy]
    self._sublayers = (layer,)
    self._weights = (None,)
    self._state = (None,)

  def init_weights_and_state(self, input_signature):
    (layer,) = self.sublayers
    weights, state = layer.init(input_signature, self.rng, use_cache=True)
    self.weights, self.state = (weights,), (state,)

  def forward(self, x):
    (layer,), (weights,), (state,) = self.sublayers, self.weights, self.state
    run = jax.checkpoint(layer.pure_fn, policy=self._policy)
    y, state = run(x, weights, state, self.rng)
    self.state = (state,)
    return y


def remat_per_stack(
  remat: RematPolicy | Sequence[RematPolicy], n: int, name: str
) -> tuple[RematPolicy, ...]:
  """One policy for each of `n` stacks.

  Args:
    remat: One policy for all stacks, or one for each.
    n: Number of stacks.
    name: Name of the argument, for the error message.

  Raises:
    ValueError: `remat` is a sequence of another length.

  Example:
    >>> remat_per_stack(True, 3, 'HourglassLM.remat')
    (True, True, True)
  """
  if not isinstance(remat, tuple | list):
    return (remat,) * n
  if len(remat) != n:
    raise ValueError(
      f'{name} = {remat!r} must be one policy, or one for each of {n} stacks'
    )
  return tuple(remat)
