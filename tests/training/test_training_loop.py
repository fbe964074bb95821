"""The loop: what a run leaves behind, and that a stopped one carries on."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy_training as toy

from trax_hier.training import (
  SGD,
  Adam,
  CheckpointError,
  NotFiniteError,
  read_metrics,
  train,
)
from trax_hier.training.console import Console, duration
from trax_hier.training.metrics_log import MetricsLog

HERE = Path(__file__).parent


def run(folder, steps=20, **changes):
  arguments = {
    'model': functools.partial(toy.Model, dropout=0.3, memory=True),
    'data': toy.Data(),
    'optimizer': functools.partial(Adam, 0.01),
    'eval_every': 10,
    'log_every': 1,
  }
  return train(str(folder), steps=steps, **(arguments | changes))


def process(folder, steps, *parts, devices=1):
  """The toy run as a process of its own, on fake devices."""
  paths = [str(HERE), str(HERE.parent.parent), os.environ.get('PYTHONPATH', '')]
  return subprocess.Popen(
    [sys.executable, HERE / 'run_toy_training.py', folder, str(steps), *parts],
    env=os.environ
    | {
      'PYTHONPATH': os.pathsep.join(paths),
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    },
    stdout=subprocess.DEVNULL,
  )


def losses(folder, kind='train'):
  """(step, loss) of each line, in the order of the file."""
  lines = [m for m in read_metrics(folder) if m['kind'] == kind]
  return [(m['step'], m['loss']) for m in lines]


def test_a_run_leaves_what_it_promises(tmp_path, capsys):
  result = run(tmp_path / 'a' / 'b')
  folder = tmp_path / 'a' / 'b'
  assert result.step == 20
  assert [step for step, _ in losses(folder)] == list(range(1, 21))
  assert [step for step, _ in losses(folder, 'valid')] == [10, 20]
  assert result.evaluation['loss'] == losses(folder, 'valid')[-1][1]
  line = read_metrics(folder)[3]
  assert line['bits_per_byte'] == pytest.approx(line['loss'] / np.log(2))
  assert line['learning_rate'] == pytest.approx(0.01)
  assert line['tokens_per_second'] > 0
  assert (folder / 'config.gin').exists()
  assert list(folder.glob('events.out.tfevents.*'))
  assert sorted(os.listdir(folder / 'checkpoints')) == ['10', '20']
  out = capsys.readouterr().out
  assert 'counting' in out
  assert 'step 20/20: loss' in out and 'tokens/s' in out


def test_a_run_carried_on_is_a_run_never_stopped(tmp_path):
  whole = run(tmp_path / 'whole', 30)
  run(tmp_path / 'parts', 10)
  # What a killed run wrote past its last checkpoint is written again.
  with (tmp_path / 'parts' / 'metrics.jsonl').open('a') as file:
    file.write('{"kind": "train", "step": 11, "loss": 7.0}\n{"kind": "tr')
  parts = run(tmp_path / 'parts', 30)
  for kind in ('train', 'valid'):
    assert losses(tmp_path / 'parts', kind) == losses(tmp_path / 'whole', kind)
  assert whole.evaluation == parts.evaluation


def test_a_finished_run_only_evaluates(tmp_path, capsys):
  first = run(tmp_path)
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  again = run(tmp_path)
  assert again.evaluation == first.evaluation
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before
  assert 'nothing to train' in capsys.readouterr().out


def test_killed_at_any_moment_it_resumes_to_equal_losses(tmp_path):
  steps = 400
  assert process(tmp_path / 'whole', steps).wait() == 0
  killed = 0
  for wanted in (50, 127, 260):
    child = process(tmp_path / 'killed', steps)
    deadline = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:
      if losses(tmp_path / 'killed')[-1:] >= [(wanted, 0.0)]:
        child.send_signal(signal.SIGKILL)
        break
      time.sleep(0.001)
    killed += child.wait() == -signal.SIGKILL
  assert killed
  assert process(tmp_path / 'killed', steps).wait() == 0
  for kind in ('train', 'valid'):
    assert losses(tmp_path / 'killed', kind) == losses(tmp_path / 'whole', kind)


@pytest.mark.parametrize('parts', [pytest.param(1, marks=pytest.mark.slow), 2])
def test_eight_devices_give_the_losses_of_one(tmp_path, parts):
  children = [
    process(tmp_path / str(devices), 40, str(parts), devices=devices)
    for devices in (1, 8)
  ]
  assert [child.wait() for child in children] == [0, 0]
  for kind in ('train', 'valid'):
    np.testing.assert_allclose(
      losses(tmp_path / '8', kind), losses(tmp_path / '1', kind), rtol=1e-4
    )


def test_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
  explode = lambda n: np.float32(0.1) + (n >= 14) * np.float32(np.inf)  # noqa: E731
  with pytest.raises(
    NotFiniteError,
    match=r'step 14: learning_rate is inf.*checkpoint is of step 10',
  ):
    run(tmp_path, optimizer=functools.partial(SGD, explode))
  assert os.listdir(tmp_path / 'checkpoints') == ['10']
  assert losses(tmp_path)[-1][0] == 13
  assert run(tmp_path, optimizer=functools.partial(SGD, 0.1)).step == 20


def test_another_seed_does_not_resume(tmp_path):
  run(tmp_path, 10)
  kept = (tmp_path / 'config.gin').read_text()
  (tmp_path / 'config.gin').write_text(kept + '# mine\n')
  with pytest.raises(CheckpointError, match=r'train.seed is 1, but .* seed 0'):
    run(tmp_path, 20, seed=1)
  assert (tmp_path / 'config.gin').read_text() == kept + '# mine\n'


def test_checkpoints_of_another_model_stop_the_run(tmp_path):
  run(tmp_path, 10)
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  with pytest.raises(CheckpointError, match='of another model'):
    run(tmp_path, 20, model=toy.Model)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize(
  'name', ['steps', 'eval_every', 'checkpoint_every', 'log_every']
)
@pytest.mark.parametrize('value', [0, -1, 2.5, True])
def test_counts_are_whole_and_positive(tmp_path, name, value):
  with pytest.raises(ValueError, match=f'train.{name} must be a whole number'):
    run(tmp_path, **{name: value})


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match=r'output_dir .* is not writable'):
    run(tmp_path / 'file')


def test_before_compile_comes_before_any_file_or_compile(tmp_path):
  class StopError(Exception):
    pass

  def stop():
    raise StopError

  with pytest.raises(StopError):
    run(tmp_path, before_compile=stop)
  assert not os.listdir(tmp_path)


def test_the_log_drops_a_line_cut_short(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(
    '{"kind": "train", "step": 1, "loss": 2}\n{"kind": "tra'
  )
  log = MetricsLog(tmp_path, 1)
  log.write('train', 2, {'loss': 1.0})
  log.close()
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2]


def test_progress_on_a_terminal(monkeypatch, capsys):
  monkeypatch.setenv('FORCE_COLOR', '1')
  console = Console(100)
  for step in (1, 50, 100):
    console.update(step, f'loss {step}')
  console.say('held-out')
  console.close()
  out = capsys.readouterr().out
  assert 'step 50/100' in out and 'left' in out and 'held-out' in out


@pytest.mark.parametrize(
  'seconds, text',
  [
    (0.4, '0s'),
    (59.6, '1m 00s'),
    (200, '3m 20s'),
    (18420, '5h 07m'),
    (183600, '2d 03h'),
  ],
)
def test_durations(seconds, text):
  assert duration(seconds) == text
