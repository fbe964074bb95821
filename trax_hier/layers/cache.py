"""Keys and values kept over the calls of predict mode."""

import math

import jax
import jax.numpy as jnp

from trax_hier.trax_compat import base


def empty(rows, n):
  """A buffer (s, n, d) for `n` rows like `rows` (.., l, d), s sequences.

  Batch and heads are one axis, as products with a buffer take them: XLA updates
  a buffer in place only if all that reads it takes it in one shape.
  """
  *lead, _, d = rows.shape
  return jnp.zeros((math.prod(lead), n, d), rows.dtype)


def append(buffer, rows, index):
  """Writes `rows` (.., l, d) into `buffer` (s, n, d) from row `index` on."""
  return jax.lax.dynamic_update_slice(
    buffer, _like(buffer, rows), (0, index, 0)
  )


def _like(buffer, rows):
  """Rows (.., l, d) as those of a buffer (s, n, d)."""
  rows = rows.reshape(-1, *rows.shape[-2:]).astype(buffer.dtype)
  if rows.shape[0] != buffer.shape[0]:
    raise ValueError(
      f'{rows.shape[0]} sequences of rows (batch times heads), but the state '
      f'was made for {buffer.shape[0]}: initialise it for this batch size'
    )
  return rows


class KeyValueCache(base.Layer):
  """Keeps keys and values over predict calls: (k, v) -> (k, v).

  In 'train' and 'eval' modes the identity. In 'predict' mode the new rows
  (b, h, l, d_head) join those of earlier calls; outputs (b h, n, d_head):

  * without a window, the output is the whole buffer of `max_len` rows;
  * with a window and one new row, it is a ring of `window` rows in which
    position p has row p mod window;
  * with a window and more new rows, it is the last `window` rows before them
    followed by the new ones.

  Args:
    max_len: Capacity in rows, if there is no window.
    window: Number of rows to keep, or None for all.
    mode: 'train', 'eval' or 'predict'.
  """

  def __init__(self, max_len: int, window: int | None, mode: str):
    super().__init__(n_in=2, n_out=2)
    self._n_rows = window or max_len
    self._window = window
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    if self._mode != 'predict':
      return
    buffers = tuple(empty(s, self._n_rows) for s in input_signature)
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
        append(old, new, t) for old, new in zip(buffers, rows, strict=True)
      )
    elif n_new == 1:
      outputs = buffers = tuple(
        append(old, new, t % self._window)
        for old, new in zip(buffers, rows, strict=True)
      )
    else:
      outputs = tuple(
        jnp.concatenate([jnp.roll(old, -t, axis=-2), _like(old, new)], axis=-2)
        for old, new in zip(buffers, rows, strict=True)
      )
      buffers = tuple(
        jnp.roll(x[..., -self._window :, :], t + n_new, axis=-2)
        for x in outputs
      )
    self.state = t + n_new, buffers
    # The state may be wider than the dtype of compute.
    return tuple(
      x.astype(new.dtype) for x, new in zip(outputs, rows, strict=True)
    )
