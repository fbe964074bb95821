"""Encoding of texts: in parts, shards and processes, as if at once."""

import errno
import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from trax_hier.data.encoding import shards, tokens
from trax_hier.data.encoding.tokens import encode_text
from trax_hier.data.joined import Joined
from trax_hier.data.vocabularies.text_vocabs import as_text_vocab
from trax_hier.data.vocabularies.vocab import Encoded


class WordVocab:
  """A token is a word and the space before it; its id is its length."""

  size, unit, key, loss, byte_lengths = 300, 'token', 'words', '', None

  def encode_bytes(self, content):
    if b'bad' in content:
      raise ValueError('a word is bad')
    if b'slow' in content:
      time.sleep(60)
    text = np.frombuffer(content, np.uint8)
    starts = np.flatnonzero(text == ord(' '))
    edges = np.unique(np.concatenate(([0], starts, [len(text)])))
    sizes = np.diff(edges)
    return Encoded(sizes.astype(np.int32), sizes.astype(np.int64))


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
  monkeypatch.setenv('TRAX_HIER_DATA_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(shards, '_SHARD', 300)
  monkeypatch.setattr(shards, 'BLOCK', 100)
  monkeypatch.setattr(tokens, 'cpu_count', lambda: 1)
  return tmp_path


def _map(tmp_path, words=2000, extra=''):
  rng = np.random.default_rng(0)
  text = ' '.join('x' * n for n in rng.integers(1, 9, words)) + extra
  (tmp_path / 'text').write_text(text)
  return np.memmap(tmp_path / 'text', np.uint8, mode='r')


def _encode(array, parts=None, begins=0, ends=None, count=True, vocab=None):
  ends = np.atleast_1d(len(array) if ends is None else ends)
  text = Joined(array, np.atleast_1d(begins), ends)
  parts = np.array([len(text)]) if parts is None else parts
  return encode_text(text, parts, 'key', vocab or WordVocab(), count, 'my.txt')


@pytest.mark.parametrize('n_processes', [1, 2])
def test_shards_are_as_the_whole(small, monkeypatch, capsys, n_processes):
  monkeypatch.setattr(tokens, 'cpu_count', lambda: n_processes)
  array = _map(small)
  found = _encode(array)
  whole = WordVocab().encode_bytes(array.tobytes())
  np.testing.assert_array_equal(found.ids, whole.ids)
  np.testing.assert_array_equal(found.n_bytes, whole.n_bytes)
  assert found.ids.dtype == '<u2'
  assert found.ends.tolist() == [len(whole.ids)]
  assert isinstance(found.ids, np.memmap)
  files = {path.name for path in found.folder.iterdir()}
  assert files == {'ids.npy', 'n_bytes.npy', 'ends.npy', 'sizes.json'}
  error = capsys.readouterr().err
  assert ('encoding my.txt in 2 processes' in error) == (n_processes == 2)


def test_a_second_call_encodes_nothing(small, monkeypatch):
  array = _map(small)
  first = _encode(array)
  monkeypatch.setattr(WordVocab, 'encode_bytes', None)
  np.testing.assert_array_equal(_encode(array).ids, first.ids)
  monkeypatch.undo()


def test_parts_are_encoded_on_their_own(small):
  array = _map(small, extra='ab')
  edges = np.array([0, 7, 7, 11, 450, 800])
  found = _encode(array, np.cumsum(np.diff(edges)), ends=[800])
  whole = [
    WordVocab().encode_bytes(array[begin:end].tobytes()).ids
    for begin, end in itertools.pairwise(edges)
    if end > begin
  ]
  np.testing.assert_array_equal(found.ids, np.concatenate(whole))
  assert found.ends[1] == found.ends[0]
  assert found.ends[-1] == len(found.ids)


def test_parts_of_the_file_are_one_text(small):
  array = _map(small)
  found = _encode(array, begins=[10, 900], ends=[400, 1300], count=False)
  text = array[10:400].tobytes() + array[900:1300].tobytes()
  assert found.n_bytes is None
  assert found.ids.sum() == len(text)
  assert _encode(array, begins=[0], ends=[0]).ids.shape == (0,)


@pytest.mark.parametrize('n_processes', [1, 2])
def test_an_error_of_the_vocabulary_is_raised(small, monkeypatch, n_processes):
  monkeypatch.setattr(tokens, 'cpu_count', lambda: n_processes)
  with pytest.raises(ValueError, match='a word is bad'):
    _encode(_map(small, extra=' bad'))
  assert not (small / 'cache' / 'tokens').exists()


@pytest.mark.parametrize(
  ('answer', 'kind', 'message'),
  [
    ('failed 28 No space left on device\n', OSError, 'No space'),
    ('failed 0 a word is bad\n', ValueError, '^a word is bad$'),
    ('', OSError, 'has died'),
  ],
)
def test_errors_of_other_processes(answer, kind, message):
  with pytest.raises(kind, match=message) as caught:
    raise tokens._error(answer)
  assert getattr(caught.value, 'errno', None) == (
    28 if '28' in answer else None
  )


def test_a_full_disk_keeps_the_shards(small, monkeypatch):
  array, write, n_written = _map(small), shards._write, []

  def fail(*args):
    if len(n_written) == 9:
      raise OSError(errno.ENOSPC, 'No space left on device')
    n_written.append(write(*args))

  monkeypatch.setattr(shards, '_write', fail)
  with pytest.raises(ValueError, match=r'preparing my\.txt: no space left in'):
    _encode(array)
  monkeypatch.setattr(shards, '_write', write)
  encoded, encode = [], tokens.encode_shard
  monkeypatch.setattr(
    tokens, 'encode_shard', lambda *a: encoded.append(a) or encode(*a)
  )
  assert len(_encode(array).ids) == 2000
  # Three files of each shard were written.
  assert encoded[0][1] == 3


def test_a_process_that_dies_is_said(small, monkeypatch):
  monkeypatch.setattr(tokens, 'cpu_count', lambda: 2)
  monkeypatch.setattr(WordVocab, '__reduce__', lambda _: (os._exit, (1,)))
  with pytest.raises(ValueError, match=r'encoding my\.txt: a process .*died'):
    _encode(_map(small))


class Bytes:
  """The least that a vocabulary has."""

  size = 257

  def encode(self, text):
    return np.frombuffer(text.encode(), np.uint8) + 1

  def decode(self, ids):
    return bytes([i - 1 for i in ids]).decode('utf-8', 'replace')


@pytest.mark.parametrize('module', ['__main__', 'tests'])
@pytest.mark.parametrize('kind', [WordVocab, Bytes])
def test_a_vocabulary_that_others_cannot_read_needs_no_other_process(
  small, monkeypatch, module, kind
):
  """One that the main program defines, or a function."""
  monkeypatch.setattr(tokens, 'cpu_count', lambda: 2)
  monkeypatch.setattr(tokens, '_worker', None)
  own = type('Own', (kind,), {'__module__': module})
  monkeypatch.setattr(sys.modules['__main__'], 'Own', own, raising=False)
  array = _map(small)
  vocab = own() if kind is WordVocab else as_text_vocab(own())
  found = _encode(array, vocab=vocab)
  assert found.n_bytes.sum() == len(array)


def test_a_token_named_main_is_no_class_of_the_main_program():
  vocab = WordVocab()
  vocab.content = b'a token: __main__'
  assert tokens._pickle(vocab) is not None


_KILLED = """
import numpy as np, sys
sys.path.append({folder!r})
import test_tokens
from trax_hier.data.encoding import shards, tokens
shards._SHARD = shards.BLOCK = 300
tokens.cpu_count = lambda: {n}
test_tokens._encode(np.memmap({path!r}, np.uint8, mode='r'))
"""


@pytest.mark.parametrize('n_processes', [1, 2])
def test_a_killed_process_is_continued(small, monkeypatch, n_processes):
  array = _map(small, extra=' slow')
  code = _KILLED.format(
    folder=os.path.dirname(__file__), path=str(small / 'text'), n=n_processes
  )
  process = subprocess.Popen([sys.executable, '-c', code])
  folder = small / 'cache' / 'unfinished' / 'tokens'
  n_shards = -(-len(array) // 300)
  for _ in range(600):
    done = list(folder.glob('*/shards/*.counts.npy'))
    if len(done) >= n_shards - 2:
      break
    time.sleep(0.05)
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  monkeypatch.setattr(shards, 'BLOCK', 300)
  monkeypatch.setattr(shards, '_SHARD', 300)
  encoded, encode = [], WordVocab.encode_bytes

  def fast(self, content):
    encoded.append(content)
    return encode(self, content.replace(b'slow', b'fast'))

  monkeypatch.setattr(WordVocab, 'encode_bytes', fast)
  found = _encode(array)
  assert found.ids.sum() == len(array)
  assert len(encoded) <= n_shards - len(done)


def test_joining_continues_where_it_was_killed(small, monkeypatch):
  array, copy = _map(small), shards.shutil.copyfileobj
  n_copied = []

  def kill(*args):
    if len(n_copied) == 3:
      raise KeyboardInterrupt
    n_copied.append(copy(*args))

  monkeypatch.setattr(shards.shutil, 'copyfileobj', kill)
  with pytest.raises(KeyboardInterrupt):
    _encode(array)
  # The disk need not hold what is joined twice.
  left = (small / 'cache').rglob('*.ids')
  assert not {'0.ids', '1.ids', '2.ids'} & {path.name for path in left}
  monkeypatch.setattr(shards.shutil, 'copyfileobj', copy)
  monkeypatch.setattr(tokens, 'encode_shard', None)
  whole = WordVocab().encode_bytes(array.tobytes())
  found = _encode(array)
  np.testing.assert_array_equal(found.ids, whole.ids)
  np.testing.assert_array_equal(found.n_bytes, whole.n_bytes)
