"""Flash attention on NVIDIA GPUs, by the kernels of cuDNN.

These kernels keep neither the scores nor the attention weights of a sequence in
memory, and skip the products that a causal mask or a window discards. They are
called through `jax.nn.dot_product_attention`, take bfloat16 and float16, and
accumulate in float32. `fits` is the only place that chooses between them and
the layers' own products. It decides when a program is traced, from sizes and
from JAX's default backend. TRAX_HIER_FLASH_ATTENTION=0 turns them off.

Letters: b batch, h heads, l and m lengths, d d_model; t queries and s keys of
one call of the kernel, r ratio of strides.
"""

import dataclasses
import functools
import math
import os
import warnings

import jax
import jax.numpy as jnp

_SETTING = 'TRAX_HIER_FLASH_ATTENTION'
_DTYPES = (jnp.bfloat16, jnp.float16)
# Sequences are padded to whole tiles, which the kernels compute anyway. For
# other lengths, versions of cuDNN up to 9.26 can return gradients of NaN.
_TILE = 128
# Largest width of a head, and largest one with a window: with a window and
# wider heads, gradients on Hopper can be NaN.
_MAX_WIDTH, _MAX_WIDTH_OF_WINDOW = 256, 128
# The kernels take a bias in memory. A larger one would cost what they save.
_MAX_BIAS_BYTES = 1 << 28
# The argument `implementation` of `jax.nn.dot_product_attention`.
_IMPLEMENTATION = 'cudnn'


@dataclasses.dataclass(frozen=True)
class Pattern:
  """Which keys a query attends to.

  Attributes:
    causal: Whether to hide later keys; False means that every query attends to
      the same keys.
    query_stride: Distance in tokens between neighboring queries.
    key_stride: Distance in tokens between neighboring keys.
    window: Number of keys, up to and including a query's own; None means all.
    past_only: Whether the window ends before the query's own key. Keys then
      begin with `window` rows for the positions before the first.
  """

  causal: bool = True
  query_stride: int = 1
  key_stride: int = 1
  window: int | None = None
  past_only: bool = False


ALL_KEYS = Pattern(causal=False)


def available(q: jax.Array, k: jax.Array) -> bool:
  """Whether the kernels exist for these dtypes, lengths and this device.

  Args:
    q: Queries (.., l, d_head), or their shape.
    k: Keys (.., m, d_head), or their shape.

  Example:
    >>> q = jax.ShapeDtypeStruct((2, 4, 512, 64), jnp.float32)
    >>> available(q, q)  # The kernels take 16-bit numbers only.
    False
  """
  if q.dtype not in _DTYPES or k.dtype != q.dtype:
    return False
  if min(q.shape[-2], k.shape[-2]) < _TILE:
    return False  # A product of a few tiles: nothing to save.
  return os.environ.get(_SETTING) != '0' and _compute_capability() is not None


def fits(
  q: jax.Array,
  k: jax.Array,
  pattern: Pattern,
  bias: jax.ShapeDtypeStruct | None = None,
  masked: bool = False,
  dropout: float = 0.0,
  in_documents: bool = False,
) -> bool:
  """Whether `attend` can and should compute an attention.

  Where the kernels are available but cannot compute it, a warning says once
  why.

  Args:
    q: Queries (b, h, l, d_head), or their shape. There may be more axes before
      h.
    k: Keys (b, h, m, d_head), or their shape.
    pattern: Which keys a query attends to.
    bias: Shape of the bias, as for `attend`.
    masked: Whether some keys are masked besides.
    dropout: Dropout rate of the attention weights.
    in_documents: Whether queries attend to keys of their document only.
  """
  if not available(q, k):
    return False
  if in_documents:
    reason = 'rows hold several documents (packed)'
  else:
    reason = _misfit(q, k, pattern, bias, masked, dropout)
  if reason is None:
    one_row = [(1, *x.shape[-3:]) for x in (q, k)]
    reason = _failure(*one_row, q.dtype, pattern, _matters(bias))
  if reason:
    _say(reason)
  return reason is None


