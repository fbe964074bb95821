"""Evaluates the initialization of a model with NumPy, without compiling it.

XLA needs 15 seconds to compile the initialization of a small model, a program
of hundreds of small random draws that runs once. NumPy draws the same bits:
`jax.random` is the counter-based generator Threefry-2x32 (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", 2011), and values differ from
those of a compiled program by rounding only.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

# Elements whose Threefry rounds stay within a core's cache.
_CHUNK = 1 << 14
# M. Giles, "Approximating the erfinv function", GPU Computing Gems, 2010.
_ERF_INV_CENTER = np.float32(
  [
    2.81022636e-08,
    3.43273939e-07,
    -3.5233877e-06,
    -4.39150654e-06,
    0.00021858087,
    -0.00125372503,
    -0.00417768164,
    0.246640727,
    1.50140941,
  ]
)
_ERF_INV_TAIL = np.float32(
  [
    -0.000200214257,
    0.000100950558,
    0.00134934322,
    -0.00367342844,
    0.00573950773,
    -0.0076224613,
    0.00943887047,
    1.00167406,
    2.83297682,
  ]
)
# Primitives that call a program, and the parameter that holds it.
_CALLS = {
  'closed_call': 'call_jaxpr',
  'custom_jvp_call': 'call_jaxpr',
  'custom_vjp_call': 'call_jaxpr',
  'jit': 'jaxpr',
  'pjit': 'jaxpr',
}
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def evaluate_program(
  program: ClosedJaxpr, *args: np.ndarray
) -> list[np.ndarray]:
  """Evaluates a program and returns its outputs.

  Primitives without a rule below are run by JAX, one by one. Random keys in
  arrays of key type (`jax.random.key`) must be of the default implementation.

  Args:
    program: Program from `jax.make_jaxpr`, whose random keys are uint32 (2,).
    *args: Its arguments, flat.
  """
  return _evaluate(program.jaxpr, program.consts, args)


def _evaluate(jaxpr: Jaxpr, consts, args):
  values = {}
  for variables, arrays in ((jaxpr.constvars, consts), (jaxpr.invars, args)):
    values.update(zip(variables, map(np.asarray, arrays), strict=True))

  def read(x):
    if isinstance(x, Literal):
      return np.asarray(x.val, x.aval.dtype)
    return values[x]

  for equation in _needed(jaxpr):
    outputs = _run(equation, [read(x) for x in equation.invars])
    values.update(zip(equation.outvars, outputs, strict=True))
  return [read(x) for x in jaxpr.outvars]


def _needed(jaxpr: Jaxpr) -> list[JaxprEqn]:
  """The equations that the outputs depend on."""
  wanted = {x for x in jaxpr.outvars if not isinstance(x, Literal)}
  equations = []
  for equation in reversed(jaxpr.eqns):
    if wanted.intersection(equation.outvars):
      wanted.update(x for x in equation.invars if not isinstance(x, Literal))
      equations.append(equation)
  return equations[::-1]


def _run(equation: JaxprEqn, inputs):
  name, parameters = equation.primitive.name, equation.params
  if name in _CALLS:
    program = parameters[_CALLS[name]]
    return _evaluate(program.jaxpr, program.consts, inputs)
  if name in _RULES:
    return [np.asarray(_RULES[name](parameters, *inputs))]
  return _run_by_jax(equation, inputs)


def _run_by_jax(equation: JaxprEqn, inputs):
  primitive = equation.primitive
  inputs = [
    jax.random.wrap_key_data(x) if _is_key(variable) else x
    for variable, x in zip(equation.invars, inputs, strict=True)
  ]
  outputs = primitive.bind(*inputs, **equation.params)
  if not primitive.multiple_results:
    outputs = [outputs]
  return [
    np.asarray(jax.random.key_data(y) if _is_key(variable) else y)
    for variable, y in zip(equation.outvars, outputs, strict=True)
  ]


def _is_key(variable):
  return jnp.issubdtype(variable.aval.dtype, jax.dtypes.prng_key)


def _threefry(keys, high, low):
  """Threefry-2x32 with 20 rounds.

  Args:
    keys: uint32 (..., 2).
    high, low: Counters, uint32, which broadcast with (..., 1).

  Returns:
    Two arrays of random bits, uint32.
  """
  first, second = keys[..., :1], keys[..., 1:]
  schedule = first, second, first ^ second ^ np.uint32(0x1BD11BDA)
  x, y = high + first, low + second
  for i in range(5):
    for rotation in _ROTATIONS[i % 2]:
      x = x + y
      y = (y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))
      y ^= x
    x = x + schedule[(i + 1) % 3]
    y = y + schedule[(i + 2) % 3] + np.uint32(i + 1)
  return x, y


def _random_bits(parameters, keys):
  """Bits (..., *shape) of keys (..., 2)."""
  shape, width = parameters['shape'], parameters['bit_width']
  size, batch = math.prod(shape), keys.shape[:-1]
  dtype = np.dtype(f'uint{width}')
  bits = np.empty((*batch, size), dtype)
  for start in range(0, size, _CHUNK):
    counters = np.arange(start, min(start + _CHUNK, size), dtype=np.uint64)
    low = counters.astype(np.uint32)
    high = (counters >> np.uint64(32)).astype(np.uint32)
    x, y = _threefry(keys, high, low)
    if width == 64:
      chunk = (x.astype(dtype) << dtype.type(32)) | y
    else:
      chunk = (x ^ y).astype(dtype)
    bits[..., start : start + _CHUNK] = chunk
  return bits.reshape(*batch, *shape)


def _split(parameters, keys):
  """Keys (..., *shape, 2) from keys (..., 2)."""
  shape = parameters['shape']
  low = np.arange(math.prod(shape), dtype=np.uint32)
  children = np.stack(_threefry(keys, np.zeros_like(low), low), axis=-1)
  return children.reshape(*keys.shape[:-1], *shape, 2)


def _fold_in(parameters, keys, data):
  del parameters
  low = data[..., None].astype(np.uint32)
  x, y = _threefry(keys, np.zeros_like(low), low)
  return np.concatenate([x, y], axis=-1)


def _seed(parameters, seed):
  del parameters
  # The bits of a negative seed are not extended to 64.
  seed = seed.astype(f'uint{8 * seed.dtype.itemsize}').astype(np.uint64)
  words = seed >> np.uint64(32), seed & np.uint64(0xFFFFFFFF)
  return np.stack(words, axis=-1).astype(np.uint32)


def _erf_inv(x):
  """The approximation of Giles (2010), in single precision, that XLA uses."""
  with np.errstate(divide='ignore', invalid='ignore'):
    w = -np.log1p(-x * x)
    center = np.polyval(_ERF_INV_CENTER, w - 2.5)
    tail = np.polyval(_ERF_INV_TAIL, np.sqrt(w) - 3.0)
    return np.where(w < 5.0, center, tail).astype(x.dtype) * x


def _broadcast_in_dim(parameters, x):
  shape, axes = parameters['shape'], parameters['broadcast_dimensions']
  kept = [1] * len(shape)
  for axis, size in zip(axes, x.shape, strict=True):
    kept[axis] = size
  return np.broadcast_to(x.reshape(kept), shape)


def _slice(parameters, x):
  starts, limits = parameters['start_indices'], parameters['limit_indices']
  strides = parameters['strides'] or (1,) * len(starts)
  return x[tuple(map(slice, starts, limits, strides))]


def _iota(parameters):
  shape, axis = parameters['shape'], parameters['dimension']
  line = np.arange(shape[axis], dtype=parameters['dtype'])
  return _broadcast_in_dim(
    {'shape': shape, 'broadcast_dimensions': (axis,)}, line
  )


def _shift_right_logical(parameters, x, bits):
  del parameters
  unsigned = np.dtype(f'uint{8 * x.dtype.itemsize}')
  return (x.astype(unsigned) >> bits.astype(unsigned)).astype(x.dtype)


def _elementwise(function: Callable) -> Callable:
  return lambda parameters, *inputs: function(*inputs)


# Keys are represented by their words, uint32 (..., 2).
_RULES = {
  'random_wrap': _elementwise(lambda keys: keys),
  'random_unwrap': _elementwise(lambda keys: keys),
  'random_seed': _seed,
  'random_split': _split,
  'random_fold_in': _fold_in,
  'random_bits': _random_bits,
  'add': _elementwise(np.add),
  'sub': _elementwise(np.subtract),
  'mul': _elementwise(np.multiply),
  'neg': _elementwise(np.negative),
  'max': _elementwise(np.maximum),
  'min': _elementwise(np.minimum),
  'sqrt': _elementwise(np.sqrt),
  'erf_inv': _elementwise(_erf_inv),
  'nextafter': _elementwise(np.nextafter),
  'or': _elementwise(np.bitwise_or),
  'shift_right_logical': _shift_right_logical,
  'stop_gradient': _elementwise(lambda x: x),
  'bitcast_convert_type': lambda p, x: x.view(p['new_dtype']),
  'convert_element_type': lambda p, x: x.astype(p['new_dtype']),
  'squeeze': lambda p, x: np.squeeze(x, p['dimensions']),
  'concatenate': lambda p, *xs: np.concatenate(xs, p['dimension']),
  'reduce_prod': lambda p, x: np.prod(x, p['axes'], x.dtype),
  'broadcast_in_dim': _broadcast_in_dim,
  'slice': _slice,
  'iota': _iota,
}
