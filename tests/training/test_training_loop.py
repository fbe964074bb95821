"""The training loop: files of a run, interruption and resumption."""

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy_training
from event_files import shown

from trax_hier.training import (
  SGD,
  CheckpointError,
  NotFiniteError,
  Stopped,
  read_metrics,
)

HERE = Path(__file__).parent


def run(folder, steps=20, **changes):
  model = functools.partial(toy_training.Model, dropout=0.3, memory=True)
  arguments = {'model': model, 'eval_every': 10} | changes
  return toy_training.run(folder, steps, **arguments)


def process(folder, steps, devices=1, **arguments):
  """Starts the toy run as a subprocess with fake devices."""
  paths = [*map(str, HERE.parents[:2]), os.environ.get('PYTHONPATH', '')]
  arguments |= {'output_dir': str(folder), 'steps': steps}
  return subprocess.Popen(
    [sys.executable, HERE / 'run_toy_training.py', json.dumps(arguments)],
    env=os.environ
    | {
      'PYTHONPATH': os.pathsep.join(paths),
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
      'JAX_COMPILATION_CACHE_DIR': f'{os.environ["XDG_CACHE_HOME"]}/loop',
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    },
    stdout=subprocess.DEVNULL,
  )


def losses(folder, kind='train'):
  """(step, loss) of each line, in file order."""
  lines = [m for m in read_metrics(folder) if m['kind'] == kind]
  return [(m['step'], m['loss']) for m in lines]


def test_files_and_output_of_a_run(tmp_path, capsys):
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


def test_a_resumed_run_equals_an_uninterrupted_run(tmp_path):
  whole = run(tmp_path / 'whole', 30)
  run(tmp_path / 'resumed', 10)
  # Lines that a killed run wrote after its last checkpoint are replaced.
  with (tmp_path / 'resumed' / 'metrics.jsonl').open('a') as file:
    file.write('{"kind": "train", "step": 11, "loss": 7.0}\n{"kind": "tr')
  resumed = run(tmp_path / 'resumed', 30)
  for kind in ('train', 'valid'):
    expected = losses(tmp_path / 'whole', kind)
    assert losses(tmp_path / 'resumed', kind) == expected
  assert whole.evaluation == resumed.evaluation


def test_a_finished_run_only_evaluates(tmp_path, capsys):
  first = run(tmp_path)
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  again = run(tmp_path)
  assert again.evaluation == first.evaluation
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before
  assert 'nothing to train' in capsys.readouterr().out


def test_eval_batches_may_change_when_a_run_resumes(tmp_path, capsys):
  shares = lambda: [  # noqa: E731
    (m['step'], m['coverage'])
    for m in read_metrics(tmp_path)
    if m['kind'] == 'valid'
  ]
  first = run(tmp_path, 10, eval_batches=1)
  assert first.evaluation['coverage'] == 1 / 3
  assert 'on 33.3% of the split' in capsys.readouterr().out
  run(tmp_path, 10)
  out = capsys.readouterr().out
  assert 'held-out figures up to step 10 are of 33.3% of the split, ' in out
  assert 'on the whole split' in out
  run(tmp_path, 20)
  assert 'are not compared' in capsys.readouterr().out
  assert shares() == [(10, 1 / 3), (10, 1.0), (20, 1.0)]
  with pytest.raises(ValueError, match=r'train\.eval_batches must be None'):
    run(tmp_path, eval_batches=0)


def stop(child, signal_, moment):
  """Sends the signal when `moment()` is true; returns the exit code."""
  deadline = time.monotonic() + 120
  while child.poll() is None and time.monotonic() < deadline:
    if moment():
      child.send_signal(signal_)
      break
    time.sleep(0.0005)
  return child.wait()


def test_a_run_killed_at_any_moment_resumes_to_equal_losses(tmp_path):
  steps = 400
  assert process(tmp_path / 'whole', steps).wait() == 0
  folder = tmp_path / 'stopped'
  at = np.random.default_rng(time.time_ns()).integers(30, steps - 30, 3)

  def past(step):
    return lambda: losses(folder)[-1:] >= [(step, 0.0)]

  def saving():
    newest = losses(folder)[-1:] >= [(max(at[:2]) + 1, 0.0)]
    return newest and any(folder.glob('checkpoints/*tmp*'))

  kill = signal.SIGKILL
  moments = (kill, past(min(at[:2]))), (kill, past(max(at[:2]))), (kill, saving)
  codes = [stop(process(folder, steps), *moment) for moment in moments]
  assert codes.count(-kill) >= 2, (codes, at)
  for _ in range(3):  # SIGTERM saves a checkpoint of the last step.
    before = os.listdir(folder / 'checkpoints')
    code = stop(process(folder, steps), signal.SIGTERM, past(at[2]))
    if code == 143:
      last = losses(folder)[-1][0]
      assert str(last) in set(os.listdir(folder / 'checkpoints')) - set(before)
      break
    assert code in (-signal.SIGTERM, 0)  # Before it listens, or after it ends.
  assert process(folder, steps).wait() == 0
  for kind in ('train', 'valid'):
    assert losses(folder, kind) == losses(tmp_path / 'whole', kind)


