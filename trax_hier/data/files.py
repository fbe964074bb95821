"""Finds the user's files and reads their bytes, unpacked if necessary."""

import bz2
import codecs
import gzip
import lzma
import mmap
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trax_hier.environment import expand_home

# Forms of a file by its first bytes. UTF-32 precedes UTF-16, whose byte order
# mark begins like it.
_MAGIC = (
  (b'\x1f\x8b\x08', 'gzip'),
  (b'\xfd7zXZ\0', 'xz'),
  *((b'BZh%d1AY&SY' % level, 'bzip2') for level in range(1, 10)),
  (codecs.BOM_UTF32_LE, 'UTF-32'),
  (codecs.BOM_UTF32_BE, 'UTF-32'),
  (codecs.BOM_UTF16_LE, 'UTF-16'),
  (codecs.BOM_UTF16_BE, 'UTF-16'),
  (b'PK\3\4', 'zip archive'),
  (b'7z\xbc\xaf\x27\x1c', '7z archive'),
  (b'Rar!\x1a\7', 'rar archive'),
  (b'\x28\xb5\x2f\xfd', 'zstd-compressed'),
  (b'\x04\x22\x4d\x18', 'lz4-compressed'),
  (b'\x1f\x9d', 'Z-compressed'),
  (b'%PDF-', 'PDF'),
  (b'PAR1', 'parquet'),
)
_TAR = slice(257, 262), b'ustar', 'tar archive'
_HEAD = 262  # bytes that show the form of a file

COMPRESSIONS = {'gzip': gzip, 'xz': lzma, 'bzip2': bz2}
_ENCODINGS = {'UTF-16': 'utf-16', 'UTF-32': 'utf-32'}

# Errors for compressed bytes that are damaged.
DAMAGED = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error)

# A file of which text is checked in blocks, evenly spaced.
_BLOCK, _N_BLOCKS = 1 << 16, 64


def find_path(
  path: str, binding: str, kind: str = 'file or folder', hint: str = ''
) -> Path:
  """Returns an existing path with `~` expanded.

  Args:
    path: Path as the user gave it.
    binding: Argument that sets the path, such as "TextFiles.path = 'x'", for
      messages.
    kind: Required kind: 'file', 'folder' or 'file or folder'.
    hint: End of the message, such as the command that creates the file.

  Raises:
    ValueError: naming the binding, if no such file or folder exists.
  """
  found = expand_home(path, binding)
  exists = {'file': found.is_file, 'folder': found.is_dir}
  if not path or not exists.get(kind, found.exists)():
    raise ValueError(
      f'{binding}: no such {kind} (looked for {found.absolute()}){hint}'
    )
  return found


class NotTextError(ValueError):
  """A file that is not text; the message says what it is."""


class Content(NamedTuple):
  """The bytes of a file.

  Attributes:
    array: Bytes, (n,) uint8, memory-mapped if the file is read as it is.
    form: Forms that they were converted from, such as 'gzip, UTF-16'; '' if
      they are the bytes of the file.
  """

  array: np.ndarray
  form: str


def map_bytes(path: Path) -> Content:
  """Memory-maps a file; unpacks a compressed or UTF-16 file into memory.

  Raises:
    OSError: if the file cannot be read.
    NotTextError: as `convert`.
  """
  form = form_of(path)
  if form is None:
    return Content(np.zeros(0, np.uint8), '')
  if not form:
    return Content(np.memmap(path, np.uint8, mode='r'), '')
  content, forms = convert(path.read_bytes())
  return Content(np.frombuffer(content, np.uint8), forms)


def form_of(path: Path) -> str | None:
  """Returns the form of a file by its first bytes, such as 'gzip'.

  '' if it is none that this module knows, such as text; None if it is empty.

  Raises:
    OSError: if the file cannot be read.
  """
  with path.open('rb') as file:
    head = file.read(_HEAD)
  return _form(head) if head else None


def _form(head):
  where, magic, form = _TAR
  if head[where] == magic:
    return form
  return next((form for start, form in _MAGIC if head.startswith(start)), '')


