"""Digests of the files of an export, stored in its config.json.

Each is the CRC-32 of a file; that of config.json covers all other facts in it.
The digests of tensors are in model.safetensors: see `storage.tensor_files`.
"""

import json
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from trax_hier.storage.export_facts import MAX_FILE, check_file

_KEY = 'digests'
_OWN = 'config.json'


def with_digests(
  facts: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, Any]:
  """Adds digests to the facts of config.json.

  Args:
    facts: JSON values.
    files: Content of the other files, by name.

  Example:
    >>> with_digests({'step': 3}, {'config.gin': b''})['digests']
    {'config.json': 145879999, 'config.gin': 0}
  """
  digests = {name: zlib.crc32(content) for name, content in files.items()}
  return {**facts, _KEY: {_OWN: _digest(facts), **digests}}


def has_digests(facts: Mapping[str, Any]) -> bool:
  """Whether an export has digests; those of older versions have none."""
  return _KEY in facts


def check_digests(
  folder: Path,
  facts: Mapping[str, Any],
  names: Collection[str],
  may_differ: str | None,
  say: Callable[[str], None],
) -> None:
  """Compares the files of an export with their digests.

  Args:
    folder: The export.
    facts: Content of its config.json.
    names: Names of the other files that may have digests.
    may_differ: Name of a file that may differ, which is said.
    say: Prints a line about files that are not verified.

  Raises:
    ValueError: A file differs from its digest.
  """
  digests = facts.get(_KEY)
  if digests is None:
    say(f'{folder} is not verified: it was exported without digests')
    return
  if not isinstance(digests, dict):
    raise ValueError(f'{folder / _OWN}: damaged: {_KEY} is not an object')
  rest = {name: fact for name, fact in facts.items() if name != _KEY}
  for name, digest in digests.items():
    file = folder / name
    if name == _OWN:
      found = _digest(rest)
    elif name in names:
      check_file(file, MAX_FILE)
      found = zlib.crc32(file.read_bytes())
    else:
      raise ValueError(
        f'{folder / _OWN}: {_KEY} names {name!r:.80}, not a file of an export'
      )
    if found == digest:
      continue
    problem = f'{file}: differs from its digest: it is damaged or edited'
    if name != may_differ:
      raise ValueError(
        f'{problem}. If you edited it, remove "{name}" from "{_KEY}" in '
        f'{folder / _OWN}'
      )
    say(problem)


def _digest(facts):
  return zlib.crc32(json.dumps(facts, sort_keys=True).encode())
