"""The lock of a run directory."""

import os
import re
import subprocess
import sys

import pytest

from trax_hier.training.run_lock import FolderInUseError, locked


def test_the_second_one_is_told_who_holds_the_folder(tmp_path):
  with locked(tmp_path, pytest.fail):
    held = rf'writes to {re.escape(str(tmp_path))}: process {os.getpid()} on .*'
    with (
      pytest.raises(FolderInUseError, match=held + r', since \d{4}-'),
      locked(tmp_path, pytest.fail),
    ):
      pytest.fail('two trainers hold the lock')
  with locked(tmp_path, pytest.fail):
    pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
  program = (
    'import os, pathlib, signal, sys\n'
    'from trax_hier.training.run_lock import locked\n'
    'with locked(pathlib.Path(sys.argv[1]), print):\n'
    '  os.kill(os.getpid(), signal.SIGKILL)\n'
  )
  done = subprocess.run([sys.executable, '-c', program, tmp_path], check=False)
  assert done.returncode < 0 and (tmp_path / '.lock').read_text()
  with locked(tmp_path, pytest.fail):
    assert f'process {os.getpid()} ' in (tmp_path / '.lock').read_text()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
  def acquire(self):
    raise OSError(37, 'No locks available')

  monkeypatch.setattr('filelock.FileLock.acquire', acquire)
  said = []
  with locked(tmp_path, said.append):
    pass
  assert len(said) == 1 and 'No locks available' in said[0]
