"""Back to full length: z, h, p, beta, starts -> (b, l, d).

z (b, m, d_inner) are the vectors of the segments that start in a call, h (b, l,
d) the inputs at full length, p (b, l) the probabilities of boundaries, beta
(b, l) the boundaries, and starts (b, m) their positions. All but `AtBoundaries`
hold a vector from the start of its segment to its end. The residual connection
around the inner layers is part of these layers.

To add one, write a function or a class here with any of the arguments of
`SmoothedHold`, and export it from `trax_hier.layers`.
"""

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.base.checks import check_positive
from trax_hier.layers.base.normalization import RMSNorm
from trax_hier.layers.base.products import wide_einsum
from trax_hier.layers.hierarchy.segments import count, hold, since, take


@configurable(module='trax_hier.layers')
class SmoothedHold(base.Layer):
  """Smooths the vectors of segments, holds them, and scales by confidence.

  z (b, m, d_inner), h (b, l, d), p (b, l), beta (b, l), starts (b, m) -> (b, l,
  d)

  s_j = P_j z_j + (1 - P_j) s_{j-1}, with P_j the probability of boundary j,
  clipped to [1e-4, 1 - 1e-4], in float32. The output is ste(c_t) s + W_r h_t
  for a position t in the segment of s. The confidence c_t is p_t at boundaries
  and 1 - p_t elsewhere; ste is 1, with the gradient of c_t. W_r (d, d) starts
  at zero. Channels of z beyond d are cut.

  Args:
    mode: 'train', 'eval' or 'predict'.

  Example:
    >>> from trax_hier.compat import signature
    >>> z, h = jnp.array([[[1.0], [3.0]]]), jnp.ones((1, 3, 1))
    >>> p = jnp.array([[1.0, 0.0, 0.5]])
    >>> x = z, h, p, jnp.array([[1.0, 0.0, 1.0]]), jnp.array([[0, 2]])
    >>> layer = SmoothedHold()
    >>> _ = layer.init(signature(x))
    >>> print(layer(x)[..., 0].round(2))
    [[1. 1. 2.]]

  Source: H-Net (arXiv 2507.07955), equations 5 to 9.
  """

  def __init__(self, mode: str = 'train'):
    super().__init__(n_in=5, n_out=1)
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    _, h, *_ = input_signature
    b, _, d = h.shape
    self.weights = jnp.zeros((d, d), jnp.float32)
    if self._mode == 'predict':
      self.state = jnp.zeros((b, 1, d), jnp.float32)

  def forward(self, inputs):
    z, h, p, beta, starts = inputs
    b, _, d = h.shape
    z = z[..., :d].astype(jnp.float32)
    last = jnp.zeros((b, 1, d), jnp.float32)
    if self._mode == 'predict':
      last = self.state.astype(jnp.float32)
    smoothed = smooth(z, jnp.clip(take(p, starts), 1e-4, 1 - 1e-4), last)
    held = hold(last, smoothed, beta)
    if self._mode == 'predict':
      self.state = held[:, -1:].astype(self.state.dtype)
    confidence = jnp.where(beta > 0.5, p, 1 - p)[..., None]
    ste = 1 + (confidence - jax.lax.stop_gradient(confidence))  # Exactly 1.
    y = ste * held + wide_einsum('bld,de->ble', h, self.weights)
    return y.astype(h.dtype)


def smooth(z: jax.Array, p: jax.Array, last: jax.Array) -> jax.Array:
  """s_j = p_j z_j + (1 - p_j) s_{j-1}: (b, m, d), with s_{-1} = `last`.

  Args:
    z: Vectors, (b, m, d).
    p: Weights, (b, m).
    last: The vector before the first, (b, 1, d).

  Example:
    >>> z, p = jnp.array([[[2.0], [4.0]]]), jnp.array([[0.5, 0.5]])
    >>> print(smooth(z, p, jnp.zeros((1, 1, 1)))[..., 0])
    [[1.  2.5]]
  """
  keep, new = 1 - p[..., None], p[..., None] * z
  new = new.at[:, :1].add(keep[:, :1] * last)

  def join(a, b):
    return a[0] * b[0], b[0] * a[1] + b[1]

  return jax.lax.associative_scan(join, (keep, new), axis=1)[1]


@configurable(module='trax_hier.layers')
def PreviousSegment(mode: str = 'train'):
  """Adds the vector of a segment to all its inputs: h + z.

  z (b, m, d_inner), h (b, l, d), p (b, l), beta (b, l), starts (b, m) -> (b, l,
  d)

  With `SegmentMean`, this vector is that of the segment before. Channels of z
  beyond d are cut.

  Args:
    mode: 'train', 'eval' or 'predict'.

  Example:
    >>> z, h = jnp.array([[[1.0], [3.0]]]), jnp.zeros((1, 3, 1))
    >>> beta = jnp.array([[1.0, 0.0, 1.0]])
    >>> layer = PreviousSegment()
    >>> print(layer((z, h, beta, beta, jnp.array([[0, 2]])))[..., 0])
    [[1. 1. 3.]]

  Source: Dynamic token pooling (arXiv 2211.09761).
  """
  return tl.Serial(  # z, h, p, beta, starts
    tl.Select([0, 3, 1], n_in=5),  # z, beta, h
    _Hold(mode),  # held, h
    tl.Fn('AddTo', lambda z, h: h + z[..., : h.shape[-1]].astype(h.dtype)),
  )


