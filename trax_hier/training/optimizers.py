"""Optimizers: gin names over optax.

Each factory returns an `Optimizer`: the optax transformation and the
learning-rate schedule it uses, which the training step also logs.
"""

import dataclasses

import optax

from trax_hier.config import configurable
from trax_hier.training.schedules import Schedule, as_schedule


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optax transformation and its learning rate as a function of the step.

  Attributes:
    transform: turns gradients into updates, clipping and learning rate
      included.
    learning_rate: step number (1 for the first) -> learning rate.

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
) -> Optimizer:
  """Adam; with `weight_decay`, AdamW.

  Args:
    learning_rate: a number or a schedule such as `@multifactor()`.
    b1: decay of the running mean of gradients.
    b2: decay of the running mean of squared gradients.
    eps: added to the root of the second moment.
    weight_decay: decoupled decay of every weight, scaled by the learning rate.
    clip_norm: largest global norm of the gradients; None leaves them.

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
  parts = [optax.scale_by_adam(b1=b1, b2=b2, eps=eps)]
  if weight_decay:
    parts.append(optax.add_decayed_weights(weight_decay))
  return _build('Adam', parts, learning_rate, clip_norm)


@configurable(module='trax_hier.training')
def Adafactor(
  learning_rate: float | Schedule = 1e-3,
  decay_rate: float = 0.8,
  clipping_threshold: float = 1.0,
  momentum: float | None = None,
  multiply_by_parameter_scale: bool = True,
  factored: bool = True,
  clip_norm: float | None = None,
) -> Optimizer:
  """Adafactor as optax has it: second moments kept as row and column sums.

  What is said of one array holds for the stacked weights of equal blocks as a
  whole: their updates are clipped and scaled by the size of all of them.

  Args:
    learning_rate: a number or a schedule such as `@multifactor()`.
    decay_rate: exponent of the second-moment decay, 1 - n ** -decay_rate.
    clipping_threshold: largest root mean square of one array's update.
    momentum: decay of the running mean of updates, which have been multiplied
      by the learning rate; None keeps none.
    multiply_by_parameter_scale: scale updates by the size of the weights.
    factored: factor the second moments of matrices.
    clip_norm: largest global norm of the gradients; None leaves them.

  Raises:
    ValueError: for a number out of range.

  References:
    Shazeer and Stern, 2018, https://arxiv.org/abs/1804.04235.
  """
  _check_unit('Adafactor.decay_rate', decay_rate)
  if momentum is not None:
    _check_unit('Adafactor.momentum', momentum)
  schedule = _schedule('Adafactor', learning_rate)
  transform = optax.adafactor(
    _counted(schedule),
    decay_rate=decay_rate,
    clipping_threshold=clipping_threshold,
    momentum=momentum,
    multiply_by_parameter_scale=multiply_by_parameter_scale,
    factored=factored,
  )
  clip = _clip('Adafactor', clip_norm)
  return Optimizer(optax.chain(*clip, transform), schedule)


@configurable(module='trax_hier.training')
def SGD(
  learning_rate: float | Schedule = 1e-2,
  momentum: float | None = None,
  clip_norm: float | None = None,
) -> Optimizer:
  """Stochastic gradient descent, with momentum if given.

  Args:
    learning_rate: a number or a schedule such as `@multifactor()`.
    momentum: decay of the running sum of gradients; None keeps none.
    clip_norm: largest global norm of the gradients; None leaves them.

  Raises:
    ValueError: for a number out of range.
  """
  parts = []
  if momentum is not None:
    _check_unit('SGD.momentum', momentum)
    parts.append(optax.trace(momentum))
  return _build('SGD', parts, learning_rate, clip_norm)


def _build(name, parts, learning_rate, clip_norm) -> Optimizer:
  """Clipping first, then the optimizer's own parts, then the learning rate."""
  clip = _clip(name, clip_norm)
  schedule = _schedule(name, learning_rate)
  scale = optax.scale_by_learning_rate(_counted(schedule))
  return Optimizer(optax.chain(*clip, *parts, scale), schedule)


def _clip(name, clip_norm):
  if clip_norm is None:
    return []
  if clip_norm <= 0:
    raise ValueError(f'{name}.clip_norm must be above 0, got {clip_norm}')
  return [optax.clip_by_global_norm(clip_norm)]


def _schedule(name, learning_rate):
  try:
    return as_schedule(learning_rate)
  except ValueError as error:
    raise ValueError(f'{name}.{error}') from None


def _counted(schedule):
  """optax counts updates from 0, schedules count steps from 1."""
  return lambda count: schedule(count + 1)


def _check_unit(name, value):
  if not 0 <= value < 1:
    raise ValueError(f'{name} must be in [0, 1), got {value}')
