"""`train.init_from`: a run, an export or an import; equal and other models."""

import gzip
import pickle
import shutil

import jax
import numpy as np
import pytest

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import cli, config
from trax_hier.storage import export, export_weights
from trax_hier.storage.import_trax import import_file
from trax_hier.storage.trax_order import in_trax_order
from trax_hier.training import CheckpointError, loop
from trax_hier.training.state import abstract_init, token_shapes

GIN = """
train.model = @TransformerLM
TransformerLM.d_model = 8
TransformerLM.d_ff = 16
TransformerLM.n_layers = 2
TransformerLM.n_heads = 2
TransformerLM.positions = @LearnedPositions
LearnedPositions.n_positions = 12
train.data = @TextFiles()
TextFiles.path = 'FOLDER/text.txt'
TextFiles.batch_size = 2
TextFiles.length = 8
train.optimizer = @SGD
train.steps = 1
"""

pytestmark = pytest.mark.usefixtures('stub_steps')


@pytest.fixture(autouse=True)
def clear_config():
  yield
  config.clear()


def train(folder, *bindings, exports=export_weights):
  text = folder.parent / 'text.txt'
  text.write_text('abcdefgh\n' * 200)
  config.clear()
  config.parse(bindings=[GIN.replace('FOLDER', str(folder.parent)), *bindings])
  return loop.train(str(folder), exports=exports)


def leaves(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


@pytest.fixture
def sources(tmp_path):
  """A run, an export of it and an import of its weights; and the weights."""
  weights = train(tmp_path / 'run', 'train.seed = 5').weights
  flags = f'--run={tmp_path / "run"}', f'--output={tmp_path / "export"}'
  assert cli.main(['export', *flags]) == 0
  config.clear()
  config.parse(bindings=[GIN, 'TransformerLM.vocab_size = 256'])
  layer = config.value('train.model')(mode='eval')
  shapes, _ = abstract_init(layer, token_shapes((1, 1)))
  flat = [
    leaves(weights)[array.place.leaf][array.place.index]
    for array in in_trax_order(layer, shapes)
  ]
  file = tmp_path / 'model.pkl.gz'
  file.write_bytes(gzip.compress(pickle.dumps({'flat_weights': flat})))
  export.save(tmp_path / 'import', import_file(file, say=lambda line: None))
  return tmp_path, weights


KINDS = 'run', 'export', 'import'


def test_a_run_starts_with_the_weights(sources, capsys):
  folder, weights = sources
  for kind in KINDS:
    capsys.readouterr()
    init_from = f"train.init_from = '{folder / kind}'"
    result = train(folder / f'from_{kind}', init_from, 'train.seed = 6')
    for x, y in zip(leaves(result.weights), leaves(weights), strict=True):
      np.testing.assert_array_equal(x, y)
    step = '' if kind == 'import' else ', step 1'
    assert (
      f'initial weights: {folder / kind}{step}\n' in capsys.readouterr().out
    )
    # The run can resume without them.
    resumed = train(
      folder / f'from_{kind}', "train.init_from = 'gone'", 'train.seed = 6'
    )
    assert resumed.step == 1


# A changed model; what messages say of its configuration and of its arrays.
CHANGES = {
  'TransformerLM.vocab_size = 300': (
    'TransformerLM.vocab_size = 256 there, 300 here; 3 arrays differ: '
    'embedding.weights',
    'logits.dense.bias (',
  ),
  'TransformerLM.n_layers = 1': (
    'TransformerLM.n_layers = 2 there, 1 here; 16 arrays differ: blocks.',
    'and 13 more',
  ),
  'LearnedPositions.n_positions = 24': (
    'LearnedPositions.n_positions = 12 there, 24 here; 1 array differs: '
    'position_table.weights',
    '[12, 8] there, ',
  ),
  'train.model = @ReversibleLM\nReversibleLM.n_layers = 1': (
    'train.model = @TransformerLM there, @ReversibleLM here; ',
    ' arrays differ: ',
  ),
}


def test_another_model_is_an_error(sources):
  folder, _ = sources
  for kind in KINDS:
    changes = [*CHANGES.items()][: None if kind == 'export' else 1]
    for change, messages in changes:
      init_from = f"train.init_from = '{folder / kind}'"
      with pytest.raises(ValueError, match='of another model') as error:
        train(folder / 'new', init_from, change)
      message = config.explain(error.value)
      assert '/' + kind + "': its weights are of another model: " in message
      assert all(m in message for m in messages) and '\n' not in message
      # Before a file is written.
      assert not (folder / 'new').exists()


def test_another_function_of_equal_weights_is_said(sources, capsys):
  folder, _ = sources
  for kind in KINDS:
    capsys.readouterr()
    init_from = f"train.init_from = '{folder / kind}'"
    train(folder / f'heads_{kind}', init_from, 'TransformerLM.n_heads = 4')
    (line,) = [
      x
      for x in capsys.readouterr().out.splitlines()
      if x.startswith('initial weights: ')
    ]
    assert line.endswith('; TransformerLM.n_heads = 2 there, 4 here')


def flip_last_byte(file):
  content = bytearray(file.read_bytes())
  content[-1] ^= 1
  file.write_bytes(content)


DAMAGE = {
  'differ from their digests': lambda d: flip_last_byte(
    d / 'model.safetensors'
  ),
  'cannot be read': lambda d: (d / 'model.safetensors').write_bytes(bytes(9)),
  'it has no config.json': lambda d: (d / 'config.json').unlink(),
  'config.json': lambda d: (d / 'config.json').write_text('{'),
}


def test_damaged_weights_are_an_error(sources):
  folder, _ = sources
  for message, damage in DAMAGE.items():
    shutil.copytree(folder / 'export', folder / 'damaged')
    damage(folder / 'damaged')
    init_from = f"train.init_from = '{folder / 'damaged'}'"
    with pytest.raises(CheckpointError, match=f"damaged': .*{message}"):
      train(folder / 'new', init_from)
    shutil.rmtree(folder / 'damaged')
  for digests in (folder / 'run' / 'checkpoints').glob('*/digests/*'):
    digests.write_text('')
  init_from = f"train.init_from = '{folder / 'run'}'"
  with pytest.raises(CheckpointError, match="run': none of the checkpoints"):
    train(folder / 'new', init_from)


def test_paths_without_weights_are_errors(tmp_path, sources):
  for name in ('empty', 'killed/checkpoints'):
    (tmp_path / name).mkdir(parents=True)
  (tmp_path / 'model.gz').write_bytes(b'')
  (tmp_path / 'trax').mkdir()
  (tmp_path / 'trax/model.pkl.gz').write_bytes(b'')
  for name, message in (
    ('none', 'no such folder'),
    ('model.gz', 'not a folder: .* trax-hier import_trax makes'),
    ('trax', "a run of Trax's trainer: .* trax-hier import_trax"),
    ('empty', 'not a run directory, which has checkpoints, nor an export'),
    ('killed', 'the run has no complete checkpoint'),
  ):
    init_from = f"train.init_from = '{tmp_path / name}'"
    with pytest.raises(ValueError, match=f"/{name}': {message}"):
      train(tmp_path / 'new', init_from)
  init_from = f"train.init_from = '{tmp_path / 'export'}'"
  with pytest.raises(ValueError, match='reads exports only if'):
    train(tmp_path / 'new', init_from, exports=None)
