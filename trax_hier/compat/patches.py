"""Patches that make trax 1.4.1 work on current JAX, and quick to import.

Each patch affects only the trax module that needs it, and never JAX itself. To
add one, write a function of the module to patch and list it in `PATCHES`.
"""

import functools
import gzip
import sys
import types

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import (
  import_hook,
  layer_errors,
  layer_hooks,
  layer_tracing,
  trainer,
)
from trax_hier.compat.stubs import Overlay, Stub


def _overlay(name, **names):
  """Returns a patch that replaces attributes of a module's global `name`."""

  def patch(module):
    setattr(module, name, Overlay(getattr(module, name), **names))

  return patch


def _stack():
  """`inspect.stack()`, two entries deep and without reading source files."""
  frame = sys._getframe(1)
  return [(frame,), (frame.f_back,)]


def _frame_info(frame):
  """`inspect.getframeinfo`, without reading source files."""
  return types.SimpleNamespace(
    filename=frame.f_code.co_filename, lineno=frame.f_lineno
  )


def _gzip_file(fileobj, compresslevel=9):
  """`gzip.GzipFile` with an explicit mode, without which it warns."""
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


def _patch_inputs(module):
  def random_integers(low, high, size):
    """The removed function of `np.random`, which includes `high`."""
    return module.np.random.randint(low, high + 1, size)

  random = Overlay(np.random, random_integers=random_integers)
  module.np = Overlay(np, random=random)
  module.jax = Overlay(jax, host_count=jax.process_count)


def _patch_core(module):
  import_hook.replace(module, 'log_gaussian_pdf', _log_gaussian_pdf)


def _patch_fastmath_numpy(module):
  unflatten = module.tree_unflatten

  def tree_unflatten(flat, tree, copy_from_tree=None):
    # The test `tree in copy_from_tree` compares with ==, which raises for an
    # array and (). Arrays are leaves and never copied.
    copy = None if hasattr(tree, 'shape') else copy_from_tree
    return unflatten(flat, tree, copy)

  import_hook.replace(module, 'tree_unflatten', tree_unflatten)


def _cond(pred, *args, **kwargs):
  """`lax.cond` that also accepts the removed keywords for branch operands."""
  if 'true_operand' not in kwargs:
    return jax.lax.cond(pred, *args, **kwargs)
  return jax.lax.cond(
    pred,
    lambda operands: kwargs['true_fun'](operands[0]),
    lambda operands: kwargs['false_fun'](operands[1]),
    (kwargs['true_operand'], kwargs['false_operand']),
  )


def _stop_gradient(x):
  """`lax.stop_gradient` that returns a Python int unchanged."""
  return x if isinstance(x, int) else jax.lax.stop_gradient(x)


def _one_per_device(devices):
  """The sharding that places entry i of the leading axis on device i."""
  mesh = jax.sharding.Mesh(np.asarray(devices), ('devices',))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('devices'))


def _pmap(f, **kwargs):
  """`jax.pmap` that moves its arguments to the devices, as in earlier JAX."""
  mapped = jax.pmap(f, **kwargs)
  if set(kwargs) - {'axis_name', 'donate_argnums'}:
    return mapped  # Some arguments may lack the leading axis of devices.

  def place(x):
    devices = jax.local_devices()[: x.shape[0]]
    return jax.device_put(x, _one_per_device(devices))

  @functools.wraps(f)
  def placed(*args):
    return mapped(*jax.tree.map(place, args))

  return placed


def _device_put_replicated(x, devices):
  """The removed `jax.device_put_replicated`: (..) -> (n_devices, ..)."""
  copies = jnp.broadcast_to(x, (len(devices), *jnp.shape(x)))
  return jax.device_put(copies, _one_per_device(devices))


def _bernoulli(key, p, shape=None):
  return jax.random.bernoulli(key, np.float32(p), shape)


def _normal(key, shape=(), dtype=jnp.float32):
  return jax.random.normal(key, shape, dtype)


def _uniform(key, shape=(), dtype=jnp.float32, minval=0.0, maxval=1.0):
  return jax.random.uniform(key, shape, dtype, minval, maxval)


def _patch_fastmath_jax(module):
  module.JAX_BACKEND.update(
    cond=_cond,
    pmap=_pmap,
    stop_gradient=_stop_gradient,
    # With jax_enable_x64, JAX's defaults sample other numbers, in 64 bits.
    random_bernoulli=_bernoulli,
    random_normal=_normal,
    random_uniform=_uniform,
  )


