"""Identifies files by their content, which is read once.

The hash of a file is kept beside its size, time of change and inode. As long as
these stay, later starts do not read the file.
"""

import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from trax_hier.data.cache.entries import write_json, writing_to
from trax_hier.data.cache.folder import cache_folder, why_not_writable
from trax_hier.data.cache.progress import Progress

_BLOCK = 1 << 26  # bytes of a file that one thread hashes
_CHUNK = 1 << 20  # bytes read at a time
_AT_ONCE = 1024  # blocks in the queue

# A file may change twice within one tick of the clock of its file system: the
# hash of a file that has changed so recently is not kept.
_RECENT = 2_000_000_000  # nanoseconds


def hash_of(*values: object) -> str:
  """Returns the hash of values that JSON can write, 32 hexadecimal digits."""
  return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def array_hash(*arrays: np.ndarray) -> str:
  """Returns the hash of arrays of integers, (n,)."""
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(np.ascontiguousarray(array, '<i8'))
    digest.update(b'end')
  return digest.hexdigest()[:32]


def cpu_count() -> int:
  """Returns the CPUs that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def content_hashes(paths: Mapping[str, Path], what: str) -> dict[str, str]:
  """Returns the hash of the content of each file.

  Args:
    paths: Files by name.
    what: What they are, such as the path that the user gave, for messages.

  Returns:
    The hashes by name, without files that cannot be read.

  Raises:
    ValueError: if a file changes while it is read, or the disk is full.
  """
  root = cache_folder()
  full = {name: os.path.abspath(path) for name, path in paths.items()}
  record = root / 'files' / f'{hash_of(sorted(full.values()))}.json'
  known = _read_record(record)
  found, missing, sizes = {}, {}, {}
  for name, path in full.items():
    stat = _stat(path)
    if stat is None:
      continue
    if known.get(path, [])[:-1] == stat:
      found[name] = known[path][-1]
    else:
      missing[name], sizes[name] = path, stat[0]
  if not missing:
    return found
  before = {name: _stat(path) for name, path in missing.items()}
  now = time.time_ns()
  new = _hash_files(
    missing, sizes, Progress(f'reading {what}', sum(sizes.values()))
  )
  for name, digest in new.items():
    stat = _stat(missing[name])
    if stat != before[name]:
      raise ValueError(f'{missing[name]} has changed while it was read')
    found[name] = digest
    if stat[1] < now - _RECENT:
      known[missing[name]] = [*stat, digest]
  known = {path: known[path] for path in full.values() if path in known}
  # In a read-only cache there is no record: each start reads the files.
  if not why_not_writable(root):
    with writing_to(root, what):
      record.parent.mkdir(parents=True, exist_ok=True)
      write_json(record, known)
  return {name: found[name] for name in paths if name in found}


def _read_record(path):
  try:
    known = json.loads(path.read_text('utf-8'))
  except (OSError, ValueError):
    return {}
  # A file that is damaged may hold anything.
  known = known.items() if isinstance(known, dict) else ()
  return {name: x for name, x in known if isinstance(x, list) and len(x) == 4}


def _stat(path):
  try:
    stat = os.stat(path)
  except OSError:
    return None
  return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _hash_files(paths, sizes, progress) -> dict[str, str]:
  """Hashes files in blocks, in several threads; leaves out unreadable ones."""
  blocks = _blocks(sizes)
  digests = {name: hashlib.sha256() for name in paths}
  with ThreadPoolExecutor(cpu_count()) as pool:
    while batch := list(itertools.islice(blocks, _AT_ONCE)):
      done = pool.map(
        lambda block: _hash_block(paths[block[0]], block[1]), batch
      )
      for (name, begin), digest in zip(batch, done, strict=True):
        progress.add(min(_BLOCK, sizes[name] - begin))
        if digest is None:
          digests.pop(name, None)
        elif name in digests:
          digests[name].update(digest)
  progress.end('read')
  return {name: digest.hexdigest()[:32] for name, digest in digests.items()}


def _blocks(sizes) -> Iterator[tuple[str, int]]:
  for name, size in sizes.items():
    for begin in range(0, max(size, 1), _BLOCK):
      yield name, begin


def _hash_block(path, begin):
  digest, left = hashlib.sha256(), _BLOCK
  try:
    with open(path, 'rb', buffering=0) as file:
      file.seek(begin)
      while left and (chunk := file.read(min(_CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
  except OSError:
    return None
  return digest.digest()
