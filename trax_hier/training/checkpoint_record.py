"""The record of a checkpoint: the digests by which loading verifies it."""

import contextlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from trax_hier.training.digests import Summary, count_arrays


class DamagedError(ValueError):
  """A checkpoint differs from its record, or is not finite."""


def make_record(
  arrays: Mapping[str, jax.Array],
  summaries: Mapping[str, Summary],
  position: Mapping[str, object],
) -> dict[str, object]:
  """The record of a checkpoint, as JSON values.

  Args:
    arrays: Arrays of the checkpoint, by name.
    summaries: Their summaries.
    position: The JSON values saved beside them.
  """
  content = {
    'arrays': {
      name: [describe(x), summaries[name].digest] for name, x in arrays.items()
    },
    'position': _crc32(dict(position)),
  }
  return {'content': content, 'crc32': _crc32(content)}


def read_record(folder: Path) -> dict[str, object] | None:
  """Reads the content of a record; None if `folder` does not exist.

  Args:
    folder: Folder of the orbax item that holds the record.

  Raises:
    DamagedError: if the record is damaged.
  """
  if not folder.is_dir():
    return None
  try:
    record = ocp.JsonCheckpointHandler().restore(folder)
    content = record['content']
    is_intact = record['crc32'] == _crc32(content)
  except (ValueError, TypeError, KeyError, OSError) as error:
    raise DamagedError(f'its digests cannot be read: {error}') from error
  if not is_intact:
    raise DamagedError('its digests are damaged')
  return content


def different_arrays(
  folder: Path,
  record: Mapping[str, object] | None,
  wanted: Mapping[str, object],
  only: str = '',
) -> dict[str, tuple[str, str]]:
  """Compares types and shapes of saved arrays with others.

  Args:
    folder: Folder of the checkpoint.
    record: Content of its record, if it has one.
    wanted: Arrays or shapes by name.
    only: Prefix of the names of saved arrays to compare.

  Returns:
    {name: (saved, wanted)} of those that differ, as text; 'none' if one side
    has no such array.
  """
  if record is not None:
    saved = {name: shape for name, (shape, _) in record['arrays'].items()}
  else:
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
      tree = handler.metadata(folder / 'state').tree
    saved = {name: describe(x) for name, x in tree.items()}
  new = {name: describe(x) for name, x in wanted.items()}
  return {
    name: (saved.get(name, 'none'), new.get(name, 'none'))
    for name in sorted(saved.keys() | new.keys())
    if name.startswith(only) and saved.get(name) != new.get(name)
  }


def check_arrays(
  record: Mapping[str, object] | None, summaries: Mapping[str, Summary]
) -> None:
  """Compares loaded arrays with their record.

  Args:
    record: Content of the record; None compares nothing.
    summaries: Summaries of the loaded arrays, by name.

  Raises:
    DamagedError: if arrays differ from the record, or are not finite.
  """
  problems = {'are not finite': not_finite_arrays(summaries)}
  if record is not None:
    digests = record['arrays']
    wrong = [k for k, x in summaries.items() if x.digest != digests[k][1]]
    problems = {'differ from their digests': wrong} | problems
  for problem, names in problems.items():
    if names:
      raise DamagedError(f'{count_arrays(names, len(summaries))} {problem}')


def not_finite_arrays(summaries: Mapping[str, Summary]) -> list[str]:
  """Names of the arrays that are not finite."""
  return [name for name, x in summaries.items() if not x.is_finite]


def check_position(
  record: Mapping[str, object] | None, position: Mapping[str, object]
) -> None:
  """Raises DamagedError if the position differs from the record."""
  if record is not None and record['position'] != _crc32(dict(position)):
    raise DamagedError('its position differs from its digest')


def describe(x: jax.Array | jax.ShapeDtypeStruct) -> str:
  """Type and shape of an array.

  Example:
    >>> describe(jax.ShapeDtypeStruct((2, 3), 'float32'))
    'float32[2, 3]'
  """
  return f'{x.dtype}{[*x.shape]}'


def _crc32(value):
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())
