"""Makes trax's layers quick to trace.

For each layer, trax 1.4.1 splits random keys that nothing uses, copies the
weights of all layers inside, and makes a key to find the shape of the outputs.
Together this takes longer than the operations of a layer do.
"""

import types

import jax
import jax.extend.core
import numpy as np

# Methods `forward` that do nothing with their key but `split_key`.
only_split_keys = set()


class Key:
  """The random key of a sublayer; computed when the sublayer asks for it.

  Args:
    parent: Key of the layer around it, uint32 (2,), or a `Key`.
    index: Position of the sublayer in that layer.
  """

  __slots__ = ('_array', '_index', '_parent', '_trace')

  def __init__(self, parent: 'jax.Array | Key', index: int):
    self._parent = parent
    self._index = index
    self._trace = jax.extend.core.get_opaque_trace_state()
    self._array = None

  def array(self) -> jax.Array:
    """The key, uint32 (2,)."""
    if self._array is not None:
      return self._array
    array = jax.random.fold_in(as_array(self._parent), self._index)
    # In the trace of a loop inside this layer, the array belongs to the loop.
    if self._trace == jax.extend.core.get_opaque_trace_state():
      self._array = array
    return array


def as_array(key: 'jax.Array | Key | None') -> jax.Array | None:
  """The key, computed if it is a `Key`."""
  return key.array() if type(key) is Key else key


def split_key(key: 'jax.Array | Key | None', n: int) -> tuple:
  """The keys of `n` sublayers; None for each if `key` is None."""
  if key is None:
    return (None,) * n
  return tuple(Key(key, i) for i in range(n))


def patch(module: types.ModuleType) -> None:
  """Replaces methods of `trax.layers.base.Layer`."""
  layer_class = module.Layer
  plain_pure_fn = layer_class.pure_fn
  plain_rng = layer_class.rng
  rng_signature = module.ShapeDtype((2,), np.uint32)

  def get_rng(self):
    if type(self._rng) is not Key:
      return plain_rng.fget(self)
    if type(self).forward in only_split_keys:
      return self._rng
    return self._rng.array()

  def set_rng(self, rng):
    self._rng = rng
    for sublayer, key in zip(
      self.sublayers, split_key(rng, len(self.sublayers)), strict=True
    ):
      sublayer.rng = key

  def pure_fn(self, x, weights, state, rng, use_cache=False):
    if module.N_WEIGHTS_SHARDS > 1:
      return plain_pure_fn(self, x, weights, state, as_array(rng), use_cache)
    try:
      # Markers stand for the weights of a layer that occurs earlier. They are
      # dictionaries, and so may weights be: their keys differ.
      is_shared = (
        isinstance(weights, dict)
        and isinstance(state, dict)
        and weights == module.GET_WEIGHTS_FROM_CACHE
        and state == module.GET_STATE_FROM_CACHE
      )
      # A layer around this one restores the weights, unless this is outermost.
      kept = None if use_cache else (self.weights, self.state)
      kept_rng = self._rng
      self._rng = as_array(rng) if self.has_backward else rng
      if not is_shared:
        self.weights, self.state = weights, state
      if self.has_backward:
        outputs, new_state = self._do_custom_gradients(x)
        self.state = new_state
      else:
        outputs = self.forward(x)
        new_state = self.state
      self._rng = kept_rng
      if kept is not None:
        self.weights, self.state = kept
      return outputs, module.GET_STATE_FROM_CACHE if is_shared else new_state
    except Exception:
      module._short_traceback()
      raise

  def forward_abstract(self, input_signature):
    weights, state = module.nested_map(
      module.signature, (self.weights, self.state)
    )
    leaves, structure = jax.tree.flatten((input_signature, weights, state))
    key = structure, tuple((x.shape, np.dtype(x.dtype)) for x in leaves)
    if getattr(self, '_last_abstract', (None,))[0] == key:
      return self._last_abstract[1]
    try:
      outputs = module.fastmath.abstract_eval(self.pure_fn)(
        input_signature, weights, state, rng_signature
      )
    except Exception:
      module._short_traceback()
      raise
    self._last_abstract = key, outputs
    return outputs

  layer_class.rng = property(get_rng, set_rng, doc=plain_rng.__doc__)
  layer_class.pure_fn = pure_fn
  layer_class._forward_abstract = forward_abstract
