"""Reads the documents of a file: its text, or a field of its rows."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from trax_hier.data.corpora.writer import DocumentWriter
from trax_hier.data.files import (
  NeedsPackageError,
  NotTextError,
  TextCheck,
  form_of,
)
from trax_hier.data.folders import Notes
from trax_hier.data.unpacking import unpacked

PARQUET = 'parquet'
_BATCH = 256  # rows of a parquet file in memory
_NAMED = 8  # fields in a message
_LONGEST = 1 << 10  # pieces of a line, of about a megabyte, in memory


def write_text(writer: DocumentWriter, path: Path, is_checked: bool) -> str:
  """Writes a text file as one document.

  Args:
    writer: Writes the document.
    path: The file, which may be compressed or in UTF-16.
    is_checked: Whether it must be UTF-8 and not empty.

  Returns:
    Forms that it was converted from; see `unpacked`.

  Raises:
    OSError: if the file cannot be read.
    NotTextError: if it cannot be unpacked, or is not text.
  """
  check, before = TextCheck(), writer.n_bytes
  with unpacked(path) as (chunks, form):
    for chunk in chunks:
      writer.write(chunk)
      if is_checked:
        check.add(chunk)
        if check.fault:
          break
  if is_checked and (fault := check.end()):
    raise NotTextError(fault)
  if is_checked and writer.n_bytes == before:
    raise NotTextError('empty')
  writer.end_document()
  return form


def add_document(
  writer: DocumentWriter, left_out: Notes, value: object, field: str, name: str
) -> None:
  """Writes the value of a field as a document, or notes why it is left out.

  Args:
    writer: Writes the document.
    left_out: Takes what is left out.
    value: A text, as str or UTF-8; or what else is in the field.
    field: Name of the field.
    name: Name of the row.
  """
  fault = ''
  if isinstance(value, str):
    value = value.encode('utf-8', 'surrogatepass')
  if not isinstance(value, bytes):
    fault = f'without a text in {field!r}'
  elif not value.strip():
    fault = 'blank'
  else:
    check = TextCheck()
    check.add(value)
    fault = check.end()
  if fault:
    left_out.add(fault, name)
    return
  writer.write(value)
  writer.end_document()


class FieldReader:
  """Reads documents from a field of the rows of JSON lines or parquet.

  Attributes:
    left_out: Rows that have no document.
    fields: Fields of the first row.
  """

  def __init__(self, field: str):
    """Begins without rows.

    Args:
      field: Name of the field.
    """
    self._field = field
    self.left_out = Notes()
    self.fields: list[str] = []

  def write(self, writer: DocumentWriter, path: Path, name: str) -> str:
    """Writes the documents of a file.

    Args:
      writer: Writes the documents.
      path: The file.
      name: Its name, for `left_out`.

    Returns:
      Forms that it was converted from.

    Raises:
      OSError: if the file cannot be read.
      NotTextError: if it cannot be unpacked, or the package for it is missing.
    """
    if form_of(path) == PARQUET:
      for number, value in enumerate(self._column(path), 1):
        add_document(
          writer, self.left_out, value, self._field, f'{name} row {number}'
        )
      return ''
    with unpacked(path) as (chunks, form):
      for number, line in enumerate(_lines(chunks), 1):
        if line.strip():
          self._add_line(writer, line, f'{name} line {number}')
    return form

  def _add_line(self, writer, line, name):
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      self.left_out.add('not JSON', name)
      return
    if not isinstance(row, dict):
      self.left_out.add('not a JSON object', name)
      return
    self.fields = self.fields or list(row)
    text = row.get(self._field)
    add_document(writer, self.left_out, text, self._field, name)

  def _column(self, path) -> Iterator[object]:
    parquet = import_parquet()
    try:
      with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        self.fields = self.fields or names
        if self._field not in names:
          yield from [None] * file.metadata.num_rows
          return
        for batch in file.iter_batches(_BATCH, columns=[self._field]):
          yield from batch.column(0).to_pylist()
    except (OSError, ValueError) as error:  # Those of pyarrow are such.
      raise NotTextError('damaged parquet') from error

  def describe_fields(self) -> str:
    """Returns the fields of the first row, for a message."""
    names = ', '.join(map(repr, self.fields[:_NAMED]))
    more = ', …' * (len(self.fields) > _NAMED)
    return f'the fields are {names}{more}' if names else 'no row is an object'


def import_parquet():
  """Imports pyarrow's reader of parquet.

  Raises:
    NeedsPackageError: if it is not installed.
  """
  try:
    from pyarrow import parquet
  except ImportError as error:
    raise NeedsPackageError(
      'parquet, which needs: pip install pyarrow'
    ) from error
  return parquet


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
  """Yields the lines of the content in pieces, without their ends.

  Raises:
    NotTextError: if a line, such as a file of one JSON array, is too long.
  """
  rest = []
  for chunk in chunks:
    first, *others = chunk.split(b'\n')
    rest.append(first)
    if len(rest) > _LONGEST:
      raise NotTextError('not JSON lines: a line is too long')
    if others:
      yield b''.join(rest)
      yield from others[:-1]
      rest = [others[-1]]
  yield b''.join(rest)
