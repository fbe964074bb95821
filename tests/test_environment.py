"""Programs on a system without the chosen devices."""

import os
import subprocess
import sys

import pytest
from messages import messages

PROGRAMS = [
  ['trax_hier.trainer', '--output_dir=run'],
  ['trax_hier.cli', 'describe'],
]


@pytest.mark.parametrize('program', PROGRAMS)
@pytest.mark.parametrize('platform', ['nonsense'])
def test_unknown_devices_are_one_message(tmp_path, program, platform):
  done = subprocess.run(
    [sys.executable, '-m', *program, '--config_file=quickstart.gin'],
    env=os.environ | {'JAX_PLATFORMS': platform},
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2, done.stderr
  assert f'JAX_PLATFORMS={platform}: ' in done.stderr
  assert len(messages(done.stderr).splitlines()) == 1
