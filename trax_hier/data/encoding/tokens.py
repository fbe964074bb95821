"""Encodes texts once, in several processes, to memory-mapped token files."""

import contextlib
import os
import pickle
import pickletools
import queue
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trax_hier.data.cache.content import array_hash, cpu_count, hash_of
from trax_hier.data.cache.entries import open_entry
from trax_hier.data.cache.progress import Progress
from trax_hier.data.encoding.shards import (
  Plan,
  encode_shard,
  is_encoded,
  join_shards,
  make_plan,
)
from trax_hier.data.files import mapped_file
from trax_hier.data.joined import Joined
from trax_hier.data.vocabularies.vocab import TextVocab, token_dtype

_VERSION = 1  # of the entries; a change of what they hold adds one.

_WORKER = 'trax_hier.data.encoding.worker'


class Tokens(NamedTuple):
  """The tokens of a text, memory-mapped.

  Attributes:
    ids: Token ids, (l,), of the dtype `token_dtype`.
    ends: Where each part of the text ends in `ids`, exclusive, (parts,) int64.
    n_bytes: Bytes of text of each token, (l,); None if they were not asked for.
    folder: Entry of the cache; None for an empty text.
  """

  ids: np.ndarray
  ends: np.ndarray
  n_bytes: np.ndarray | None
  folder: Path | None


def encode_text(
  text: Joined,
  parts: np.ndarray,
  text_key: str,
  vocab: TextVocab,
  count_bytes: bool,
  what: str,
) -> Tokens:
  """Returns the tokens of a text; encodes it if they are not in the cache.

  Args:
    text: Parts of a memory-mapped file, (n,) uint8.
    parts: Where the parts of the text end that are encoded on their own, such
      as documents, (parts,); the last is the length of the text.
    text_key: Hash of the content of the file.
    vocab: Vocabulary that encodes any byte of the text.
    count_bytes: Whether to count the bytes of each token.
    what: What is encoded, such as 'my.txt', for messages.

  Raises:
    ValueError: if the text cannot be read or encoded, or the disk is full.
  """
  dtype = token_dtype(vocab)
  if not len(text):
    none = np.zeros(0, dtype)
    return Tokens(none, parts, none if count_bytes else None, None)
  key = hash_of(
    _VERSION,
    text_key,
    array_hash(text.begins, text.ends, parts),
    vocab.key,
    dtype.str,
    count_bytes,
  )

  file = mapped_file(text.base).name
  before = os.stat(file)

  def build(folder: Path) -> None:
    plan = make_plan(folder, text, parts, dtype, count_bytes, bool(vocab.loss))
    _encode_shards(plan, vocab, what)
    after = os.stat(file)
    if (after.st_size, after.st_mtime_ns) != (
      before.st_size,
      before.st_mtime_ns,
    ):
      raise ValueError(f'{file} has changed while it was encoded: start again')
    join_shards(plan)
    shutil.rmtree(plan.scratch)

  try:
    folder = open_entry(f'tokens/{key}', build, what, can_continue=True)
  except OSError as error:
    raise ValueError(f'encoding {what}: {error}') from error
  n_bytes = None
  if count_bytes:
    n_bytes = np.load(folder / 'n_bytes.npy', mmap_mode='r')
  return Tokens(
    np.load(folder / 'ids.npy', mmap_mode='r'),
    np.load(folder / 'ends.npy', mmap_mode='r'),
    n_bytes,
    folder,
  )


def _encode_shards(plan: Plan, vocab: TextVocab, what: str) -> None:
  missing = [i for i in range(plan.n_shards) if not is_encoded(plan, i)]
  sizes = plan.shard_sizes()
  n_processes = min(cpu_count(), len(missing))
  pickled = _pickle(vocab) if n_processes > 1 else None
  if pickled is None:
    n_processes = min(n_processes, 1)
  how = f'encoding {what}'
  if n_processes > 1:
    how += f' in {n_processes} processes'
  progress = Progress(how, int(sum(sizes[i] for i in missing)), n_processes > 1)
  with _encoders(plan, vocab, pickled, n_processes) as run:
    for i in run(missing):
      progress.add(int(sizes[i]))
  progress.end('encoded')


def _pickle(vocab):
  """Pickles a vocabulary; None if other processes could not read it."""
  try:
    pickled = pickle.dumps(vocab)
  except Exception:  # Of several kinds, such as for a class in a function.
    return None
  # What the main program defines exists in this process alone.
  words = (word for _, word, _ in pickletools.genops(pickled))
  return None if '__main__' in words else pickled


@contextlib.contextmanager
def _encoders(
  plan: Plan, vocab: TextVocab, pickled: bytes | None, n: int
) -> Iterator[Callable[[list[int]], Iterator[int]]]:
  """Yields a function that encodes shards and yields each when it is done.

  Starts programs of its own rather than forks: JAX has threads, and a script
  without `if __name__ == '__main__'` may not be imported again.
  """
  if n <= 1:

    def encode_here(shards):
      for i in shards:
        encode_shard(plan, i, vocab)
        yield i

    yield encode_here
    return
  (plan.scratch / 'vocab.pickle').write_bytes(pickled)
  with contextlib.ExitStack() as stack:
    workers = queue.SimpleQueue()
    for _ in range(n):
      workers.put(stack.enter_context(_worker(plan.folder)))

    def encode_there(i):
      worker = workers.get()
      try:
        print(i, file=worker.stdin, flush=True)
        answer = worker.stdout.readline()
      except BrokenPipeError:
        answer = ''
      finally:
        workers.put(worker)
      if answer.strip() != 'done':
        raise _error(answer)
      return i

    pool = ThreadPoolExecutor(n)
    # After an error, or Ctrl-C, nothing waits for a shard.
    stack.callback(pool.shutdown, wait=False, cancel_futures=True)
    yield lambda shards: pool.map(encode_there, shards)


def _error(answer):
  """Returns the error that a process reports."""
  if not answer:
    return OSError('a process that encodes the text has died')
  _, number, reason = answer.strip().split(' ', 2)
  return OSError(int(number), reason) if int(number) else ValueError(reason)


@contextlib.contextmanager
def _worker(folder):
  """Starts a process that encodes shards, and ends with this one."""
  paths = os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))
  process = subprocess.Popen(
    [sys.executable, '-m', _WORKER, str(folder)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    encoding='utf-8',
    env=os.environ | {'PYTHONPATH': paths, 'TOKENIZERS_PARALLELISM': 'false'},
    # Ctrl-C goes to this process, which ends the others.
    start_new_session=True,
  )
  try:
    yield process
  finally:
    process.kill()
    process.wait()
    with contextlib.suppress(BrokenPipeError):  # Of a process that has died.
      process.stdin.close()
    process.stdout.close()
