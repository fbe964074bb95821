"""The Weights & Biases sink, with a stub of the wandb package."""

import sys
import types

import numpy as np
import pytest
import toy_training

from trax_hier.training import loop
from trax_hier.training.logging.metrics_log import MetricsLog


class WandbStub(types.ModuleType):
  """A stub of the package, which records what runs log, by run id."""

  class Error(Exception):
    pass

  def __init__(self):
    super().__init__('wandb')
    self.inits, self.runs, self.fails = [], {}, False

  def init(self, **arguments):
    if self.fails:
      raise self.Error('no API key')
    self.inits.append(arguments)
    id_ = arguments['id'] or f'run{len(self.inits)}'
    logged = self.runs.setdefault(id_, [])
    return types.SimpleNamespace(
      id=id_,
      log=lambda values, step: logged.append((step, values)),
      finish=lambda: logged.append('finished'),
    )

  def Histogram(self, np_histogram):
    return ('histogram', np_histogram)

  def Html(self, text):
    return ('html', text)


@pytest.fixture
def wandb(monkeypatch):
  module = WandbStub()
  monkeypatch.setitem(sys.modules, 'wandb', module)
  return module


def test_a_resumed_run_continues_the_wandb_run(tmp_path, wandb):
  toy_training.run(tmp_path / 'mine', 2, wandb='project')
  toy_training.run(tmp_path / 'mine', 4, wandb='project')
  first, second = wandb.inits
  assert first['project'] == 'project' and first['name'] == 'mine'
  assert first['id'] is None and second['id'] == 'run1'
  assert first['resume'] == 'allow'
  ((id_, logged),) = wandb.runs.items()
  assert id_ == 'run1' and logged.count('finished') == 2
  values = [x for x in logged if x != 'finished']
  steps = [step for step, value in values if 'train/loss' in value]
  assert steps == [1, 2, 3, 4]
  assert [step for step, value in values if 'valid/loss' in value] == [2, 4]


def test_wandb_gets_texts_and_histograms(tmp_path, wandb):
  log = MetricsLog(tmp_path, 0, wandb='project')
  counts, edges = np.array([1]), np.array([0.0, 1.0])
  log.text('probe', 3, 'sample', '<b> & c')
  log.histogram('probe', 3, 'gate', counts, edges)
  log.close()
  assert wandb.runs['run1'] == [
    (3, {'probe/sample': ('html', '<pre>&lt;b&gt; &amp; c</pre>')}),
    (3, {'probe/gate': ('histogram', (counts, edges))}),
    'finished',
  ]


def test_missing_wandb_is_an_error_before_building(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)  # As if not installed.
  monkeypatch.setattr(loop, 'build', None)
  with pytest.raises(ValueError, match=r"pip install 'trax_hier\[wandb\]'"):
    toy_training.run(tmp_path, wandb='project')
  with pytest.raises(
    ValueError, match=r'train\.wandb must be None or the name'
  ):
    toy_training.run(tmp_path, wandb='')


def test_an_error_of_wandb_names_the_project(tmp_path, wandb):
  wandb.fails = True
  with pytest.raises(OSError, match=r"train\.wandb = 'project': no API key"):
    MetricsLog(tmp_path, 0, wandb='project')
