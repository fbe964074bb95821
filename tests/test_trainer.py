"""The trainer command: its output and exit codes."""

import atexit
import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import gin
import jax
import pytest
import toy_training

from trax_hier import config, generation, trainer
from trax_hier.training import loop
from trax_hier.training.logging.tensorboard import TensorBoard
from trax_hier.training.run_lock import locked

GIN = """
train.model = @toy.Model
train.data = @toy.Data()
train.optimizer = @Adam
train.steps = 20
train.eval_every = 10
Adam.learning_rate = @multifactor()
multifactor.factors = 'constant * linear_warmup'
multifactor.constant = 0.05
multifactor.warmup_steps = 5
toy.Model.dropout = 0.1
"""


@pytest.fixture(scope='module', autouse=True)
def toy_configurables():
  """Registers the toy model and data with gin."""
  gin.external_configurable(toy_training.Model, module='toy')
  gin.external_configurable(toy_training.Data, module='toy')


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
  """Runs the command with the toy gin file; returns code, stdout, stderr."""
  path = tmp_path / 'toy.gin'
  path.write_text(GIN)

  def sample_text(model, weights, vocab, prompt, *_, **settings):
    assert len(prompt) == 6
    return 'xyz'

  monkeypatch.setattr(generation, 'sample_text', sample_text)

  def run(*bindings, files=(str(path),), folder=tmp_path / 'run', flags=()):
    arguments = [*flags, *(f'--config_file={file}' for file in files)]
    arguments += [f'--config={binding}' for binding in bindings]
    code = trainer.main([*arguments, f'--output_dir={folder}'])
    return (code, *capsys.readouterr())

  yield run
  config.clear()


def test_it_trains_and_prints_the_command_to_continue(run, tmp_path):
  code, out, err = run()
  assert (code, err) == (0, '')
  assert out.count('held-out at step 20') == 1 and 'bits per byte' in out
  assert ']xyz' in out
  assert f'run directory: {tmp_path}/run' in out
  assert 'train.steps = 40' in out.splitlines()[-1]


def test_it_says_what_it_does(run):
  _, out, _ = run()
  lines = out.splitlines()
  assert lines[0] == 'loading JAX and the configuration ...'
  for activity in 'initializing', 'compiling', 'evaluating', 'sampling':
    assert any(x.startswith(activity) for x in lines), activity
  first = next(x for x in lines if x.startswith('step 1/20: '))
  assert 'tokens/s' not in first and first.endswith(' elapsed')
  assert 'saving checkpoint 20 ...' in lines
  _, out, _ = run('train.steps = 20')
  lines = out.splitlines()
  assert 'nothing to train: train.steps is 20' in lines
  assert 'loading the newest checkpoint ...' in lines
  assert out.count('held-out at step 20') == 1 and ']xyz' in out
  assert 'train.steps = 20 is reached' in lines[-2]


def test_look_every_0_takes_no_sample(run, monkeypatch):
  def sample_text(*_, **settings):
    raise AssertionError

  monkeypatch.setattr(generation, 'sample_text', sample_text)
  for _ in 'new', 'finished':
    code, out, _ = run('train.look_every = 0')
    assert code == 0 and 'sampl' not in out


@pytest.mark.parametrize(
  'factors, end, says',
  [
    ('constant * linear_warmup', 0.0, None),
    ('constant * cosine_decay', 0.0, None),
    ('constant * cosine_decay_once', 0.0, '0 and stays there; to stretch'),
    ('constant * cosine_decay_once', 0.1, '0.005 and stays there; to stretch'),
    ('two_constants', 0.0, '0.01 and stays there'),
  ],
)
def test_the_end_of_the_schedule_is_told(run, factors, end, says):
  code, out, _ = run(
    f"multifactor.factors = '{factors}'",
    'multifactor.cosine_steps = 20',
    f'multifactor.cosine_end = {end}',
    'multifactor.second_constant_step = 10',
    'multifactor.steps_per_cycle = 20',
    'train.look_every = 0',
  )
  line = out.splitlines()[-2]
  assert code == 0
  if says is None:
    assert 'is reached' in line
  else:
    assert line.startswith(f'the learning rate has fallen to {says}')
    stretch = "--config='multifactor.cosine_steps = 40' --accept_changes"
    assert (stretch in line) == ('cosine' in factors)


