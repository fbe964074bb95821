"""Gin configuration: files, bindings, checks and the operative config.

    config.parse(['quickstart.gin'], ['train.steps = 10'])
    ...                        # build; configurables take their bindings
    config.check_used()        # raises if a binding has no effect
    config.operative_text()    # the values used, as a gin file

The only package that imports gin, whose decorator `configurable` it re-exports.

`parsing` binds values and `operative` reports those that a run used. `errors`
defines ConfigError, which the module that finds an error raises:

* `files`: missing files and syntax errors.
* `names`: unknown modules, configurables and parameters.
* `types`, `table`: values of a wrong type or not given, and unknown macros.
* `macros`: circular macros, and values that macros make too large.
* `usage`: bindings without effect, with the help of `effects`.
* `trust`: what a configuration of others may not do.
* `foreign`: files of Trax and meliad, whose names are in `old_names`.

`plain_gin` changes gin itself, for Trax's own trainer and notebooks.
"""

from gin import configurable

from trax_hier.config.errors import ConfigError
from trax_hier.config.explain import explain, size_binding
from trax_hier.config.files import Location, packaged_gin_dir
from trax_hier.config.names import bindable_parameters, import_folders
from trax_hier.config.operative import differences, operative_text, parameters
from trax_hier.config.parsing import (
  check_no_paths,
  clear,
  fingerprint,
  parse,
  resolved,
  set_vocab_size,
  value,
)
from trax_hier.config.table import Binding
from trax_hier.config.usage import check_used

__all__ = [
  'Binding',
  'ConfigError',
  'Location',
  'bindable_parameters',
  'check_no_paths',
  'check_used',
  'clear',
  'configurable',
  'differences',
  'explain',
  'fingerprint',
  'import_folders',
  'operative_text',
  'packaged_gin_dir',
  'parameters',
  'parse',
  'resolved',
  'set_vocab_size',
  'size_binding',
  'value',
]
