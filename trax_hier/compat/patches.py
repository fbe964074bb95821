"""Patches for what trax 1.4.1 uses of JAX and that JAX has since removed.

Each patch is confined to the trax module that needs it: JAX itself is not
touched.
"""

import functools
import gzip
import sys
import types

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import import_hook, layer_errors, layer_hooks
from trax_hier.compat.stubs import Overlay, Stub


def _see(name, **names):
  """A patch: the module's global `name` is seen with some names replaced."""

  def patch(module):
    setattr(module, name, Overlay(getattr(module, name), **names))

  return patch


def _stack():
  """`inspect.stack()`, two entries deep and without reading any source."""
  frame = sys._getframe(1)
  return [(frame,), (frame.f_back,)]


def _frame_info(frame):
  """`inspect.getframeinfo`, without reading any source."""
  return types.SimpleNamespace(
    filename=frame.f_code.co_filename, lineno=frame.f_lineno
  )


def _gzip_file(fileobj, compresslevel=9):
  """`gzip.GzipFile`, which wants to be told whether it reads or writes."""
  return gzip.GzipFile(
    fileobj=fileobj, mode=fileobj.mode, compresslevel=compresslevel
  )


def _log_gaussian_pdf(x, mu, sigma):
  """Returns `log N(x | mu, sigma)`: x, mu (..., d), sigma (..., d, d)."""
  delta = x - mu
  _, log_det = jnp.linalg.slogdet(sigma)
  solved = jnp.linalg.solve(sigma, delta[..., None])[..., 0]
  squares = jnp.sum(delta * solved, axis=-1)
  return -0.5 * (mu.shape[-1] * np.log(2 * np.pi) + log_det + squares)


def _patch_core(module):
  import_hook.replace(module, 'log_gaussian_pdf', _log_gaussian_pdf)


def _patch_fastmath_numpy(module):
  unflatten = module.tree_unflatten

  def tree_unflatten(flat, tree, copy_from_tree=None):
    # Whether `tree` is in `copy_from_tree` is asked with ==, which raises for
    # an array and (). An array is a leaf and never copied.
    copy = None if hasattr(tree, 'shape') else copy_from_tree
    return unflatten(flat, tree, copy)

  import_hook.replace(module, 'tree_unflatten', tree_unflatten)


def _cond(pred, *args, **kwargs):
  """`lax.cond` that also takes one operand for each branch, by keywords."""
  if 'true_operand' not in kwargs:
    return jax.lax.cond(pred, *args, **kwargs)
  return jax.lax.cond(
    pred,
    lambda operands: kwargs['true_fun'](operands[0]),
    lambda operands: kwargs['false_fun'](operands[1]),
    (kwargs['true_operand'], kwargs['false_operand']),
  )


def _stop_gradient(x):
  """`lax.stop_gradient` that leaves a Python int a Python int."""
  return x if isinstance(x, int) else jax.lax.stop_gradient(x)


def _one_per_device(devices):
  """The sharding that puts entry i of the leading axis on device i."""
  mesh = jax.sharding.Mesh(np.asarray(devices), ('devices',))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('devices'))


def _pmap(f, **kwargs):
  """`jax.pmap` that moves its arguments to the devices, as it used to."""
  mapped = jax.pmap(f, **kwargs)
  if set(kwargs) - {'axis_name', 'donate_argnums'}:
    return mapped  # Not every argument need have a leading axis of devices.

  def place(x):
    devices = jax.local_devices()[: x.shape[0]]
    return jax.device_put(x, _one_per_device(devices))

  @functools.wraps(f)
  def placed(*args):
    return mapped(*jax.tree.map(place, args))

  return placed


def _device_put_replicated(x, devices):
  """The removed `jax.device_put_replicated`: (...) -> (n_devices, ...)."""
  copies = jnp.broadcast_to(x, (len(devices), *jnp.shape(x)))
  return jax.device_put(copies, _one_per_device(devices))


def _patch_fastmath_jax(module):
  module.JAX_BACKEND.update(
    cond=_cond, pmap=_pmap, stop_gradient=_stop_gradient
  )


def _patch_combinators(module):
  """Makes initialising a model linear in the depth of its nesting.

  `Serial.init` asks each sublayer for the shape of its output, which traces
  the whole sublayer, once more for every `Serial` around it. Here a `Serial`
  composes the answers of its sublayers, and a layer remembers its last one.
  """
  plain = module.base.Layer._forward_abstract

  def remembering(self, input_signature):
    leaves, structure = jax.tree.flatten(input_signature)
    key = structure, tuple((x.shape, np.dtype(x.dtype)) for x in leaves)
    if getattr(self, '_last_abstract', (None,))[0] != key:
      self._last_abstract = key, plain(self, input_signature)
    return self._last_abstract[1]

  def composing(self, input_signature):
    stack, states = input_signature, []
    for layer in self.sublayers:
      inputs = module.inputs_from_stack(stack, layer.n_in)
      outputs, state = layer._forward_abstract(inputs)
      stack = module.outputs_onto_stack(outputs, stack, layer.n_in)
      states.append(state)
    return stack, tuple(states)

  module.base.Layer._forward_abstract = remembering
  module.Serial._forward_abstract = composing


def _string_tensor(values, shape):
  """`tf.make_tensor_proto` for bytes."""
  from tensorboardX.proto import tensor_pb2, tensor_shape_pb2

  dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=n) for n in shape]
  return tensor_pb2.TensorProto(
    dtype='DT_STRING',
    string_val=values,
    tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=dims),
  )


def _patch_jaxboard(module):
  """Lets `Loop` write its summaries with tensorboardX, not TensorFlow."""
  writer = Stub('tensorboardX.event_file_writer.EventFileWriter')
  module.EventFileWriter = lambda log_dir, queue, secs, suffix: writer(
    log_dir, queue, secs, suffix or ''
  )
  module.event_pb2 = Stub('tensorboardX.proto.event_pb2')
  v1 = Stub('tensorboardX.proto.summary_pb2')
  module.tf = Overlay(
    module.tf,
    compat=types.SimpleNamespace(v1=v1),
    make_tensor_proto=_string_tensor,
  )


_random = Overlay(jax.random, threefry_2x32=jax.extend.random.threefry_2x32)
_backend = types.SimpleNamespace(live_buffers=jax.live_arrays)
_xla_bridge = types.SimpleNamespace(get_backend=lambda: _backend)

PATCHES = {
  'trax.data.inputs': _see('jax', host_count=jax.process_count),
  'trax.fastmath.jax': _patch_fastmath_jax,
  'trax.fastmath.numpy': _patch_fastmath_numpy,
  'trax.jaxboard': _patch_jaxboard,
  'trax.layers.acceleration': _see(
    'jax', device_put_replicated=_device_put_replicated
  ),
  # 65 calls while trax is imported, each reading the source of every frame.
  'trax.layers.assert_shape': _see(
    'inspect', stack=_stack, getframeinfo=_frame_info
  ),
  'trax.layers.base': lambda module: (
    _see('gzip', GzipFile=_gzip_file)(module),
    layer_hooks.patch(module),
    layer_errors.patch(module),
  ),
  'trax.layers.combinators': _patch_combinators,
  'trax.layers.core': _patch_core,
  'trax.layers.research.position_encodings': _see('jax', random=_random),
  'trax.optimizers.trainer': _see(
    'jax', lib=types.SimpleNamespace(xla_bridge=_xla_bridge)
  ),
  'trax.supervised.training': lambda module: (
    _see('jax', host_count=jax.process_count)(module),
    _see('gzip_lib', GzipFile=_gzip_file)(module),
  ),
}
