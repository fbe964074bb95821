"""The prompts and sources of `trax-hier generate`."""

import argparse
import sys
from collections.abc import Iterator, Sequence

from trax_hier.commands.failures import print_note
from trax_hier.environment import expand_home


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the prompt and of the source."""
  prompt = parser.add_mutually_exclusive_group()
  prompt.add_argument('--prompt', metavar='TEXT', help='the text to continue')
  prompt.add_argument(
    '--prompt_file', metavar='FILE', help='a UTF-8 file to continue'
  )
  source = parser.add_mutually_exclusive_group()
  source.add_argument(
    '--source',
    metavar='TEXT',
    help='the input of the encoder of an encoder-decoder model, in which <0>, '
    '<1>, ... mark gaps; the prompt begins the output and may be empty',
  )
  source.add_argument(
    '--source_file', metavar='FILE', help='a UTF-8 file with the source'
  )


def read_prompts(
  arguments: argparse.Namespace,
) -> Sequence[str] | Iterator[str]:
  """Reads the texts to continue; lines of a terminal are read lazily.

  Raises:
    ValueError: The file cannot be read or is not UTF-8.
  """
  if arguments.prompt is not None:
    return [arguments.prompt]
  if arguments.prompt_file is not None:
    return [_read('prompt_file', arguments.prompt_file)]
  if sys.stdin.isatty():
    return _typed_lines()
  return [sys.stdin.read()]


def read_source(arguments: argparse.Namespace) -> str | None:
  """Reads the input of the encoder; None if it is not given.

  Raises:
    ValueError: The file cannot be read or is not UTF-8.
  """
  if arguments.source_file is not None:
    return _read('source_file', arguments.source_file)
  return arguments.source


def _read(flag, file):
  try:
    return expand_home(file).read_bytes().decode('utf-8')
  except OSError as error:
    reason = error.strerror
  except UnicodeDecodeError as error:
    reason = f'byte {error.start} is not UTF-8 text'
  raise ValueError(f'--{flag}={file}: {reason}')


def _typed_lines():
  while True:
    try:
      line = input('> ')
    except EOFError:
      print()
      return
    if not line:
      return
    yield line


def encode_source(text: str, data):
  """Encodes a source, truncated to the data's `source_length` if it has one.

  Returns:
    Token ids (n,).
  """
  ids = data.vocab.encode(text)
  longest = getattr(data, 'source_length', len(ids))
  if len(ids) > longest:
    print_note(
      f'the source has {len(ids):,} tokens and is truncated to the first '
      f'{longest:,}'
    )
  return ids[:longest]
