"""Trains a subword vocabulary: python -m trax_hier.data.subwords --help.

Writes a SentencePiece model for `TextFiles.vocab`. It has seen only the
training part of the text, and any text comes back from its pieces unchanged.
"""

import argparse
import io
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from trax_hier.data import checks
from trax_hier.data.sources.text import (
  TEST_FRACTION,
  VALID_FRACTION,
  blocks,
  encode_split,
  read_splits,
)
from trax_hier.data.vocabularies.vocab import (
  SPACE_MARK,
  SentencePieceVocab,
  import_sentencepiece,
)

_PROGRAM = 'trax_hier.data.subwords'

# A sentence that holds the trainer's mark of an unknown piece is skipped by it,
# so no sentence may; nor may its mark of a space be taken for one.
_UNKNOWN_MARK = '\u2585'
_NOT_IN_SENTENCES = re.compile(f'[\0\n{SPACE_MARK}{_UNKNOWN_MARK}]+')

_LONGEST = 1 << 20  # bytes of a sentence; the trainer skips longer ones


def train(content: np.ndarray, size: int) -> bytes:
  """Trains a unigram model from whose pieces any text comes back.

  Id 0 is padding, no text is normalised, a line end or a tab is a piece of its
  own, and bytes have pieces for what else the vocabulary lacks.

  Args:
    content: (n,) uint8, the text to learn from.
    size: pieces of the vocabulary.

  Returns:
    The content of a model file; the same for the same arguments.

  Raises:
    ValueError: if sentencepiece is not installed, or if the text has too few
      words or too many characters for so many pieces.
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
    raise ValueError(_explain(str(error), size)) from error
  return model.getvalue()


def _sentences(content: np.ndarray) -> Iterator[str]:
  for block in blocks(content, _LONGEST):
    text = block.decode('utf-8', errors='ignore')
    yield from filter(None, _NOT_IN_SENTENCES.split(text))


def _explain(message, size):
  """The user's side of what the trainer says."""
  if most := re.search(r'value <= (\d+)', message):
    return f'size = {size}: too large for the text: at most {most[1]}'
  if least := re.search(r'required_chars\. \d+ vs (\d+)', message):
    return (
      f'size = {size}: too small for the characters of the text: at least '
      f'{least[1]}'
    )
  if '!sentences_.empty()' in message:
    return 'the training part holds no text to learn from'
  return message


def write(
  output: Path, splits: Mapping[str, np.ndarray], size: int
) -> SentencePieceVocab:
  """Trains a vocabulary and writes it, whole or not at all.

  Args:
    output: the file.
    splits: bytes of 'train', which it learns from, as (n,) uint8.
    size: pieces of the vocabulary.

  Returns:
    The vocabulary.

  Raises:
    ValueError: as `train`.
  """
  output.parent.mkdir(parents=True, exist_ok=True)
  # Before the training, which may take minutes, to know that it can be kept.
  with tempfile.TemporaryDirectory(dir=output.parent) as name:
    scratch = Path(name) / output.name
    scratch.write_bytes(train(splits['train'], size))
    vocab = SentencePieceVocab(str(scratch))
    scratch.rename(output)
  return vocab


def _print_result(flags, splits, how, vocab):
  """Prints what was made, how well it packs, and how to use it."""
  sizes = ', '.join(f'{split} {len(c):,}' for split, c in splits.items())
  print(f'{flags.text} ({how}): {sizes} bytes')
  packed = ', '.join(
    f'{split} {len(content) / len(encode_split(content, vocab)):.2f}'
    for split in ('train', 'valid')
    if len(content := splits[split])
  )
  print(f'{flags.output}: {vocab.size:,} pieces; bytes per token: {packed}')
  bindings = [
    f'TextFiles.vocab = {json.dumps(str(flags.output), ensure_ascii=False)}',
    f'VOCAB_SIZE = {vocab.size}',
  ]
  if (flags.valid_fraction, flags.test_fraction) != (
    VALID_FRACTION,
    TEST_FRACTION,
  ):
    bindings += [
      f'TextFiles.valid_fraction = {flags.valid_fraction}',
      f'TextFiles.test_fraction = {flags.test_fraction}',
    ]
  print('to train with it:', shlex.join(f'--config={b}' for b in bindings))


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code, 2 after a message on stderr."""
  parser = argparse.ArgumentParser(
    prog=f'python -m {_PROGRAM}',
    description='Trains a subword vocabulary on the training part of a text.',
  )
  add = parser.add_argument
  add('--text', required=True, help='a file or folder, as TextFiles.path')
  add('--output', required=True, type=Path, help='the model file to write')
  add('--size', type=int, default=8000, help='pieces; default: 8000')
  for split, default in (('valid', VALID_FRACTION), ('test', TEST_FRACTION)):
    add(
      f'--{split}_fraction',
      type=float,
      default=default,
      help=f'as TextFiles.{split}_fraction; default: {default}',
    )
  flags = parser.parse_args(arguments)
  fractions = flags.valid_fraction, flags.test_fraction
  try:
    checks.check_positive('size', flags.size)
    checks.check_fractions('TextFiles', *fractions)
    import_sentencepiece()
    output = flags.output.expanduser()
    if output.exists():
      raise ValueError(f'--output={flags.output}: is there already')
    splits, how = read_splits(flags.text, *fractions, f'--text={flags.text}')
    vocab = write(output, splits, flags.size)
    _print_result(flags, splits, how, vocab)
  except OSError as error:
    reason = f'--output={flags.output}: cannot be written: {error.strerror}'
    print(f'{_PROGRAM}: {reason}', file=sys.stderr)
    return 2
  except ValueError as error:
    print(f'{_PROGRAM}: {error}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