FULLY_SHARDED = {'data': 2, 'fsdp': -1}
STEPS = 100


@pytest.fixture(scope='module')
def on_one_device(tmp_path_factory):
  """The folder of a run of `STEPS` steps on one device."""
  folder = tmp_path_factory.mktemp('one')
  assert process(folder, STEPS).wait() == 0
  return folder


def equal_to_rounding(folder, other, kind='train'):
  np.testing.assert_allclose(
    losses(folder, kind), losses(other, kind), rtol=1e-4
  )


@pytest.mark.slow
def test_a_killed_run_resumes_on_another_mesh(tmp_path, on_one_device):
  child = process(tmp_path, STEPS, 8, mesh=FULLY_SHARDED)
  killed = stop(
    child, signal.SIGKILL, lambda: losses(tmp_path)[-1:] >= [(25, 0.0)]
  )
  assert killed == -signal.SIGKILL
  begun = losses(tmp_path)[-1][0]
  assert 25 <= begun < STEPS
  assert process(tmp_path, STEPS).wait() == 0
  equal_to_rounding(tmp_path, on_one_device)


@pytest.mark.slow
def test_accumulation_on_eight_devices_equals_one(tmp_path):
  for devices in (1, 8):
    child = process(tmp_path / f'{devices}', 40, devices, accumulate_steps=2)
    assert child.wait() == 0
  for kind in ('train', 'valid'):
    equal_to_rounding(tmp_path / '8', tmp_path / '1', kind)


