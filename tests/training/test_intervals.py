"""Steps at which a run probes the model, and the order of its actions."""

import contextlib
import signal
import time

import jax
import pytest
import toy_training
from event_files import shown

from trax_hier.training import Stopped, intervals, loop, read_metrics, steps
from trax_hier.training.checkpoints import saved_steps

SCORES = dict(bits_per_byte=1.0, accuracy=0.0, tokens=1.0, coverage=1.0)


@pytest.mark.parametrize(
  'look_every, expected',
  [(None, [2, 4, 5]), (0, []), (3, [3, 5]), (5, [5])],
)
def test_probe_steps(tmp_path, stub_steps, look_every, expected):
  probed = []

  def probe(built, step, weights, log, say):
    assert jax.tree.structure(weights) == jax.tree.structure(
      built.abstract.weights
    )
    log.write('probe', step, {'x': step})
    probed.append(step)

  toy_training.run(
    tmp_path, 5, probe=probe, look_every=look_every, checkpoint_every=5
  )
  assert probed == expected
  lines = read_metrics(tmp_path)
  assert [x['step'] for x in lines if x['kind'] == 'probe'] == expected


def test_a_probe_runs_after_saving_and_is_not_timed(tmp_path, stub_steps):
  def probe(built, step, weights, log, say):
    assert (tmp_path / 'checkpoints').is_dir()
    found = shown(tmp_path)
    assert ('train/loss', step) in found and ('valid/loss', step) in found
    time.sleep(1)

  toy_training.run(tmp_path, 3, probe=probe, look_every=2)
  lines = [x for x in read_metrics(tmp_path) if x['kind'] == 'train']
  # A step has 48 tokens: with the 1 s of the probe, the speed would be lower.
  assert lines[-1]['step'] == 3 and lines[-1]['tokens_per_second'] > 48


def test_no_probe_after_sigterm(tmp_path, stub_steps, monkeypatch):
  signals = iter([None, None, signal.SIGTERM])  # Before steps 1, 2 and 3.
  should_stop = contextlib.nullcontext(lambda: next(signals))
  monkeypatch.setattr(loop, 'listen_for_signals', lambda: should_stop)
  with pytest.raises(Stopped):
    toy_training.run(tmp_path, 4, probe=pytest.fail, look_every=2, eval_every=4)


class Clock:
  """A clock that a test sets; with several hosts, it counts their decisions."""

  def __init__(self, monkeypatch, n_hosts=1):
    self.now, self.decisions = 0.0, 0
    monkeypatch.setattr(intervals.time, 'monotonic', lambda: self.now)
    monkeypatch.setattr(jax, 'process_count', lambda: n_hosts)
    monkeypatch.setattr(
      intervals.multihost_utils, 'broadcast_one_to_all', self._decide
    )

  def _decide(self, plan):
    self.decisions += 1
    return plan

  def saves(self, clock, steps, seconds):
    """Saved steps among `steps`, each of which takes some seconds."""
    saved = []
    for step in steps:
      self.now += seconds
      if clock.due(step):
        saved.append(step)
        clock.restart(step)
    return saved


@pytest.mark.parametrize('n_hosts', [1, 4])
def test_a_checkpoint_is_due_every_ten_minutes(monkeypatch, n_hosts):
  clock = Clock(monkeypatch, n_hosts)
  saves = clock.saves(intervals.SaveClock(10, 5), range(6, 606), 6)
  assert saves == [105, 205, 305, 405, 505, 605]
  assert clock.decisions <= (0 if n_hosts == 1 else 6 * 12)
  # A checkpoint for another reason starts the interval anew.
  save_clock = intervals.SaveClock(10, 0)
  assert clock.saves(save_clock, range(1, 100), 6) == []
  save_clock.restart(99)
  assert clock.saves(save_clock, range(100, 199), 6) == []


def test_several_hosts_save_in_time_when_steps_become_slow(monkeypatch):
  clock = Clock(monkeypatch, n_hosts=2)
  save_clock = intervals.SaveClock(10, 0)
  assert clock.saves(save_clock, range(1, 11), 1) == []
  (first, *_) = clock.saves(save_clock, range(11, 100), 60)
  assert first <= 32  # Agreed at the latest when the steps have doubled twice.


def test_none_saves_nothing_by_time(monkeypatch):
  clock = Clock(monkeypatch)
  assert clock.saves(intervals.SaveClock(None, 0), range(1, 9), 1e6) == []


def test_checkpoints_by_time_and_before_evaluations(tmp_path, stub_steps):
  changes = dict(keep_checkpoints=9, eval_every=4)
  toy_training.run(tmp_path / 'a', 6, **changes)
  assert saved_steps(tmp_path / 'a' / 'checkpoints') == [4, 6]
  toy_training.run(tmp_path / 'b', 6, checkpoint_every=3, **changes)
  assert saved_steps(tmp_path / 'b' / 'checkpoints') == [3, 4, 6]
  toy_training.run(tmp_path / 'c', 3, checkpoint_minutes=1e-9, **changes)
  assert saved_steps(tmp_path / 'c' / 'checkpoints') == [1, 2, 3]


@pytest.mark.parametrize('value', [0, -1, True, '10', float('nan')])
def test_checkpoint_minutes_is_checked(tmp_path, value):
  with pytest.raises(ValueError, match=r'train\.checkpoint_minutes must be '):
    toy_training.run(tmp_path, checkpoint_minutes=value)


def test_a_resumed_run_keeps_its_best_checkpoint(tmp_path, monkeypatch):
  losses = dict(zip(range(1, 9), [3, 1, 4, 5, 6, 7, 8, 9], strict=True))
  plain = steps.Steps._evaluate

  def evaluate(self):
    def score(evaluator, *_):
      return {'loss': losses[self.run.step], **SCORES}

    monkeypatch.setattr(type(self.run.built.evaluator), '__call__', score)
    return plain(self)

  monkeypatch.setattr(steps.Steps, '_evaluate', evaluate)
  changes = dict(eval_every=1, keep_checkpoints=1)
  for last in (2, 5, 8):
    toy_training.run(tmp_path, last, **changes)
  assert saved_steps(tmp_path / 'checkpoints') == [2, 8]


@pytest.mark.parametrize('value', [-1, 2.5, True])
def test_look_every_is_checked(tmp_path, value):
  with pytest.raises(ValueError, match=r'train\.look_every must be None'):
    toy_training.run(tmp_path, look_every=value)
