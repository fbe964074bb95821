"""Caches of keys, values and layer inputs across calls."""

import math

import jax
import jax.numpy as jnp

from trax_hier.compat import ShapeDtype, base
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.memory import Memory


def empty_buffer(rows, n):
  """Zeros (s, n, d): a buffer of `n` rows for each sequence of rows (.., l, d).

  Batch and heads are merged into the axis s. XLA updates a buffer in place only
  if all its readers use one shape, and dot products use this one.
  """
  *lead, _, d = rows.shape
  return jnp.zeros((math.prod(lead), n, d), rows.dtype)


def write_rows(buffer, rows, index):
  """Writes `rows` (.., l, d) to `buffer` (s, n, d), from row `index` on."""
  return jax.lax.dynamic_update_slice_in_dim(
    buffer, _fit(rows, buffer), index, axis=-2
  )


def join_rows(buffer, rows):
  """Concatenates `buffer` (s, n, d) and `rows` (.., l, d): (s, n + l, d)."""
  return jnp.concatenate([buffer, _fit(rows, buffer)], axis=-2)


def _fit(rows, buffer):
  """Merges the leading axes of rows (.., l, d) and casts: (s, l, d)."""
  rows = rows.reshape(-1, *rows.shape[-2:]).astype(buffer.dtype)
  if rows.shape[0] != buffer.shape[0]:
    raise ValueError(
      f'the input has {rows.shape[0]} sequences (batch times heads), but the '
      f'state has {buffer.shape[0]}: initialize it for this batch size'
    )
  return rows


class KeyValueCache(base.Layer):
  """Caches keys and values across predict calls: (k, v, ..) -> (k, v, ..).

  The identity in 'train' and 'eval' modes. In 'predict' mode, new rows (b, h,
  l, d_head) are added to the rows of earlier calls. It returns (b h, n,
  d_head):

  * without a window, the whole buffer of `max_len` rows;
  * with a window and one new row, a ring buffer of `window` rows, which holds
    position p in row p mod window;
  * with a window and several new rows, the `window` rows before them, then the
    new rows.

  Args:
    max_len: Capacity in rows if there is no window.
    window: Number of rows to keep; None means all.
    mode: 'train', 'eval' or 'predict'.
    n: Number of arrays. Arrays after k and v also have a row for each key, for
      example a mask.

  Raises:
    ValueError: there is no window and a call has more than max_len rows, or the
      batch size differs from the state's.

  Example:
    >>> from trax_hier.compat import signature
    >>> cache = KeyValueCache(max_len=5, window=None, mode='predict')
    >>> rows = jnp.ones((1, 1, 2, 3))
    >>> _ = cache.init(signature((rows, rows)))
    >>> for n in 1, 2:
    ...   k, v = cache((n * rows, n * rows))
    ...   print(k[0, :, 0])
    [1. 1. 0. 0. 0.]
    [1. 1. 2. 2. 0.]
  """

  is_positionwise = True  # In 'train' and 'eval' modes.

  def __init__(self, max_len: int, window: int | None, mode: str, n: int = 2):
    super().__init__(n_in=n, n_out=n)
    self._n_rows = window or max_len
    self._window = window
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    if self._mode != 'predict':
      return
    buffers = tuple(empty_buffer(s, self._n_rows) for s in input_signature)
    self.state = jnp.zeros((), jnp.int32), buffers

  def forward(self, rows):
    if self._mode != 'predict':
      return rows
    t, buffers = self.state
    n_new = rows[0].shape[-2]
    if self._window is None:
      if n_new > self._n_rows:
        raise ValueError(
          f'{n_new} new positions exceed the cache of {self._n_rows}: raise '
          'max_len'
        )
      outputs = buffers = tuple(
        write_rows(old, new, t) for old, new in zip(buffers, rows, strict=True)
      )
    elif n_new == 1:
      outputs = buffers = tuple(
        write_rows(old, new, t % self._window)
        for old, new in zip(buffers, rows, strict=True)
      )
    else:
      outputs = tuple(
        join_rows(jnp.roll(old, -t, axis=-2), new)
        for old, new in zip(buffers, rows, strict=True)
      )
      buffers = tuple(
        jnp.roll(x[..., -self._window :, :], t + n_new, axis=-2)
        for x in outputs
      )
    self.state = t + n_new, buffers
    # The state's dtype may be wider than the compute dtype.
    return tuple(
      x.astype(new.dtype) for x, new in zip(outputs, rows, strict=True)
    )


