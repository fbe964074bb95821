"""Commands, and `load` from Python, where JAX finds no devices."""

import os
import subprocess
import sys

import jax
import pytest

import trax_hier
from trax_hier.commands.failures import Failure, user_errors
from trax_hier.compat import ShapeDtype, tl


def _raise():
  raise AssertionError


def in_layer():
  """A failure of JAX inside a layer."""
  tl.Serial(tl.Fn('Random', lambda x: _raise())).init(ShapeDtype((1,)))


MESSAGE = 'JAX_PLATFORMS=cuda: .*its plugin is not installed'


@pytest.fixture
def no_devices(monkeypatch):
  monkeypatch.setattr(jax, 'local_devices', _raise)
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')


@pytest.mark.parametrize('use_jax', [_raise, in_layer])
def test_errors_of_jax_tell_that_there_are_none(no_devices, use_jax):
  with pytest.raises(Failure, match=MESSAGE) as failure, user_errors():
    use_jax()
  assert failure.value.code == 2


def test_an_error_with_devices_is_a_bug():
  with pytest.raises(AssertionError), user_errors():
    _raise()


def test_load_tells_it_too(no_devices, tmp_path):
  with pytest.raises(RuntimeError, match=MESSAGE):
    trax_hier.load(tmp_path)


def test_the_error_that_jax_raises():
  code = """
import jax
from trax_hier.commands.failures import user_errors
with user_errors():
  jax.random.PRNGKey(0)
"""
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=os.environ | {'JAX_PLATFORMS': 'cuda'},
    capture_output=True,
    text=True,
    check=False,
  )
  last = done.stderr.splitlines()[-1]
  assert 'Failure: JAX_PLATFORMS=cuda: JAX finds no such devices' in last
