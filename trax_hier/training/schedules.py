"""Learning-rate schedules: products of named factors, as in trax.

A schedule is a function of the step number n, an integer or a traced array. The
first step is 1, as in trax.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from trax_hier.config import configurable

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]

FACTORS = (
  'constant',
  'two_constants',
  'linear_warmup',
  'rsqrt_decay',
  'rsqrt_normalized_decay',
  'decay_every',
  'cosine_decay',
  'cosine_decay_once',
)


@configurable(module='trax_hier.training')
def multifactor(
  factors: str = 'constant * linear_warmup * rsqrt_decay',
  constant: float = 0.1,
  warmup_steps: int = 400,
  decay_factor: float = 0.5,
  steps_per_decay: int = 20000,
  steps_per_cycle: int = 100000,
  second_constant: float = 0.01,
  second_constant_step: int = 10000,
  minimum: float = 0.0,
  cosine_start: int = 0,
  cosine_steps: int = 100000,
  cosine_end: float = 0.0,
) -> Schedule:
  """Learning-rate schedule: a product of factors of the step n, as in trax.

  * `constant`: the argument `constant`.
  * `two_constants`: `constant` before `second_constant_step`, then
    `second_constant`.
  * `linear_warmup`: min(1, n / warmup_steps).
  * `rsqrt_decay`: 1 / sqrt(max(n, warmup_steps)).
  * `rsqrt_normalized_decay`: `rsqrt_decay` * sqrt(warmup_steps), which starts
    at 1.
  * `decay_every`: decay_factor ** (n // steps_per_decay).
  * `cosine_decay`: half a cosine from 1 to 0 over `steps_per_cycle` steps after
    warmup. It is cyclic, as in trax: each cycle starts at 1 again.
  * `cosine_decay_once` (not in trax): 1 until `cosine_start`, half a cosine
    from 1 to `cosine_end` over the next `cosine_steps`, `cosine_end` after
    that.

  Args:
    factors: Names of factors, joined by `*`.
    constant: See above.
    warmup_steps: See above.
    decay_factor: See above.
    steps_per_decay: See above.
    steps_per_cycle: See above.
    second_constant: See above.
    second_constant_step: See above.
    minimum: Lower bound of the product.
    cosine_start: See above.
    cosine_steps: See above.
    cosine_end: See above.

  Returns:
    A function from the step number to the learning rate, a float32 scalar.

  Raises:
    ValueError: for an unknown factor or a period below 1 step.

  Example:
    >>> rate = multifactor(constant=0.5, warmup_steps=4)
    >>> [float(rate(n)) for n in (1, 2, 4, 16, 64)]
    [0.0625, 0.125, 0.25, 0.125, 0.0625]
  """
  names = [name.strip() for name in factors.split('*')]
  unknown = [name for name in names if name not in FACTORS]
  if unknown:
    raise ValueError(
      f'multifactor.factors has an unknown factor {unknown[0]!r} in '
      f'{factors!r}; the factors are {", ".join(FACTORS)}'
    )
  periods = {
    'warmup_steps': warmup_steps,
    'steps_per_decay': steps_per_decay,
    'steps_per_cycle': steps_per_cycle,
    'cosine_steps': cosine_steps,
  }
  for name, value in periods.items():
    if value < 1:
      raise ValueError(f'multifactor.{name} must be at least 1, got {value}')

  def factor(name, n):
    match name:
      case 'constant':
        return constant
      case 'two_constants':
        return jnp.where(n < second_constant_step, constant, second_constant)
      case 'linear_warmup':
        return jnp.minimum(1.0, n / warmup_steps)
      case 'rsqrt_decay':
        return jax.lax.rsqrt(jnp.maximum(n, warmup_steps))
      case 'rsqrt_normalized_decay':
        return jnp.sqrt(warmup_steps / jnp.maximum(n, warmup_steps))
      case 'decay_every':
        return decay_factor ** (n // steps_per_decay)
      case 'cosine_decay':
        cycles = jnp.maximum(0.0, (n - warmup_steps) / steps_per_cycle)
        return half_cosine(cycles % 1.0)
      case 'cosine_decay_once':
        y = half_cosine(jnp.clip((n - cosine_start) / cosine_steps, 0, 1))
        return cosine_end + (1 - cosine_end) * y

  def learning_rate(step):
    n = jnp.asarray(step, jnp.float32)
    product = jnp.float32(1.0)
    for name in names:
      product *= factor(name, n)
    return jnp.maximum(product, minimum)

  return learning_rate


def half_cosine(progress: jax.typing.ArrayLike) -> jax.Array:
  """Half a cosine: 1 at progress 0, falling to 0 at progress 1.

  Example:
    >>> [round(float(half_cosine(x)), 3) for x in (0, 0.5, 1)]
    [1.0, 0.5, 0.0]
  """
  return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def as_schedule(learning_rate: float | Schedule) -> Schedule:
  """Turns a number into a constant schedule; returns a schedule unchanged.

  Raises:
    ValueError: if it is neither, or the number is negative.
  """
  if callable(learning_rate):
    return learning_rate
  if isinstance(learning_rate, bool) or not isinstance(
    learning_rate, int | float
  ):
    raise ValueError(
      'learning_rate must be a number or a schedule such as @multifactor(), '
      f'got {learning_rate!r}'
    )
  if learning_rate < 0:
    raise ValueError(f'learning_rate must not be negative, got {learning_rate}')
  return lambda step: jnp.float32(learning_rate)