def hosts(folder, steps, **arguments):
  """Starts the toy run as two connected processes of two devices each."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    coordinator = f'localhost:{free.getsockname()[1]}'
  return [
    process(
      folder,
      steps,
      2,
      mesh=FULLY_SHARDED,
      process=(coordinator, 2, which),
      **arguments,
    )
    for which in range(2)
  ]


@pytest.mark.slow
def test_losses_of_two_hosts_equal_those_of_one(tmp_path, on_one_device):
  assert [host.wait(120) for host in hosts(tmp_path, STEPS)] == [0, 0]
  for kind in ('train', 'valid'):
    equal_to_rounding(tmp_path, on_one_device, kind)
  assert sorted(os.listdir(tmp_path / 'checkpoints'), key=int)[-1] == f'{STEPS}'
  # Only one host writes lines.
  assert [step for step, _ in losses(tmp_path)] == [*range(1, STEPS + 1)]


@pytest.mark.slow
def test_hosts_make_their_own_rows(tmp_path):
  one, some = tmp_path / 'one', tmp_path / 'some'
  assert process(one, 90, by_row=True).wait() == 0
  for steps, n_hosts in (30, 2), (60, 1), (90, 2):
    start = hosts if n_hosts == 2 else lambda *x, **y: [process(*x, **y)]
    children = start(some, steps, by_row=True)
    assert [child.wait(120) for child in children] == [0] * n_hosts
  for kind in ('train', 'valid'):
    equal_to_rounding(some, one, kind)
  for host, own in enumerate((range(8), range(8, 16))):
    made = json.loads((some / f'rows_{host}.json').read_text())
    # The first row shows the shapes of a batch, and is the prompt of a sample.
    assert made == dict.fromkeys(('train', 'valid'), sorted({0, *own}))
    weights = np.load(some / f'rows_{host}.npz').values()
    expected = np.load(one / 'rows_0.npz').values()
    for x, y in zip(weights, expected, strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  probed = [m for m in read_metrics(some) if m['kind'] == 'probe']
  expected = [m for m in read_metrics(one) if m['kind'] == 'probe']
  assert [m['step'] for m in probed] == [30, 60, 90]
  assert [m.keys() for m in probed] == [m.keys() for m in expected]
  assert ('probe/sample', 90) in [(tag[:12], i) for tag, i in shown(some)]


@pytest.mark.slow
def test_hosts_fall_back_together(tmp_path, on_one_device):
  assert [host.wait(120) for host in hosts(tmp_path, 60)] == [0, 0]
  for file in (tmp_path / 'checkpoints' / '60').rglob('d/*'):
    file.write_bytes(file.read_bytes()[:50])
  assert [host.wait(120) for host in hosts(tmp_path, STEPS)] == [0, 0]
  assert os.listdir(tmp_path / 'checkpoints_broken') == ['60']
  equal_to_rounding(tmp_path, on_one_device)


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_hosts_stop_together(tmp_path, number):
  first, second = hosts(tmp_path, 100_000)

  def past():
    return losses(tmp_path)[-1:] >= [(30, 0.0)]

  assert stop(second, number, past) == 143
  assert first.wait(60) == 143
  last = losses(tmp_path)[-1][0]
  assert (tmp_path / 'checkpoints' / str(last)).is_dir()


def test_sigterm_saves_a_checkpoint_and_stops(tmp_path):
  class Interrupted(toy_training.Data):
    def train_batch(self, step, shard=0, n_shards=1):
      if step == 13:
        os.kill(os.getpid(), signal.SIGTERM)
      return super().train_batch(step, shard, n_shards)

  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(Stopped, match='checkpoint 13 is saved'):
    run(tmp_path, data=Interrupted())
  assert signal.getsignal(signal.SIGTERM) is before
  assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['10', '13']
  assert losses(tmp_path)[-1][0] == 13


def test_a_resumed_run_evaluates_where_sigterm_did_not(tmp_path):
  class Interrupted(toy_training.Data):
    def train_batch(self, step, shard=0, n_shards=1):
      if step == 10:
        os.kill(os.getpid(), signal.SIGTERM)
      return super().train_batch(step, shard, n_shards)

  run(tmp_path / 'whole')
  with pytest.raises(Stopped):
    run(tmp_path / 'stopped', data=Interrupted())
  assert losses(tmp_path / 'stopped', 'valid') == []
  run(tmp_path / 'stopped')
  for kind in ('train', 'valid'):
    assert losses(tmp_path / 'stopped', kind) == losses(
      tmp_path / 'whole', kind
    )


@pytest.mark.parametrize('with_folder', [True, False])
def test_metrics_without_their_checkpoints_are_not_wiped(
  tmp_path, capsys, with_folder
):
  run(tmp_path, 10)
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  shutil.rmtree(tmp_path / 'checkpoints')
  if with_folder:
    (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(CheckpointError, match=r'11 lines, .* --accept_changes'):
    run(tmp_path, 10)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before
  with (tmp_path / 'metrics.jsonl').open('ab') as file:
    file.write(b'null\n\xff\n')
  run(tmp_path, 10, accept_changes=True)
  out = capsys.readouterr().out
  assert '11 lines of metrics.jsonl are deleted' in out
  assert '2 of 13 lines are not metrics' in out
  assert [step for step, _ in losses(tmp_path)] == list(range(1, 11))


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path):
  run(tmp_path / 'killed', 3, eval_every=3)
  lines = (tmp_path / 'killed' / 'metrics.jsonl').read_text().splitlines()
  folder = tmp_path / 'again'
  (folder / 'checkpoints').mkdir(parents=True)
  (folder / 'metrics.jsonl').write_text('\n'.join(lines[:2]) + '\n')
  assert run(folder, 3, eval_every=3).step == 3
  assert losses(folder) == losses(tmp_path / 'killed')


def test_a_metric_that_is_not_finite_stops_before_saving(tmp_path):
  explode = lambda n: np.float32(0.1) + (n >= 14) * np.float32(np.inf)  # noqa: E731
  with pytest.raises(
    NotFiniteError,
    match=r'step 14: learning_rate is inf.*last checkpoint: step 10',
  ):
    run(tmp_path, optimizer=functools.partial(SGD, explode))
  assert os.listdir(tmp_path / 'checkpoints') == ['10']
  assert losses(tmp_path)[-1][0] == 13
  assert run(tmp_path, optimizer=functools.partial(SGD, 0.1)).step == 20


def test_an_incomplete_checkpoint_does_not_disable_init_from(tmp_path, capsys):
  run(tmp_path / 'first', 10)
  (tmp_path / 'tuned' / 'checkpoints' / '10.orbax-checkpoint-tmp').mkdir(
    parents=True
  )
  run(tmp_path / 'tuned', 10, init_from=str(tmp_path / 'first'))
  assert 'initial weights:' in capsys.readouterr().out


def test_a_run_does_not_resume_with_another_seed(tmp_path):
  run(tmp_path, 10)
  kept = (tmp_path / 'config.gin').read_text()
  (tmp_path / 'config.gin').write_text(kept + '# edited\n')
  with pytest.raises(CheckpointError, match=r'train.seed is 1, but .* seed 0'):
    run(tmp_path, 20, seed=1)
  assert (tmp_path / 'config.gin').read_text() == kept + '# edited\n'


def test_a_run_does_not_resume_with_another_model(tmp_path):
  run(tmp_path, 10)
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  with pytest.raises(CheckpointError, match='to another model'):
    run(tmp_path, 20, model=toy_training.Model)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize(
  'name', ['steps', 'eval_every', 'checkpoint_every', 'log_every']
)
@pytest.mark.parametrize('value', [0, -1, 2.5, True])
def test_counts_must_be_positive_integers(tmp_path, name, value):
  with pytest.raises(ValueError, match=f'train.{name} must be a whole number'):
    run(tmp_path, **{name: value})


def test_output_dir_must_be_writable(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match=r'output_dir .* is not writable'):
    run(tmp_path / 'file')


def test_before_compile_is_called_before_files_are_written(tmp_path):
  class StopError(Exception):
    pass

  def stop():
    raise StopError

  with pytest.raises(StopError):
    run(tmp_path, before_compile=stop)
  assert not os.listdir(tmp_path)
