"""Schedules: equality with trax, and the one factor that trax lacks."""

import jax
import numpy as np
import pytest

import trax_hier.compat  # noqa: F401  (before trax)
from trax_hier.training.schedules import as_schedule, multifactor

STEPS = [*range(1, 60), 99, 100, 101, 199, 200, 201, 399, 400, 1000, 12345]


@pytest.mark.parametrize(
  'factors',
  [
    'constant',
    'constant * linear_warmup * rsqrt_decay',
    'constant * linear_warmup * rsqrt_normalized_decay',
    'constant*linear_warmup*cosine_decay',
    'constant * decay_every',
    'two_constants * linear_warmup',
  ],
)
@pytest.mark.parametrize('minimum', [0.0, 0.01])
def test_equals_trax(factors, minimum):
  from trax.supervised import lr_schedules

  arguments = {
    'factors': factors,
    'constant': 0.3,
    'warmup_steps': 40,
    'decay_factor': 0.5,
    'steps_per_decay': 30,
    'steps_per_cycle': 60,
    'second_constant': 0.02,
    'second_constant_step': 100,
    'minimum': minimum,
  }
  theirs = lr_schedules.multifactor(**arguments)
  ours = jax.jit(multifactor(**arguments))
  np.testing.assert_allclose(
    [ours(n) for n in STEPS],
    [float(theirs(n)) for n in STEPS],
    rtol=1e-5,
    atol=2e-7,
  )


def test_defaults_equal_trax():
  from trax.supervised import lr_schedules

  theirs, ours = lr_schedules.multifactor(), multifactor()
  for n in STEPS:
    assert float(ours(n)) == pytest.approx(float(theirs(n)), rel=1e-5)


def test_cosine_decay_once_ends_at_zero():
  schedule = multifactor(
    'constant * cosine_decay_once',
    constant=2.0,
    cosine_start=100,
    cosine_steps=50,
  )
  assert float(schedule(1)) == float(schedule(100)) == 2.0
  assert float(schedule(125)) == pytest.approx(1.0)
  assert float(schedule(150)) == float(schedule(10**6)) == 0.0


def test_cosine_decay_once_ends_at_cosine_end():
  schedule = multifactor(
    'cosine_decay_once', cosine_start=100, cosine_steps=50, cosine_end=0.1
  )
  assert float(schedule(100)) == 1.0
  assert float(schedule(125)) == pytest.approx(0.55)
  assert float(schedule(10**6)) == pytest.approx(0.1)


def test_cosine_decay_is_cyclic():
  schedule = multifactor('cosine_decay', warmup_steps=10, steps_per_cycle=100)
  assert float(schedule(109)) < 1e-3
  assert float(schedule(110)) == 1.0


def test_an_unknown_factor_is_an_error_that_lists_all_factors():
  with pytest.raises(ValueError, match=r"'cosine_dekay'.*cosine_decay_once"):
    multifactor('constant * cosine_dekay')


@pytest.mark.parametrize(
  'name', ['warmup_steps', 'steps_per_decay', 'steps_per_cycle', 'cosine_steps']
)
def test_periods_are_at_least_one_step(name):
  with pytest.raises(ValueError, match=f'multifactor.{name}.*got 0'):
    multifactor(**{name: 0})


@pytest.mark.parametrize('rate', ['0.1', True, None, -1.0])
def test_a_learning_rate_is_a_number_or_a_schedule(rate):
  with pytest.raises(ValueError, match='learning_rate must'):
    as_schedule(rate)
