"""TextFiles: text from any file or folder of the user's, bytes or subwords."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks, files
from trax_hier.data.batching.dataset import DataSet, windowed
from trax_hier.data.sources.documents import token_type
from trax_hier.data.vocabularies.vocab import (
  SUBWORDS_COMMAND,
  ByteVocab,
  SentencePieceVocab,
  load_vocab,
)

VALID_FRACTION = 0.05
TEST_FRACTION = 0.05

_BLOCK = 1 << 20  # bytes that are encoded at a time


@configurable(module='trax_hier.data')
def TextFiles(
  path: str,
  batch_size: int,
  length: int,
  valid_fraction: float = VALID_FRACTION,
  test_fraction: float = TEST_FRACTION,
  seed: int = 0,
  eval_length: int | None = None,
  eval_stride: int | None = None,
  vocab: str | None = None,
) -> DataSet:
  """Bytes or subwords of a file, or of the text files below a folder.

  A file may hold any bytes; it is mapped, not read, and cut in order into
  train, valid and test. A folder is read into memory: its UTF-8 files, hidden
  and binary ones left out, sorted by path, a zero byte after each. Whole files,
  in the order of a hash of their relative path, fill test and valid up to the
  share asked for; if either stays less than half full, as with few or very
  unequal files, the joined bytes are cut in order instead.

  With a vocabulary, the same splits are encoded into memory, zero bytes as id
  0; the model needs a `vocab_size` of as many pieces as the vocabulary has.

  Args:
    path: the file or folder; `~` is the home folder.
    batch_size: rows of the global batch.
    length: bytes, or tokens of `vocab`, in a training window.
    valid_fraction: share of the bytes held out for validation.
    test_fraction: share of the bytes held out for the test.
    seed: which shuffle.
    eval_length: tokens in an evaluation window; None: `length`.
    eval_stride: tokens that an evaluation window scores; None: all of them.
    vocab: a SentencePiece model file that gives back any text, such as
      `python -m trax_hier.data.subwords` writes; None: tokens are bytes.

  Raises:
    ValueError: naming the binding, if the path is missing, unreadable, empty,
      holds no text, or is shorter than a window, if the vocabulary is missing,
      uses id 0 for text or loses some of it, or if a number is not legal.

  Example:
    >>> from trax_hier import data
    >>> folder = data.__path__[0]  # Any file or folder; here Python files.
    >>> texts = TextFiles(folder, batch_size=4, length=128)
    >>> texts.train_batch(0)['inputs'].shape
    (4, 128)
    >>> texts.eval_batches('valid', window=256)[0]['inputs'].shape
    (4, 256)
  """
  checks.check_fractions('TextFiles', valid_fraction, test_fraction)
  splits, how = read_splits(
    path, valid_fraction, test_fraction, f'TextFiles.path = {path!r}'
  )
  n_bytes = {split: len(content) for split, content in splits.items()}
  if vocab is None:
    vocabulary, unit = ByteVocab(), 'byte'
  else:
    vocabulary, unit = load_vocab(vocab, 'TextFiles.vocab'), 'token'
    how += f', pieces of {vocab}'
    splits = _encode_splits(splits, vocabulary, f'TextFiles.vocab = {vocab!r}')
  return windowed(
    'TextFiles',
    f'{path} ({how})',
    splits,
    vocabulary,
    batch_size,
    length,
    seed,
    unit,
    eval_length=eval_length,
    eval_stride=eval_stride,
    n_bytes=None if vocab is None else n_bytes.__getitem__,
  )


def read_splits(
  path: str, valid_fraction: float, test_fraction: float, binding: str
) -> tuple[dict[str, np.ndarray], str]:
  """Reads and splits a file or folder as TextFiles does.

  Args:
    path: the file or folder; `~` is the home folder.
    valid_fraction: share of the bytes held out for validation.
    test_fraction: share of the bytes held out for the test.
    binding: what the user set the path with, for messages.

  Returns:
    'train', 'valid' and 'test', (n,) uint8, and a word on how it was split.

  Raises:
    ValueError: naming the binding, if there is no such path, it is unreadable
      or empty, or holds no text.
  """
  found = Path(path).expanduser()
  if not path or not found.exists():
    raise ValueError(
      f'{binding}: no such file or folder (looked for {found.absolute()})'
    )
  fractions = valid_fraction, test_fraction
  try:
    if found.is_dir():
      return _read_folder(found, binding, fractions)
    return _map_file(found, binding, fractions)
  except OSError as error:
    raise ValueError(f'{binding}: cannot be read: {error}') from error


def encode_split(content: np.ndarray, vocab: SentencePieceVocab) -> np.ndarray:
  """Encodes the bytes of a split, a block at a time.

  Args:
    content: (n,) uint8, in memory or mapped.
    vocab: has pieces for all of it.

  Returns:
    (l,) unsigned integers, as small as ids can be.

  Raises:
    ValueError: if the text does not come back from its pieces.
  """
  ids = [np.zeros(0, token_type(vocab))]
  for block in blocks(content):
    ids.append(vocab.encode_bytes(block).astype(token_type(vocab)))
  return np.concatenate(ids)


def blocks(content: np.ndarray, size: int = _BLOCK) -> Iterator[bytes]:
  """Yields bytes in parts that end where a piece ends, if they can.

  That is after a line, else before a space, else after a character.

  Args:
    content: (n,) uint8, in memory or mapped.
    size: the most bytes in a part, at least those of a character.
  """
  begin = 0
  while begin < len(content):
    block = content[begin : begin + size].tobytes()
    if begin + size < len(content):
      block = block[: _end(block)]
    yield block
    begin += len(block)


def _end(block):
  """Where to cut a block of text that goes on."""
  line = block.rfind(b'\n') + 1
  space = block.rfind(b' ')
  if line or space > 0:
    return line or space
  # A character has one first byte and up to three of 0b10xxxxxx.
  for end in range(len(block) - 1, max(0, len(block) - 4), -1):
    if block[end] & 0xC0 != 0x80:
      return end
  return len(block)


def _encode_splits(
  splits: Mapping[str, np.ndarray], vocab: SentencePieceVocab, binding: str
) -> dict[str, np.ndarray]:
  try:
    return {split: encode_split(c, vocab) for split, c in splits.items()}
  except ValueError as error:
    # The bits of such a text would be divided by bytes that are not scored.
    raise ValueError(
      f'{binding}: {error}. To make a vocabulary that loses nothing: '
      f'{SUBWORDS_COMMAND}'
    ) from error


def read_texts(root: Path) -> dict[str, bytes]:
  """Reads the UTF-8 files below a folder, leaving out hidden and empty ones.

  Returns:
    Their bytes by path relative to `root`, sorted by path.

  Raises:
    OSError: if a file cannot be read.
  """
  contents = {}
  for path in files.list_files(root, skip=lambda name: name.startswith('.')):
    content = path.read_bytes()
    if content and files.is_text(content):
      contents[path.relative_to(root).as_posix()] = content
  return contents


def _map_file(path, binding, fractions):
  """Returns the splits of one file, and a word on how it was split."""
  if not path.is_file():
    raise ValueError(f'{binding}: neither a file nor a folder')
  if not path.stat().st_size:
    raise ValueError(f'{binding}: the file is empty')
  tokens = np.memmap(path, np.uint8, mode='r')
  return files.split_bytes(tokens, *fractions), 'split in order'


def _read_folder(root, binding, fractions):
  """Returns the splits of a folder, and a word on how it was split."""
  contents = read_texts(root)
  if not contents:
    raise ValueError(f'{binding}: the folder holds no UTF-8 text file')
  sizes = {name: len(content) for name, content in contents.items()}
  splits = files.split_files(contents, files.fill_splits(sizes, *fractions))
  if _filled(splits, fractions):
    return splits, f'{len(contents):,} files, split by file'
  splits = files.split_bytes(files.join(contents.values()), *fractions)
  return splits, f'{len(contents):,} files, split in order'


def _filled(splits, fractions):
  """Whether train is not empty and the others have half of their share."""
  total = sum(map(len, splits.values()))
  return len(splits['train']) > 0 and all(
    len(splits[split]) >= fraction / 2 * total
    for split, fraction in zip(('valid', 'test'), fractions, strict=True)
  )