def test_the_saved_configuration_continues_the_run(run, tmp_path):
  assert run()[0] == 0
  saved = tmp_path / 'run' / 'config.gin'
  code, out, err = run('train.steps = 30', files=[saved])
  assert (code, err) == (0, '')
  assert 'resuming after step 20' in out and 'at step 30' in out


def test_a_changed_configuration_is_listed_and_refused(run, tmp_path):
  assert run()[0] == 0
  saved = (tmp_path / 'run' / 'config.gin').read_bytes()
  code, out, err = run(
    'train.steps = 30',
    'toy.Model.dropout = 0.2',
    'train.optimizer = @SGD',
    'SGD.learning_rate = 0.1',
  )
  assert code == 1 and 'resuming' not in out
  first, *changes, last = err.splitlines()
  assert f'changed since the checkpoints in {tmp_path}/run' in first
  assert changes == [
    '  toy.Model.dropout: 0.1 then, 0.2 now',
    '  train.optimizer: @Adam then, @SGD now',
  ]
  assert '--accept_changes' in last
  assert (tmp_path / 'run' / 'config.gin').read_bytes() == saved


def test_parameters_that_may_change_when_a_run_resumes(run, tmp_path):
  assert run()[0] == 0
  free = (
    'train.steps = 25',
    'train.eval_every = 5',
    'train.log_every = 2',
    'train.keep_checkpoints = 1',
    "train.mesh = {'fsdp': 1}",
  )
  code, out, err = run(*free)
  assert (code, err) == (0, '') and 'resuming after step 20' in out
  # A parameter that the saved text lacks is unchanged if it has its default.
  file = tmp_path / 'run' / 'config.gin'
  lines = file.read_text().splitlines()
  assert 'train.accumulate_steps = 1' in lines
  lines.remove('train.accumulate_steps = 1')
  file.write_text('\n'.join(lines))
  code, out, _ = run('train.steps = 30')
  assert code == 0 and 'resuming after step 25' in out
  code, out, _ = run(
    'train.steps = 35',
    'multifactor.constant = 0.01',
    flags=['--accept_changes'],
  )
  assert code == 0 and 'resuming after step 30' in out
  assert 'multifactor.constant = 0.01' in file.read_text()


def test_sigterm_is_code_143(run, monkeypatch):
  def interrupted(self, step, *_, plain=toy_training.Data.train_batch):
    if step == 13:
      os.kill(os.getpid(), signal.SIGTERM)
    return plain(self, step)

  monkeypatch.setattr(toy_training.Data, 'train_batch', interrupted)
  code, _, err = run()
  assert code == 143
  assert err.strip() == (
    'trax_hier.trainer: received SIGTERM: checkpoint 13 is saved; the same '
    'command resumes the run'
  )


