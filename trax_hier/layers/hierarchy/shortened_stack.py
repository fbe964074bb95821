"""A stack of layers on a shortened sequence, upsampled to full length."""

import jax
import jax.numpy as jnp

from trax_hier.compat import ShapeDtype, base, signature, tl
from trax_hier.layers.attention.cache import empty_buffer, write_rows
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.documents import ReadsDocuments, documents_in
from trax_hier.layers.hierarchy.groups import as_tuple, run_complete_groups
from trax_hier.layers.hierarchy.upsample import Upsample


class ShortenedStack(base.Layer):
  """Applies a layer to a sequence shortened k-fold: (b, l, d) -> (b, l, d).

  upsample(inner(shorten(ShiftRight(x, k - 1))), x)

  The shift by k - 1 is the smallest that is causal: group j ends at position
  j k, which is the first to read it. The layer pads lengths that k does not
  divide; the padding changes no output if `inner` is causal.

  In predict mode, `shorten`, `inner` and the coarse stage of `upsample` run
  once per k tokens, when a group is complete, within one compiled program.

  Args:
    shorten_factor: k; 1 keeps the length.
    shorten: (b, l, d) -> (b, l / k, d).
    inner: (b, m, d) -> (b, m, d).
    upsample: (b, m, d), (b, l, d) -> (b, l, d).
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity of predict mode in positions of this layer's input.

  Raises:
    ValueError: shorten_factor is not positive, upsample is not an `Upsample`,
      or shorten has several inputs or outputs.

  Example:
    >>> from trax_hier.layers import FeedForward, LinearShorten, LinearUpsample
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = ShortenedStack(
    ...   3, LinearShorten(3, 8), FeedForward(8, 16), LinearUpsample(3, 8)
    ... )
    >>> print(tree(layer, (2, 13, 8)).text(1))
    layer                  parameters   in           out
    ShortenedStack(3)             696   (2, 13, 8)   (2, 13, 8)
      LinearShorten ...           200   (2, 15, 8)   (2, 5, 8)
      FeedForward ...             280   (2, 5, 8)    (2, 5, 8)
      LinearUpsample ...          216   (2, 5, 8)    (2, 15, 8)

  Source: Hourglass (arXiv 2110.13711) Algorithm 1.
  """

  keeps_documents_apart = True

  def __init__(
    self,
    shorten_factor: int,
    shorten: base.Layer,
    inner: base.Layer,
    upsample: Upsample,
    mode: str = 'train',
    max_len: int = 2048,
  ):
    super().__init__(name=f'ShortenedStack({shorten_factor})')
    check_arguments('', shorten_factor=shorten_factor)
    if not isinstance(upsample, Upsample):
      raise ValueError(
        'upsample must return an Upsample, such as @AttentionUpsample, not '
        f'{upsample.name}'
      )
    if (shorten.n_in, shorten.n_out) != (1, 1):
      raise ValueError(
        'shorten must have 1 input and 1 output, such as @AttentionShorten, '
        f'but {shorten.name} has {shorten.n_in} and {shorten.n_out}'
      )
    self._k = shorten_factor
    self._mode = mode
    self._n_groups = -(-max_len // shorten_factor)
    self._sublayers = (
      tl.Serial(shorten, inner, upsample.coarse),
      upsample.fine,
      ReadsDocuments(name='Memory'),
    )
    self._weights = (None,) * 3
    self._state = (None,) * 3

  @property
  def shorten_factor(self) -> int:
    """The factor by which the inner layers' sequence is shorter."""
    return self._k

  def init_weights_and_state(self, input_signature):
    coarse, fine, _ = self.sublayers
    x = self._padded(input_signature)
    b, _, d = x.shape
    coarse_weights, coarse_state = coarse.init(x, use_cache=True)
    outputs = as_tuple(coarse.output_signature(x))
    u, buffers, memory = outputs[0], outputs[1:], ()
    if self._mode == 'predict':
      # One row more than there are groups: `_decode` may write an unused row.
      buffers = tuple(empty_buffer(s, self._n_groups + 1) for s in buffers)
      memory = (
        jnp.zeros((), jnp.int32),
        jnp.zeros((b, self._k - 1, d), x.dtype),
        jnp.zeros((b, self._k, d), u.dtype),
        buffers,
      )
    fine_weights, fine_state = fine.init((u, *buffers, x), use_cache=True)
    self.weights = coarse_weights, fine_weights, ()
    self.state = coarse_state, fine_state, memory

  def _padded(self, x):
    """The signature of the inputs of `shorten`."""
    b, l, d = x.shape
    l = self._k if self._mode == 'predict' else l + -l % self._k
    return ShapeDtype((b, l, d), x.dtype)

  def _forward_abstract(self, input_signature):
    # Trax would trace the layers inside again for each layer around this one.
    coarse, fine, _ = self.sublayers
    x = self._padded(input_signature)
    u, *buffers = as_tuple(coarse.output_signature(x))
    if self._mode == 'predict':
      buffers = signature(self.state[2][3])
    y = fine.output_signature((u, *buffers, x))
    b, _, d = y.shape
    y = ShapeDtype((b, input_signature.shape[1], d), y.dtype)
    return y, signature(self.state)

  def forward(self, x):
    if self._mode == 'predict':
      return self._decode(x)
    coarse, fine, _ = self.sublayers
    coarse_rng, fine_rng = jax.random.split(self.rng)
    coarse_state, fine_state, memory = self.state
    length = x.shape[1]
    x = jnp.pad(x, [(0, 0), (0, -length % self._k), (0, 0)])
    shifted = self._shift(x, documents_in(memory))
    outputs, coarse_state = coarse.pure_fn(
      shifted, self.weights[0], coarse_state, coarse_rng, use_cache=True
    )
    y, fine_state = fine.pure_fn(
      (*as_tuple(outputs), x),
      self.weights[1],
      fine_state,
      fine_rng,
      use_cache=True,
    )
    self.state = coarse_state, fine_state, memory
    return y[:, :length]

  def _shift(self, x, documents):
    """Shifts x by k - 1, so that groups have inputs of one document only."""
    n = self._k - 1
    shifted = jnp.pad(x, [(0, 0), (n, 0), (0, 0)])[:, : x.shape[1]]
    if documents is None:
      return shifted
    positions = documents.of_rows(x.shape[1])
    return jnp.where(positions[..., None] >= n, shifted, 0)

  def _decode(self, x):
    """Continues the inputs of earlier calls with x (b, l, d).

    Group j is complete at position j k.
    """
    coarse, fine, _ = self.sublayers
    coarse_state, fine_state, (t, tail, last_u, buffers) = self.state
    k, length = self._k, x.shape[1]
    first = -(-t // k)  # The first group that this call completes.
    outputs, coarse_state, tail = run_complete_groups(
      coarse,
      self.weights[0],
      coarse_state,
      self.rng,
      tail,
      x,
      start=first * k - t,
      more=(first + length // k) * k < t + length,
    )
    new_u, *new_rows = (
      jnp.concatenate(chunks, axis=-2) for chunks in zip(*outputs, strict=True)
    )
    # The last row may belong to no group: it is masked until the next call
    # overwrites it.
    buffers = tuple(
      write_rows(buffer, rows, first)
      for buffer, rows in zip(buffers, new_rows, strict=True)
    )
    u = jnp.concatenate([last_u.astype(new_u.dtype), new_u], axis=1)
    begin = (first - 1) * k  # The position of u's first row.
    current = jax.lax.dynamic_slice_in_dim(u, t - begin, length, axis=1)
    end = t + length
    next_u = jax.lax.dynamic_slice_in_dim(
      u, (end - 1) // k * k - begin, k, axis=1
    )
    kept_rows = (
      buffer.astype(rows.dtype)
      for buffer, rows in zip(buffers, new_rows, strict=True)
    )
    y, fine_state = fine.pure_fn(
      (current, *kept_rows, x), self.weights[1], fine_state, self.rng
    )
    # The state's dtype may be wider than the compute dtype.
    memory = (end, tail, next_u.astype(last_u.dtype), buffers)
    self.state = coarse_state, fine_state, memory
    return y
