"""Tests of the restart with huge pages."""

import errno
import os
import sys

import pytest

from trax_hier import cli, trainer, trax_trainer
from trax_hier.commands import huge_pages


class Restarted(Exception):
  """The process would have been replaced."""


def set_arguments(monkeypatch, arguments):
  """Makes this process one that was started with some arguments."""
  monkeypatch.setattr(sys, 'argv', [__file__, *arguments])
  monkeypatch.setattr(sys, 'orig_argv', ['python', '-m', 'program', *arguments])


@pytest.fixture
def restart(monkeypatch, tmp_path):
  """A program to which huge pages are of use; a restart raises `Restarted`."""
  set_arguments(monkeypatch, ['--output_dir=x'])
  monkeypatch.setattr(sys, 'gettrace', lambda: None)
  setting = tmp_path / 'enabled'
  setting.write_text('always [madvise] never\n')
  monkeypatch.setattr(huge_pages, '_SYSTEM', setting)
  monkeypatch.setattr(os, 'confstr', lambda name: 'glibc 2.36')
  monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')

  def execve(path, arguments, environment):
    raise Restarted(path, arguments, environment)

  monkeypatch.setattr(os, 'execve', execve)
  return setting


@pytest.mark.parametrize(
  'program, arguments',
  [
    (cli, ['train', '--output_dir=x', '--config_file=tiny.gin']),
    (cli, ['evaluate', '--run=x']),
    (trainer, ['--output_dir=x', '--config_file=tiny.gin']),
    (trax_trainer, ['--output_dir=x']),
  ],
)
def test_programs_restart(restart, monkeypatch, program, arguments):
  set_arguments(monkeypatch, arguments)
  with pytest.raises(Restarted) as caught:
    program.main()
  path, command, environment = caught.value.args
  assert path == sys.executable
  assert command == [sys.executable, '-m', 'program', *arguments]
  assert environment['GLIBC_TUNABLES'] == 'glibc.malloc.hugetlb=1'
  assert environment.items() >= os.environ.items()


@pytest.mark.parametrize('program', [cli, trainer])
def test_flag(restart, monkeypatch, program, tmp_path):
  arguments = ['--no_huge_pages', f'--output_dir={tmp_path}']
  arguments.append('--config_file=missing.gin')
  command = ['train'] if program is cli else []
  set_arguments(monkeypatch, [*command, *arguments])
  exits = []
  monkeypatch.setattr(os, '_exit', exits.append)
  assert program.main() == 2  # The file is missing.


@pytest.mark.parametrize(
  'name, value',
  [
    ('GLIBC_TUNABLES', ''),
    ('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1'),
    ('JAX_PLATFORMS', 'cuda'),
    ('JAX_PLATFORMS', 'cuda,cpu'),
  ],
)
def test_environment_without_restart(restart, monkeypatch, name, value):
  monkeypatch.setenv(name, value)
  huge_pages.restart_with_huge_pages()


@pytest.mark.parametrize(
  'setting', ['[always] madvise never', 'always madvise [never]', None]
)
def test_pages_without_restart(restart, setting):
  if setting is None:
    restart.unlink()
  else:
    restart.write_text(setting)
  huge_pages.restart_with_huge_pages()


@pytest.mark.parametrize('version', ['glibc 2.34', 'musl 1.2', ''])
def test_libraries_without_restart(restart, monkeypatch, version):
  monkeypatch.setattr(os, 'confstr', lambda name: version)
  huge_pages.restart_with_huge_pages()


@pytest.mark.parametrize(
  'name, value',
  [
    ('executable', ''),
    ('argv', ['-c', '--output_dir=x']),
    ('argv', ['moved/program.py', '--output_dir=x']),
    ('argv', [__file__, '--changed=x']),
    ('orig_argv', ['python', '-m', 'ipykernel_launcher', '-f', 'kernel.json']),
    ('orig_argv', ['python']),
    ('gettrace', lambda: print),
  ],
)
def test_processes_without_restart(restart, monkeypatch, name, value):
  with pytest.raises(Restarted):
    huge_pages.restart_with_huge_pages()
  monkeypatch.setattr(sys, name, value)
  huge_pages.restart_with_huge_pages()


def test_failed_and_silent_restarts(restart, monkeypatch):
  def execve(path, arguments, environment):
    raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))

  monkeypatch.setattr(os, 'execve', execve)
  monkeypatch.setattr(sys, 'stdout', None)
  huge_pages.restart_with_huge_pages()


def test_plugins_of_accelerators(restart, monkeypatch):
  monkeypatch.delenv('JAX_PLATFORMS')
  util = huge_pages.importlib.util
  monkeypatch.setattr(util, 'find_spec', lambda name: None)
  with pytest.raises(Restarted):
    huge_pages.restart_with_huge_pages()
  monkeypatch.setattr(util, 'find_spec', lambda name: name == 'jax_plugins')
  huge_pages.restart_with_huge_pages()