def _patch_combinators(module):
  """Makes the initialization of a model linear in its nesting depth.

  `Serial.init` traces each sublayer to get its output shape, so a layer inside
  n nested `Serial` is traced n times. With the patch, `Serial` and `Parallel`
  compose the output signatures of their sublayers, which layers cache
  (`layer_tracing`).
  """

  def serial(self, input_signature):
    stack, states = input_signature, []
    for layer in self.sublayers:
      inputs = module.inputs_from_stack(stack, layer.n_in)
      outputs, state = layer._forward_abstract(inputs)
      stack = module.outputs_onto_stack(outputs, stack, layer.n_in)
      states.append(state)
    return stack, tuple(states)

  def parallel(self, input_signature):
    outputs, states = [], []
    inputs = self._allot_to_sublayers(input_signature)
    for layer, x in zip(self.sublayers, inputs, strict=True):
      y, state = layer._forward_abstract(x)
      outputs.extend([y] if layer.n_out == 1 else y)
      states.append(state)
    return outputs[0] if self.n_out == 1 else tuple(outputs), tuple(states)

  module.Serial._forward_abstract = serial
  module.Parallel._forward_abstract = parallel
  module._split_rngs = layer_tracing.split_key
  layer_tracing.only_split_keys.update(
    (module.Serial.forward, module.Parallel.forward)
  )


def _split_now(key, n):
  """`layer_tracing.split_key`, for layers that pass keys to `jax.random`."""
  keys = layer_tracing.split_key(key, n)
  return tuple(map(layer_tracing.as_array, keys))


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
  """Makes `Loop` write summaries with tensorboardX instead of TensorFlow."""
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


def _xla_computation(f):
  """The removed `jax.xla_computation`."""
  return lambda *args, **kwargs: (
    jax.jit(f).lower(*args, **kwargs).compiler_ir('hlo')
  )


_random = Overlay(jax.random, threefry_2x32=jax.extend.random.threefry_2x32)
_backend = types.SimpleNamespace(live_buffers=jax.live_arrays)
_xla_bridge = types.SimpleNamespace(get_backend=lambda: _backend)

PATCHES = {
  'trax.data.inputs': _patch_inputs,
  'trax.data.tf_inputs': _overlay('jax', host_count=jax.process_count),
  'trax.fastmath.jax': _patch_fastmath_jax,
  'trax.fastmath.numpy': _patch_fastmath_numpy,
  'trax.jaxboard': _patch_jaxboard,
  'trax.layers.acceleration': _overlay(
    'jax', device_put_replicated=_device_put_replicated
  ),
  # Importing trax makes 65 calls, which would read the source of every frame.
  'trax.layers.assert_shape': _overlay(
    'inspect', stack=_stack, getframeinfo=_frame_info
  ),
  'trax.layers.base': lambda module: (
    _overlay('gzip', GzipFile=_gzip_file)(module),
    layer_tracing.patch(module),
    layer_hooks.patch(module),
    layer_errors.patch(module),
  ),
  'trax.layers.combinators': _patch_combinators,
  'trax.layers.core': _patch_core,
  'trax.layers.research.position_encodings': _overlay('jax', random=_random),
  # Integers divided, which jax_enable_x64 makes numbers of 64 bits.
  'trax.layers.research.rotary_positional_embedding': _overlay(
    'jnp', arange=functools.partial(jnp.arange, dtype=jnp.float32)
  ),
  'trax.layers.reversible': lambda module: setattr(
    module, '_split_rngs', _split_now
  ),
  'trax.models.research.bert': _overlay(
    'jax',
    tree_map=jax.tree.map,
    tree_structure=jax.tree.structure,
    tree_unflatten=jax.tree.unflatten,
  ),
  'trax.optimizers.trainer': _overlay(
    'jax', lib=types.SimpleNamespace(xla_bridge=_xla_bridge)
  ),
  'trax.supervised.trainer_lib': _overlay(
    'jax', xla_computation=_xla_computation
  ),
  'trax.supervised.training': lambda module: (
    _overlay('jax', host_count=jax.process_count)(module),
    _overlay('gzip_lib', GzipFile=_gzip_file)(module),
  ),
  'trax.trainer': trainer.patch,
}
