"""Finds the user's files, and says what they are."""

import codecs
import mmap
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
  (b'\x28\xb5\x2f\xfd', 'zstd'),
  (b'\x04\x22\x4d\x18', 'lz4-compressed'),
  (b'\x1f\x9d', 'Z-compressed'),
  (b'%PDF-', 'PDF'),
  (b'PAR1', 'parquet'),
)
_TAR = slice(257, 262), b'ustar', 'tar archive'
HEAD = 262  # bytes that show the form of a file

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


class NeedsPackageError(NotTextError):
  """A file that a package would read; the message says how to install it."""


def form_of(path: Path) -> str | None:
  """Returns the form of a file by its first bytes, such as 'gzip'.

  '' if it is none that this module knows, such as text; None if it is empty.

  Raises:
    OSError: if the file cannot be read.
  """
  with path.open('rb') as file:
    head = file.read(HEAD)
  return form_of_head(head) if head else None


def form_of_head(head: bytes) -> str:
  """Returns the form of a file by its first HEAD bytes, or '', as `form_of`."""
  where, magic, form = _TAR
  if head[where] == magic:
    return form
  return next((form for start, form in _MAGIC if head.startswith(start)), '')


class TextCheck:
  """Finds out, piece by piece, whether bytes are text.

  Attributes:
    fault: Why they are not, such as 'not UTF-8'; '' if they are so far.

  Example:
    >>> check = TextCheck()
    >>> for piece in ('é'.encode(), 'é'.encode('latin-1')):
    ...   check.add(piece)
    >>> check.end()
    'not UTF-8'
  """

  def __init__(self):
    """Begins without bytes."""
    self._decoder = codecs.getincrementaldecoder('utf-8')()
    self.fault = ''

  def add(self, content: bytes) -> None:
    """Checks the next bytes."""
    if not self.fault:
      self.fault = (
        'binary' if b'\0' in content else self._decode(content, False)
      )

  def end(self) -> str:
    """Returns the fault of the whole bytes."""
    return self.fault or self._decode(b'', True)

  def _decode(self, content, final):
    try:
      self._decoder.decode(content, final)
    except UnicodeDecodeError:
      return 'not UTF-8'
    return ''


def why_not_text_sampled(array: np.ndarray) -> str:
  """Checks blocks of (n,) uint8, spaced evenly, as `TextCheck` does."""
  for begin in sample_begins(len(array), _BLOCK, _N_BLOCKS):
    block = array[begin : begin + _BLOCK].tobytes()
    # A block may begin and end inside a character of up to four bytes.
    skipped = 0
    while begin and skipped < 3 and block[skipped] & 0xC0 == 0x80:
      skipped += 1
    check = TextCheck()
    check.add(block[skipped:])
    if check.fault:
      return check.fault
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


def release_pages(array: np.ndarray) -> None:
  """Lets the system take back the memory of pages of a mapped file.

  It could anyway, but until then they count as memory of this process.

  Args:
    array: Array, (n,); of one in memory, nothing happens.
  """
  if (file := mapped_file(array)) and hasattr(mmap, 'MADV_DONTNEED'):
    file.mapping.madvise(mmap.MADV_DONTNEED)


def mapped_file(array: np.ndarray) -> MappedFile | None:
  """Returns the file of a memory-mapped array or of a view of one, else None.

  Args:
    array: Array, (n,) or of any other shape.
  """
  # A `Joined` array is of parts of its base.
  name, base = None, array if isinstance(array, np.ndarray) else array.base
  while isinstance(base, np.ndarray):
    name = getattr(base, 'filename', name)
    base = base.base
  return MappedFile(base, name) if isinstance(base, mmap.mmap) else None
