"""Signals at every moment of a run, and errors: nothing is lost."""

import os
import signal

import pytest
import toy_training

from trax_hier.training import Stopped, read_metrics
from trax_hier.training.checkpoints import saved_steps
from trax_hier.training.data_error import DataError
from trax_hier.training.stopping import listen_for_signals


class Data(toy_training.Data):
  """Calls a function before a training batch, or a held-out batch."""

  def __init__(
    self, before_train=lambda step: None, before_eval=lambda i: None
  ):
    super().__init__()
    self._before_train, self._before_eval = before_train, before_eval

  def train_batch(self, step, shard=0, n_shards=1):
    self._before_train(step)
    return super().train_batch(step, shard, n_shards)

  def eval_batches(self, split):
    before = self._before_eval

    class Batches(list):
      def __getitem__(self, i):
        before(i)
        return super().__getitem__(i)

    return Batches(super().eval_batches(split))


def send(number, times=1):
  """A function that sends a signal when called with 2, the first times."""
  left = [number] * times

  def call(at):
    while at == 2 and left:
      os.kill(os.getpid(), left.pop())

  return call


def losses(folder):
  return [(x['kind'], x['step'], x['loss']) for x in read_metrics(folder)]


def run(folder, **changes):
  return toy_training.run(folder, 6, **{'eval_every': 3} | changes)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The metrics of an uninterrupted run."""
  folder = tmp_path_factory.mktemp('whole')
  run(folder)
  return losses(folder)


@pytest.fixture(autouse=True)
def usual_handlers():
  """Python's own handlers: a run heeds no signal that its parent ignores."""
  usual = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
  }
  previous = {number: signal.signal(number, h) for number, h in usual.items()}
  yield
  for number, handler in previous.items():
    signal.signal(number, handler)


@pytest.mark.parametrize(
  'number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
)
@pytest.mark.parametrize('moment', ['batch', 'evaluation', 'probe'])
def test_a_signal_saves_and_the_run_resumes(tmp_path, whole, number, moment):
  act = send(number)
  step = 2
  if moment == 'batch':
    changes = dict(data=Data(before_train=act))
  elif moment == 'evaluation':  # At the second of its three batches.
    changes, step = dict(data=Data(before_eval=lambda i: act(i + 1))), 3
  else:
    changes = dict(probe=lambda built, step, *_: act(step), look_every=2)
  handlers = [signal.getsignal(x) for x in (signal.SIGINT, number)]
  with pytest.raises(Stopped) as caught:
    run(tmp_path, **changes)
  assert handlers == [signal.getsignal(x) for x in (signal.SIGINT, number)]
  assert (caught.value.signal, caught.value.step) == (number, step)
  assert f'checkpoint {step} is saved' in str(caught.value)
  assert saved_steps(tmp_path / 'checkpoints') == [step]
  run(tmp_path)
  assert losses(tmp_path) == whole


def test_a_second_ctrl_c_aborts(tmp_path, stub_steps):
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, data=Data(before_train=send(signal.SIGINT, times=2)))
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  # The lock is free.
  assert run(tmp_path).step == 6


def test_an_ignored_signal_stays_ignored(tmp_path, stub_steps):
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    assert run(tmp_path, data=Data(send(signal.SIGHUP))).step == 6
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)


def test_nothing_is_requested_without_a_signal():
  with listen_for_signals() as should_stop:
    assert should_stop() is None


@pytest.mark.parametrize('kind', [ValueError, OSError, ZeroDivisionError])
def test_an_error_saves_the_steps_before_it(tmp_path, whole, kind):
  def fail(step):
    if step == 2:
      raise kind('broken')

  with pytest.raises(DataError, match=r'the batch of step 3 .*broken'):
    run(tmp_path, data=Data(before_train=fail))
  assert saved_steps(tmp_path / 'checkpoints') == [2]
  run(tmp_path)
  assert losses(tmp_path) == whole


def test_a_probe_that_fails_keeps_the_checkpoint(tmp_path, stub_steps):
  def fail(*_):
    raise ValueError('broken')

  with pytest.raises(ValueError, match='broken'):
    run(tmp_path, probe=fail)
  assert saved_steps(tmp_path / 'checkpoints') == [3]
