"""Opening runs: their settings, their weights, errors."""

import shutil

import jax
import numpy as np
import pytest

from trax_hier import config
from trax_hier.storage import runs
from trax_hier.training import CheckpointError


@pytest.fixture(autouse=True)
def clear_config():
  yield
  config.clear()


@pytest.fixture
def copy(tiny_run, tmp_path):
  """A copy of the run that a test may damage."""
  return shutil.copytree(tiny_run.folder, tmp_path / 'run')


def listing(folder):
  return {
    path: (path.stat().st_size, path.stat().st_mtime_ns)
    for path in folder.rglob('*')
  }


def test_a_run_has_its_weights_and_data(tiny_run):
  before = listing(tiny_run.folder)
  # Earlier bindings must not affect the run.
  config.parse(bindings=['HourglassLM.positions = @RotaryPositions'])
  run = runs.open_run(tiny_run.folder)
  step, weights = run.load_weights(say=pytest.fail)
  assert step == 4
  jax.tree.map(np.testing.assert_array_equal, weights, tiny_run.result.weights)
  assert jax.tree.structure(weights) == jax.tree.structure(
    tiny_run.result.weights
  )
  batch, expected = run.data.train_batch(3), tiny_run.result.data.train_batch(3)
  np.testing.assert_array_equal(batch['inputs'], expected['inputs'])
  assert run.compute_dtype == 'float32'
  assert listing(tiny_run.folder) == before


def test_an_earlier_step_has_other_weights(tiny_run):
  run = runs.open_run(str(tiny_run.folder))
  step, weights = run.load_weights(2, pytest.fail)
  assert step == 2
  pairs = zip(
    jax.tree.leaves(weights),
    jax.tree.leaves(tiny_run.result.weights),
    strict=True,
  )
  assert any((old != new).any() for old, new in pairs)


def test_bindings_override_the_file(tiny_run):
  bindings = ['TextFiles.batch_size = 5', "train.compute_dtype = 'bfloat16'"]
  run = runs.open_run(tiny_run.folder, bindings)
  assert run.data.train_batch(0)['inputs'].shape == (5, 32)
  assert run.compute_dtype == 'bfloat16'
  assert run.load_weights()[0] == 4


def test_a_damaged_checkpoint_is_skipped_and_kept(copy):
  for file in (copy / 'checkpoints' / '4' / 'state').rglob('d/*'):
    file.write_bytes(b'')
  before = listing(copy)
  messages = []
  step, _ = runs.open_run(copy).load_weights(say=messages.append)
  assert step == 2
  assert messages[-1] == 'falling back to checkpoint 2'
  assert listing(copy) == before
  with pytest.raises(CheckpointError, match='checkpoint 4 cannot be loaded'):
    runs.open_run(copy).load_weights(4)


@pytest.mark.parametrize(
  'binding, message',
  [
    ('HourglassLM.d_model = 16', 'to another model'),
    ("HourglassLM.hierarchy = '2@3'", 'to another model'),
  ],
)
def test_another_model_does_not_load(tiny_run, binding, message):
  run = runs.open_run(tiny_run.folder, [binding])
  with pytest.raises(CheckpointError, match=message):
    run.load_weights()


def test_a_model_that_does_not_fit_the_data(tiny_run):
  run = runs.open_run(tiny_run.folder, ['HourglassLM.vocab_size = 128'])
  with pytest.raises(ValueError, match="check the model's vocab_size"):
    run.load_weights()


def test_a_missing_step_is_an_error(tiny_run):
  with pytest.raises(ValueError, match=r'step = 3: .* of these steps: 2, 4$'):
    runs.open_run(tiny_run.folder).load_weights(3)


def test_a_run_without_checkpoints_is_an_error(copy):
  shutil.rmtree(copy / 'checkpoints')
  run = runs.open_run(copy)
  with pytest.raises(CheckpointError, match='there are no checkpoints in'):
    run.load_weights()
  assert not (copy / 'checkpoints').exists()


def test_a_folder_that_is_not_a_run_is_an_error(tmp_path):
  with pytest.raises(ValueError, match=r'/nowhere: no such folder'):
    runs.open_run(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match=r'it has no config\.gin'):
    runs.open_run(tmp_path)


@pytest.mark.parametrize(
  'bindings, message',
  [
    (['HourglassLM.d_modl = 3'], "no parameter 'd_modl'"),
    (["train.compute_dtype = 'float8'"], r'train\.compute_dtype must be one'),
    (
      ['train.model = @HourglassLM()'],
      r'train\.model takes.* did you mean @HourglassLM\?',
    ),
    (['train.data = @TextFiles'], r'train\.data must be a data set'),
    (
      ["TextFiles.path = 'gone.txt'"],
      r"TextFiles\.path = 'gone\.txt': no such",
    ),
  ],
)
def test_invalid_bindings_are_errors(tiny_run, bindings, message):
  with pytest.raises(ValueError, match=message):
    runs.open_run(tiny_run.folder, bindings)


def test_a_missing_binding_is_an_error(copy):
  lines = (copy / 'config.gin').read_text().splitlines()
  kept = [line for line in lines if not line.startswith('train.data')]
  (copy / 'config.gin').write_text('\n'.join(kept))
  with pytest.raises(ValueError, match=r'train\.data must be given a value'):
    runs.open_run(copy)
