"""Trains a subword vocabulary with SentencePiece."""

import io
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trax_hier.data.vocabularies.byte_counts import SPACE_MARK
from trax_hier.data.vocabularies.sentencepiece_vocab import (
  SentencePieceVocab,
  import_sentencepiece,
)
from trax_hier.data.vocabularies.text_blocks import blocks

# The trainer skips a sentence with its mark of an unknown piece, and reads its
# mark of a space as a space. Texts are split at both marks to avoid this.
_UNKNOWN_MARK = '\u2585'
_NOT_IN_SENTENCES = re.compile(f'[\0\n{SPACE_MARK}{_UNKNOWN_MARK}]+')

_LONGEST = 1 << 20  # bytes of a sentence; the trainer skips longer ones


def train(content: np.ndarray, size: int) -> bytes:
  """Trains a lossless unigram model: decoding returns any encoded text.

  Id 0 is padding, text is not normalized, a line end or a tab is a separate
  piece, and characters without a piece fall back to byte pieces.

  Args:
    content: Training text, (n,) uint8.
    size: Number of pieces.

  Returns:
    The content of a model file, a pure function of the arguments.

  Raises:
    ValueError: if sentencepiece is not installed, or if the text has too few
      words or too many characters for this number of pieces.
  """
  sentencepiece = import_sentencepiece()
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=_sentences(content),
      model_writer=model,
      model_type='unigram',
      vocab_size=size,
      pad_id=0,
      unk_id=1,
      bos_id=-1,
      eos_id=-1,
      byte_fallback=True,
      user_defined_symbols=['\n', '\t'],
      allow_whitespace_only_pieces=True,
      normalization_rule_name='identity',
      remove_extra_whitespaces=False,
      add_dummy_prefix=False,
      max_sentence_length=_LONGEST,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise ValueError(_user_message(str(error), size)) from error
  return model.getvalue()


def _sentences(content: np.ndarray) -> Iterator[str]:
  for block in blocks(content, _LONGEST):
    text = block.decode('utf-8', errors='ignore')
    yield from filter(None, _NOT_IN_SENTENCES.split(text))


def _user_message(message, size):
  """Restates an error message of the trainer in terms of our arguments."""
  if most := re.search(r'value <= (\d+)', message):
    return f'size = {size}: too large for the text: at most {most[1]}'
  if least := re.search(r'required_chars\. \d+ vs (\d+)', message):
    return (
      f'size = {size}: too small for the characters of the text: at least '
      f'{least[1]}'
    )
  if '!sentences_.empty()' in message:
    return 'the training split contains no text'
  return message


def write_vocab(
  output: Path, content: np.ndarray, size: int
) -> SentencePieceVocab:
  """Trains a vocabulary and writes it atomically.

  Args:
    output: Model file to write.
    content: Training text, (n,) uint8.
    size: Number of pieces.

  Returns:
    The vocabulary.

  Raises:
    OSError: if the file cannot be written.
    ValueError: as `train`.
  """
  # Created before training, which may take minutes, so that errors come early.
  output.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=output.parent) as name:
    scratch = Path(name) / output.name
    scratch.write_bytes(train(content, size))
    vocab = SentencePieceVocab(str(scratch))
    scratch.rename(output)
  return vocab
