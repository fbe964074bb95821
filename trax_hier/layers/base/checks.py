"""Range checks of the arguments of models and layers.

The name of an argument determines its range: `d_model` is positive everywhere.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class _Rule:
  """A condition that the value of an argument must meet.

  Attributes:
    legal: The condition in words; {name} is the value of another argument.
    holds: (value, all arguments) -> whether the value meets the condition.
  """

  legal: str
  holds: Callable[[Any, dict[str, Any]], bool]


def _divides(name):
  return _Rule(
    f'must divide {name} = {{{name}}}',
    lambda n, arguments: n >= 1 and arguments[name] % n == 0,
  )


_POSITIVE = _Rule('must be positive', lambda n, _: n >= 1)
_POSITIVE_OR_NONE = _Rule(
  'must be positive, or None', lambda n, _: n is None or n >= 1
)
_NOT_NEGATIVE = _Rule('must not be negative', lambda n, _: n >= 0)

# Numbers of blocks, each of which gets a name in an export.
_BLOCKS = {
  'n',
  'n_layers',
  'n_encoder_layers',
  'n_decoder_layers',
  'vanilla_layers',
}
_MOST_BLOCKS = 10_000

# Rules by argument name.
_RULES = {
  'vocab_size': _POSITIVE,
  'd_model': _POSITIVE,
  'd_ff': _POSITIVE,
  'window': _POSITIVE,
  'shorten_factor': _POSITIVE,
  'n_states': _POSITIVE,
  'length_kernel_size': _POSITIVE,
  'chunk_len': _POSITIVE,
  'n_hashes': _POSITIVE,
  'memory': _POSITIVE,
  'segment': _POSITIVE,
  'n_neighbors': _Rule(
    'must be from 1 to memory = {memory}',
    lambda n, arguments: 1 <= n <= arguments['memory'],
  ),
  'd_lowrank': _POSITIVE_OR_NONE,
  'chunk_size': _POSITIVE_OR_NONE,
  'n': _NOT_NEGATIVE,
  'n_layers': _NOT_NEGATIVE,
  'n_encoder_layers': _NOT_NEGATIVE,
  'n_decoder_layers': _NOT_NEGATIVE,
  'n_post': _NOT_NEGATIVE,
  'temperature': _NOT_NEGATIVE,
  'vanilla_layers': _Rule(
    'must not be negative', lambda pair, _: min(pair) >= 0
  ),
  'n_heads': _divides('d_model'),
  'n_elements_in_block': _divides('d_ff'),
  'dropout': _Rule(
    'must be at least 0 and below 1', lambda rate, _: 0 <= rate < 1
  ),
  'quant_prob': _Rule(
    'must be at least 0 and at most 1', lambda p, _: 0 <= p <= 1
  ),
  'mode': _Rule(
    "must be 'train', 'eval' or 'predict'",
    lambda mode, _: mode in ('train', 'eval', 'predict'),
  ),
}


def check_arguments(configurable: str, **arguments: Any) -> None:
  """Raises ValueError for the first argument that breaks the rule of its name.

  Args:
    configurable: Name of the configurable that takes the arguments; '' in code
      that several configurables share.
    **arguments: Values by name, including those that a rule refers to:
      `n_heads` needs `d_model`.

  Example:
    >>> check_arguments('HourglassLM', d_model=8, n_heads=3, mode='eval')
    Traceback (most recent call last):
    ...
    ValueError: HourglassLM.n_heads = 3 must divide d_model = 8
  """
  for name in arguments:
    _check(configurable, name, _RULES[name], arguments)


def check_positive(configurable: str, **arguments: int) -> None:
  """Raises ValueError for the first argument below 1, whatever its name.

  Example:
    >>> check_positive('Terraformer', n_encoder_layers=0)
    Traceback (most recent call last):
    ...
    ValueError: Terraformer.n_encoder_layers = 0 must be positive
  """
  for name in arguments:
    _check(configurable, name, _POSITIVE, arguments)


def _check(configurable, name, rule, arguments):
  value = arguments[name]
  legal = rule.legal.format(**arguments)
  if rule.holds(value, arguments):
    if name not in _BLOCKS or np.max(value) <= _MOST_BLOCKS:
      return
    legal = f'must be at most {_MOST_BLOCKS:,}'
  binding = f'{configurable}.{name}' if configurable else name
  raise ValueError(f'{binding} = {value!r} {legal}')
