"""`trax-hier generate`: continues a text and prints it as it is sampled."""

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence

from trax_hier.commands import generate_prompts
from trax_hier.commands.failures import Failure, print_note, user_errors
from trax_hier.commands.flags import add_run
from trax_hier.commands.jax_settings import set_up_jax
from trax_hier.environment import escape_controls

HELP = 'continue a text'
DESCRIPTION = """
Continues a text with tokens sampled from the model of a run, whose vocabulary
(bytes or subwords) encodes the text. The text is one of

  --prompt=TEXT
  --prompt_file=FILE
  standard input, if it is not a terminal
  each line typed after "> ", until an empty line or Ctrl-D, if it is a terminal

Prints the text and its continuation as it is sampled, until --n_tokens, a
--stop text or the end of the document. The last line, on standard error, has
the number of sampled tokens and the tokens per second since the first chunk;
compilation and the processing of the prompt do not count.

With --n_beams, a beam search takes the place of sampling: the best continuation
that it finds is printed as a whole, without a speed.
"""

_PRECISIONS = ('float32', 'bfloat16', 'int8')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  add_run(parser)
  generate_prompts.add_arguments(parser)
  _add_sampling(parser)
  _add_beam_search(parser)
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
    help='precision of weights and computation; default: float32',
  )
  parser.add_argument(
    '--max_len',
    type=int,
    metavar='N',
    help='capacity of the cache, in tokens of prompt and continuation; '
    'default: as needed',
  )


def _add_sampling(parser):
  parser.add_argument(
    '--n_tokens',
    type=int,
    default=256,
    metavar='N',
    help='maximum number of new tokens; default: 256',
  )
  parser.add_argument(
    '--temperature',
    type=float,
    default=1.0,
    metavar='T',
    help='divisor of the logits; 0 takes the most likely token; default: 1',
  )
  parser.add_argument(
    '--top_k',
    type=int,
    metavar='K',
    help='sample from the K most likely tokens',
  )
  parser.add_argument(
    '--top_p',
    type=float,
    metavar='P',
    help='sample from the fewest most likely tokens of total probability P',
  )
  parser.add_argument(
    '--seed',
    type=int,
    default=0,
    metavar='N',
    help='seed of the sampling; each further typed line adds 1; default: 0',
  )


def _add_beam_search(parser):
  parser.add_argument(
    '--n_beams',
    type=int,
    default=1,
    metavar='K',
    help='search for the best continuation with K beams, without '
    '--temperature, --top_k, --top_p and --seed; default: 1, no search',
  )
  parser.add_argument(
    '--length_penalty',
    type=float,
    metavar='A',
    help='length penalty of the beam search; higher favors longer '
    'continuations, 0 compares probabilities; default: 0.6',
  )


def main(arguments: argparse.Namespace) -> None:
  """Prints the continuation of the prompt, or of each typed line."""
  with user_errors():
    prompts = generate_prompts.read_prompts(arguments)
    source = generate_prompts.read_source(arguments)
    if arguments.length_penalty is not None and arguments.n_beams == 1:
      raise ValueError('--length_penalty goes with --n_beams of 2 or more')

    print_note(f'loading {arguments.run} ...')
    from trax_hier import generation
    from trax_hier.storage.runs import open_run
    from trax_hier.training.build import batch_shapes
    from trax_hier.training.logging.display import Display

    set_up_jax()
    display = Display(stderr=True)
    run = open_run(arguments.run, arguments.config, arguments.trust_code)
    if run.data.unit == 'dim':
      raise ValueError(
        f'{run.folder}: the data of this run are images, not text to continue'
      )
    for name in ('encode', 'decode'):
      if not hasattr(run.data.vocab, name):
        raise ValueError(
          f'{run.folder}: the vocabulary of the data has no {name}, so it has '
          'no text to continue'
        )
    if source is None and 'sources' in batch_shapes(run.data):
      raise ValueError(
        f'{run.folder}: the model of this run reads a source: give --source or '
        '--source_file'
      )
    stops = _stops(arguments.stop, run.data.vocab)
    _, weights = run.load_weights(arguments.step, print_note)
    weights = generation.prepare(run.model, weights, arguments.precision)
  is_interactive = not isinstance(prompts, Sequence)
  for number, prompt in enumerate(prompts):
    try:
      with user_errors():
        _continue(
          prompt, source, run, weights, stops, number, arguments, display
        )
    except Failure as error:
      if not is_interactive:
        raise
      print_note(str(error))


def _stops(texts, vocab):
  """The token ids of the stop texts, and token 0, which ends a document."""
  import numpy as np

  stops = [np.zeros(1, np.int32)]
  for text in texts:
    ids = vocab.encode(text)
    if not len(ids):
      raise ValueError(f'--stop={text!r}: the vocabulary has no tokens for it')
    stops.append(ids)
  return stops


def _continue(prompt, source, run, weights, stops, number, arguments, display):
  """Prints prompt `number`, its continuation and its speed."""
  from trax_hier import generation
  from trax_hier.data import TextStream

  vocab = run.data.vocab
  ids = vocab.encode(prompt)
  stack = contextlib.ExitStack()
  # The first tokens end the activity.
  printer = _Printer(prompt, TextStream(vocab.decode, ids), stack.close)
  is_search = arguments.n_beams > 1
  sources = None
  if source is not None:
    sources = [generate_prompts.encode_source(source, run.data)]
  beams = {'n_beams': arguments.n_beams}
  if arguments.length_penalty is not None:
    beams['length_penalty'] = arguments.length_penalty
  with stack:
    stack.enter_context(display.doing('compiling and reading the prompt'))
    (new,) = generation.generate(
      run.model,
      weights,
      [ids],
      arguments.n_tokens,
      temperature=arguments.temperature,
      top_k=arguments.top_k,
      top_p=arguments.top_p,
      seed=arguments.seed + (0 if is_search else number),
      stop=stops,
      n_ids=vocab.size,
      max_len=arguments.max_len,
      on_tokens=None if is_search else printer,
      sources=sources,
      **beams,
    )
  if is_search:
    printer([new])
  printer.close()
  plural = '' if len(new) == 1 else 's'
  print_note(f'{len(new):,} token{plural}{printer.rate()}')


class _Printer:
  """Prints a prompt and its new tokens as they arrive; measures the speed."""

  def __init__(self, prompt, stream, before_first):
    self._prompt = prompt
    self._stream = stream
    self._before_first = before_first
    self._arrivals = []

  def __call__(self, rows):
    """Prints the next tokens of the only row."""
    (new,) = rows
    text = self._stream.push(new)
    # The prompt is printed with the first tokens, so that a request that fails
    # prints only its message.
    if not self._arrivals:
      self._before_first()
      text = self._prompt + text
    self._arrivals.append((time.perf_counter(), len(new)))
    self._print(text)

  def close(self):
    """Prints the bytes of an incomplete last character; ends the line."""
    self._print(f'{self._stream.flush()}\n')

  def _print(self, text):
    """Prints a part; a file or another program gets every character."""
    is_terminal = sys.stdout.isatty()
    text = escape_controls(text) if is_terminal else text
    print(text, end='', flush=True)

  def rate(self):
    """Returns ', N tokens/s' since the first chunk; '' for a single chunk."""
    if len(self._arrivals) < 2:
      return ''
    (start, _), *rest = self._arrivals
    seconds = rest[-1][0] - start
    return f', {sum(n for _, n in rest) / seconds:,.0f} tokens/s'
