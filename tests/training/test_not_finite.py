"""What a run does with values that are not finite, wherever they arise."""

import json

import jax
import numpy as np
import pytest
import toy_training

from trax_hier.training import NotFiniteError, checkpoints, evaluate
from trax_hier.training.checkpoints import CheckpointError, saved_steps

BAD = np.nan, np.inf


def strict_lines(folder):
  """The lines of metrics.jsonl, read as JSON without NaN and Infinity."""
  return [
    json.loads(line, parse_constant=pytest.fail)
    for line in (folder / 'metrics.jsonl').read_text().splitlines()
  ]


class BadBatch(toy_training.Data):
  """Data whose loss is not finite from the fourth step on."""

  def __init__(self, value):
    super().__init__()
    self.value = np.float32(value)

  def train_batch(self, step, *shard):
    batch = super().train_batch(step, *shard)
    if step >= 3:
      batch['weights'] = batch['weights'] * self.value
    return batch


@pytest.mark.parametrize('value', BAD)
def test_a_training_step_stops_the_run(tmp_path, value):
  with pytest.raises(
    NotFiniteError, match=r'step 4: loss is nan.*last checkpoint: step 2\n'
  ):
    toy_training.run(tmp_path, 4, data=BadBatch(value))
  assert saved_steps(tmp_path / 'checkpoints') == [2]
  assert [x['step'] for x in strict_lines(tmp_path)] == [1, 2, 2, 3]


@pytest.mark.parametrize('value', [*BAD, -np.inf])
def test_a_run_recovers_from_an_evaluation(
  tmp_path, monkeypatch, value, capsys
):
  losses = iter([3.0, value, 4.0, 5.0])

  def score(self, weights, before_batch):
    del self, weights, before_batch
    loss = next(losses)
    scores = dict(bits_per_byte=loss, accuracy=0.5, tokens=8.0, coverage=1.0)
    return dict(loss=loss, **scores)

  monkeypatch.setattr(evaluate.Evaluator, '__call__', score)
  toy_training.run(tmp_path, 4, eval_every=1, keep_checkpoints=1)
  # The best and the newest.
  assert saved_steps(tmp_path / 'checkpoints') == [1, 4]
  held_out = [x['loss'] for x in strict_lines(tmp_path) if x['kind'] == 'valid']
  assert held_out == [3.0, None, 4.0, 5.0]
  said = f'not finite in the valid metrics of step 2: loss is {value}'
  assert said in capsys.readouterr().out


@pytest.fixture
def bad_run(tmp_path, monkeypatch):
  """A run whose checkpoint 4 holds values that are not finite."""
  folder = tmp_path / 'run'
  toy_training.run(folder, 2)
  plain = checkpoints.named_leaves

  def break_weights(state):
    leaves = plain(state)
    name = next(x for x in leaves if x.startswith('weights'))
    if isinstance(leaves[name], jax.Array):  # Else shapes to load.
      leaves[name] = leaves[name] * np.nan
    return leaves

  with monkeypatch.context() as patch:
    patch.setattr(checkpoints, 'not_finite_arrays', lambda summaries: [])
    patch.setattr(checkpoints, 'named_leaves', break_weights)
    toy_training.run(folder, 4)
  return folder


SKIPPED = 'checkpoint 4 cannot be loaded: 1 of '


def test_resuming_falls_back(bad_run, capsys):
  toy_training.run(bad_run, 4)
  out = capsys.readouterr().out
  assert SKIPPED in out and 'resuming after step 2' in out


def test_initial_weights_fall_back(bad_run, tmp_path, capsys):
  toy_training.run(tmp_path / 'new', 1, init_from=str(bad_run))
  assert SKIPPED in capsys.readouterr().out
  checkpoint = bad_run / 'checkpoints' / '2'
  checkpoint.rename(tmp_path / 'elsewhere')
  with pytest.raises(CheckpointError, match=r'init_from = .*: none of the'):
    toy_training.run(tmp_path / 'other', 1, init_from=str(bad_run))