def convert(content: bytes) -> tuple[bytes, str]:
  """Decompresses bytes, and encodes UTF-16 and UTF-32 as UTF-8.

  Their first bytes say what they are: the magic number of gzip, xz or bzip2, or
  a byte order mark. Other bytes are returned as they are.

  Returns:
    The bytes, and `Content.form`.

  Raises:
    NotTextError: if the bytes are damaged, an archive, or compressed in a way
      that Python's standard library does not read.
  """
  forms = []
  while form := _form(content[:_HEAD]):
    forms.append(form)
    if encoding := _ENCODINGS.get(form):
      try:
        return content.decode(encoding).encode('utf-8'), ', '.join(forms)
      except UnicodeError as error:
        raise NotTextError(f'damaged {form}') from error
    if form not in COMPRESSIONS:
      raise NotTextError(form)
    try:
      content = COMPRESSIONS[form].decompress(content)
    except DAMAGED as error:
      raise NotTextError(f'damaged {form}') from error
  return content, ', '.join(forms)


def why_not_text(content: bytes) -> str:
  """Returns why bytes are not text, such as 'not UTF-8'; '' if they are."""
  if b'\0' in content:
    return 'binary'
  try:
    content.decode('utf-8')
  except UnicodeDecodeError:
    return 'not UTF-8'
  return ''


def why_not_text_sampled(array: np.ndarray) -> str:
  """As `why_not_text`, for blocks of (n,) uint8, spaced evenly."""
  for begin in sample_begins(len(array), _BLOCK, _N_BLOCKS):
    block = array[begin : begin + _BLOCK].tobytes()
    if b'\0' in block:
      return 'binary'
    # A block may begin and end inside a character of up to four bytes.
    skipped = 0
    while begin and skipped < 3 and block[skipped] & 0xC0 == 0x80:
      skipped += 1
    try:
      codecs.getincrementaldecoder('utf-8')().decode(block[skipped:])
    except UnicodeDecodeError:
      return 'not UTF-8'
  return ''


def sample_begins(n: int, block: int, n_blocks: int) -> list[int]:
  """Returns where blocks of n items begin: all of them, or evenly spaced ones.

  Example:
    >>> sample_begins(10, block=4, n_blocks=3)
    [0, 4, 8]
    >>> sample_begins(100, block=4, n_blocks=3)
    [0, 48, 96]
  """
  if n <= block * n_blocks:
    return list(range(0, n, block))
  return [i * (n - block) // (n_blocks - 1) for i in range(n_blocks)]


def map_array(path: Path) -> np.ndarray:
  """Memory-maps a .npy file.

  Raises:
    OSError: if the file cannot be read.
    ValueError: if it is not an array of numbers in this format, such as an
      archive of arrays or a pickle, or is damaged.
  """
  try:
    return np.lib.format.open_memmap(path, mode='r')
  except (ValueError, OverflowError, EOFError) as error:
    reason = str(error).partition('\n')[0]
    raise ValueError(f'{path.name}: not a .npy file: {reason}') from error


class MappedFile(NamedTuple):
  """The memory-mapped file of an array.

  Attributes:
    mapping: Its mapping.
    name: Path of the file.
  """

  mapping: mmap.mmap
  name: str

  def check_not_truncated(self) -> None:
    """Raises OSError if the file has become shorter.

    Reading what is no longer in the file would end the process.
    """
    now, then = self.mapping.size(), len(self.mapping)
    if now < then:
      raise OSError(
        f'{self.name} has been truncated while it was in use: it had {then:,} '
        f'bytes and has {now:,}'
      )


def mapped_file(array: np.ndarray) -> MappedFile | None:
  """Returns the file of a memory-mapped array or of a view of one, else None.

  Args:
    array: Array, (n,) or of any other shape.
  """
  name, base = None, array
  while isinstance(base, np.ndarray):
    name = getattr(base, 'filename', name)
    base = base.base
  return MappedFile(base, name) if isinstance(base, mmap.mmap) else None