def _misfit(q, k, pattern, bias, masked, dropout):
  """Returns why the kernels cannot compute an attention, or None."""
  width = q.shape[-1]
  is_hopper = _compute_capability() >= (9, 0)
  widest = _MAX_WIDTH if is_hopper else _MAX_WIDTH // 2
  if pattern.window:
    widest = min(widest, _MAX_WIDTH_OF_WINDOW)
  if q.ndim < 4 or q.shape[:-2] != k.shape[:-2]:
    return 'queries and keys differ in their leading axes'
  if width != k.shape[-1] or width % 8 or width > widest:
    return (
      f'heads are {width} wide, not a multiple of 8 up to {widest} '
      '(n_heads, d_head)'
    )
  if dropout:
    return f'attention weights have dropout {dropout}'
  if masked and pattern.causal:
    return 'a causal attention has a mask of keys'
  if pattern.causal and not _ends_agree(q.shape[-2], k.shape[-2], pattern):
    return 'the strides of queries and keys leave no plain causal mask'
  return _bias_misfit(q, k, pattern, bias)


def _ends_agree(n_queries, n_keys, pattern):
  """Whether a causal mask of equal lengths is left; see `_causal`."""
  ratio, rest = divmod(pattern.key_stride, pattern.query_stride)
  rows_before = pattern.window if pattern.past_only else 0
  return not rest and n_queries == ratio * (n_keys - rows_before)


def _matters(bias):
  """Whether a bias differs between keys; otherwise the softmax cancels it."""
  shape = getattr(bias, 'shape', ())  # None and 0.0 have none.
  return bool(shape) and shape[-1] > 1


