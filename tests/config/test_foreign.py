"""Files and names of Trax and meliad are recognized."""

from pathlib import Path

import pytest

import trax_hier.storage.configurables  # noqa: F401  registers all names
from trax_hier import config
from trax_hier.commands.listing_source import parts
from trax_hier.config import ConfigError, foreign, old_names

GIN = Path(config.packaged_gin_dir())


@pytest.fixture(autouse=True)
def clear_config():
  yield
  config.clear()


def test_no_file_of_ours_is_taken_for_one_of_others():
  for file in GIN.rglob('*.gin'):
    document = foreign.read([str(file)])
    assert foreign.origin(document) == '', file


@pytest.mark.parametrize(
  'text, owner',
  [
    ('from __gin__ import dynamic_registration', 'meliad'),
    ('decoder_stack.DecoderStack.num_layers = 3', 'meliad'),
    ('NUM_LAYERS = 12', 'meliad'),
    ('train.model = @trax.models.HourglassLM', 'Trax'),
    ('import trax.optimizers', 'Trax'),
    ("data_streams.dataset_name = 'copy'", 'Trax'),
    ('train.eval_steps = 1', ''),  # One of ours, with a slip.
    ('import trax.layers\ntrain.steps = 1', ''),
    ('train.steps = 1', ''),
  ],
)
def test_origin(text, owner):
  assert foreign.origin(foreign.read([], [text])) == owner


def test_included_files_lie_beside_any_of_the_files(tmp_path):
  (tmp_path / 'options').mkdir()
  base, option = tmp_path / 'base.gin', tmp_path / 'options/more.gin'
  base.write_text('NUM_LAYERS = 1')
  option.write_text("include 'memory.gin'")
  (tmp_path / 'memory.gin').write_text('MLP_DIM = 2')
  found = foreign.read([str(base), str(option)])
  assert [setting.name for setting in found.settings] == [
    'NUM_LAYERS',
    'MLP_DIM',
  ]


def test_a_file_of_trax_is_refused_with_the_command(tmp_path):
  file = tmp_path / 'old one.gin'
  file.write_text('import trax.models\ntrain.eval_frequency = 3')
  with pytest.raises(ConfigError, match='a configuration of Trax') as e:
    config.parse([str(file)])
  assert f"import_config '{file}' --output=new.gin" in str(e.value)


@pytest.mark.parametrize(
  'model', ['@KeepTargets', '@trax_hier.models.TransformerLM']
)
def test_a_file_for_the_trainer_of_trax_with_our_model(model, tmp_path):
  file = tmp_path / 'both.gin'
  file.write_text(
    'import trax.data\nimport trax_hier.models\n'
    f'train.model = {model}\ntrain.inputs = @trax.data.copy_inputs'
  )
  with pytest.raises(ConfigError, match='with a model of trax_hier') as e:
    config.parse([str(file)])
  assert f'trax-trainer --config_file={file}, or translate it' in str(e.value)
  assert f'import_config {file} --output=new.gin' in str(e.value)


def test_names_here_exist():
  """The table is about names that are there."""
  known = {
    f'{name}.{argument.name}'
    for name, part in parts().items()
    for argument in part.arguments
  }
  new = {here for here, _ in old_names.PARAMETERS.values() if here}
  assert new <= known
  assert {n for row in old_names.CONFIGURABLES.values() for n in row} <= {
    *parts()
  }


@pytest.mark.parametrize(
  'binding, said',
  [
    ('HourglassLM.attention_upsampling_fn = 1', "'AttentionUpsample.expand'"),
    ('HourglassLM.ff_activation = 1', "'FeedForward.activation'"),
    ('DecoderBlock.ff_activation = 1', "'FeedForward.activation'"),
    ('train.eval_steps = 1', "'train.eval_batches'"),
    ('train.checkpoints_at = [1]', 'checkpoints are saved by time'),
    ('Terraformer.n_decoder_attention_layers = 1', "n_decoder_attentions'"),
    ('Adam.clip_grad_norm = 1.0', "'Adam.clip_norm'"),
    ('train.optimizer = @trax.optimizers.Adam', "'Adam'"),
    ('train.model = @Reformer2', "'Terraformer'"),
    ('train.model = @RelformerLM', 'nothing here is like it'),
    ('from __gin__ import dynamic_registration', 'import_config'),
    ('BlockRecurrentLM.recurrent_layer_indices = ()', 'counted from 1'),
    # Old names that have another meaning here do not mislead.
    ('AverageShorten.d_model = 1', 'shorten_factor'),
    ('TextFiles.vocab_size = 1', "'vocab'"),
  ],
)
def test_old_names_in_messages(binding, said):
  with pytest.raises(ConfigError) as e:
    config.parse([], [binding])
  assert said in str(e.value)
