"""One vector for each segment: h, beta, starts -> (b, m, d_inner).

h (b, l, d) are the inputs, beta (b, l) is 1.0 where a segment starts, starts
(b, m) int32 are the positions of these boundaries. A vector depends only on
inputs up to the first position of its segment, so that decoding computes it
there.

To add one, write a function here with any of the arguments of `TakeFirst`, and
export it from `trax_hier.layers`.
"""

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.base.dense import Linear
from trax_hier.layers.base.normalization import LayerNorm, RMSNorm
from trax_hier.layers.hierarchy.segments import count, take


@configurable(module='trax_hier.layers')
def TakeFirst(
  d_model: int, d_inner: int | None = None, projection: bool = False
):
  """The vector at the start of each segment.

  h (b, l, d), beta (b, l), starts (b, m) -> (b, m, d_inner)

  Args:
    d_model: Width of the inputs.
    d_inner: Width of the outputs; None means d_model.
    projection: Whether RMSNorm and a linear layer change the width, as in
      AU-Net; if not, a learned vector fills additional channels, as in H-Net.

  Raises:
    ValueError: d_inner is below d_model, without `projection`.

  Example:
    >>> h = jnp.array([[[1.0], [2.0], [3.0]]])
    >>> c = TakeFirst(1)((h, jnp.array([[1.0, 0.0, 1.0]]), jnp.array([[0, 2]])))
    >>> print(c[..., 0])
    [[1. 3.]]

  Source: H-Net (arXiv 2507.07955), SpaceByte (arXiv 2404.14408), AU-Net (arXiv
  2506.14761).
  """
  first = tl.Fn('First', lambda h, beta, starts: take(h, starts))
  if projection:
    return tl.Serial(first, RMSNorm(), Linear(d_inner or d_model))
  return tl.Serial(first, *_widen('TakeFirst', d_model, d_inner))


@configurable(module='trax_hier.layers')
def SegmentMean(d_model: int, d_inner: int | None = None, mode: str = 'train'):
  """The normalized mean of the segment before; the first is learned.

  h (b, l, d), beta (b, l), starts (b, m) -> (b, m, d_inner)

  The mean of a segment is known at its end only, so it stands for the segment
  after it. A learned null vector stands for the first segment. Gradients reach
  beta as in the published code: the weight of an input in its mean is 1, with
  the gradient of the number of boundaries up to this input.

  Args:
    d_model: Width of the inputs.
    d_inner: Width of the outputs, at least d_model; None means d_model. A
      learned vector fills additional channels.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: d_inner is below d_model.

  Example:
    >>> from trax_hier.compat import signature
    >>> h = jnp.array([[[1.0, 0.0], [2.0, 2.0], [3.0, 3.0]]])
    >>> x = h, jnp.array([[1.0, 0.0, 1.0]]), jnp.array([[0, 2]])
    >>> layer = SegmentMean(2)
    >>> _ = layer.init(signature(x))
    >>> print(layer(x)[0, 1].round())  # Normalized mean of the first two.
    [ 1. -1.]

  Source: Dynamic token pooling (arXiv 2211.09761), and its published code.
  """
  return tl.Serial(
    _MeanBefore(mode),
    LayerNorm(),
    *_widen('SegmentMean', d_model, d_inner),
  )


def _widen(name, d_model, d_inner):
  """Layers that append a learned vector: (b, m, d) -> (b, m, d_inner)."""
  extra = (d_inner or d_model) - d_model
  if extra < 0:
    raise ValueError(
      f'{name}: the width inside, {d_inner}, must not be below the width '
      f'outside, {d_model}'
    )
  if not extra:
    return []

  def append(vector, c):
    vector = jnp.broadcast_to(vector.astype(c.dtype), (*c.shape[:-1], extra))
    return jnp.concatenate([c, vector], axis=-1)

  return [
    tl.Weights(tl.RandomNormalInitializer(0.02), (extra,)),
    tl.Fn('Append', append),
  ]


class _MeanBefore(base.Layer):
  """Mean of the segment before each boundary: h, beta, starts -> (b, m, d).

  In predict mode, the state is the sum and the number of the vectors of the
  current segment.
  """

  def __init__(self, mode):
    super().__init__(n_in=3, n_out=1)
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    h, *_ = input_signature
    b, _, d = h.shape
    self.weights = jax.random.normal(self.rng, (d,), jnp.float32)
    if self._mode == 'predict':
      self.state = jnp.zeros((b, d), jnp.float32), jnp.zeros(b, jnp.float32)

  def forward(self, inputs):
    h, beta, starts = inputs
    m = starts.shape[1]
    totals, sizes = self._sums(h, beta, m)
    if self._mode == 'predict':
      old_total, old_size = self.state
      totals = totals.at[:, 0].add(old_total.astype(jnp.float32))
      sizes = sizes.at[:, 0].add(old_size.astype(jnp.float32))
      last = count(beta)[:, -1:]
      new = take(totals, last)[:, 0], take(sizes, last)[:, 0]
      self.state = tuple(
        x.astype(old.dtype) for x, old in zip(new, self.state, strict=True)
      )
    totals, sizes = totals[:, :m], sizes[:, :m, None]
    # Nothing is before the first segment of a sequence.
    mean = totals / jnp.where(sizes > 0.5, sizes, 1.0)
    null = self.weights.astype(jnp.float32)
    return jnp.where(sizes > 0.5, mean, null).astype(h.dtype)

  def _sums(self, h, beta, m):
    """Sums (b, m + 1, d) and sizes (b, m + 1) of the segments of a call.

    Segment 0 is the one that continues from earlier calls.
    """
    index = count(beta)
    soft = jnp.cumsum(beta, axis=1)
    weights = 1 + (soft - jax.lax.stop_gradient(soft))  # Exactly 1.

    def add(values):
      def of_row(values, index):
        return jax.ops.segment_sum(
          values, index, m + 1, indices_are_sorted=True
        )

      return jax.vmap(of_row)(values, index)

    weighted = h.astype(jnp.float32) * weights[..., None]
    return add(weighted), add(weights)
