"""Unpacks compressed files, and encodes UTF-16 as UTF-8, in constant memory."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from trax_hier.data.files import (
  HEAD,
  NeedsPackageError,
  NotTextError,
  form_of_head,
)

COMPRESSIONS = ('gzip', 'xz', 'bzip2', 'zstd')
_ENCODINGS = {'UTF-16': 'utf-16', 'UTF-32': 'utf-32'}

# Errors for compressed bytes that are damaged.
DAMAGED = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error)

_CHUNK = 1 << 20  # bytes unpacked at a time
_ZSTD_CHUNK = 1 << 16  # packed bytes; all that they hold is unpacked at once


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[tuple[Iterator[bytes], str]]:
  """Reads a file in constant memory, unpacked and encoded as UTF-8.

  The first bytes say what it is: the magic number of gzip, xz, bzip2 or zstd,
  or the byte order mark of UTF-16 or UTF-32. Other bytes are read as they are.

  Yields:
    The content in pieces, not empty; and the forms that it was converted from,
    such as 'gzip, UTF-16', or '' if it is the bytes of the file.

  Raises:
    OSError: if the file cannot be read.
    NotTextError: if it is damaged, which may show only in a later piece, an
      archive, or compressed in a way that this Python does not read.
  """
  forms = []
  while True:
    with contextlib.ExitStack() as stack:
      file = stack.enter_context(path.open('rb'))
      for form in forms:
        file = stack.enter_context(_decompress(form, file))
      with _damage(forms):
        head = file.read(HEAD)
      form = form_of_head(head)
      if form in COMPRESSIONS:
        forms.append(form)
        continue
      if form and form not in _ENCODINGS:
        raise NotTextError(form)
      chunks = _chunks(head, file, forms)
      if form:
        chunks = _recode(chunks, form)
      yield chunks, ', '.join([*forms, form] if form else forms)
      return


@contextlib.contextmanager
def _damage(forms):
  """Turns errors for damaged bytes into NotTextError, if they are unpacked."""
  try:
    yield
  except DAMAGED as error:
    if not forms:
      raise
    raise NotTextError(f'damaged {forms[-1]}') from error


def _chunks(head, file, forms):
  chunk = head
  while chunk:
    yield chunk
    with _damage(forms):
      chunk = file.read(_CHUNK)


def _recode(chunks, form):
  decoder = codecs.getincrementaldecoder(_ENCODINGS[form])()
  try:
    for chunk in chunks:
      if text := decoder.decode(chunk):
        yield text.encode('utf-8')
    if text := decoder.decode(b'', final=True):
      yield text.encode('utf-8')
  except UnicodeError as error:
    raise NotTextError(f'damaged {form}') from error


def _decompress(form, file):
  """Returns a buffered reader of the unpacked bytes of a file."""
  if form == 'zstd':
    raw = _open_zstd(file)
  else:
    raw = {'gzip': gzip, 'xz': lzma, 'bzip2': bz2}[form].open(file)
  return io.BufferedReader(raw, _CHUNK)


def _open_zstd(file):
  if sys.version_info >= (3, 14):
    from compression import zstd

    return zstd.open(file)
  try:
    import zstandard
  except ImportError as error:
    raise NeedsPackageError(
      'zstd-compressed, which needs: pip install zstandard'
    ) from error
  return _Zstd(file, zstandard)


class _Zstd(io.RawIOBase):
  """Unpacks zstd; the package's own reader takes a cut file for a whole one."""

  def __init__(self, file, zstandard):
    self._file = file
    self._new = zstandard.ZstdDecompressor().decompressobj
    self._error = zstandard.ZstdError
    self._frame = None  # The frame that is being read.
    self._packed = self._unpacked = b''

  def readable(self):
    return True

  def readinto(self, buffer):
    while not self._unpacked and self._fill():
      pass
    n = min(len(buffer), len(self._unpacked))
    buffer[:n] = self._unpacked[:n]
    self._unpacked = self._unpacked[n:]
    return n

  def _fill(self):
    """Unpacks the next bytes; returns whether there were any."""
    self._packed = self._packed or self._file.read(_ZSTD_CHUNK)
    if not self._packed:
      if self._frame is not None:
        raise EOFError('a frame of zstd has no end')
      return False
    frame = self._frame or self._new()
    try:
      self._unpacked = memoryview(frame.decompress(self._packed))
    except self._error as error:
      raise ValueError(str(error)) from error
    self._packed = frame.unused_data if frame.eof else b''
    self._frame = None if frame.eof else frame
    return True
