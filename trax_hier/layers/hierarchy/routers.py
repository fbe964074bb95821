"""Boundaries of segments that a layer finds in its input vectors.

h (b, l, d), valid (b, l) bool, first (b, l) bool -> p (b, l), beta (b, l).
`valid` is False in padding at the end of a row; `first` is True at the first
position of a sequence, which always starts a segment. p is the probability that
a segment starts at a position, beta is 1.0 where one does and else 0.0; both
are float32.

To add a router, write a function here with any of the arguments of
`BoundaryPredictor`, and export it from `trax_hier.layers`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.attention.positions import Clock
from trax_hier.layers.base.auxiliary import AuxiliaryLoss
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.dense import Dense
from trax_hier.layers.base.feed_forward import Gelu
from trax_hier.layers.base.products import wide_einsum
from trax_hier.layers.base.slots import ACTIVATION, build_part


@configurable(module='trax_hier.layers')
def SimilarityRouter(
  target: float = 4.0,
  loss_weight: float = 0.03,
  mode: str = 'train',
  level: int = 1,
):
  """Starts a segment where a vector differs from the one before it.

  h (b, l, d), valid (b, l), first (b, l) -> p (b, l), beta (b, l)

  p_t = (1 - cos(W_q h_{t-1}, W_k h_t)) / 2, and a segment starts where p_t >
  1/2. W_q and W_k (d, d) start as identities. The auxiliary loss, which is
  smallest at a mean length of `target`, is described at `ratio_loss`.

  Args:
    target: Mean length of a segment to train for, above 1.
    loss_weight: Weight of the auxiliary loss.
    mode: 'train', 'eval' or 'predict'.
    level: Number of the level, from 1, in the names of metrics.

  Raises:
    ValueError: target is not above 1.

  Example: the third vector differs from the second.
    >>> from trax_hier.compat import signature
    >>> h = jnp.array([[[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]]])
    >>> x = h, jnp.ones((1, 3), bool), jnp.arange(3)[None] == 0
    >>> router = SimilarityRouter(target=2)
    >>> _ = router.init(signature(x))
    >>> p, beta = router(x)
    >>> print(p.round(2), beta)
    [[1. 0. 1.]] [[1. 0. 1.]]

  Source: H-Net (arXiv 2507.07955), sections 2.2 and 2.3.
  """
  _check_target('SimilarityRouter', target)
  return tl.Serial(  # h, valid, first
    _Similarity(mode),  # p, valid, first
    tl.Fn('Threshold', _threshold, n_out=3),  # p, beta, valid
    *_loss(
      f'level_{level}/ratio_loss',
      lambda p, beta, valid: ratio_loss(p, beta, valid, target),
      loss_weight,
      mode,
    ),
  )


@configurable(module='trax_hier.layers')
def BoundaryPredictor(
  d_ff: int = 2048,
  target: float = 5.0,
  activation: Callable[[], base.Layer] = Gelu,
  temperature: float = 0.5,
  loss_weight: float = 1.0,
  mode: str = 'train',
  level: int = 1,
):
  """A feed-forward layer predicts whether a segment starts.

  h (b, l, d), valid (b, l), first (b, l) -> p (b, l), beta (b, l)

  p = sigmoid(Dense(activation(Dense(h)))). Training samples beta from a relaxed
  Bernoulli distribution (Gumbel-sigmoid): its value is 0 or 1, its gradient
  that of the relaxed sample, which `SegmentMean` uses. Otherwise a segment
  starts where p > 1/2. The auxiliary loss is described at `binomial_loss`; its
  prior is 1 / target.

  Args:
    d_ff: Width of the hidden layer.
    target: Mean length of a segment to train for, above 1.
    activation: Factory of the activation.
    temperature: Temperature of the relaxed distribution, above 0.
    loss_weight: Weight of the auxiliary loss.
    mode: 'train', 'eval' or 'predict'.
    level: Number of the level, from 1, in the names of metrics.

  Raises:
    ValueError: target is not above 1, temperature not above 0, or d_ff not
      positive.

  Example:
    >>> from trax_hier.compat import ShapeDtype
    >>> from trax_hier.inspection.layer_tree import tree
    >>> mask = ShapeDtype((2, 12), bool)
    >>> print(tree(BoundaryPredictor(16), (2, 12, 8), mask, mask).outputs)
    ((2, 12), (2, 12))

  Source: Dynamic token pooling (arXiv 2211.09761), section 3.1, and its
  published code.
  """
  _check_target('BoundaryPredictor', target)
  check_arguments('BoundaryPredictor', d_ff=d_ff)
  if temperature <= 0:
    raise ValueError(
      f'BoundaryPredictor.temperature = {temperature} must be above 0'
    )
  return tl.Serial(  # h, valid, first
    Dense(d_ff),
    build_part('BoundaryPredictor.activation', activation, ACTIVATION),
    Dense(1),  # logits (b, l, 1), valid, first
    _Bernoulli(temperature, mode),  # p, beta, valid
    *_loss(
      f'level_{level}/prior_loss',
      lambda p, beta, valid: binomial_loss(beta, valid, 1 / target),
      loss_weight,
      mode,
    ),
  )


@configurable(module='trax_hier.layers')
def FixedBoundaries(target: float = 4.0, mode: str = 'train'):
  """Starts a segment at every k-th position.

  h (b, l, d), valid (b, l), first (b, l) -> p (b, l), beta (b, l)

  Args:
    target: k, the length of a segment, a whole number.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: target is not a whole number, at least 1.

  Example:
    >>> mask = jnp.ones((1, 5), bool)
    >>> _, beta = FixedBoundaries(2)((jnp.zeros((1, 5, 8)), mask, mask))
    >>> print(beta)
    [[1. 0. 1. 0. 1.]]
  """
  if target < 1 or target != int(target):
    raise ValueError(
      f'FixedBoundaries.target = {target} must be a whole number, at least 1'
    )

  def route(t, h, valid, first):
    positions = t + jnp.arange(h.shape[1])
    starts = jnp.broadcast_to(positions % int(target) == 0, h.shape[:2])
    p = starts.astype(jnp.float32)
    return p, p

  return tl.Serial(  # h, valid, first
    tl.Branch(Clock(mode), None),  # t, h, valid, first
    tl.Fn('Every', route, n_out=2),
  )


def ratio_loss(
  p: jax.Array, beta: jax.Array, valid: jax.Array, target: float
) -> jax.Array:
  """N / (N - 1) ((N - 1) F G + (1 - F) (1 - G)), a scalar.

  F and G are the means of beta (b, l) and p (b, l) over the valid positions, N
  is the target. F has no gradient. The smallest value on F = G is 1, at 1 / N.

  Example:
    >>> p = jnp.array([[1.0, 0.0, 0.0, 0.0]])
    >>> print(ratio_loss(p, p, p >= 0, 4.0))
    1.0

  Source: H-Net (arXiv 2507.07955), equation 10.
  """
  n = jnp.sum(valid)
  f, g = (jnp.sum(x * valid) / n for x in (jax.lax.stop_gradient(beta), p))
  return target / (target - 1) * ((target - 1) * f * g + (1 - f) * (1 - g))


def binomial_loss(beta: jax.Array, valid: jax.Array, prior: float) -> jax.Array:
  """-log Binomial(n, prior)(number of boundaries) / n, a scalar.

  The mean over the rows of beta (b, l), which have n valid positions each.
  Gamma functions in place of factorials make it differentiable.

  Example:
    >>> beta = jnp.array([[1.0, 0.0]])
    >>> print(binomial_loss(beta, beta >= 0, 0.5).round(3))  # -log(1/2) / 2
    0.347

  Source: Dynamic token pooling (arXiv 2211.09761), equation 5.
  """
  n = jnp.sum(valid, axis=1).astype(jnp.float32)
  k = jnp.sum(beta * valid, axis=1)
  log_p = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
  log_p += k * jnp.log(prior) + (n - k) * jnp.log1p(-prior)
  return -jnp.mean(log_p / jnp.maximum(n, 1))


def _check_target(name, target):
  if target <= 1:
    raise ValueError(f'{name}.target = {target} must be above 1')


def _loss(name, function, weight, mode):
  """Layers that keep a loss: p, beta, valid -> p, beta."""
  return [
    tl.Select([0, 1, 2, 0, 1]),  # p, beta, valid, p, beta
    tl.Fn('Loss', function),
    AuxiliaryLoss(name, weight, mode),
  ]


def _threshold(p, valid, first):
  p = jnp.where(first, 1.0, p)
  return p, (p > 0.5).astype(jnp.float32), valid


class _Similarity(base.Layer):
  """(1 - cos(W_q h_{t-1}, W_k h_t)) / 2: (b, l, d) -> float32 (b, l)."""

  def __init__(self, mode):
    super().__init__()
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    b, _, d = input_signature.shape
    self.weights = jnp.eye(d), jnp.eye(d)
    if self._mode == 'predict':
      self.state = jnp.zeros((b, 1, d), input_signature.dtype)

  def forward(self, h):
    w_q, w_k = self.weights
    if self._mode == 'predict':
      before = jnp.concatenate([self.state.astype(h.dtype), h[:, :-1]], axis=1)
      self.state = h[:, -1:].astype(self.state.dtype)
    else:
      before = jnp.pad(h[:, :-1], [(0, 0), (1, 0), (0, 0)])
    q, k = (
      _normalize(wide_einsum('bld,de->ble', x, w))
      for x, w in ((before, w_q), (h, w_k))
    )
    return jnp.clip((1 - jnp.sum(q * k, axis=-1)) / 2, 0, 1)


def _normalize(x):
  # A vector of zeros, before the first position, has a finite gradient.
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


class _Bernoulli(base.Layer):
  """Boundaries from logits (b, l, 1): -> p, beta, valid; relaxed in training.

  Source: Gumbel-softmax (arXiv 1611.01144), with straight-through gradients.
  """

  def __init__(self, temperature, mode):
    super().__init__(n_in=3, n_out=3)
    self._temperature = temperature
    self._mode = mode

  def forward(self, inputs):
    logits, valid, first = inputs
    logits = logits[..., 0].astype(jnp.float32)
    p, beta, valid = _threshold(jax.nn.sigmoid(logits), valid, first)
    if self._mode == 'train':
      noise = jax.random.logistic(self.rng, logits.shape, jnp.float32)
      soft = jax.nn.sigmoid((logits + noise) / self._temperature)
      hard = (soft > 0.5).astype(jnp.float32)
      sample = hard + (soft - jax.lax.stop_gradient(soft))  # Exactly hard.
      beta = jnp.where(first, 1.0, sample)
    return p, beta, valid