def PastRows(
  window: int, carry: bool, mode: str, n_kept: int | None = None
) -> base.Layer:
  """Prepends the keys and values of earlier positions: (k, v) -> (k, v).

  In 'train' and 'eval' modes, `window` rows are prepended to the new rows (b,
  h, l, d_head). Rows before the start of a sequence are zeros, so every
  position has the same number of keys before it. In predict mode, the layer is
  a `KeyValueCache`.

  Args:
    window: Number of rows that a position needs before its own.
    carry: Whether a call in 'train' and 'eval' modes continues the sequence of
      the previous call; the state then holds that call's last rows.
    mode: 'train', 'eval' or 'predict'.
    n_kept: Number of rows to keep in predict mode, including the newest; None
      means window + 1.

  Example:
    >>> rows = jnp.ones((1, 1, 3, 4))
    >>> k, v = PastRows(window=2, carry=False, mode='eval')((rows, rows))
    >>> print(k[0, 0, :, 0])
    [0. 0. 1. 1. 1.]
  """
  if mode == 'predict':
    return KeyValueCache(0, n_kept or window + 1, mode)
  return _PastRows(window, carry)


class _PastRows(Memory):
  """Prepends `window` rows of earlier calls, or zeros, to the new rows."""

  def __init__(self, window, carry, n_out=2):
    super().__init__(n_in=2, n_out=n_out)
    self._window = window
    self._carry = carry

  def init_weights_and_state(self, input_signature):
    if self._carry:
      self.state = tuple(
        jnp.zeros((*s.shape[:-2], self._window, s.shape[-1]), s.dtype)
        for s in input_signature
      )

  def forward(self, rows):
    padding = [(0, 0), (0, 0), (self._window, 0), (0, 0)]
    if not self._carry:
      return tuple(jnp.pad(x, padding) for x in rows)
    # The state's dtype may be wider than the compute dtype.
    rows = tuple(
      jnp.concatenate([old.astype(new.dtype), new], axis=-2)
      for old, new in zip(self.state, rows, strict=True)
    )
    self.state = tuple(x[..., -self._window :, :] for x in rows)
    return rows


class MaskedPastRows(_PastRows):
  """Prepends rows of the previous call: k, v -> k, v, mask.

  k, v (b, h, l, d_head) -> (b, h, window + l, d_head), and mask (b, 1, window +
  l, 1) bool, False for rows before the start of the sequence. For 'train' and
  'eval' modes.

  Example:
    >>> from trax_hier.compat import signature
    >>> past = MaskedPastRows(window=2)
    >>> rows = jnp.ones((1, 1, 1, 4))
    >>> _ = past.init(signature((rows, rows)))
    >>> for _ in range(2):
    ...   *_, mask = past((rows, rows))
    ...   print(mask.ravel())
    [False False  True]
    [False  True  True]
  """

  def __init__(self, window: int):
    super().__init__(window, carry=True, n_out=3)

  def init_weights_and_state(self, input_signature):
    k, v = input_signature
    mask = ShapeDtype((k.shape[0], 1, k.shape[2], 1), bool)
    super().init_weights_and_state((k, v, mask))

  def forward(self, rows):
    k, _ = rows
    return super().forward((*rows, jnp.ones((len(k), 1, k.shape[2], 1), bool)))


class PastInputs(Memory):
  """Prepends the last n inputs: (b, l, d) -> (b, n + l, d).

  Inputs before the start of a sequence are zeros.

  Args:
    n: Number of inputs to prepend.
    mode: 'train', 'eval' or 'predict'.
    carry: Whether a call in 'train' and 'eval' modes continues the sequence of
      the previous call.

  Example:
    >>> from trax_hier.compat import signature
    >>> past = PastInputs(2, mode='predict')
    >>> x = jnp.ones((1, 3, 1))
    >>> _ = past.init(signature(x))
    >>> print(past(x).ravel(), past(2 * x).ravel())
    [0. 0. 1. 1. 1.] [1. 1. 2. 2. 2.]
  """

  keeps_documents_apart = True  # If the layer that reads its outputs does.

  def __init__(self, n: int, mode: str, carry: bool = False):
    super().__init__()
    check_arguments('', mode=mode)
    self._n = n
    self._continues = carry or mode == 'predict'

  def init_weights_and_state(self, input_signature):
    if self._continues:
      b, _, d = input_signature.shape
      self.state = jnp.zeros((b, self._n, d), input_signature.dtype)

  def forward(self, x):
    if not self._continues:
      return jnp.pad(x, [(0, 0), (self._n, 0), (0, 0)])
    # The state's dtype may be wider than the compute dtype.
    x = jnp.concatenate([self.state.astype(x.dtype), x], axis=1)
    self.state = x[:, x.shape[1] - self._n :].astype(self.state.dtype)
    return x
