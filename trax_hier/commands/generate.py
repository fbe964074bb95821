"""`trax-hier generate`: continues a text, printing it as it is drawn."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from trax_hier.commands.shared import (
  Failure,
  add_run,
  keep_compiled,
  say,
  user_errors,
)

HELP = 'continue a text'
DESCRIPTION = """
Continues a text with tokens drawn from the model of a run, whose vocabulary
(bytes or subwords) encodes it. The text is one of

  --prompt=TEXT
  --prompt_file=FILE
  standard input, when it is not a terminal
  each line typed after "> " until an empty one or Ctrl-D, when it is

Prints the text and goes on with what is drawn as it comes, until --n_tokens, a
--stop or the end of the document. The last line, on standard error, has the
number of tokens drawn and the tokens per second since the first ones came:
compilation and the reading of the prompt are not in it.

With --n_beams, nothing is drawn: the text goes on with the best continuation
that is found, which comes as a whole, without a speed.
"""

_PRECISIONS = ('float32', 'bfloat16', 'int8')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  add_run(parser)
  prompt = parser.add_mutually_exclusive_group()
  prompt.add_argument('--prompt', metavar='TEXT', help='the text to continue')
  prompt.add_argument(
    '--prompt_file', metavar='FILE', help='a UTF-8 file to continue'
  )
  source = parser.add_mutually_exclusive_group()
  source.add_argument(
    '--source',
    metavar='TEXT',
    help='what the encoder of an encoder-decoder model reads, <0>, <1> and so '
    'on being its gaps; the prompt is the beginning of the answer, and may be '
    'empty',
  )
  source.add_argument(
    '--source_file', metavar='FILE', help='the same, from a UTF-8 file'
  )
  parser.add_argument(
    '--n_tokens',
    type=int,
    default=256,
    metavar='N',
    help='the most tokens to draw; default: 256',
  )
  parser.add_argument(
    '--temperature',
    type=float,
    default=1.0,
    metavar='T',
    help='what logits are divided by; 0 takes the likeliest token; default: 1',
  )
  parser.add_argument(
    '--top_k', type=int, metavar='K', help='draw from the K likeliest tokens'
  )
  parser.add_argument(
    '--top_p',
    type=float,
    metavar='P',
    help='draw from the fewest likeliest tokens with probability P in all',
  )
  parser.add_argument(
    '--seed',
    type=int,
    default=0,
    metavar='N',
    help='of the draws; one more for each further line typed; default: 0',
  )
  parser.add_argument(
    '--n_beams',
    type=int,
    default=1,
    metavar='K',
    help='search for the best continuation with so many beams, without '
    '--temperature, --top_k, --top_p and --seed; default: 1, no search',
  )
  parser.add_argument(
    '--length_penalty',
    type=float,
    metavar='A',
    help='what --n_beams favours long continuations by; 0 compares '
    'probabilities; default: 0.6',
  )
  parser.add_argument(
    '--stop',
    action='append',
    default=[],
    metavar='TEXT',
    help='end before this text, compared token by token; repeatable',
  )
  parser.add_argument(
    '--precision',
    choices=_PRECISIONS,
    default='float32',
    help='of the weights and of what is computed; default: float32',
  )
  parser.add_argument(
    '--max_len',
    type=int,
    metavar='N',
    help='tokens that the memory holds, prompt and drawn; default: as needed',
  )


def main(arguments: argparse.Namespace) -> None:
  """Prints continuations of the prompt, or of each line typed."""
  with user_errors():
    prompts = _prompts(arguments)
    source = _source(arguments)
    if arguments.length_penalty is not None and arguments.n_beams == 1:
      raise ValueError('--length_penalty goes with --n_beams of 2 or more')

    from trax_hier import generation
    from trax_hier.storage.runs import open_run

    keep_compiled()
    run = open_run(arguments.run, arguments.config)
    if run.data.unit == 'dim':
      raise ValueError(
        f'{run.folder}: the data of this run are images, not text to continue'
      )
    if source is None and 'sources' in run.data.train_batch(0):
      raise ValueError(
        f'{run.folder}: the model of this run reads a source: give --source or '
        '--source_file'
      )
    stops = _stops(arguments.stop, run.data.vocab)
    _, weights = run.load_weights(arguments.step, say)
    weights = generation.prepare(run.model, weights, arguments.precision)
  typed = not isinstance(prompts, Sequence)
  for number, prompt in enumerate(prompts):
    try:
      with user_errors():
        _continue(prompt, source, run, weights, stops, number, arguments)
    except Failure as error:
      if not typed:
        raise
      say(str(error))


def _prompts(arguments) -> Sequence[str] | Iterator[str]:
  """The texts to continue; files are read now, lines when they are typed."""
  if arguments.prompt is not None:
    return [arguments.prompt]
  if arguments.prompt_file is not None:
    return [_read('prompt_file', arguments.prompt_file)]
  if sys.stdin.isatty():
    return _typed_lines()
  return [sys.stdin.read()]


def _source(arguments) -> str | None:
  """What the encoder is to read."""
  if arguments.source_file is not None:
    return _read('source_file', arguments.source_file)
  return arguments.source


def _read(flag, file):
  try:
    return Path(file).expanduser().read_bytes().decode('utf-8')
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


def _stops(texts, vocab):
  """Token 0, which ends a document, and the texts as token ids."""
  import numpy as np

  stops = [np.zeros(1, np.int32)]
  for text in texts:
    ids = vocab.encode(text)
    if not len(ids):
      raise ValueError(f'--stop={text!r}: the vocabulary has no token for it')
    stops.append(ids)
  return stops


def _continue(prompt, source, run, weights, stops, number, arguments):
  """Prints prompt `number`, its continuation, and how fast it came."""
  from trax_hier import generation
  from trax_hier.data import TextStream

  vocab = run.data.vocab
  ids = vocab.encode(prompt)
  printer = _Printer(prompt, TextStream(vocab.decode, ids))
  search = arguments.n_beams > 1
  beams = {'n_beams': arguments.n_beams}
  if arguments.length_penalty is not None:
    beams['length_penalty'] = arguments.length_penalty
  (new,) = generation.generate(
    run.model,
    weights,
    [ids],
    arguments.n_tokens,
    temperature=arguments.temperature,
    top_k=arguments.top_k,
    top_p=arguments.top_p,
    seed=arguments.seed + (0 if search else number),
    stop=stops,
    n_ids=vocab.size,
    max_len=arguments.max_len,
    on_tokens=None if search else printer,
    sources=None if source is None else [_encode_source(source, run.data)],
    **beams,
  )
  if search:
    printer([new])
  printer.close()
  plural = '' if len(new) == 1 else 's'
  say(f'{len(new):,} token{plural}{printer.rate()}')


def _encode_source(text, data):
  """Encodes a source, cut off as those of training are."""
  ids = data.vocab.encode(text)
  longest = getattr(data, 'source_length', len(ids))
  if len(ids) > longest:
    say(f'of the {len(ids):,} tokens of the source the first {longest:,} count')
  return ids[:longest]


class _Printer:
  """Prints a prompt and its new tokens as they come, and keeps the time."""

  def __init__(self, prompt, stream):
    self._prompt = prompt
    self._stream = stream
    self._arrivals = []

  def __call__(self, rows):
    """Takes the new tokens of the one row."""
    (new,) = rows
    text = self._stream.push(new)
    # Not before: a request that is refused prints its message alone.
    if not self._arrivals:
      text = self._prompt + text
    self._arrivals.append((time.perf_counter(), len(new)))
    print(text, end='', flush=True)

  def close(self):
    """Prints what was held back, and ends the line."""
    print(self._stream.flush(), flush=True)

  def rate(self):
    """', N tokens/s' since the first chunk; '' if there was no other."""
    if len(self._arrivals) < 2:
      return ''
    (start, _), *rest = self._arrivals
    seconds = rest[-1][0] - start
    return f', {sum(n for _, n in rest) / seconds:,.0f} tokens/s'
