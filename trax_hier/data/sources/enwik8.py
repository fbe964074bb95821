"""Enwik8: the first 100,000,000 bytes of English Wikipedia, 2006.

`python -m trax_hier.data.enwik8 --output_dir=DIR` downloads the file; training
never downloads it.
"""

import hashlib
import zipfile
from pathlib import Path

import numpy as np

from trax_hier.config import configurable
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.windowed import windowed
from trax_hier.data.corpora.remote import fetch
from trax_hier.data.files import find_path, form_of
from trax_hier.data.unpacking import DAMAGED, unpacked
from trax_hier.data.vocabularies.byte_vocab import ByteVocab

SIZE = 100_000_000
SHA256 = '2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8'
_COMMAND = 'python -m trax_hier.data.enwik8 --output_dir=DIR'

_HELD_OUT = 5_000_000  # bytes of valid and of test, at the end of the file


@configurable(module='trax_hier.data')
def Enwik8(
  path: str,
  batch_size: int,
  length: int,
  seed: int = 0,
  eval_length: int | None = None,
  eval_stride: int | None = None,
  verify: bool = False,
) -> DataSet:
  """The enwik8 benchmark: raw bytes, the published split 90M / 5M / 5M.

  Args:
    path: The raw file, which is memory-mapped, or the file compressed by zip,
      gzip, xz or bzip2, which is unpacked in memory.
    batch_size: Rows of the global batch.
    length: Bytes in a training window.
    seed: Seed of the shuffle.
    eval_length: Bytes in an evaluation window; None means `length`. The
      Hourglass paper's test results use 4096.
    eval_stride: Bytes that an evaluation window scores; None means all. The
      Hourglass paper's test results use 128.
    verify: Whether to check the checksum in addition to the size.

  Raises:
    ValueError: naming the binding, if the file is missing, unreadable or not
      enwik8, or if a number is invalid.
  """
  binding = f'Enwik8.path = {path!r}'
  found = find_path(
    fetch(path, binding), binding, 'file', f'. To download it: {_COMMAND}'
  )
  try:
    tokens = read(found)
    check(tokens, checksum=verify)
  except (OSError, ValueError) as error:
    raise ValueError(f'{binding}: {error}') from error
  train = SIZE - 2 * _HELD_OUT
  splits = {
    'train': tokens[:train],
    'valid': tokens[train:-_HELD_OUT],
    'test': tokens[-_HELD_OUT:],
  }
  return windowed(
    'Enwik8',
    path,
    splits,
    ByteVocab(),
    batch_size,
    length,
    seed,
    eval_length=eval_length,
    eval_stride=eval_stride,
  )


def read(path: Path) -> np.ndarray:
  """Reads a packed file or memory-maps a raw one, as (n,) uint8.

  Unpacks at most `SIZE` + 1 bytes, so a wrong archive cannot fill the memory.

  Raises:
    OSError: if the file cannot be read.
    ValueError: if it is empty or cannot be unpacked.
  """
  form = form_of(path)
  if form == '':
    return np.memmap(path, np.uint8, mode='r')
  try:
    if form == 'zip archive':
      with zipfile.ZipFile(path) as archive, archive.open('enwik8') as member:
        content = member.read(SIZE + 1)
    else:
      with unpacked(path) as (chunks, _):
        content = _read_start(chunks)
  except (KeyError, zipfile.BadZipFile, *DAMAGED) as error:
    raise ValueError(f'cannot be unpacked: {error}') from error
  return np.frombuffer(content, np.uint8)


def _read_start(chunks):
  content = bytearray()
  for chunk in chunks:
    content += chunk
    if len(content) > SIZE:
      break
  return content


def check(tokens: np.ndarray, checksum: bool) -> None:
  """Checks that the (n,) uint8 bytes are enwik8.

  Args:
    tokens: Unpacked bytes.
    checksum: Whether to check the sha256 too, which takes under a second.

  Raises:
    ValueError: naming the size or checksum that differs.
  """
  if len(tokens) != SIZE:
    size = f'more than {SIZE:,}' if len(tokens) > SIZE else f'{len(tokens):,}'
    raise ValueError(f'not enwik8: {size} bytes unpacked, not {SIZE:,}')
  if checksum:
    digest = hashlib.sha256(tokens).hexdigest()
    if digest != SHA256:
      raise ValueError(f'not enwik8: sha256 is {digest}, not {SHA256}')
