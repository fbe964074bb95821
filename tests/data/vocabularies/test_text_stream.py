"""TextStream: incremental decoding."""

import re

import numpy as np
import pytest

from trax_hier.data import ByteVocab, TextStream


def _chunks(ids, rng):
  """Cuts ids into chunks of 0 to 5."""
  while len(ids):
    n = rng.integers(6)
    yield ids[:n]
    ids = ids[n:]


@pytest.mark.parametrize('seed', range(20))
def test_texts_of_any_bytes_join_to_the_whole(seed):
  rng = np.random.default_rng(seed)
  text = ''.join(rng.choice(list('aé世😀\ufffd\n'), 100)).encode()
  # Half of the streams are invalid: some bytes are replaced or dropped.
  ids = np.frombuffer(text, np.uint8).astype(np.int32)
  if seed % 2:
    ids = np.where(rng.random(len(ids)) < 0.3, 240 - seed, ids)
    ids = ids[rng.random(len(ids)) < 0.8]
  vocab = ByteVocab()
  stream = TextStream(vocab.decode, vocab.encode('prompt é\ufffd'))
  parts = [stream.push(chunk) for chunk in _chunks(ids, rng)]
  assert ''.join(parts) + stream.flush() == vocab.decode(ids)


def test_split_character_is_returned_with_its_last_byte():
  stream = TextStream(ByteVocab().decode)
  parts = [stream.push([i]) for i in '世a😀é'.encode()]
  assert parts == [*('', '', '世', 'a'), *('', '', '', '😀'), *('', 'é')]
  assert stream.flush() == ''


def test_invalid_bytes_are_not_held_back():
  stream = TextStream(ByteVocab().decode)
  assert stream.push([0xE4] * 10) == '\ufffd' * 7
  assert stream.push([0x41]) == '\ufffd' * 3 + 'A'
  assert stream.push([0xF0, 0x9F]) == ''
  assert stream.flush() == '\ufffd'


def test_cost_of_a_push_does_not_grow():
  decoded = []

  def decode(ids):
    decoded.append(len(ids))
    return ByteVocab().decode(ids)

  stream = TextStream(decode)
  for _ in range(100):
    assert stream.push(ByteVocab().encode('four')) == 'four'
  assert max(decoded) == 8


class _Subwords:
  """Decodes as SentencePiece does.

  Drops a leading space, and decodes each byte of an incomplete character to a
  replacement character.
  """

  _PIECES = ('', '▁', '▁the', '▁cat', 's', *'é世'.encode())

  def decode(self, ids):
    pieces = [self._PIECES[i] for i in ids]
    content = b''.join(
      bytes([p]) if isinstance(p, int) else p.encode() for p in pieces
    )
    text = content.replace('▁'.encode(), b' ').removeprefix(b' ')
    text = text.decode('utf-8', errors='surrogateescape')
    return re.sub('[\udc80-\udcff]', '\ufffd', text)


@pytest.mark.parametrize('seed', range(20))
def test_texts_of_subwords_join_to_the_whole(seed):
  rng = np.random.default_rng(seed)
  characters = ([5, 6], [7, 8, 9], [7], *([i] for i in range(5)))
  ids = [i for n in rng.integers(8, size=60) for i in characters[n]]
  decode = _Subwords().decode
  prompt = [2, 3]
  stream = TextStream(decode, prompt)
  parts = [stream.push(chunk) for chunk in _chunks(ids, rng)]
  parts.append(stream.flush())
  assert decode(prompt) + ''.join(parts) == decode(prompt + ids)
