"""Corpus: the documents of a source as one memory-mapped text."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trax_hier.data.corpora.writer import ENDS_FILE, SEPARATOR, TEXT_FILE
from trax_hier.data.folders import Notes


class Corpus(NamedTuple):
  """The documents of a path, as one text.

  Attributes:
    text: All documents, (n,) uint8, memory-mapped.
    ends: Where each document ends, exclusive, (documents,) int64.
    gap: Bytes between a document and the next.
    files: Number of documents of each file, by name.
    is_file: Whether the path is one file.
    has_rows: Whether the documents are rows of files; else each is a file.
    key: Returns the hash of the text, which may have to be read for it.
    folder: Entry of the cache; None if the text is the file of the user.
    left_out: What is not in the text, with the reasons.
    converted: Files that were unpacked or encoded as UTF-8.
    fault: Why the text of one file is not text; '' if it is, as far as a sample
      shows.
  """

  text: np.ndarray
  ends: np.ndarray
  gap: int
  files: dict[str, int]
  is_file: bool
  has_rows: bool
  key: Callable[[], str]
  folder: Path | None
  left_out: Notes
  converted: Notes
  fault: str = ''

  def begins(self) -> np.ndarray:
    """Returns where each document begins, (documents,)."""
    return np.append(0, self.ends[:-1] + self.gap)[: len(self.ends)]

  def file_sizes(self) -> dict[str, int]:
    """Returns the bytes of each file, without the gap after it."""
    sizes = np.diff(self.file_edges()) - self.gap
    return dict(zip(self.files, sizes.tolist(), strict=True))

  def file_edges(self) -> np.ndarray:
    """Returns where each file begins, and the last one ends, (files + 1,)."""
    last = np.cumsum(list(self.files.values())) - 1
    return np.append(0, self.ends[last] + self.gap)

  def describe(self, how: str) -> str:
    """Returns one line: what was read, and what else became of it.

    Args:
      how: How the text was split.
    """
    if self.is_file and not self.has_rows:
      # Without the name, which is that of the path.
      form = ', '.join(self.converted.kinds())
      text = f'converted from {form}, {how}' if form else how
      if self.fault:
        text += f'; {self.fault}: each of its bytes is read as it is'
      return text
    n_files, n = len(self.files), len(self.ends)
    text = '' if self.is_file else f'{n_files:,} files, '
    text += f'{n:,} documents, ' if n != n_files else ''
    text += how
    if converted := str(self.converted):
      text += f'; converted: {converted}'
    if left_out := str(self.left_out):
      text += f'; left out: {left_out}'
    return text


def open_written(
  folder: Path,
  files: dict[str, int],
  is_file: bool,
  has_rows: bool,
  key: str,
  left_out: Notes,
  converted: Notes,
) -> Corpus:
  """Opens what a `DocumentWriter` has written to an entry; see `Corpus`."""
  return Corpus(
    np.memmap(folder / TEXT_FILE, np.uint8, mode='r'),
    np.memmap(folder / ENDS_FILE, '<i8', mode='r'),
    len(SEPARATOR),
    files,
    is_file,
    has_rows,
    lambda: key,
    folder,
    left_out,
    converted,
  )
