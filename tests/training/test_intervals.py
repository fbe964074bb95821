"""Steps at which a run probes the model, and the order of its actions."""

import contextlib
import signal
import time

import jax
import pytest
import toy_training
from event_files import shown

from trax_hier.training import Stopped, loop, read_metrics


@pytest.mark.parametrize(
  'look_every, steps',
  [(None, [2, 4, 5]), (0, []), (3, [3, 5]), (5, [5])],
)
def test_probe_steps(tmp_path, stub_steps, look_every, steps):
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
  assert probed == steps
  lines = read_metrics(tmp_path)
  assert [x['step'] for x in lines if x['kind'] == 'probe'] == steps


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


@pytest.mark.parametrize('value', [-1, 2.5, True])
def test_look_every_is_checked(tmp_path, value):
  with pytest.raises(ValueError, match=r'train\.look_every must be None'):
    toy_training.run(tmp_path, look_every=value)
