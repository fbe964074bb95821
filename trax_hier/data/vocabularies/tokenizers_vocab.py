"""TokenizersVocab: the tokens of a tokenizer.json as token ids."""

import functools
import itertools
import json
import os
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np

from trax_hier.data.vocabularies.byte_counts import (
  MARKS,
  bytes_between,
  count_by_table,
  encode_parts,
)
from trax_hier.data.vocabularies.losses import loss_of
from trax_hier.data.vocabularies.vocab import Encoded, content_key

TOKENIZER_FILE = 'tokenizer.json'
# Types of pre-tokenizers that drop and add no text, unless their settings say.
_KEEPS_TEXT = ('ByteLevel', 'Split', 'Punctuation', 'Digits')


def _import_tokenizers() -> ModuleType:
  # Its threads would not survive a fork; several processes encode instead.
  os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
  try:
    import tokenizers
  except ImportError as error:
    raise ValueError(
      'needs the tokenizers package: pip install tokenizers'
    ) from error
  return tokenizers


class TokenizersVocab:
  """Vocabulary of a tokenizer.json, of Hugging Face's tokenizers.

  Ids are those of the file plus 1, because id 0 is padding. No special tokens
  are added, and text that looks like one, such as '[PAD]', is text. Truncation,
  padding and dropout that the file asks for are ignored.

  Attributes:
    size: Number of ids, with those of special tokens.
    content: Content of the file.
    shift: What is added to the ids of the file.
    unit, key, byte_lengths, loss: See `TextVocab`.
  """

  unit = 'token'
  shift = 1

  def __init__(self, content: bytes):
    """Reads the content of a tokenizer.json.

    Raises:
      ValueError: if tokenizers is not installed, or if the content is not a
        tokenizer.
    """
    tokenizers = _import_tokenizers()
    try:
      self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
      self._facts = json.loads(content)
    except Exception as error:  # The package raises bare exceptions.
      reason = str(error).partition('\n')[0]
      raise ValueError(f'not a tokenizer.json: {reason}') from error
    self.content = content
    self.key = content_key('tokenizers', content)
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    if self._facts['model'].get('dropout'):
      # A text would have other ids in each process, and after each start.
      self._tokenizer.model.dropout = None
    self._tokenizer.encode_special_tokens = True
    ids = self._tokenizer.get_vocab(with_added_tokens=True)
    if not ids:
      raise ValueError('not a tokenizer.json: its vocabulary is empty')
    self.size = max(ids.values()) + 2
    # Usual bytes of each id; 1 where they are not known.
    self._weights = np.ones(self.size, np.int64)
    self._byte_ids = None
    self._falls_back = False  # Whether byte tokens are those of byte fallback.
    if _is_last(self._facts.get('decoder'), 'ByteLevel'):
      self._read_byte_level(ids)
    elif all(f'<0x{byte:02X}>' in ids for byte in range(256)):
      self._byte_ids = np.array(
        [ids[f'<0x{byte:02X}>'] + 1 for byte in range(256)], np.int32
      )
      self._falls_back = True

  def __reduce__(self):
    """Pickles the content."""
    return type(self), (self.content,)

  @functools.cached_property
  def loss(self) -> str:
    """What of a text decoding does not restore; see `TextVocab`."""
    return loss_of(self)

  @property
  def byte_lengths(self) -> np.ndarray | None:
    """Bytes of text of each id, (v,); see `TextVocab`."""
    return self._weights if self._is_exact and not self.loss else None

  @functools.cached_property
  def unknown_id(self) -> int | None:
    """Id of text without a token; None if there is no such id."""
    model = self._facts['model']
    unknown = model.get('unk_id')
    if unknown is None and model.get('unk_token') is not None:
      unknown = self._tokenizer.token_to_id(model['unk_token'])
    return (
      None if unknown is None or self._byte_ids is not None else unknown + 1
    )

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of `text` as (l,) int32."""
    return self._encode(text, False).ids

  def encode_bytes(self, content: bytes) -> Encoded:
    """Encodes bytes; see `TextVocab`."""
    return encode_parts(content, MARKS, self._encode, self._encode_run)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids`; bytes that are not UTF-8 become U+FFFD."""
    ids = np.asarray(ids, np.int64)
    if self._falls_back:
      ids = self._with_valid_runs(ids)
    return self._tokenizer.decode(
      (ids[ids > 0] - 1).tolist(), skip_special_tokens=False
    )

  def _with_valid_runs(self, ids):
    """Replaces bytes that are not UTF-8 by those of U+FFFD.

    The package decodes a run of byte tokens to nothing else if any of it is not
    UTF-8, such as the first byte of a character that the next tokens complete.
    """
    byte_of = {i: byte for byte, i in enumerate(self._byte_ids.tolist())}
    found = []
    for is_run, run in itertools.groupby(ids.tolist(), byte_of.__contains__):
      part = list(run)
      if is_run:
        text = bytes(map(byte_of.get, part)).decode('utf-8', 'replace')
        part = self._byte_ids[np.frombuffer(text.encode(), np.uint8)].tolist()
      found += part
    return np.array(found, np.int64)

  def _encode(self, text, needs_offsets=True):
    is_fixed = not needs_offsets or self.byte_lengths is not None
    try:
      if is_fixed:
        (encoded,) = self._tokenizer.encode_batch_fast(
          [text], add_special_tokens=False
        )
      else:
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
    except TypeError:
      text.encode()  # Names a lone surrogate, which no UTF-8 text has.
      raise
    ids = np.array(encoded.ids, np.int32) + 1
    if is_fixed:
      return Encoded(ids, self._weights[ids])
    n_bytes = len(text) if text.isascii() else len(text.encode())
    counts = count_by_table(ids, self._weights, n_bytes)
    if self._byte_ids is None or counts is None:
      ends = np.array([end for _, end in encoded.offsets], np.int64)
      if not text.isascii():
        ends = _bytes_before(text)[ends]
      counts = bytes_between(ends, self._weights[ids], n_bytes)
    return Encoded(ids, counts)

  def _encode_run(self, run):
    """Ids of zero bytes and of bytes that are not UTF-8."""
    values = np.frombuffer(run, np.uint8)
    if self._byte_ids is not None:
      return np.where(values, self._byte_ids[values], 0)
    unknown = self.encode('\ufffd')[:1]
    ids = [unknown if byte else np.zeros(1, np.int32) for byte in run]
    return np.concatenate(ids)

  def _read_byte_level(self, ids):
    """Reads the bytes of tokens, whose characters each stand for a byte."""
    bytes_of = _byte_alphabet()
    added = {x['id']: x for x in self._facts.get('added_tokens') or ()}
    for token, i in ids.items():
      is_text = i in added or not all(map(bytes_of.__contains__, token))
      self._weights[i + 1] = len(token.encode()) if is_text else len(token)
    if all(char in ids for char in bytes_of):
      byte_ids = {byte: ids[char] + 1 for char, byte in bytes_of.items()}
      self._byte_ids = np.array([byte_ids[i] for i in range(256)], np.int32)

  @property
  def _is_exact(self):
    """Whether a token stands for the same bytes in every text."""
    facts = self._facts
    return (
      self._byte_ids is not None
      and _is_last(facts.get('decoder'), 'ByteLevel')
      and not facts.get('normalizer')
      and all(
        part.get('type') in _KEEPS_TEXT
        and not part.get('add_prefix_space')
        and part.get('behavior') != 'Removed'
        for part in _parts(facts.get('pre_tokenizer'))
      )
      and not any(
        token.get('lstrip') or token.get('rstrip')
        for token in facts.get('added_tokens') or ()
        if not token.get('special')
      )
    )


def _parts(part: Any) -> list[dict]:
  """The parts of a sequence of a tokenizer.json, or a single one, or none."""
  if not part:
    return []
  for name in ('pretokenizers', 'decoders', 'normalizers'):
    if name in part:
      return [x for inner in part[name] for x in _parts(inner)]
  return [part]


def _is_last(part, kind):
  parts = _parts(part)
  return bool(parts) and parts[-1].get('type') == kind


@functools.cache
def _byte_alphabet() -> dict[str, int]:
  """{character: byte} of byte-level tokens.

  Bytes that are printable in Latin-1 are themselves; the others are the
  characters from 256 on, in order.
  """
  printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
  others = [byte for byte in range(256) if byte not in printable]
  return {chr(byte): byte for byte in sorted(printable)} | {
    chr(256 + i): byte for i, byte in enumerate(others)
  }


def _bytes_before(text):
  """Bytes before each character and after the last, (characters + 1,)."""
  codes = np.frombuffer(text.encode('utf-32-le'), np.uint32)
  sizes = 1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF)
  return np.append(0, np.cumsum(sizes, dtype=np.int64))
