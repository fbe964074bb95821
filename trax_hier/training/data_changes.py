"""The fingerprint of the data of a run, compared when the run resumes."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from trax_hier.training.checkpoints import CheckpointError
from trax_hier.training.data_error import DataError, reading

# Training batches that stand for data sets without a fingerprint. A data set
# may have no batch of a later step.
_STEPS = (0, 1, 10, 100)


def fingerprint(data: object) -> dict[str, str]:
  """Returns texts that change with the data, by part, such as 'train'.

  With several hosts, the result is that of the first one.

  Args:
    data: Data set. Without a method `fingerprint`, or if that returns an empty
      dict, some of its batches are hashed, by the first host.

  Raises:
    DataError: if the data cannot be read, or hosts have other data than the
      first one.
  """
  with reading('the fingerprint of the data'):
    found = getattr(data, 'fingerprint', dict)()
    if not found and jax.process_index() == 0:
      found = {
        'train': _of_training(data),
        'valid': _of_evaluation(data.eval_batches('valid')),
      }
  return _of_first_host(found)


def _of_first_host(found: dict[str, str]) -> dict[str, str]:
  """The fingerprint that the first host has found.

  Raises:
    DataError: if another host has found another one.
  """
  if jax.process_count() == 1:
    return found
  text = json.dumps(found).encode()
  n = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
  padded = np.frombuffer(text[:n].ljust(n), np.uint8)
  first = json.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())
  differs = np.bool_(found and found != first)
  hosts = np.flatnonzero(multihost_utils.process_allgather(differs))
  if len(hosts):
    raise DataError(
      f'train.data differs between hosts: process {hosts[0]} has other data '
      'than process 0'
    )
  return first


def _of_training(data):
  batches = []
  with contextlib.suppress(Exception):
    for step in _STEPS:
      batches.append(data.train_batch(step))
  return f'hash {_hash(batches)} of {len(batches)} batches'


def _of_evaluation(batches):
  ends = batches[0], batches[len(batches) - 1]
  return f'hash {_hash(ends)} of the ends of {len(batches):,} batches'


def _hash(batches):
  digest = hashlib.sha256()
  for batch in batches:
    for name, value in sorted(batch.items()):
      array = np.asarray(value)
      digest.update(f'{name} {array.dtype.str} {array.shape}\n'.encode())
      digest.update(array.tobytes())
  return digest.hexdigest()[:16]


def check_same_data(
  saved: Mapping[str, str] | None,
  present: Mapping[str, str],
  folder: Path,
  accept_changes: bool,
  say: Callable[[str], None],
) -> None:
  """Compares the fingerprint in a checkpoint with that of the present data.

  Args:
    saved: Fingerprint in the checkpoint; None if it has none.
    present: Fingerprint of the present data.
    folder: Folder of the run, for the message.
    accept_changes: Whether to print the changes, and not to raise.
    say: Function that prints a line.

  Raises:
    CheckpointError: if they differ, and changes are not accepted.
  """
  if saved is None:
    say(
      'the checkpoint has no fingerprint of its data: whether the data have '
      'changed since cannot be checked'
    )
    return
  changes = [
    f'\n  {name}: {saved.get(name, "none")} then, '
    f'{present.get(name, "none")} now'
    for name in sorted(saved.keys() | present.keys())
    if saved.get(name) != present.get(name)
  ]
  if not changes:
    return
  message = (
    f'the data have changed since the checkpoints in {folder}, so held-out '
    f'text may have been trained on:{"".join(changes)}'
  )
  if not accept_changes:
    raise CheckpointError(
      f'{message}\nTo resume with them anyway, add --accept_changes, or use '
      'another output_dir'
    )
  say(f'{message}\nThese changes are accepted')
