"""Profiles of a few steps."""

import functools

import jax
import numpy as np
import pytest
import toy_training

from trax_hier.training import SGD, NotFiniteError


@pytest.mark.parametrize(
  'value', [5, (1,), (0, 3), (2, 0), (1, 2.5), 'x', [1, True]]
)
def test_profile_steps_are_checked(tmp_path, value):
  with pytest.raises(ValueError, match=r'train\.profile_steps must be None'):
    toy_training.run(tmp_path, profile_steps=value)


def profiles(folder):
  return list(folder.glob('profile/plugins/profile/*/*.xplane.pb'))


def test_a_failing_run_leaves_a_profile(tmp_path, capsys):
  explode = lambda n: np.float32(0.1) + (n >= 3) * np.float32(np.inf)  # noqa: E731
  with pytest.raises(NotFiniteError):
    toy_training.run(
      tmp_path,
      9,
      optimizer=functools.partial(SGD, explode),
      profile_steps=(2, 5),
      eval_every=9,
    )
  assert profiles(tmp_path)
  assert (
    f'profile of steps 2 to 4: {tmp_path}/profile' in capsys.readouterr().out
  )
  # Profiling has stopped.
  jax.profiler.start_trace(str(tmp_path / 'other'))
  jax.profiler.stop_trace()


def test_profile_ends_before_the_evaluation(tmp_path, stub_steps, capsys):
  toy_training.run(tmp_path, 5, profile_steps=(2, 1), eval_every=4)
  assert profiles(tmp_path)
  before, _, after = capsys.readouterr().out.partition(
    'profile of steps 2 to 2'
  )
  assert 'held-out' not in before and 'held-out' in after
  # Steps that the run does not reach are left out.
  toy_training.run(tmp_path, 6, profile_steps=(2, 4), eval_every=4)
  assert len(profiles(tmp_path)) == 1
