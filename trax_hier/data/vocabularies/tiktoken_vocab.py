"""TiktokenVocab: the byte pairs of a .tiktoken file as token ids."""

import base64
import binascii
import hashlib
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trax_hier.config import configurable
from trax_hier.data.files import find_path
from trax_hier.data.vocabularies.byte_counts import MARKS, encode_parts
from trax_hier.data.vocabularies.vocab import Encoded, content_key

_LONGEST_PATTERN = 10_000  # characters
_LONGEST_RUN = 4096  # characters


class TiktokenVocab:
  """Vocabulary of byte pairs, encoded by OpenAI's tiktoken.

  Ids are those of the file plus 1, because id 0 is padding. There are no
  special tokens: text that looks like one, such as '<|endoftext|>', is text.

  Attributes:
    size: Number of ids.
    content: Content of the file.
    pattern: Regular expression that cuts text into words.
    shift: What is added to the ids of the file.
    unit, key, byte_lengths, loss: See `TextVocab`.
  """

  unit = 'token'
  shift = 1
  loss = ''

  def __init__(self, content: bytes, pattern: str):
    """Reads the content of a file.

    Args:
      content: Lines of a token in base64, a space and its rank.
      pattern: Regular expression that cuts text into words.

    Raises:
      ValueError: if tiktoken is not installed, or if the content or the pattern
        is not valid.
    """
    if len(pattern) > _LONGEST_PATTERN:
      raise ValueError(
        f'pattern: must have at most {_LONGEST_PATTERN:,} characters'
      )
    self.content, self.pattern = content, pattern
    ranks = _read_ranks(content)
    try:
      import tiktoken

      self._encoding = tiktoken.Encoding(
        'trax_hier',
        pat_str=pattern,
        mergeable_ranks=ranks,
        special_tokens={},
      )
    except ImportError as error:
      raise ValueError(
        'needs the tiktoken package: pip install tiktoken'
      ) from error
    except ValueError as error:
      raise ValueError(f'pattern = {pattern!r:.80}: {error}') from error
    self.key = content_key('tiktoken', pattern.encode() + b'\0' + content)
    self.size = max(ranks.values()) + 2
    self._pieces = [b''] * self.size
    for piece, rank in ranks.items():
      self._pieces[rank + 1] = piece
    self._byte_ids = np.array(
      [0, *(ranks[bytes([byte])] + 1 for byte in range(1, 256))], np.int32
    )
    self.byte_lengths = np.array([*map(len, self._pieces)], np.int64)
    self.byte_lengths[0] = 1  # A zero byte.

  def __reduce__(self):
    """Pickles the content."""
    return type(self), (self.content, self.pattern)

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of `text` as (l,) int32."""
    return self._encode(text).ids

  def encode_bytes(self, content: bytes) -> Encoded:
    """Encodes any bytes; see `TextVocab`."""
    return encode_parts(
      content,
      MARKS,
      self._encode,
      lambda run: self._byte_ids[np.frombuffer(run, np.uint8)],
    )

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids`; bytes that are not UTF-8 become U+FFFD."""
    content = b''.join([self._pieces[i] for i in np.asarray(ids).tolist()])
    return content.decode('utf-8', errors='replace')

  def _encode(self, text):
    try:
      ids = self._encoding.encode_to_numpy(text, disallowed_special=())
    except ValueError:
      # The pattern may need too much memory for a long run of spaces.
      if len(text) < _LONGEST_RUN:
        raise
      half = len(text) // 2
      pairs = zip(
        self._encode(text[:half]), self._encode(text[half:]), strict=True
      )
      return Encoded(*map(np.concatenate, pairs))
    ids = ids.astype(np.int32) + 1
    return Encoded(ids, self.byte_lengths[ids])


