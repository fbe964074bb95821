"""Opens the documents of a path."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trax_hier.data.cache.content import content_hashes, hash_of
from trax_hier.data.cache.entries import open_entry, write_json
from trax_hier.data.corpora.corpus import Corpus, open_written
from trax_hier.data.corpora.documents import PARQUET, FieldReader, write_text
from trax_hier.data.corpora.listing import list_files
from trax_hier.data.corpora.remote import fetch
from trax_hier.data.corpora.tfds_source import TfdsSource, read_tfds
from trax_hier.data.corpora.writer import TEXT_FILE, DocumentWriter
from trax_hier.data.files import (
  NeedsPackageError,
  NotTextError,
  form_of,
  why_not_text_sampled,
)
from trax_hier.data.folders import Notes, is_hidden

_VERSION = 1  # of the entries of the cache; a change of what they hold adds one
_FILES_FILE = 'files.json'
# Names of files whose rows have fields, before endings such as '.gz'.
_ROWS = ('.jsonl', '.ndjson', '.json', '.parquet')


def open_corpus(
  path: str | TfdsSource,
  name: str,
  field: str | None = None,
  suffix: str = '',
  skip: Callable[[str], bool] = is_hidden,
) -> Corpus:
  """Opens a corpus; what must be converted or joined is kept in the data cache.

  Args:
    path: File, folder, pattern or address, or a set of tensorflow-datasets.
    name: Argument that sets the path, such as 'TextFiles.path'.
    field: Field of JSON lines, or column of parquet, that has the documents;
      None reads files as text.
    suffix: End of the names of the files of a folder; others are not reported.
    skip: See `list_files`.

  Raises:
    ValueError: naming the binding, if there is no such file, if no text is
      found, or if it cannot be read.
  """
  if isinstance(path, TfdsSource):
    return read_tfds(path)
  is_flag = name.startswith('--')
  binding = f'{name}={path}' if is_flag else f'{name} = {path!r}'
  found = list_files(fetch(path, binding), binding, suffix, skip)
  try:
    if found.is_file and field is None:
      return open_file(*found.files.values(), path)
    return _open_files(found, path, name, field)
  except NeedsPackageError as error:
    raise ValueError(f'{binding}: {error}') from error
  except NotTextError as error:
    advice = 'unpack or convert it to UTF-8'
    if str(error) == PARQUET:
      advice = f'set {_field(name)} to the column of its texts'
    raise ValueError(f'{binding}: not text but {error}: {advice}') from error
  except OSError as error:
    raise ValueError(f'{binding}: cannot be read: {error}') from error
  except ValueError as error:
    raise ValueError(f'{binding}: {error}') from error


def open_file(path: Path, what: str) -> Corpus:
  """Opens the text of one file: the file itself, if it need not be converted.

  Its bytes may be any.

  Args:
    path: The file.
    what: The path that the user gave, for messages.

  Raises:
    OSError: if the file cannot be read.
    NotTextError: if it is an archive, damaged, or compressed in a way that this
      Python does not read.
    ValueError: if it is empty.
  """
  if (form := form_of(path)) is None:
    raise ValueError('the file is empty')
  converted = Notes()
  key = functools.cache(lambda: _hashes({path.name: path}, what)[path.name])
  folder, text_path = None, path
  if form:
    folder, forms = _unpack(path, key(), what)
    converted.add(forms, path.name)
    text_path = folder / TEXT_FILE
  text = np.memmap(text_path, np.uint8, mode='r')
  return Corpus(
    text=text,
    ends=np.array([len(text)]),
    gap=0,
    files={path.name: 1},
    is_file=True,
    has_rows=False,
    key=(lambda: folder.name) if form else key,
    folder=folder,
    left_out=Notes(),
    converted=converted,
    fault=why_not_text_sampled(text),
  )


def _unpack(path, key, what):
  """Returns the entry of an unpacked file, and what it was unpacked from."""

  def build(folder):
    with DocumentWriter(folder, what, is_separated=False) as writer:
      forms = write_text(writer, path, is_checked=False)
      writer.end()
      if not writer.n_bytes:
        raise ValueError('the file is empty')
    _check_unchanged({path.name: path}, {path.name: key}, what)
    write_json(folder / _FILES_FILE, forms)

  folder = open_entry(f'texts/{hash_of(_VERSION, "file", key)}', build, what)
  return folder, json.loads((folder / _FILES_FILE).read_text('utf-8'))


def _hashes(paths, what):
  hashes = content_hashes(paths, what)
  if not hashes:
    path = next(iter(paths.values()))
    path.open('rb').close()  # Raises the error of the system.
  return hashes


def _check_unchanged(paths, hashes, what):
  """Raises ValueError if files have changed since they were hashed."""
  now = content_hashes(paths, what)
  for name, path in paths.items():
    if now.get(name) != hashes[name]:
      raise ValueError(f'{path} has changed while it was read')


def _open_files(found, what, name, field) -> Corpus:
  files, left_out = found.files, found.left_out
  if field is not None and not found.is_file:
    for each in [each for each in files if not _has_rows(each, files[each])]:
      left_out.add('neither JSON lines nor parquet', each)
    files = {e: path for e, path in files.items() if _has_rows(e, path)}
  hashes = _hashes(files, what) if files else {}
  for each in files.keys() - hashes.keys():
    left_out.add('unreadable', each)
  key = hash_of(_VERSION, list(hashes.items()), field)
  owner = f'{_field(name)} = {field!r}'

  def build(folder):
    readable = {n: files[n] for n in hashes}
    _write_files(folder, readable, found.is_file, what, field, owner)
    _check_unchanged(readable, hashes, what)

  if not hashes:
    raise ValueError(_no_text(field, left_out))
  folder = open_entry(f'texts/{key}', build, what)
  record = json.loads((folder / _FILES_FILE).read_text('utf-8'))
  left_out.extend(record['left_out'])
  if not record['files']:
    raise ValueError(_no_text(field, left_out))
  converted = Notes()
  converted.extend(record['converted'])
  return open_written(
    folder,
    record['files'],
    found.is_file,
    field is not None,
    key,
    left_out,
    converted,
  )


def _field(name):
  """Name of the argument that sets the field, beside that of the path."""
  if name.startswith('--'):
    return '--field'
  return f'{name.rpartition(".")[0]}.field'


def _has_rows(name, path):
  stem = name.lower()
  for packed in ('.gz', '.xz', '.bz2', '.zst'):
    stem = stem.removesuffix(packed)
  return stem.endswith(_ROWS) or _form_or_none(path) == PARQUET


def _form_or_none(path):
  try:
    return form_of(path)
  except OSError:
    return None


def _no_text(field, left_out):
  kind = 'UTF-8 text file' if field is None else 'JSON lines or parquet'
  others = str(left_out)
  return f'the folder contains no {kind}' + (others and f'; left out: {others}')


def _write_files(folder, paths, is_file, what, field, owner):
  """Writes the documents of files, and what became of the files."""
  left_out, converted, files = Notes(), Notes(), {}
  reader = FieldReader(field)
  with DocumentWriter(folder, what) as writer:
    for name, path in paths.items():
      before = writer.n_documents, writer.n_bytes
      try:
        if field is None:
          form = write_text(writer, path, is_checked=True)
        else:
          form = reader.write(writer, path, name)
      # An OSError ends it: a file that has been hashed is readable, and what is
      # left out for a full disk would be missing in the cache from then on.
      except NotTextError as error:
        if isinstance(error, NeedsPackageError):
          # To leave it out would be a surprise, and be kept in the cache.
          raise NeedsPackageError(f'{name} is {error}') from error
        if is_file:
          raise
        left_out.add(str(error), name)
        writer.take_back(*before)
        continue
      if form:
        converted.add(form, name)
      if writer.n_documents > before[0]:
        files[name] = writer.n_documents - before[0]
    writer.end()
  left_out.extend(reader.left_out.record())
  if field is not None and not files:
    raise ValueError(
      f'{owner}: no text in this field; {reader.describe_fields()}; left out: '
      f'{left_out}'
    )
  record = {
    'files': files,
    'left_out': left_out.record(),
    'converted': converted.record(),
  }
  write_json(folder / _FILES_FILE, record)