def _bias_misfit(q, k, pattern, bias):
  if not _matters(bias):
    return None
  equal_strides = pattern.query_stride == pattern.key_stride
  if not pattern.causal or pattern.window or not equal_strides:
    return 'the position scheme adds a bias to a window or between strides'
  h, t, s = q.shape[-3], q.shape[-2], k.shape[-2]
  if math.prod(bias.shape[:-3]) != 1 or bias.shape[-3:] != (h, t, s):
    return 'the position scheme adds a bias that differs from row to row'
  if 2 * math.prod(bias.shape) > _MAX_BIAS_BYTES:
    return (
      f'the bias of the position scheme is larger than {_MAX_BIAS_BYTES >> 20} '
      'MiB'
    )
  return None


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  pattern: Pattern,
  bias: jax.Array | None = None,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Attention by a kernel of cuDNN: (b, h, l, d_head), for what `fits` allows.

  Args:
    q: Queries (b, h, l, d_head). There may be more axes before h.
    k: Keys (b, h, m, d_head).
    v: Values (b, h, m, d_head).
    pattern: Which keys a query attends to.
    bias: Added to the products before they are divided by sqrt(d_head): (h, l,
      m), or None, or equal for all keys.
    mask: Without `causal`, the keys to attend to, bool (b, 1, 1, m), or None
      for all. Where it hides all keys, the output is arbitrary but finite.
  """
  if pattern.causal:
    return _causal(q, k, v, pattern, bias)
  *lead, length, d = q.shape
  q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
  if mask is None:
    lengths = jnp.full(len(k), k.shape[-2], jnp.int32)
  else:
    k, v, lengths = _visible_first(k, v, mask)
  # Lengths are given even if no key is hidden: they also hide the padding.
  y = _call(q, k, v, key_value_seq_lengths=lengths)
  return y.reshape(*lead, length, d)


def _causal(q, k, v, pattern, bias):
  *_, n_queries, d = q.shape
  if pattern.past_only:
    # Aligns each query with the key before its own, which becomes the last of
    # its window. No query attends to the last key.
    q = jnp.pad(q, [(0, 0), (0, 0), (pattern.window - 1, 0), (0, 0)])
    k, v = k[..., :-1, :], v[..., :-1, :]
  window = pattern.window
  arguments = {'is_causal': True}
  if window is not None and window < k.shape[-2]:
    arguments['local_window_size'] = (window - 1, 0)
  if _matters(bias):
    bias = (bias / math.sqrt(d)).astype(q.dtype)
    arguments['bias'] = bias.reshape(1, *bias.shape[-3:])
  r = pattern.key_stride // pattern.query_stride
  y = _fold(_call(_fold(q, r), k, v, **arguments), r, unfold=True)
  return y[..., -n_queries:, :]


def _fold(q, r, unfold=False):
  """Splits queries over r heads: (b, h, l, d) -> (b, h r, l / r, d).

  The r queries within one key's stride attend to the same keys. As r queries of
  one position, they have a causal mask of equal lengths.
  """
  if r == 1:
    return q
  b, h, l, d = q.shape
  if unfold:
    return q.reshape(b, h // r, r, l, d).swapaxes(2, 3).reshape(b, -1, l * r, d)
  return q.reshape(b, h, l // r, r, d).swapaxes(2, 3).reshape(b, h * r, -1, d)


def _visible_first(k, v, mask):
  """Moves the keys that a mask leaves to the front; their numbers, (b,).

  Without positions, attention does not depend on the order of the keys.
  """
  mask = jnp.broadcast_to(mask, (len(k), 1, 1, k.shape[-2]))[:, 0, 0]
  order = jnp.argsort(~mask, axis=-1)[:, None, :, None]
  k, v = _permute(k, order), _permute(v, order)
  # A kernel returns NaN for a sequence without keys.
  return k, v, jnp.maximum(jnp.sum(mask, axis=-1, dtype=jnp.int32), 1)


@jax.custom_vjp
def _permute(x, order):
  """Rows of x (b, h, m, d) in the order (b, 1, m, 1)."""
  return jnp.take_along_axis(x, order, axis=-2)


# Autodiff would add up rows by a scatter, which is slow on GPUs.
_permute.defvjp(
  lambda x, order: (_permute(x, order), order),
  lambda order, g: (_permute(g, jnp.argsort(order, axis=-2)), None),
)


def _call(q, k, v, bias=None, **arguments):
  """The kernel, for sequences padded to whole tiles."""
  n_queries = q.shape[-2]
  q, k, v = (_pad(x, (-2,)).swapaxes(1, 2) for x in (q, k, v))
  if bias is not None:
    arguments['bias'] = _pad(bias, (-2, -1))
  y = jax.nn.dot_product_attention(
    q, k, v, implementation=_IMPLEMENTATION, **arguments
  )
  return y.swapaxes(1, 2)[..., :n_queries, :]


def _pad(x, axes):
  """Pads axes at their end to whole tiles."""
  padding = [(0, 0)] * x.ndim
  for axis in axes:
    padding[axis] = (0, -x.shape[axis] % _TILE)
  return jnp.pad(x, padding)


def _compute_capability():
  """The compute capability of the default device; None if it has no kernels."""
  device = jax.config.jax_default_device
  if isinstance(device, str) or device is None:
    if (device or jax.default_backend()) not in ('gpu', 'cuda'):
      return None
    device = jax.local_devices()[0]
  try:  # GPUs of AMD have a name there, such as 'gfx90a'.
    major, minor = map(int, device.compute_capability.split('.'))
  except (AttributeError, ValueError):
    return None
  return (major, minor) if major >= 8 else None


@functools.cache
def _failure(q_shape, k_shape, dtype, pattern, has_bias):
  """Compiles an attention with its gradient; returns the error, or None.

  Which sizes the kernels support depends on the versions of cuDNN and of the
  device, and only the compiler knows. Without this test, a model of such sizes
  could not be trained.
  """
  q, k = (jax.ShapeDtypeStruct(shape, dtype) for shape in (q_shape, k_shape))
  bias, mask = None, None
  if has_bias:
    shape = *q_shape[1:3], k_shape[-2]
    bias = jax.ShapeDtypeStruct(shape, jnp.float32)
  if not pattern.causal:
    mask = jax.ShapeDtypeStruct((1, 1, 1, k_shape[-2]), bool)

  def total(floats, mask):
    q, k, v, bias = floats
    y = attend(q, k, v, pattern, bias, mask)
    return jnp.sum(y.astype(jnp.float32))

  try:
    jax.jit(jax.grad(total)).lower((q, k, k, bias), mask).compile()
  except Exception as error:
    first = (str(error) or type(error).__name__).splitlines()[0]
    return f'cuDNN cannot compute heads {q_shape} x {k_shape}: {first:.200}'
  return None


@functools.cache
def _say(reason):
  warnings.warn(f'attention without cuDNN kernels: {reason}', stacklevel=4)
