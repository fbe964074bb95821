"""Shards of a text: encoded one by one, kept if the process is killed, joined.

The plan of the shards is in the folder of the entry, for other processes. A
shard that is encoded has a file of ids, one of the number of ids in each block,
and one of the bytes of each id if they are counted.
"""

import io
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trax_hier.data.cache.entries import write_json
from trax_hier.data.files import mapped_file, release_pages
from trax_hier.data.joined import Joined
from trax_hier.data.vocabularies.text_blocks import BLOCK, block_ends
from trax_hier.data.vocabularies.vocab import TextVocab

_SHARD = 1 << 24  # bytes of text
_CHUNK = 1 << 20  # bytes copied at a time


class Plan(NamedTuple):
  """How a text is cut.

  Attributes:
    folder: Folder of the entry.
    text: The text, (n,) uint8.
    bounds: Where the blocks begin, and the last one ends, (blocks + 1,).
    firsts: First block of each shard, and the number of blocks, (shards + 1,).
    parts: Where the parts of the text end, (parts,).
    dtype: Type of the ids.
    byte_dtype: Type of the bytes of an id; None if they are not counted.
  """

  folder: Path
  text: Joined
  bounds: np.ndarray
  firsts: np.ndarray
  parts: np.ndarray
  dtype: np.dtype
  byte_dtype: np.dtype | None

  @property
  def scratch(self) -> Path:
    """Folder of the plan and the shards, without which the entry is whole."""
    return self.folder / 'shards'

  @property
  def n_shards(self) -> int:
    """Number of shards."""
    return len(self.firsts) - 1

  def shard_sizes(self) -> np.ndarray:
    """Bytes of text of each shard, (shards,)."""
    return np.diff(self.bounds[self.firsts])


def make_plan(
  folder: Path,
  text: Joined,
  parts: np.ndarray,
  dtype: np.dtype,
  count_bytes: bool,
  is_lossy: bool,
) -> Plan:
  """Cuts a text into blocks and shards, and writes the plan.

  Args:
    folder: Folder of the entry.
    text: Parts of a memory-mapped file, (n,) uint8.
    parts: Where the parts of the text end, (parts,).
    dtype: Type of the ids.
    count_bytes: Whether to count the bytes of each token.
    is_lossy: Whether a token may stand for text that has no token, which may be
      long.
  """
  bounds = _bounds(text, np.asarray(parts, np.int64))
  wanted = np.arange(0, len(text), _SHARD)
  firsts = np.unique(np.searchsorted(bounds[:-1], wanted))
  firsts = np.append(firsts[firsts < len(bounds) - 1], len(bounds) - 1)
  byte_dtype = np.dtype('<u4' if is_lossy else '<u2') if count_bytes else None
  plan = Plan(folder, text, bounds, firsts, parts, dtype, byte_dtype)
  plan.scratch.mkdir(exist_ok=True)
  for name in ('bounds', 'firsts', 'parts'):
    np.save(plan.scratch / f'{name}.npy', getattr(plan, name))
  np.save(plan.scratch / 'runs.npy', np.stack((text.begins, text.ends)))
  settings = {
    'file': os.path.abspath(mapped_file(text.base).name),
    'dtype': dtype.str,
    'byte_dtype': byte_dtype and byte_dtype.str,
  }
  write_json(plan.scratch / 'plan.json', settings)
  return plan


def read_plan(folder: Path) -> Plan:
  """Reads the plan that `make_plan` wrote."""
  scratch = folder / 'shards'
  settings = json.loads((scratch / 'plan.json').read_text('utf-8'))
  base = np.memmap(settings['file'], np.uint8, mode='r')
  text = Joined(base, *np.load(scratch / 'runs.npy'))
  bounds, firsts, parts = (
    np.load(scratch / f'{name}.npy', mmap_mode='r')
    for name in ('bounds', 'firsts', 'parts')
  )
  byte_dtype = settings['byte_dtype'] and np.dtype(settings['byte_dtype'])
  dtype = np.dtype(settings['dtype'])
  return Plan(folder, text, bounds, firsts, parts, dtype, byte_dtype)


