"""Recognizes gin files of Trax and meliad, whose names are not those here.

`trax-hier import_config` translates them. The names are in `old_names`.
"""

import os
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from trax_hier.config import files, names
from trax_hier.config.errors import ConfigError
from trax_hier.config.files import Location, Reference
from trax_hier.config.old_names import (
  CONFIGURABLES,
  MACROS,
  MELIAD_CONFIGURABLES,
  PARAMETERS,
)

# Imports of these show whose file it is; ours may import trax.layers.
_TRAX = 'trax.data', 'trax.models', 'trax.optimizers', 'trax.supervised', 't5'
_MELIAD = (
  '__gin__',
  'decoder_stack',
  'language_model',
  'model_base',
  'model_info',
  'model_runner',
  'nn_components',
  'optimizer_config',
  'text_dataset',
  'training_loop',
  'transformer',
  'transformer_base',
  'transformer_layer',
  'transformer_stack',
)
# Configurables without any of ours of that name.
_ONLY_TRAX = {
  name
  for name, here in CONFIGURABLES.items()
  if name not in (*here, *MELIAD_CONFIGURABLES)
}
# A file with fewer old names is one of ours with slips.
_FEW = 3


class Setting(NamedTuple):
  """A binding as written: `scope/selector.parameter = value`.

  A macro has the parameter ''.
  """

  scope: str
  selector: str
  parameter: str
  value: Any
  location: Location

  @property
  def name(self) -> str:
    """The last part of the selector: the name of the configurable or macro."""
    return self.selector.rpartition('.')[2]

  @property
  def key(self) -> str:
    """'Configurable.parameter', without scope and module."""
    return f'{self.name}.{self.parameter}' if self.parameter else self.name


class Document(NamedTuple):
  """Gin files as written: bindings and macros, and the modules they import."""

  settings: list[Setting]
  modules: list[str]


def read(config_files: Sequence[str], bindings: Sequence[str] = ()) -> Document:
  """Reads gin files and bindings, later ones last, and resolves no name.

  Included files may lie beside any of the files.

  Raises:
    ConfigError: A file is missing or has a syntax error.
  """
  # meliad names included files from the folder of its base files.
  folders = tuple(os.path.dirname(name) for name in config_files)
  statements = [
    found
    for name in config_files
    for found in files.read_file(name, folders=folders)
  ]
  statements += [x for b in bindings for x in files.read_bindings(b)]
  return _document(statements)


def origin(document: Document) -> str:
  """Returns whose names a document uses: 'Trax', 'meliad' or ''.

  Example:
    >>> origin(read([], ['batcher.buckets = ([2049], [8])']))
    'Trax'
    >>> origin(read([], ['NUM_LAYERS = 12', 'EMBED_DIM = 512']))
    'meliad'
    >>> origin(read([], ['HourglassLM.d_model = 64']))
    ''
  """
  named = [s.selector for s in document.settings if s.parameter]
  for setting in document.settings:
    found = []
    names.map_leaves(setting.value, Reference, found.append)
    named += [r.name.rpartition('/')[2] for r in found if r.sigil == '@']
  modules = [f'{name}.' for name in (*document.modules, *named)]
  last = {name.rpartition('.')[2] for name in named}
  if any(m.startswith(f'{p}.') for m in modules for p in _MELIAD):
    return 'meliad'
  if any(m.startswith(f'{p}.') for m in modules for p in _TRAX):
    return 'Trax'
  macros = {s.name for s in document.settings if not s.parameter}
  if last & MELIAD_CONFIGURABLES or macros & MACROS.keys():
    return 'meliad'
  n_old = sum(map(_is_old, document.settings))
  return 'Trax' if n_old >= _FEW or last & _ONLY_TRAX else ''


def check_own(statements: Iterable[tuple], config_files: Sequence[str]) -> None:
  """Checks that gin files are not of Trax or meliad.

  Args:
    statements: All statements, as `files.read_file` yields them.
    config_files: The files as given, for the message.

  Raises:
    ConfigError: They are; names the command that translates them.
  """
  document = _document(statements)
  # A saved configuration of ours names layers of Trax in full.
  settings = [
    s for s in document.settings if not s.selector.startswith('trax.')
  ]
  document = document._replace(settings=settings)
  if not any(_is_old(setting) for setting in document.settings):
    return
  if owner := origin(document):
    files_given = [shlex.quote(str(name)) for name in config_files]
    given = ' '.join(files_given)
    what = f'{owner};'
    if any(is_own_model(document, s) for s in document.settings):
      flags = ' '.join(f'--config_file={name}' for name in files_given)
      what = (
        "Trax's trainer with a model of trax_hier; run it by: "
        f'trax-trainer {flags}, or'
      )
    raise ConfigError(
      f'{given}: a configuration of {what} translate it by: trax-hier '
      f'import_config {given} --output=new.gin'
    )


def is_own_model(document: Document, setting: Setting) -> bool:
  """Whether a binding chooses a model of ours, for Trax's trainer.

  There a name that both libraries have is Trax's unless it is given in full.
  """
  value = setting.value
  if setting.key != 'train.model' or not isinstance(value, Reference):
    return False
  name = value.name.rpartition('/')[2]
  imports = any(f'{m}.'.startswith(names.OWN) for m in document.modules)
  return name.startswith(names.OWN) or (
    imports and '.' not in name and name not in CONFIGURABLES
  )


def _document(statements):
  """Gin's statements, of which only `config` knows the types."""
  settings, modules = [], []
  for statement, at in statements:
    if hasattr(statement, 'arg_name'):
      scope, selector, parameter, value, _ = statement
      settings.append(Setting(scope, selector, parameter, value, at))
    elif hasattr(statement, 'module'):
      modules.append(statement.module)
  return Document(settings, modules)


def _is_old(setting):
  """Whether the name of a binding is one of Trax or meliad and not ours."""
  if not setting.parameter or setting.selector.startswith(names.OWN):
    return False
  # These names are registered here as well, with other parameters.
  here = CONFIGURABLES.get(setting.name)
  if here is not None and setting.name not in here:
    return True
  return PARAMETERS.get(setting.key, (setting.key, ''))[0] != setting.key