def test_ctrl_c_saves_like_sigterm(run, monkeypatch):
  # Programs in the background of a shell ignore SIGINT.
  signal.signal(signal.SIGINT, signal.default_int_handler)

  def interrupted(self, step, *_, plain=toy_training.Data.train_batch):
    if step == 13:
      os.kill(os.getpid(), signal.SIGINT)
    return plain(self, step)

  with monkeypatch.context() as patched:
    patched.setattr(toy_training.Data, 'train_batch', interrupted)
    code, _, err = run()
  assert code == 130
  assert err.strip().splitlines()[-1] == (
    'trax_hier.trainer: interrupted: checkpoint 13 is saved; the same command '
    'resumes the run'
  )
  # The next call in this process has its own bindings and signal handlers.
  code, out, err = run('train.eval_every = 20')
  assert (code, err) == (0, '') and 'resuming after step 13' in out
  assert 'held-out at step 20' in out
  code, _, err = run()
  assert code == 0
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_batch_that_cannot_be_read_is_code_1(run, monkeypatch):
  def broken(self, step, *_, plain=toy_training.Data.train_batch):
    if step == 13:
      raise ValueError('my.jsonl:14: no summary')
    return plain(self, step)

  with monkeypatch.context() as patched:
    patched.setattr(toy_training.Data, 'train_batch', broken)
    code, _, err = run()
  assert code == 1
  assert err.strip() == (
    'trax_hier.trainer: the batch of step 14 cannot be read: my.jsonl:14: no '
    'summary; training stopped: checkpoint 13 is saved; the same command '
    'resumes the run'
  )
  assert 'resuming after step 13' in run()[1]


def test_a_second_trainer_in_one_folder_is_code_2(run, tmp_path):
  (tmp_path / 'run').mkdir()
  with locked(tmp_path / 'run', print):
    code, _, err = run()
  assert code == 2
  assert f'another trainer writes to {tmp_path}/run: process' in err
  assert len(err.strip().splitlines()) == 1
  assert sorted(os.listdir(tmp_path / 'run')) == ['.lock']
  assert run()[0] == 0


def test_bindings_of_an_earlier_call_are_gone(run, tmp_path):
  assert run('toy.Data.n_eval = 2', 'train.steps = 1')[0] == 0
  assert run('train.steps = 1', folder=tmp_path / 'other')[0] == 0
  saved = (tmp_path / 'other' / 'config.gin').read_text()
  assert 'toy.Data.n_eval = 3' in saved


def test_a_full_disk_is_code_1(run, monkeypatch, tmp_path):
  def usage(_):
    return types.SimpleNamespace(free=100)

  with monkeypatch.context() as patched:
    patched.setattr(shutil, 'disk_usage', usage)
    code, _, err = run()
  assert (
    code == 1
    and 'MB, but 0.0 MB are free; last complete checkpoint: none' in err
  )
  assert len(err.strip().splitlines()) == 1
  plain = TensorBoard.scalars

  def scalars(self, kind, step, values):
    if step == 15:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    plain(self, kind, step, values)

  with monkeypatch.context() as patched:
    patched.setattr(TensorBoard, 'scalars', scalars)
    code, _, err = run('train.log_every = 1')
  assert code == 1 and len(err.strip().splitlines()) == 1
  assert f'cannot write to {tmp_path}/run: No space left on device' in err
  # The state is good, and is saved before the error ends the run.
  assert 'checkpoint 16 is saved; the same command resumes the run' in err
  code, out, _ = run('train.log_every = 1')
  assert code == 0 and 'resuming after step 16' in out


def test_an_output_dir_that_cannot_be_created_is_code_2(run, tmp_path):
  (tmp_path / 'file').write_text('')
  code, _, err = run(folder=tmp_path / 'file' / 'run')
  assert code == 2 and 'is not writable' in err
  assert len(err.strip().splitlines()) == 1


def test_compiled_programs_are_cached_on_disk(run):
  assert run()[0] == 0
  folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
  assert folder == pathlib.Path(
    os.environ['XDG_CACHE_HOME'], 'trax_hier/compiled'
  )
  assert jax.config.jax_compilation_cache_max_size > 0


@pytest.mark.parametrize('flag', ['--coordinator=x:1', '--process_id=0'])
def test_hosts_need_all_three_flags(run, flag):
  code, _, err = run(flags=[flag])
  assert code == 2 and '--n_processes and --process_id go together' in err


def held_out(out):
  """The last evaluation of a run, as printed."""
  (*_, line) = [x for x in out.splitlines() if x.startswith('held-out at')]
  return line.partition(': ')[2]


