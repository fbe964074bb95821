"""Translates the gin files of Trax or meliad as a whole."""

import collections
from collections.abc import Callable, Sequence
from typing import NamedTuple

from trax_hier.config import foreign
from trax_hier.config.errors import ConfigError
from trax_hier.config.foreign import Setting
from trax_hier.config.old_names import CONFIGURABLES, MACROS, PARAMETERS
from trax_hier.translation import (
  meliad,
  meliad_training,
  own,
  trax_data,
  trax_model,
  trax_training,
)
from trax_hier.translation.draft import Draft
from trax_hier.translation.source import Source

# Configurables that both libraries have, but for `CONFIGURABLES`.
_SHARED = {'Adafactor', 'Adam', 'SGD', 'SelfAttention', 'multifactor', 'train'}
# Bindings without effect on results: 'mode' of all, and these.
_HARMLESS = {
  f'{name}.{parameter}'
  for names, parameters in (
    (
      'ConfigurableTerraformer ConfigurableTransformer '
      'ConfigurableTransformerLM Reformer2',
      'attention_chunk_size ff_chunk_size',
    ),
    (
      'LSHSelfAttention PureLSHSelfAttention PureLSHSelfAttentionWrapper '
      'SelfAttention',
      'n_parallel_heads predict_drop_len predict_mem_len use_python_loop '
      'use_reference_code',
    ),
    # The schedule gives the rate.
    ('Adafactor Adam Momentum RMSProp SGD SM3', 'learning_rate'),
    ('train', 'output_dir'),
    ('DecoderStack', 'task_config'),
    ('MemTransformerBase TransformerBase', 'attn_mlp_factory ffn_factory'),
    (
      'TransformerLayer',
      'max_unrolled_windows parallel_windowed_attention '
      'transformer_base_factory',
    ),
    ('TransformerTaskConfig', 'test_split train_split'),
  )
  for name in names.split()
  for parameter in parameters.split()
}
# Configurables that load, log and connect, but define no model.
_PLUMBING = {
  'DecoderOnlyLanguageModel',
  'DecoderOnlyLanguageModelRunner',
  'EvalTask',
  'FlaxModuleModel',
  'LayerNorm',
  'LoadPretrainedConfig',
  'MLP',
  'MLPWrapper',
  'ModelInfo',
  'SimpleMLP',
  'TrainTask',
  'backend',
  'debug_pipeline',
  'load_text_dataset',
  'num_devices',
}


_FAULTS = ArithmeticError, AttributeError, LookupError, TypeError, ValueError


class Translation(NamedTuple):
  """A translated file.

  Attributes:
    origin: 'Trax' or 'meliad'.
    model: Name of the model here.
    draft: Its bindings, what is lost, and what the user decides.
    unused: {old configurable: number of bindings} of parts that the old model
      or its training does not use, and of data that one data set here replaces.
    unknown: Old bindings that no rule knows.
  """

  origin: str
  model: str
  draft: Draft
  unused: dict[str, int]
  unknown: list[Setting]


def translate(
  config_files: Sequence[str],
  bindings: Sequence[str] = (),
  is_ours: Callable[[str, str], bool] = lambda name, parameter: False,
) -> Translation:
  """Translates gin files of Trax or meliad, in order, as one configuration.

  Args:
    config_files: Paths; later files override earlier ones.
    bindings: Gin statements in the old names, which override the files.
    is_ours: Whether a configurable with a parameter exists here.

  Raises:
    ConfigError: The files are not of Trax or meliad, have a syntax error, lack
      a value, or choose a model without counterpart.
  """
  document = foreign.read(config_files, bindings)
  origin = foreign.origin(document)
  if not origin:
    raise ConfigError(_not_old(document, config_files, is_ours))
  source = Source(document)
  draft = Draft(renames=MACROS if origin == 'meliad' else {})
  try:
    model = _apply_rules(origin, source, draft, is_ours)
  except ConfigError:
    raise
  except _FAULTS as error:
    # The old libraries take values of any kind, and fail later.
    at = source.last
    raise ConfigError(
      f'{at.location}: {at.key}, or a setting that goes with it, has a value '
      f'that {origin} does not take'
    ) from error
  unused, unknown = _sort_idle(source, draft, is_ours)
  return Translation(origin, model, draft, unused, unknown)


def _apply_rules(origin, source, draft, is_ours):
  if origin == 'meliad':
    model = meliad.model(draft, source)
    meliad_training.training(draft, source)
  else:
    model = own.own_model(draft, source, is_ours)
    model = model or trax_model.model(draft, source)
    own.keep_own(draft, source)
    trax_training.training(draft, source)
    trax_data.data(draft, source, model)
  return model


def _not_old(document, config_files, is_ours):
  given = ' '.join(map(str, config_files))
  bound = [s for s in document.settings if s.parameter]
  if bound and all(is_ours(s.name, s.parameter) for s in bound):
    return (
      f'{given}: already a configuration of trax_hier; train it as it is: '
      f'--config_file={given}'
    )
  return f'{given}: not a configuration of Trax or meliad: no binding is theirs'


def _sort_idle(source, draft, is_ours):
  """Sorts the bindings that no rule has used.

  Returns the number of those of parts that are not used, by configurable, and
  those that are unknown. Those without counterpart go to the draft, and so do
  arguments of our `train` that Trax does not have.
  """
  unused, unknown = collections.Counter(), []
  for setting in source.idle():
    name = setting.name
    is_known = name in CONFIGURABLES or name in _SHARED
    if name == 'train' and is_ours(name, setting.parameter):
      draft.replace('Training', setting.key, source.value(setting), setting)
    elif name in _PLUMBING:
      draft.harmless.append(setting)
    elif trax_data.is_data(name) or (is_known and name not in source.chosen):
      unused[name] += 1
    elif name in source.chosen and (
      setting.parameter == 'mode' or setting.key in _HARMLESS
    ):
      draft.harmless.append(setting)
    elif name in source.chosen and setting.key in PARAMETERS:
      if source.value(setting) in (None, False, 0, (), []):
        draft.harmless.append(setting)
      else:
        _, remark = PARAMETERS[setting.key]
        draft.lose(setting, remark or 'it has no effect on this model')
    else:
      unknown.append(setting)
  return dict(sorted(unused.items())), unknown
