"""Files for Trax's trainer with models or layers of trax_hier."""

import pytest

from trax_hier.commands.listing_source import parts
from trax_hier.config import ConfigError
from trax_hier.config.text import write
from trax_hier.translation.translate import translate

TRAINER = (
  'import trax.data',
  'import trax.supervised.trainer_lib',
  'train.optimizer = @trax.optimizers.Adam',
  'train.eval_frequency = 7',
)


def is_ours(name, parameter):
  part = parts().get(name)
  return part is not None and parameter in {a.name for a in part.arguments}


def model_of(*bindings):
  found = translate([], [*TRAINER, *bindings], is_ours)
  assert found.draft.sections['Training']['train.eval_every'] == 7
  assert not found.unknown and not found.draft.lost
  rows = found.draft.sections['Model']
  return found.model, {k: write(found.draft.value(k)) for k in rows}


@pytest.mark.parametrize(
  'model', ['TransformerLM', 'HourglassLM', 'ScalingTransformerLM']
)
def test_full_names_are_kept(model):
  full = f'trax_hier.models.{model}'
  name, rows = model_of(
    f'train.model = @{full}',
    f'{full}.d_model = 16',
    f'{full}.attention = @a/trax_hier.layers.SparseAttention',
    'a/trax_hier.layers.SparseAttention.n_modules = 4',
    'width = 24',
    f'{full}.d_ff = %width',
  )
  assert name == model
  assert rows == {
    'train.model': f'@{model}',
    f'{model}.d_model': '16',
    f'{model}.attention': '@a/SparseAttention',
    'a/SparseAttention.n_modules': '4',
    f'{model}.d_ff': '24',
  }


@pytest.mark.parametrize('prefix', ['', 'trax_hier.compat.'])
@pytest.mark.parametrize('module', ['', 'trax_hier.models.'])
def test_the_adapter_of_targets_is_taken_off(prefix, module):
  name, rows = model_of(
    'import trax_hier.models',
    f'train.model = @{prefix}KeepTargets',
    f'{prefix}KeepTargets.model = @{module}Terraformer',
    f'{module}Terraformer.vocab_size = 32',
  )
  assert name == 'Terraformer'
  assert rows == {
    'train.model': '@Terraformer',
    'Terraformer.vocab_size': '32',
  }


def test_the_adapter_needs_a_model():
  with pytest.raises(ConfigError, match=r'KeepTargets\.model must be given'):
    model_of('import trax_hier.models', 'train.model = @KeepTargets')


def test_a_name_of_both_is_that_of_trax():
  _, rows = model_of(
    'import trax_hier.models',
    'train.model = @TransformerLM',
    'TransformerLM.vocab_size = 9',
    'TransformerLM.max_len = 99',
  )
  assert rows['LearnedPositions.n_positions'] == '99'


def test_our_layers_in_models_of_trax_are_kept():
  _, rows = model_of(
    'train.model = @trax.models.ConfigurableTransformerLM',
    'ConfigurableTransformerLM.vocab_size = 9',
    'ConfigurableTransformerLM.attention_type ='
    ' @trax_hier.layers.SparseAttention',
    'trax_hier.layers.SparseAttention.n_modules = 4',
  )
  assert rows['ScalingTransformerLM.attention'] == '@SparseAttention'
  assert rows['SparseAttention.n_modules'] == '4'