def test_it_starts_with_the_weights_of_another_run(run, tmp_path):
  _, first, _ = run()
  still = 'multifactor.constant = 0.0', 'train.steps = 1'
  source = f"train.init_from = '{tmp_path}/run'"
  code, out, err = run(source, *still, folder=tmp_path / 'tuned')
  assert (code, err) == (0, '')
  assert f'initial weights: {tmp_path}/run, step 20' in out
  # Its only step has a learning rate of 0.
  assert held_out(out) == held_out(first)

  code, _, err = run(source, 'toy.Model.memory = True', folder=tmp_path / 'new')
  assert code == 2 and len(err.strip().splitlines()) == 1
  assert 'train.init_from' in err and 'toy.Model.memory = False there' in err
  # A started run resumes with its own weights.
  (tmp_path / 'run').rename(tmp_path / 'gone')
  more = still[0], 'train.steps = 2'
  code, out, _ = run(source, *more, folder=tmp_path / 'tuned')
  assert code == 0 and 'resuming after step 1' in out
  assert 'initial weights:' not in out
  code, _, err = run(
    f"train.init_from = '{tmp_path}/none'", folder=tmp_path / 'new'
  )
  assert code == 2 and f"train.init_from = '{tmp_path}/none'" in err
  assert not (tmp_path / 'new' / 'config.gin').exists()


@pytest.mark.parametrize(
  'binding, message',
  [
    ('train.stepz = 3', 'stepz'),
    ('train.steps = 0', 'train.steps must be a whole number'),
    ("train.steps = 'many'", 'train.steps'),
    ('train.optimizer = @Adam()', '@Adam'),
    ('train.model = @toy.Modle', 'Modle'),
    ('toy.Model.dropuot = 0.2', 'dropuot'),
    ('SGD.momentum = 0.9', 'SGD'),
    ("multifactor.factors = 'constant * x'", "unknown factor 'x'"),
    ("train.compute_dtype = 'float8'", 'train.compute_dtype must be one of'),
    ('toy.Data.rows = %gin.REQUIRED', 'toy.Data.rows'),
  ],
)
def test_a_bad_binding_is_one_message_and_code_2(
  run, tmp_path, binding, message
):
  code, out, err = run(binding)
  assert code == 2
  assert message in err and len(err.strip().splitlines()) == 1
  assert 'Traceback' not in err and 'step' not in out
  assert not (tmp_path / 'run').exists()


def test_a_missing_binding_is_named(run, tmp_path):
  path = tmp_path / 'empty.gin'
  path.write_text('train.steps = 3\n')
  code, _, err = run(files=[path])
  assert code == 2 and 'train.data must be given' in err


def test_a_missing_file_is_code_2(run):
  code, _, err = run(files=['nowhere.gin'])
  assert code == 2 and 'nowhere.gin' in err


def test_an_error_in_training_is_code_1(run):
  code, _, err = run('multifactor.constant = 1e30')
  assert code == 1
  assert 'is nan' in err or 'is inf' in err
  assert len(err.strip().splitlines()) == 1


def test_ctrl_c_is_code_130(run, monkeypatch):
  def interrupt(**_):
    raise KeyboardInterrupt

  ends = []
  monkeypatch.setattr(atexit, 'register', lambda *args: ends.append(args))
  monkeypatch.setattr(loop, 'train', interrupt)
  code, _, err = run()
  assert code == 130
  assert 'no checkpoint is saved; the same command starts from' in err
  assert ends == [(os._exit, 130)]


def test_help_is_instant():
  start = time.monotonic()
  command = [sys.executable, '-m', 'trax_hier.trainer', '--help']
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert '--config_file' in done.stdout
  assert time.monotonic() - start < 2


def test_a_bad_binding_as_a_process(tmp_path):
  command = [sys.executable, '-m', 'trax_hier.trainer', '--config=a.b = 1']
  command.append(f'--output_dir={tmp_path}')
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert 'Traceback' not in done.stderr and 'a.b' in done.stderr
