"""What files for Trax's trainer say of models and layers of trax_hier."""

import dataclasses
from collections.abc import Callable

from trax_hier.config import names
from trax_hier.config.errors import ConfigError, must_be_given
from trax_hier.config.files import Reference
from trax_hier.config.foreign import Setting, is_own_model
from trax_hier.config.names import OWN
from trax_hier.config.old_names import CONFIGURABLES
from trax_hier.translation.draft import Draft
from trax_hier.translation.source import Source, target

# Hands targets on to the loss of Trax's trainer, which none needs here.
_ADAPTER = 'KeepTargets'


def own_model(
  draft: Draft, source: Source, is_ours: Callable[[str, str], bool]
) -> str:
  """Adds a model of ours and its bindings; returns its name, '' if it is none.

  Args:
    draft: Gets the bindings.
    source: The files for Trax's trainer.
    is_ours: Whether a configurable with a parameter exists here.

  Raises:
    ConfigError: No binding chooses the model of `KeepTargets`.
  """
  train = source.part('train')
  setting = train.setting('model')
  if setting is None:
    return ''
  value = source.value(setting)
  if not is_own_model(source.document, setting._replace(value=value)):
    return ''
  if _short(value).name == _ADAPTER:
    setting = source.find(_ADAPTER, 'model') or _adapted(source)
    value = source.value(setting)
    if not isinstance(value, Reference):
      raise ConfigError(
        f'{setting.location}: {setting.key} takes a reference such as @Name'
      )
  draft.refer('Model', 'train.model', _short(value).name)
  for found in source.idle():
    is_of_trax = found.name in CONFIGURABLES or found.name == 'train'
    if not is_of_trax and is_ours(found.name, found.parameter):
      source.find(found.name, found.parameter, found.scope)
      _keep(draft, source, found)
  return target(_short(value))[1]


def keep_own(draft: Draft, source: Source) -> None:
  """Keeps the bindings of ours, whose names are given in full."""
  for setting in source.own.values():
    if setting.name != _ADAPTER:
      _keep(draft, source, setting)


def _adapted(source: Source) -> Setting:
  for setting in source.own.values():
    if setting.key == f'{_ADAPTER}.model':
      return setting
  raise ConfigError(must_be_given(f'{_ADAPTER}.model'))


def _keep(draft, source, setting):
  value = names.map_leaves(source.value(setting), Reference, _short)
  scope = f'{setting.scope}/' if setting.scope else ''
  draft.bind('Model', f'{scope}{setting.key}', value, setting)


def _short(reference):
  """A reference without the module, which the files here do not need."""
  scope, slash, name = reference.name.rpartition('/')
  short = name.rpartition('.')[2] if name.startswith(OWN) else name
  return dataclasses.replace(reference, name=f'{scope}{slash}{short}')