def _read_ranks(content):
  """Returns {token: rank}; ValueError if the content is not a vocabulary."""
  ranks = {}
  for number, line in enumerate(content.splitlines(), 1):
    token, _, rank = line.partition(b' ')
    try:
      if line:
        ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (ValueError, binascii.Error) as error:
      raise ValueError(
        f'line {number}, {line[:40]!r}, is not a token in base64 and its rank'
      ) from error
  if len(set(ranks.values())) < len(ranks) or min(ranks.values(), default=0):
    raise ValueError('its ranks are not different numbers from 0')
  missing = [i for i in range(256) if bytes([i]) not in ranks]
  if missing:
    raise ValueError(f'has no token for {len(missing)} of the 256 bytes')
  return ranks


class _Known(NamedTuple):
  """What the package knows of an encoding, but for its file.

  Attributes:
    pattern: Regular expression that cuts text into words.
    hashes: SHA-256 of its files.
  """

  pattern: str
  hashes: tuple[str, ...]


def _known_encodings() -> dict[str, _Known]:
  """Returns {name: what the tiktoken package knows}; reads no file."""
  try:
    from tiktoken_ext import openai_public
  except ImportError:
    return {}
  hashes = []

  def load(*_: Any, **options: Any) -> dict[bytes, int]:
    hashes.extend(x for name, x in options.items() if name.endswith('hash'))
    return {bytes([i]): i for i in range(256)}

  # The functions of the package, with another one for those that download.
  names = vars(openai_public).copy()
  names |= dict.fromkeys(
    ('load_tiktoken_bpe', 'data_gym_to_mergeable_bpe_ranks'), load
  )
  for name in openai_public.ENCODING_CONSTRUCTORS:
    names[name] = types.FunctionType(names[name].__code__, names)
  found = {}
  for name in openai_public.ENCODING_CONSTRUCTORS:
    hashes.clear()
    found[name] = _Known(names[name]()['pat_str'], tuple(hashes))
  return found


@configurable(module='trax_hier.data')
def Tiktoken(path: str, pattern: str | None = None) -> TiktokenVocab:
  """The vocabulary of a .tiktoken file, for data sets that take a vocabulary.

      TextFiles.vocab = @Tiktoken()
      Tiktoken.path = 'my.tiktoken'
      Tiktoken.pattern = 'cl100k_base'

  A file of OpenAI's, such as cl100k_base.tiktoken, needs no pattern:
  `TextFiles.vocab = 'cl100k_base.tiktoken'`. Nothing is downloaded.

  Args:
    path: File with a token in base64 and its rank on each line; `~` is the home
      folder.
    pattern: Regular expression that cuts text into words, before they are
      merged from bytes; or the name of an encoding of tiktoken that has it.
      None means that the file has the name and the content of one.

  Raises:
    ValueError: naming the binding, if the file is missing or is not valid, if
      tiktoken is not installed, or if the pattern is not known.
  """
  binding = f'Tiktoken.path = {path!r}'
  return read_tiktoken(
    find_path(path, binding, 'file'), pattern, binding, 'Tiktoken.pattern'
  )


def read_tiktoken(
  path: Path,
  pattern: str | None,
  binding: str,
  pattern_name: str = 'Tiktoken.pattern (with @Tiktoken())',
) -> TiktokenVocab:
  """Reads a file; see `Tiktoken`.

  Args:
    path: The file.
    pattern: See `Tiktoken`.
    binding: Binding that sets the path, for messages.
    pattern_name: Argument that sets the pattern, for messages.

  Raises:
    ValueError: as `Tiktoken`.
  """
  try:
    content = path.read_bytes()
    known = _known_encodings()
    if pattern is None and path.stem in known:
      pattern, hashes = known[path.stem]
      if hashlib.sha256(content).hexdigest() not in hashes:
        raise ValueError(
          f'is not the published {path.stem}.tiktoken; for a vocabulary of '
          f'your own, set {pattern_name}'
        )
    elif pattern is None and known:
      raise ValueError(
        f'set {pattern_name}, as {path.stem!r} is not an encoding of tiktoken: '
        f'a regular expression, or one of {", ".join(known)}'
      )
    elif pattern in known:
      pattern = known[pattern].pattern
    return TiktokenVocab(content, pattern or '')
  except OSError as error:
    raise ValueError(f'{binding}: cannot be read: {error.strerror}') from error
  except ValueError as error:
    raise ValueError(f'{binding}: {error}') from error
