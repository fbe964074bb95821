"""Settings of JAX: a cache of programs whose folder cannot be written."""

import os
import pwd

import jax
import pytest

from trax_hier.commands.jax_settings import set_up_jax


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
  """An empty current folder, in a process that has no cache yet."""
  monkeypatch.chdir(tmp_path)
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  yield
  jax.config.update('jax_compilation_cache_dir', before)


def test_a_folder_that_cannot_be_written(no_cache, monkeypatch, capsys):
  monkeypatch.setenv('XDG_CACHE_HOME', os.devnull)
  set_up_jax()
  err = capsys.readouterr().err
  assert f'{os.devnull}/trax_hier/compiled cannot be written' in err
  assert len(err.splitlines()) == 1
  assert jax.config.jax_compilation_cache_dir is None


def test_no_home(no_cache, monkeypatch, capsys):
  def nobody(uid):
    raise KeyError(uid)

  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  monkeypatch.delenv('HOME')
  monkeypatch.setattr(pwd, 'getpwuid', nobody)
  set_up_jax()
  assert 'are not kept for later' in capsys.readouterr().err
  assert not os.listdir()


@pytest.mark.parametrize('given, expected', [(None, 0.1), ('2', 2)])
def test_programs_that_compile_fast_are_kept_too(
  no_cache, monkeypatch, tmp_path, given, expected
):
  name = 'jax_persistent_cache_min_compile_time_secs'
  before = jax.config.values[name]
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.delenv(name.upper(), raising=False)
  if given is not None:
    monkeypatch.setenv(name.upper(), given)
  jax.config.update(name, 2)  # As JAX reads the environment when imported.
  try:
    set_up_jax()
    assert jax.config.values[name] == expected
  finally:
    jax.config.update(name, before)
