"""Writes documents, one after the other, as one text."""

import contextlib
from pathlib import Path

import numpy as np

from trax_hier.data.cache.progress import Progress

# The byte after each document. Models shift their inputs right and so put id 0
# before each window: in both places, 0 means "a text starts here". Documents
# contain no zero byte.
SEPARATOR = b'\0'

TEXT_FILE, ENDS_FILE = 'text', 'ends'


class DocumentWriter(contextlib.ExitStack):
  """Writes the text of documents, and where they end, in constant memory.

  Attributes:
    n_documents: Number of documents.
    n_bytes: Bytes of the text.
  """

  def __init__(self, folder: Path, what: str, is_separated: bool = True):
    """Opens the files.

    Args:
      folder: Folder for them.
      what: What is read, for lines about the progress.
      is_separated: Whether SEPARATOR follows each document.
    """
    super().__init__()
    self._text = self.enter_context((folder / TEXT_FILE).open('wb'))
    self._ends = self.enter_context((folder / ENDS_FILE).open('wb'))
    self._progress = Progress(f'reading {what}', 0)
    self._end = SEPARATOR if is_separated else b''
    self.n_documents = self.n_bytes = 0

  def write(self, content: bytes) -> None:
    """Writes the next bytes of a document."""
    self._text.write(content)
    self.n_bytes += len(content)
    self._progress.add(len(content))

  def end_document(self) -> None:
    """Ends a document."""
    self._ends.write(np.array(self.n_bytes, '<i8').tobytes())
    self._text.write(self._end)
    self.n_bytes += len(self._end)
    self.n_documents += 1

  def take_back(self, n_documents: int, n_bytes: int) -> None:
    """Deletes what was written after so many documents and bytes."""
    for file, size in ((self._text, n_bytes), (self._ends, 8 * n_documents)):
      file.seek(size)
      file.truncate()
    self.n_documents, self.n_bytes = n_documents, n_bytes

  def end(self) -> None:
    """Says how long it took."""
    self._progress.end(f'{self.n_documents:,} documents read')
