"""A run and an export of older code load and give the same numbers.

The code that wrote tests/fixtures/older_run_and_export.tar.xz had another
package layout. The archive holds a `run` of 4 steps with its checkpoint, an
`export` of it, eval logits of the export, and the metrics after the run was
resumed.
"""

import json
import pathlib
import shutil
import tarfile

import jax
import numpy as np
import pytest
import toy

import trax_hier
import trax_hier.storage.configurables
from trax_hier import cli, config, trainer

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures'
TOKENS = np.array([list(b'\nabc\nabcdefgh')], np.int32)


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
  """The folder of the unpacked archive; tests only read it."""
  folder = tmp_path_factory.mktemp('older_files')
  with tarfile.open(FIXTURES / 'older_run_and_export.tar.xz') as file:
    file.extractall(folder, filter='data')
  return folder


@pytest.fixture(autouse=True)
def clear_config():
  yield
  config.clear()


def read_metrics(file, kind):
  """The lines of one kind in a metrics file, by step."""
  lines = map(json.loads, file.read_text().splitlines())
  return {line['step']: line for line in lines if line['kind'] == kind}


def test_export_gives_the_same_logits(archive):
  exported = trax_hier.load(archive / 'export')
  assert (exported.step, exported.unit, exported.length) == (4, 'token', 48)
  layer = exported.model(mode='eval')
  # The recurrent cell starts from constant states, not from weights.
  state = jax.jit(lambda: layer.init(toy.signature(TOKENS), toy.KEY)[1])()
  logits, _ = toy.run(layer, TOKENS, exported.weights, state)
  assert logits.shape == (1, 13, 256)
  expected = np.load(archive / 'export_logits.npy')
  np.testing.assert_allclose(logits[0, :, :8], expected, 0, 1e-5)


def test_evaluate_gives_the_logged_score(archive, capsys):
  flags = f'--run={archive / "run"}', '--split=valid'
  assert cli.main(['evaluate', *flags]) == 0
  out = capsys.readouterr().out
  valid = read_metrics(archive / 'run/metrics.jsonl', 'valid')
  bits = valid[4]['bits_per_token']
  assert 'step 4, float32' in out
  assert f'bits per token: {bits:.4f}' in out


@pytest.mark.slow
def test_run_resumes_to_the_same_losses(archive, tmp_path, capsys):
  run = shutil.copytree(archive / 'run', tmp_path / 'run')
  before = config.parameters((run / 'config.gin').read_text())
  flags = [f'--config_file={run / "config.gin"}', f'--output_dir={run}']
  # Probes would take most of the time.
  bindings = ['--config=train.steps = 6', '--config=train.look_every = 0']
  # The trainer does not resume if the configuration has changed.
  assert trainer.main([*flags, *bindings]) == 0
  assert 'resuming after step 4' in capsys.readouterr().out
  for kind, steps in (('train', (5, 6)), ('valid', (6,))):
    found = read_metrics(run / 'metrics.jsonl', kind)
    expected = read_metrics(archive / 'resumed_metrics.jsonl', kind)
    assert found.keys() == expected.keys()
    for step in steps:
      loss = expected[step]['loss']
      assert found[step]['loss'] == pytest.approx(loss, rel=1e-5)
  after = config.parameters((run / 'config.gin').read_text())
  changed = {'train.steps': '6', 'train.look_every': '0'}
  changed |= {'train.checkpoint_minutes': '10.0'}  # A new parameter.
  assert after == before | changed


@pytest.mark.parametrize('name', ['run', 'export'])
def test_config_is_still_valid(archive, name):
  file = archive / name / 'config.gin'
  config.parse([str(file)])
  names = {binding.name for binding in config.resolved()}
  assert config.parameters(file.read_text()).keys() <= names
