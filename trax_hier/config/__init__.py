"""Gin configuration: files, bindings, checks and the operative config.

    config.parse(['quickstart.gin'], ['train.steps = 10'])
    ...                        # build; configurables take their bindings
    config.check_used()        # every binding has an effect
    config.operative_text()    # the values used, as a gin file

The only package that imports gin: `configurable` is gin's decorator.
"""

from gin import configurable

from trax_hier.config.api import (
  check_used,
  clear,
  differences,
  explain,
  fingerprint,
  operative_text,
  parameters,
  parse,
  resolved,
  value,
)
from trax_hier.config.files import ConfigError, Location, packaged_gin_dir
from trax_hier.config.table import Binding

__all__ = [
  'Binding',
  'ConfigError',
  'Location',
  'check_used',
  'clear',
  'configurable',
  'differences',
  'explain',
  'fingerprint',
  'operative_text',
  'packaged_gin_dir',
  'parameters',
  'parse',
  'resolved',
  'value',
]
