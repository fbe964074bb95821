"""Optimizers: gin-configurable factories over optax.

Each factory returns an `Optimizer`: an optax transformation and its
learning-rate schedule, which the training step also logs. To add an optimizer,
write a factory here and export it from `trax_hier.training`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from trax_hier.config import configurable
from trax_hier.training.schedules import Schedule, as_schedule

# Elements of an array that is quick to copy.
_MAX_JOINED = 1 << 17


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optax transformation and its learning rate as a function of the step.

  Attributes:
    transform: Transformation of gradients into updates, including clipping
      and the learning rate.
    learning_rate: Schedule, step number (1 for the first) -> learning rate.

  Example:
    >>> from trax_hier.training import multifactor
    >>> optimizer = Adam(multifactor('constant * linear_warmup', 0.5))
    >>> float(optimizer.learning_rate(100))  # warmup_steps = 400
    0.125
  """

  transform: optax.GradientTransformation
  learning_rate: Schedule


@configurable(module='trax_hier.training')
def Adam(
  learning_rate: float | Schedule = 1e-3,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  clip_norm: float | None = None,
  weight_decay_rate: float = 0.0,
) -> Optimizer:
  """Adam; with `weight_decay`, AdamW.

  Args:
    learning_rate: Number, or schedule such as `@multifactor()`.
    b1: Decay rate of the running mean of gradients.
    b2: Decay rate of the running mean of squared gradients.
    eps: Number added to the root of the second moment.
    weight_decay: Decoupled decay of all weights, scaled by the learning rate.
    clip_norm: Largest global norm of the gradients; None disables clipping.
    weight_decay_rate: Fraction of all weights that each step subtracts,
      whatever the learning rate, as in trax.

  Raises:
    ValueError: for a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> adam = Adam(learning_rate=0.1)
    >>> weights, gradients = jnp.zeros(2), jnp.array([3.0, -0.5])
    >>> state = adam.transform.init(weights)
    >>> updates, state = adam.transform.update(gradients, state, weights)
    >>> print(updates.round(3))
    [-0.1  0.1]

  References:
    Kingma and Ba, 2014, https://arxiv.org/abs/1412.6980; Loshchilov and
    Hutter, 2017, https://arxiv.org/abs/1711.05101.
  """
  _check_unit('Adam.b1', b1)
  _check_unit('Adam.b2', b2)
  transforms = [optax.scale_by_adam(b1=b1, b2=b2, eps=eps)]
  if weight_decay:
    transforms.append(optax.add_decayed_weights(weight_decay))
  adam = _build('Adam', transforms, learning_rate, clip_norm)
  decay = _decay('Adam', weight_decay_rate)
  if decay is None:
    return adam
  subtract = optax.add_decayed_weights(-decay)
  transform = optax.chain(adam.transform, subtract)
  return Optimizer(transform, adam.learning_rate)


@configurable(module='trax_hier.training')
def Adafactor(
  learning_rate: float | Schedule = 1e-3,
  decay_rate: float = 0.8,
  clipping_threshold: float = 1.0,
  momentum: float | None = None,
  multiply_by_parameter_scale: bool = True,
  factored: bool = True,
  clip_norm: float | None = None,
  min_dim_size_to_factor: int = 128,
  weight_decay_rate: float = 0.0,
  weight_decay_n_steps: int = 0,
) -> Optimizer:
  """Adafactor from optax: factors second moments into rows and columns.

  The stacked weights of equal blocks are one array: their updates are clipped
  and scaled together.

  Args:
    learning_rate: Number, or schedule such as `@multifactor()`.
    decay_rate: Exponent of the second-moment decay, 1 - n ** -decay_rate.
    clipping_threshold: Largest root mean square of an array's update.
    momentum: Decay rate of the running mean of updates, taken after the
      learning rate is applied; None disables momentum.
    multiply_by_parameter_scale: Whether to scale updates by the root mean
      square of the weights.
    factored: Whether to factor the second moments of matrices.
    clip_norm: Largest global norm of the gradients; None disables clipping.
    min_dim_size_to_factor: Smallest size of the two largest axes of an array
      whose second moments are factored. trax factors all matrices, as 1 does.
    weight_decay_rate: Fraction of all weights that each step subtracts,
      whatever the learning rate, as in trax.
    weight_decay_n_steps: Step at which this fraction has fallen to 0, linearly;
      0 keeps it constant.

  Raises:
    ValueError: for a number out of range.

  References:
    Shazeer and Stern, 2018, https://arxiv.org/abs/1804.04235.
  """
  _check_unit('Adafactor.decay_rate', decay_rate)
  if momentum is not None:
    _check_unit('Adafactor.momentum', momentum)
  if min_dim_size_to_factor < 1:
    raise ValueError(
      'Adafactor.min_dim_size_to_factor must be at least 1, got '
      f'{min_dim_size_to_factor}'
    )
  schedule = _schedule('Adafactor', learning_rate)
  decay = _decay('Adafactor', weight_decay_rate, weight_decay_n_steps)
  transform = optax.adafactor(
    _from_count(schedule),
    min_dim_size_to_factor=min_dim_size_to_factor,
    decay_rate=decay_rate,
    clipping_threshold=clipping_threshold,
    momentum=momentum,
    multiply_by_parameter_scale=multiply_by_parameter_scale,
    factored=factored,
    weight_decay_rate=decay,
  )
  clip = _clip('Adafactor', clip_norm)
  return Optimizer(optax.chain(*clip, transform), schedule)


