"""Reads the texts of a set of tensorflow-datasets, in a process of its own.

So this process never loads TensorFlow, which takes seconds, and memory of the
devices. A later run with the same set starts no such process.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from trax_hier.data.cache.content import hash_of
from trax_hier.data.cache.entries import open_entry, write_json
from trax_hier.data.cache.folder import cache_folder
from trax_hier.data.corpora.corpus import Corpus, open_written
from trax_hier.data.folders import Notes

_PROCESS = 'trax_hier.data.corpora.tfds_process'
RECORD_FILE = 'documents.json'
_VERSION = 1  # of the entries of the cache; a change of what they hold adds one


class TfdsSource(NamedTuple):
  """A set of tensorflow-datasets, as the path of a data set.

  Attributes:
    name: Its name, with configuration and version, such as 'wiki40b/en:1.3.0'.
    feature: The feature that has the text; None finds it.
    data_dir: Folder of prepared sets; None means the default of tfds.
    download: Whether to download and prepare the set if it is not prepared.
  """

  name: str
  feature: str | None = None
  data_dir: str | None = None
  download: bool = False

  def __str__(self) -> str:
    """Name of the set."""
    return f'{self.name} of tensorflow-datasets'


def read_tfds(source: TfdsSource) -> Corpus:
  """Opens the documents of a set; each of its splits is a file of the corpus.

  Raises:
    ValueError: if the set does not exist or is not prepared, if it has no text,
      or if it cannot be read.
  """
  where = source.data_dir or os.environ.get('TFDS_DATA_DIR')
  asked = hash_of(source.name, source.feature, where)
  known = cache_folder() / 'tfds' / f'{asked}.json'
  with contextlib.suppress(OSError, ValueError):
    found = json.loads(known.read_text('utf-8'))
    if _stats(found['folder']) == found['stats']:
      return _open(source, found)
  found = _run('find', source, source.feature)
  found['stats'] = _stats(found['folder'])
  corpus = _open(source, found)
  with contextlib.suppress(OSError):  # The cache may be read-only, or full.
    known.parent.mkdir(exist_ok=True)
    write_json(known, found)
  return corpus


def _open(source, found):
  key = hash_of(_VERSION, found['stats'], found['feature'])

  def build(folder):
    _run('read', source, found['feature'], str(folder))

  folder = open_entry(f'texts/{key}', build, str(source))
  record = json.loads((folder / RECORD_FILE).read_text('utf-8'))
  left_out = Notes()
  left_out.extend(record['left_out'])
  return open_written(
    folder, record['files'], False, True, key, left_out, Notes()
  )


def _stats(folder):
  """Returns names, sizes and times of change of the files of a prepared set."""
  return [
    [path.name, (stat := path.stat()).st_size, stat.st_mtime_ns]
    for path in sorted(Path(folder).iterdir())
    if path.is_file()
  ]


def _run(action, source, feature, folder=''):
  """Runs the process that uses tfds; returns its answer."""
  paths = os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))
  request = source._asdict() | {
    'action': action,
    'feature': feature,
    'folder': folder,
  }
  # TensorFlow would take the memory of the devices.
  quiet = {'CUDA_VISIBLE_DEVICES': '', 'TF_CPP_MIN_LOG_LEVEL': '3'}
  done = subprocess.run(
    [sys.executable, '-m', _PROCESS, json.dumps(request)],
    stdout=subprocess.PIPE,
    encoding='utf-8',
    env=os.environ | {'PYTHONPATH': paths} | quiet,
  )
  answer = done.stdout.strip().rpartition('\n')[2]
  name = f'TfdsText.name = {source.name!r}'
  try:
    found = json.loads(answer)
  except ValueError:
    raise ValueError(
      f'{name}: the process that reads it ended with code {done.returncode}'
    ) from None
  if 'error' in found:
    raise ValueError(f'{name}: {found["error"]}')
  return found
