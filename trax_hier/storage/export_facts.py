"""Reads config.json of an export: the facts that its other files lack.

An export may be somebody else's, so each file must be a regular file (or a link
to one, as in the cache of a hub), and each fact has its type and its limits.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FORMAT = 1
# Bytes of a text file of an export; those that `save` writes have some kB.
_MAX_TEXT = 2**20
# Bytes of any other file but the weights.
MAX_FILE = 2**28
_MAX_NUMBER = 2**31 - 1
_UNITS = 'byte', 'dim', 'token'


def check_file(file: Path, max_bytes: int) -> None:
  """Raises ValueError unless `file` is regular and not larger than that."""
  if not file.is_file():
    raise ValueError(f'{file}: no such file')
  size = file.stat().st_size
  if size > max_bytes:
    raise ValueError(
      f'{file}: {size:,} bytes; an export has at most {max_bytes:,} here'
    )


def read_facts(
  folder: Path, file: Path, config: Path, required: Sequence[str]
) -> dict[str, Any]:
  """Reads and checks the facts.

  Args:
    folder: The export.
    file: Its config.json.
    config: Its config.gin, whose size is checked.
    required: Names of the files that an export has.

  Raises:
    ValueError: The folder is not an export, or a fact is missing or not legal.
  """
  if not folder.is_dir():
    raise ValueError(f'{folder}: no such folder')
  missing = [name for name in required if not (folder / name).is_file()]
  if missing:
    is_run = (folder / 'checkpoints').is_dir()
    hint = '; trax-hier export makes one of a run' if is_run else ''
    raise ValueError(f'{folder}: not an export: it has no {missing[0]}{hint}')
  for text in (file, config):
    check_file(text, _MAX_TEXT)
  try:
    facts = json.loads(file.read_bytes())
    version = facts['format']
    if any(map(_is_nested, facts.values())):
      raise ValueError('deeper than an object of numbers and texts')
  except (ValueError, TypeError, KeyError, RecursionError) as error:
    raise ValueError(f'{file}: not the config.json of an export') from error
  if version != FORMAT:
    raise ValueError(
      f'{file}: has format {version!r:.40}; this version of trax_hier reads '
      f'format {FORMAT}'
    )
  for name, (is_legal, legal) in _FACTS.items():
    if name not in facts:
      raise ValueError(f'{file}: has no {name!r}')
    if not is_legal(facts[name]):
      raise ValueError(f'{file}: {name} = {facts[name]!r:.80} must be {legal}')
  return facts


def is_count(value: Any, least: int = 1) -> bool:
  """Whether a value is an int from `least` to 2^31 - 1."""
  return type(value) is int and least <= value <= _MAX_NUMBER


def _is_nested(value):
  """Whether a JSON value contains others that contain values."""
  inner = value.values() if isinstance(value, dict) else value
  containers = dict, list
  return isinstance(value, containers) and any(
    isinstance(x, containers) for x in inner
  )


# {fact: (check, what is legal)}
_FACTS = {
  'step': (lambda x: x is None or is_count(x, 0), 'a number of steps or null'),
  'unit': (lambda x: x in _UNITS, f'one of {", ".join(_UNITS)}'),
  'length': (is_count, 'a number of tokens'),
  'source_length': (
    lambda x: x is None or is_count(x),
    'a number of tokens or null',
  ),
  'vocab': (lambda x: isinstance(x, dict), 'an object'),
}
