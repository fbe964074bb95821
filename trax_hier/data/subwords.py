"""Trains a subword vocabulary: python -m trax_hier.data.subwords --help.

Writes a lossless SentencePiece model for `TextFiles.vocab`, trained only on the
training split.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from trax_hier.data import checks
from trax_hier.data.sources.text_tokens import encode_splits
from trax_hier.data.splits import TEST_FRACTION, VALID_FRACTION, read_splits
from trax_hier.data.vocabularies.sentencepiece_vocab import (
  import_sentencepiece,
)
from trax_hier.data.vocabularies.train_subwords import write_vocab
from trax_hier.environment import expand_home, flag_names, print_any_text

_PROGRAM = 'trax_hier.data.subwords'


def _print_result(flags, text, vocab):
  """Prints the text and vocabulary sizes, bytes per token and gin bindings."""
  sizes = ', '.join(f'{split} {len(p):,}' for split, p in text.parts.items())
  print(f'{flags.text} ({text.how}): {sizes} bytes')
  # The tokens are kept for training.
  ids, _, _ = encode_splits(text, vocab, flags.text)
  bytes_per_token = ', '.join(
    f'{split} {len(text.parts[split]) / len(ids[split]):.2f}'
    for split in ('train', 'valid')
    if len(ids[split])
  )
  print(
    f'{flags.output}: {vocab.size:,} pieces; bytes per token: {bytes_per_token}'
  )
  bindings = [
    f'TextFiles.vocab = {json.dumps(str(flags.output), ensure_ascii=False)}',
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
    description='Trains a subword vocabulary on the training split of a text.',
  )
  add = parser.add_argument
  add('--text', required=True, help='file or folder, as TextFiles.path')
  add('--field', help='field of the text in JSON lines or parquet')
  add('--output', required=True, type=Path, help='model file to write')
  add('--size', type=int, default=8000, help='number of pieces; default: 8000')
  for split, default in (('valid', VALID_FRACTION), ('test', TEST_FRACTION)):
    add(
      f'--{split}_fraction',
      type=float,
      default=default,
      help=f'as TextFiles.{split}_fraction; default: {default}',
    )
  print_any_text()
  flags = parser.parse_args(flag_names(arguments))
  fractions = flags.valid_fraction, flags.test_fraction
  try:
    checks.check_positive('size', flags.size)
    checks.check_fractions('TextFiles', *fractions)
    import_sentencepiece()
    output = expand_home(flags.output, f'--output={flags.output}')
    if output.exists():
      raise ValueError(f'--output={flags.output}: already exists')
    text = read_splits(flags.text, *fractions, '--text', flags.field)
    vocab = write_vocab(output, text.arrays()['train'], flags.size)
    _print_result(flags, text, vocab)
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
