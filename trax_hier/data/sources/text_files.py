"""TextFiles: bytes or subwords of any file or folder of text."""

from collections.abc import Mapping

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet, windowed
from trax_hier.data.splits import TEST_FRACTION, VALID_FRACTION, read_splits
from trax_hier.data.vocabularies.byte_vocab import ByteVocab
from trax_hier.data.vocabularies.sentencepiece_vocab import (
  SUBWORDS_COMMAND,
  SentencePieceVocab,
  load_vocab,
)
from trax_hier.data.vocabularies.text_blocks import encode_split


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

  A file may contain any bytes; it is memory-mapped and cut into train, valid
  and test, in this order. The UTF-8 files below a folder, except hidden ones,
  are read into memory, sorted by path, with a zero byte after each. In the
  order of a hash of their relative paths, whole files fill test and valid up to
  their fractions. If either stays less than half full, as with few or very
  unequal files, the joined bytes are cut like a file.

  With a vocabulary, the same splits are encoded into memory, with zero bytes as
  id 0; the model's `vocab_size` must be the number of pieces.

  Args:
    path: File or folder; `~` is the home folder.
    batch_size: Rows of the global batch.
    length: Bytes, or tokens of `vocab`, in a training window.
    valid_fraction: Fraction of the bytes held out for validation.
    test_fraction: Fraction of the bytes held out for the test.
    seed: Seed of the shuffle.
    eval_length: Tokens in an evaluation window; None means `length`.
    eval_stride: Tokens that an evaluation window scores; None means all.
    vocab: Lossless SentencePiece model file, such as
      `python -m trax_hier.data.subwords` writes; None means that tokens are
      bytes.

  Raises:
    ValueError: naming the binding, if the path is missing, unreadable, empty,
      has no text, or is shorter than a window; if the vocabulary is missing, is
      lossy, or encodes text as id 0; or if a number is invalid.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   _ = pathlib.Path(folder, 'my.txt').write_text('Some text. ' * 1000)
    ...   data = TextFiles(folder, batch_size=4, length=128)
    >>> data.train_batch(0)['inputs'].shape
    (4, 128)
    >>> data.eval_batches('valid', window=256)[0]['inputs'].shape
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
    count_bytes=None if vocab is None else n_bytes.__getitem__,
  )


def _encode_splits(
  splits: Mapping[str, np.ndarray], vocab: SentencePieceVocab, binding: str
) -> dict[str, np.ndarray]:
  try:
    return {split: encode_split(c, vocab) for split, c in splits.items()}
  except ValueError as error:
    # Bits per byte of a lossy vocabulary would count bytes without a token.
    raise ValueError(
      f'{binding}: {error}. To train a lossless vocabulary: {SUBWORDS_COMMAND}'
    ) from error
