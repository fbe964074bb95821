"""Copies remote files into the data cache, with fsspec."""

import contextlib
import glob
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from trax_hier.data.cache.content import hash_of
from trax_hier.data.cache.entries import FULL, open_entry, write_json
from trax_hier.data.cache.folder import cache_folder, say
from trax_hier.data.cache.progress import Progress

# Packages that fsspec needs for an address.
_PACKAGES = {
  'gs': 'gcsfs',
  'gcs': 'gcsfs',
  's3': 's3fs',
  'http': 'aiohttp requests',
  'https': 'aiohttp requests',
  'hf': 'huggingface_hub',
}
# What of a description of a file changes with its content.
_IDENTITY = (
  'size',
  'ETag',
  'etag',
  'md5Hash',
  'crc32c',
  'generation',
  'blob_id',
  'mtime',
  'LastModified',
  'last_modified',
  'updated',
  'created',
)
_FILES = 'files'
_AT_ONCE = 8  # files copied at the same time
_CHUNK = 1 << 20  # bytes copied at a time


class _CopyError(Exception):
  """A file of a store cannot be read; what is copied so far is kept."""


def is_remote(path: str) -> bool:
  """Returns whether a path is an address, such as gs://bucket/books."""
  return '://' in path


def fetch(path: str, binding: str) -> str:
  """Returns the path of a local copy of remote files.

  The copy is kept in the data cache. Each call asks the store whether the files
  have changed; if it does not answer, the last copy serves, and a line says so.

  Args:
    path: Address of a file, a folder, or a pattern of files; only files by http
      and https. A local path is returned as it is.
    binding: Argument that sets the path, for messages.

  Raises:
    ValueError: naming the binding, if the path is no text, if a package is
      missing, if there is no such file, or if it cannot be read.
  """
  if not isinstance(path, str):
    raise ValueError(f'{binding}: must be a path or an address, as a string')
  if not is_remote(path):
    return path
  latest = cache_folder() / 'remote' / f'{hash_of(path)}.json'
  system, root = _connect(path, binding)
  try:
    infos = _list(system, root, path)
  except Exception as error:  # Each store raises errors of its own classes.
    return _last_copy(latest, path, binding, error)
  if not infos:
    raise ValueError(f'{binding}: no such file or folder')
  key = hash_of(path, {name: info[1] for name, info in infos.items()})

  def build(folder):
    _copy(system, infos, folder / _FILES, path)

  try:
    folder = open_entry(f'remote/{key}', build, path, can_continue=True)
  except _CopyError as error:
    raise _unreadable(binding, error.__cause__) from error
  copy = folder / _FILES
  if list(infos) == [PurePosixPath(root).name] or _is_web(path):
    copy /= next(iter(infos))
  with contextlib.suppress(OSError):
    write_json(latest, {'copy': str(copy), 'time': time.time()})
  return str(copy)


def _connect(path, binding):
  """Returns the file system of an address, and the path in it."""
  protocol = path.partition('://')[0]
  package = _PACKAGES.get(protocol, '')
  try:
    import fsspec

    return fsspec.url_to_fs(path)
  except ImportError as error:
    packages = f'fsspec {package}'.strip()
    raise ValueError(
      f'{binding}: needs packages for {protocol}://: pip install {packages}'
    ) from error
  except ValueError as error:  # An unknown protocol.
    raise ValueError(f'{binding}: {error}') from error


def _is_web(path):
  return path.startswith(('http://', 'https://'))


def _list(system, root, path) -> Mapping[str, tuple[str, dict]]:
  """Returns the files by relative name: address, and what identifies them."""
  if _is_web(path):
    name = PurePosixPath(unquote(urlsplit(path).path)).name or 'file'
    return {name: (root, _identity(system.info(root)))}
  if glob.has_magic(path):
    found = system.glob(root, detail=True)
    parts = PurePosixPath(root).parts
    n_fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = str(PurePosixPath(*parts[:n_fixed]))
  elif system.isfile(root):
    found, base = {root: system.info(root)}, str(PurePosixPath(root).parent)
  elif system.exists(root):
    found, base = system.find(root, detail=True), root
  else:
    return {}
  files = {}
  for address, info in sorted(found.items()):
    name = address.removeprefix(base).lstrip('/')
    if info.get('type') == 'file' and '..' not in PurePosixPath(name).parts:
      files[name] = address, _identity(info)
  return files


def _identity(info):
  return {key: str(info[key]) for key in _IDENTITY if info.get(key) is not None}


def _copy(system, infos, folder, path):
  """Copies files that an earlier call has not copied."""
  missing = {
    name: info for name, info in infos.items() if not (folder / name).exists()
  }
  sizes = [int(info[1].get('size', 0)) for info in missing.values()]
  progress = Progress(f'copying {path}', sum(sizes), say_now=True)

  def copy(name):
    target = folder / name
    scratch = target.with_name(f'.{target.name}.part')
    target.parent.mkdir(parents=True, exist_ok=True)
    source = system.open(infos[name][0], 'rb')
    with source, scratch.open('wb') as file:
      while chunk := source.read(_CHUNK):
        file.write(chunk)
        progress.add(len(chunk))
      file.flush()
      os.fsync(file.fileno())
    scratch.replace(target)

  with ThreadPoolExecutor(_AT_ONCE) as pool:
    try:
      for _ in pool.map(copy, missing):
        pass
    except Exception as error:
      pool.shutdown(cancel_futures=True)
      if isinstance(error, OSError) and error.errno in FULL:
        raise
      raise _CopyError from error
  for each in folder.rglob('.*.part'):
    each.unlink()
  progress.end(f'{len(missing):,} files copied')


def _last_copy(latest, path, binding, error):
  try:
    record = json.loads(latest.read_text('utf-8'))
  except (OSError, ValueError):
    raise _unreadable(binding, error) from error
  if not os.path.exists(record['copy']):
    raise _unreadable(binding, error) from error
  day = time.strftime('%Y-%m-%d %H:%M', time.localtime(record['time']))
  say(f'{path} cannot be reached ({_reason(error)}): the copy of {day} is used')
  return record['copy']


def _unreadable(binding, error):
  return ValueError(f'{binding}: cannot be read: {_reason(error)}')


def _reason(error):
  first = str(error).partition('\n')[0][:200]
  return f'{type(error).__name__}: {first}' if first else type(error).__name__