@configurable(module='trax_hier.training')
def SGD(
  learning_rate: float | Schedule = 1e-2,
  momentum: float | None = None,
  clip_norm: float | None = None,
) -> Optimizer:
  """Stochastic gradient descent, optionally with momentum.

  Args:
    learning_rate: Number, or schedule such as `@multifactor()`.
    momentum: Decay rate of the running sum of gradients; None disables
      momentum.
    clip_norm: Largest global norm of the gradients; None disables clipping.

  Raises:
    ValueError: for a number out of range.
  """
  transforms = []
  if momentum is not None:
    _check_unit('SGD.momentum', momentum)
    transforms.append(optax.trace(momentum))
  return _build('SGD', transforms, learning_rate, clip_norm)


def _build(name, transforms, learning_rate, clip_norm) -> Optimizer:
  """Chains clipping, the optimizer's own transforms and the learning rate."""
  clip = _clip(name, clip_norm)
  schedule = _schedule(name, learning_rate)
  scale = optax.scale_by_learning_rate(_from_count(schedule))
  return Optimizer(optax.chain(*clip, *transforms, scale), schedule)


def _clip(name, clip_norm):
  if clip_norm is None:
    return []
  if clip_norm <= 0:
    raise ValueError(f'{name}.clip_norm must be above 0, got {clip_norm}')

  def clip(gradients, params):
    del params
    scale = jnp.minimum(1.0, clip_norm / global_norm(gradients))
    return jax.tree.map(lambda x: x * scale.astype(x.dtype), gradients)

  return [optax.stateless(clip)]


def global_norm(tree: object) -> jax.Array:
  """The Euclidean norm of all arrays of a tree together, a float32 scalar.

  Small arrays are joined first. Otherwise, XLA would compile two or three
  programs for each, which takes seconds for a small model.
  """
  leaves = [x.astype(jnp.float32) for x in jax.tree.leaves(tree)]
  joined = [x.ravel() for x in leaves if x.size <= _MAX_JOINED]
  large = [x for x in leaves if x.size > _MAX_JOINED]
  arrays = [jnp.concatenate(joined), *large] if joined else large
  return jnp.sqrt(sum(jnp.sum(x * x) for x in arrays))


def _decay(name, rate, n_steps=0):
  """The fraction to subtract, or its schedule for optax; None for none."""
  _check_unit(f'{name}.weight_decay_rate', rate)
  if n_steps < 0:
    raise ValueError(
      f'{name}.weight_decay_n_steps must be at least 0, got {n_steps}'
    )
  if n_steps and not rate:
    raise ValueError(
      f'{name}.weight_decay_n_steps = {n_steps} needs '
      f'{name}.weight_decay_rate above 0'
    )
  if n_steps:
    return _from_count(lambda n: rate * jnp.maximum(1 - n / n_steps, 0.0))
  return rate or None


def _schedule(name, learning_rate):
  try:
    return as_schedule(learning_rate)
  except ValueError as error:
    raise ValueError(f'{name}.{error}') from None


def _from_count(schedule):
  """Adapts a schedule: optax counts updates from 0, schedules steps from 1."""
  return lambda count: schedule(count + 1)


def _check_unit(name, value):
  if not 0 <= value < 1:
    raise ValueError(f'{name} must be in [0, 1), got {value}')
