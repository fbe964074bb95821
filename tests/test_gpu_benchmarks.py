"""The script of GPU benchmarks, as a smoke test on CPU."""

import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / 'benchmarks' / 'gpu.sh'


def gpu(*flags):
  environment = os.environ | {'PYTHON': sys.executable, 'XLA_FLAGS': ''}
  return subprocess.run(
    [SCRIPT, *flags], env=environment, capture_output=True, text=True
  )


@pytest.mark.parametrize(
  'flags, message',
  [
    ((), '--output=DIR is missing'),
    (('--output=x', '--tinny'), 'unknown argument --tinny'),
    (('--output=x', '--parts=train,tests'), 'unknown part tests'),
    (('--output=x', '--enwik8=missing.zip'), 'missing.zip: no such file'),
  ],
)
def test_mistakes_exit_at_once(flags, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  result = gpu(*flags)
  assert result.returncode == 2
  assert message in result.stderr
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_parts_write_their_figures(tmp_path):
  result = gpu(f'--output={tmp_path}', '--tiny', '--parts=train,memory,pair')
  assert result.returncode == 0, result.stdout + result.stderr
  summary = (tmp_path / 'summary.txt').read_text()
  assert all(f'{part}: done' in summary for part in ('train', 'memory', 'pair'))
  train = (tmp_path / 'train.txt').read_text().splitlines()
  rows = [line for line in train if line.startswith(('ours', 'trax'))]
  assert len(rows) == 4
  assert all(float(row.split()[-1]) < 6 for row in rows)  # The losses.
  assert 'failed' not in (tmp_path / 'memory.txt').read_text()
  assert 'skipped' in (tmp_path / 'pair.txt').read_text()