@configurable(module='trax_hier.layers')
def AtBoundaries():
  """Adds the vector of a segment to the input at its start alone.

  z (b, m, d_inner), h (b, l, d), p (b, l), beta (b, l), starts (b, m) -> (b, l,
  d)

  Channels of z beyond d are cut.

  Example:
    >>> z, h = jnp.array([[[1.0], [3.0]]]), jnp.zeros((1, 3, 1))
    >>> beta = jnp.array([[1.0, 0.0, 1.0]])
    >>> print(AtBoundaries()((z, h, beta, beta, jnp.array([[0, 2]])))[..., 0])
    [[1. 0. 3.]]

  Source: SpaceByte (arXiv 2404.14408).
  """

  def add(z, h, p, beta, starts):
    b, _, d = h.shape
    z = z[..., :d].astype(h.dtype)
    held = hold(jnp.zeros((b, 1, d), h.dtype), z, beta)
    return h + held * beta[..., None].astype(h.dtype)

  return tl.Fn('AtBoundaries', add)


@configurable(module='trax_hier.layers')
def PositionLinear(d_model: int, n_positions: int = 16, mode: str = 'train'):
  """Adds a linear map of a segment's vector, one for each position in it.

  z (b, m, d_inner), h (b, l, d), p (b, l), beta (b, l), starts (b, m) -> (b, l,
  d)

  h_t + (W + W_{i mod n}) RMSNorm(z), with i the position of t in its segment.
  The maps (d_inner, d) are initialized from a truncated normal distribution of
  standard deviation d_inner^(-1/2).

  Args:
    d_model: Width of the outputs, d.
    n_positions: n.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: n_positions is not positive.

  Example:
    >>> from trax_hier.compat import ShapeDtype
    >>> from trax_hier.inspection.layer_tree import tree
    >>> row, starts = (2, 12), ShapeDtype((2, 3), jnp.int32)
    >>> shapes = (2, 3, 16), (2, 12, 8), row, row, starts
    >>> print(tree(PositionLinear(8, n_positions=4), *shapes).outputs)
    ((2, 12, 8),)

  Source: AU-Net (arXiv 2506.14761), and its published code.
  """
  check_positive('PositionLinear', n_positions=n_positions)
  return tl.Serial(  # z, h, p, beta, starts
    tl.Select([0, 3, 1], n_in=5),  # z, beta, h
    RMSNorm(),
    _MapByPosition(d_model, n_positions, mode),  # y, h
    tl.Add(),
  )


class _Hold(base.Layer):
  """Holds rows: z (b, m, d), beta (b, l) -> (b, l, d)."""

  def __init__(self, mode):
    super().__init__(n_in=2, n_out=1)
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    z, _ = input_signature
    b, _, d = z.shape
    if self._mode == 'predict':
      self.state = jnp.zeros((b, 1, d), z.dtype)

  def forward(self, inputs):
    z, beta = inputs
    last = jnp.zeros_like(z[:, :1])
    held = hold(self.state if self._mode == 'predict' else last, z, beta)
    if self._mode == 'predict':
      self.state = held[:, -1:].astype(self.state.dtype)
    return held


class _MapByPosition(base.Layer):
  """z (b, m, d_inner), beta (b, l) -> (W + W_{i mod n}) z, (b, l, d).

  In predict mode, the state is the vector of the current segment and the number
  of its inputs.
  """

  def __init__(self, d_model, n_positions, mode):
    super().__init__(n_in=2, n_out=1)
    self._d_model = d_model
    self._n = n_positions
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    z, _ = input_signature
    b, _, d_inner = z.shape
    shapes = (d_inner, self._d_model), (self._n, d_inner, self._d_model)
    self.weights = tuple(
      d_inner**-0.5 * jax.random.truncated_normal(rng, -3.0, 3.0, shape)
      for rng, shape in zip(jax.random.split(self.rng), shapes, strict=True)
    )
    if self._mode == 'predict':
      last = jnp.zeros((b, 1, d_inner), z.dtype)
      self.state = last, jnp.zeros(b, jnp.int32)

  def forward(self, inputs):
    z, beta = inputs
    shared, by_position = self.weights
    is_predict = self._mode == 'predict'
    last, size = self.state if is_predict else (jnp.zeros_like(z[:, :1]), 0)
    positions = since(beta > 0.5, size)
    if is_predict:
      new_last = hold(last, z, beta)[:, -1:].astype(last.dtype)
      self.state = new_last, positions[:, -1] + 1
    index = positions % self._n
    if is_predict and z.shape[1] == 1:
      # One matrix for each row of the batch, rather than all n.
      held = hold(last, z, beta)
      maps = shared + by_position[index[:, 0]]
      return jnp.einsum('bld,bde->ble', held, maps)
    # All n products of each segment, then the one of each position: this takes
    # more products than positions if segments are shorter than n, but gathers
    # vectors, not a matrix for each position.
    z = jnp.concatenate([last.astype(z.dtype), z], axis=1)
    y = jnp.einsum('bmd,nde->bmne', z, shared + by_position)
    b, m, n, d = y.shape
    y = y.reshape(b, m * n, d)
    return take(y, count(beta) * n + index)