def _bounds(text, parts):
  """Cuts parts that are longer than a block; returns where blocks begin."""
  edges = np.append(0, parts)
  bounds = [edges]
  for i in np.flatnonzero(np.diff(edges) > BLOCK).tolist():
    begin, end = edges[i : i + 2].tolist()
    inner = block_ends(_Part(text, begin, end), BLOCK)
    bounds.append(begin + np.fromiter(inner, np.int64))
  return np.unique(np.concatenate(bounds))


class _Part:
  """A part of a text, sliced from its begin."""

  def __init__(self, text, begin, end):
    self._text, self._begin, self._end = text, begin, end

  def __len__(self):
    return self._end - self._begin

  def __getitem__(self, where):
    begin, end, _ = where.indices(len(self))
    return self._text[self._begin + begin : self._begin + end]


def _names(plan):
  """Names of the files of a shard and of the entry, and their types."""
  names = {'ids': plan.dtype}
  return (
    names if plan.byte_dtype is None else names | {'n_bytes': plan.byte_dtype}
  )


def is_encoded(plan: Plan, shard: int) -> bool:
  """Returns whether a shard has been encoded."""
  return (plan.scratch / f'{shard}.counts.npy').exists()


def encode_shard(plan: Plan, shard: int, vocab: TextVocab) -> None:
  """Encodes a shard and writes its files, whole or not at all.

  Raises:
    ValueError: if the text cannot be encoded.
    OSError: if the files cannot be written.
  """
  first, last = plan.firsts[shard : shard + 2]
  bounds = plan.bounds[first : last + 1]
  text = plan.text[bounds[0] : bounds[-1]]
  found = {name: [] for name in _names(plan)}
  counts = []
  for begin, end in itertools.pairwise(bounds.tolist()):
    block = text[begin - bounds[0] : end - bounds[0]].tobytes()
    encoded = vocab.encode_bytes(block)
    counts.append(len(encoded.ids))
    for name in found:
      found[name].append(getattr(encoded, name))
  release_pages(plan.text.base)
  for name, dtype in _names(plan).items():
    array = np.concatenate(found[name]).astype(dtype)
    _write(plan.scratch / f'{shard}.{name}', array.tobytes())
  _write(plan.scratch / f'{shard}.counts.npy', np.asarray(counts, np.int64))


def _write(path, content):
  scratch = path.with_name(f'{os.getpid()}.{path.name}')
  try:
    with scratch.open('wb') as file:
      if isinstance(content, np.ndarray):
        np.save(file, content)
      else:
        file.write(content)
      file.flush()
      os.fsync(file.fileno())
    scratch.replace(path)
  finally:
    scratch.unlink(missing_ok=True)


def join_shards(plan: Plan) -> None:
  """Joins the encoded shards to ids.npy, n_bytes.npy and ends.npy.

  Each shard is deleted when it is joined, so that the disk need not hold all
  twice. The counts stay, and tell where to continue if the process is killed.
  """
  counts = [
    np.load(plan.scratch / f'{i}.counts.npy') for i in range(plan.n_shards)
  ]
  totals = np.append(0, np.cumsum([each.sum() for each in counts]))
  for name, dtype in _names(plan).items():
    _join(plan, name, dtype, totals.astype(np.int64))
  ends = np.append(0, np.cumsum(np.concatenate(counts)))
  at = np.searchsorted(plan.bounds, plan.parts)
  np.save(plan.folder / 'ends.npy', ends[at].astype(np.int64))


def _join(plan, name, dtype, totals):
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header,
    {'descr': dtype.str, 'fortran_order': False, 'shape': (int(totals[-1]),)},
  )
  path = plan.folder / f'{name}.npy'
  # Not a memory map: a full disk would end the process, not raise an error.
  with path.open('r+b' if path.exists() else 'w+b') as file:
    file.write(header.getvalue())
    for i in range(plan.n_shards):
      shard = plan.scratch / f'{i}.{name}'
      if shard.exists():
        file.seek(len(header.getvalue()) + totals[i] * dtype.itemsize)
        with shard.open('rb') as part:
          shutil.copyfileobj(part, file, _CHUNK)
        file.flush()
        os.fsync(file.fileno())
        shard.unlink()
