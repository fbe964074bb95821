"""Memory: state that layers carry between calls, in training too.

A model receives a long sequence segment by segment, one sequence in each row of
the batch (a "lane"). Layers keep in their state what they need from earlier
segments; gradients do not cross segments. Initial memory is all zeros, so
`Lanes` resets a lane by zeroing its memory in all layers of a model.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trax_hier.compat import base
from trax_hier.layers.base.documents import ReadsDocuments
from trax_hier.layers.base.repeat import Stack


class Memory(base.Layer):
  """A layer whose state is memory: a tree of arrays (b, ..).

  Example: running sums; the second lane restarts at every call.
    >>> from trax_hier.compat import signature
    >>> class Total(Memory):
    ...   def init_weights_and_state(self, signature):
    ...     self.state = jnp.zeros(signature.shape)
    ...   def forward(self, x):
    ...     self.state = self.state + x
    ...     return self.state
    >>> layer = Lanes(Total(), carry=True)
    >>> x, start = jnp.ones(2), jnp.array([False, True])
    >>> _ = layer.init(signature((x, start)))
    >>> print(layer((x, start)), layer((x, start)))
    [1. 1.] [2. 1.]
  """


class Lanes(base.Layer):
  """Runs a layer and resets its memory in lanes where a sequence starts.

  x (b, ..), start_of_sequence (b,) bool -> layer(x). Before the call, zeroes
  the `Memory` of lanes where start_of_sequence is True.

  Args:
    layer: The layer. The weights of `Lanes` are a 1-tuple of its weights.
    carry: Whether `layer` has memory; if not, x is the only input.

  Example: a sequence starts in the second lane at both calls.
    >>> from trax_hier.compat import signature
    >>> layer = Lanes(ShiftRight(carry=True, mode='train'), carry=True)
    >>> tokens = jnp.array([[1, 2, 3], [1, 2, 3]])
    >>> start = jnp.array([False, True])
    >>> _ = layer.init(signature((tokens, start)))
    >>> _ = layer((tokens, start))
    >>> print(layer((tokens + 3, start)))
    [[3 4 5]
     [0 4 5]]

  Source: Block-Recurrent Transformers (arXiv 2203.07852).
  """

  def __init__(self, layer: base.Layer, carry: bool):
    super().__init__(n_in=1 + carry, n_out=layer.n_out, name='Lanes')
    self._sublayers = (layer,)
    self._weights = (None,)
    self._state = (None,)

  @property
  def keeps_documents_apart(self) -> bool:
    """Whether rows may hold several documents: not if they continue."""
    return self.n_in == 1

  @property
  def takes_start_of_sequence(self) -> bool:
    """Whether the second input is `start_of_sequence`."""
    return self.n_in == 2

  def init_weights_and_state(self, input_signature):
    (layer,) = self.sublayers
    x = input_signature[0] if self.n_in == 2 else input_signature
    weights, state = layer.init(x, self.rng, use_cache=True)
    self.weights, self.state = (weights,), (state,)

  def forward(self, x):
    (layer,), (weights,), (state,) = self.sublayers, self.weights, self.state
    if self.n_in == 2:
      x, start = x

      def zero(memory, axis):
        lanes = start.reshape([-1] + [1] * (memory.ndim - axis - 1))
        return jnp.where(lanes, jnp.zeros((), memory.dtype), memory)

      state = map_memory(zero, layer, state)
    y, state = layer.pure_fn(x, weights, state, self.rng)
    self.state = (state,)
    return y


def map_memory(
  fn: Callable[[jax.Array, int], jax.Array],
  layer: base.Layer,
  state: Any,
  axis: int = 0,
) -> Any:
  """Maps fn(array, batch axis) over the memory in the state of a layer.

  Args:
    fn: Called with each array and its batch axis: (b, ..) and 0, or (n, b, ..)
      and 1 for n stacked layers, and so on for nested stacks.
    layer: The layer.
    state: Its state.
    axis: Batch axis of memory outside the stacks in `layer`.
  """
  if isinstance(layer, Memory):
    return jax.tree.map(lambda x: fn(x, axis), state)
  if isinstance(state, dict) or not layer.sublayers:
    return state  # Trax's marker of a layer that occurs earlier is a dict.
  axis += isinstance(layer, Stack)
  pairs = zip(layer.sublayers, state, strict=True)
  return tuple(map_memory(fn, *pair, axis) for pair in pairs)


class ShiftRight(Memory, ReadsDocuments):
  """Shifts tokens right by one position: (b, l) int32 -> (b, l).

  The first position gets 0 or, with `carry`, the last token of the previous
  call. The first position of each document in a row gets 0. In predict mode,
  where the caller shifts, this is the identity.

  Args:
    carry: Whether calls in 'train' and 'eval' modes continue one sequence.
    mode: 'train', 'eval' or 'predict'.

  Example:
    >>> from trax_hier.compat import signature
    >>> shift = ShiftRight(carry=True, mode='train')
    >>> tokens = jnp.array([[1, 2, 3]])
    >>> _ = shift.init(signature(tokens))
    >>> print(shift(tokens), shift(tokens + 3))
    [[0 1 2]] [[3 4 5]]
  """

  def __init__(self, carry: bool, mode: str):
    super().__init__()
    self._carry = carry
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    if self._carry and self._mode != 'predict':
      b, _ = input_signature.shape
      self.state = jnp.zeros((b, 1), input_signature.dtype)

  def forward(self, x):
    if self._mode == 'predict':
      return x
    if not self._carry:
      y = jnp.pad(x[:, :-1], [(0, 0), (1, 0)])
      if self.documents is None:
        return y
      return jnp.where(self.documents.positions > 0, y, 0)
    y = jnp.concatenate([self.state, x[:, :-1]], axis=1)
    self.state = x[:, -1:]
    return y
