"""`trax-hier evaluate`: scores a split, each byte at most once."""

import argparse
import inspect

from trax_hier.commands import evaluate_summaries
from trax_hier.commands.failures import (
  Failure,
  data_errors,
  print_note,
  user_errors,
)
from trax_hier.commands.flags import add_run
from trax_hier.commands.huge_pages import add_huge_pages
from trax_hier.commands.jax_settings import set_up_jax

HELP = 'score a held-out split: bits per byte, or ROUGE of summaries'
DESCRIPTION = """
Scores the model of a run on a whole split of its data. Each byte (or token, or
dimension of an image) is counted exactly once. --batches=N scores only the
first N batches: the same ones each time.

Context: the split is cut into windows of --window tokens, which start --stride
tokens apart. All tokens of the first window are scored, and the last --stride
tokens of each later window, so a token is predicted from at least
window - stride and at most window - 1 tokens before it. If stride = window, the
windows do not overlap, and the first token of each is predicted from the
beginning-of-sequence token alone. A smaller stride gives more context and a
better score, and takes window / stride times as long. Data sets whose rows
follow documents, such as @DocumentLanes, are not cut into windows: a model with
a memory carries it from row to row.

With --rouge, the data must be pairs of texts, such as @TextPairs. The model
generates a summary of each document, which is compared with the reference.
Baselines are scored too: the first sentences of the document (lead-3) and its
first tokens. ROUGE is F1 in percent, from the package rouge-score with its
stemmer. References that are not in Latin letters are compared by words of
letters and digits, and in scripts without spaces by letters.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  add_run(parser)
  add_huge_pages(parser)
  parser.add_argument(
    '--split',
    choices=('valid', 'test'),
    default='test',
    help='the split to score; default: test',
  )
  parser.add_argument(
    '--window',
    type=int,
    metavar='N',
    help='tokens per window; default: as in training',
  )
  parser.add_argument(
    '--stride',
    type=int,
    metavar='N',
    help='tokens between the starts of windows; default: --window if that is '
    'given, else as in training',
  )
  parser.add_argument(
    '--batches',
    type=int,
    metavar='N',
    help='score only the first N batches of the split; default: all',
  )
  evaluate_summaries.add_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
  """Scores the split and prints the setting and the result."""
  if arguments.rouge:
    evaluate_summaries.main(arguments)
  else:
    _evaluate_bits(arguments)


def _evaluate_bits(arguments):
  with user_errors():
    for name in evaluate_summaries.SETTINGS:
      if getattr(arguments, name) is not None:
        raise ValueError(f'--{name} goes with --rouge')
    if arguments.batches is not None and arguments.batches < 1:
      raise ValueError(f'--batches={arguments.batches}: must be 1 or more')

    print_note(f'loading {arguments.run} ...')
    import jax

    from trax_hier.storage.runs import open_run
    from trax_hier.training.build import COMPUTE_DTYPES
    from trax_hier.training.data_error import reading
    from trax_hier.training.evaluate import Evaluator
    from trax_hier.training.logging.display import Display
    from trax_hier.training.logging.not_finite import not_finite
    from trax_hier.training.loss import Loss
    from trax_hier.training.mesh import weight_shardings

    set_up_jax()
    run = open_run(arguments.run, arguments.config, arguments.trust_code)
    batches = _batches(run.data, arguments)
    mesh = _mesh(run.mesh)
    layer = run.model(mode='eval')
    evaluator = Evaluator(
      layer,
      batches,
      run.data.unit,
      mesh,
      COMPUTE_DTYPES[run.compute_dtype],
      arguments.batches,
      Loss(chunk=run.loss_chunk),
      run.data.vocab.size,
    )
    evaluator.check_memory(run.data.vocab.size)
    step, weights = run.load_weights(arguments.step, print_note)
  shardings = weight_shardings(mesh, weights)
  with data_errors():
    with Display(stderr=True).doing(
      f'evaluating the {arguments.split} split'
    ) as count:
      result = evaluator(jax.device_put(weights, shardings), count)
    with reading(f'the {arguments.split} split'):
      n_bytes = _count_bytes(run.data, arguments)
  print(f'run: {arguments.run}, step {step}, {run.compute_dtype}')
  print(f'split: {arguments.split}, {_coverage(evaluator)}')
  print(f'context: {_context(batches, run.data.unit, layer)}')
  if text := not_finite(result):
    raise Failure(f'the scores are not finite: {text}', 1)
  _print_result(result, run.data.unit, n_bytes)


def _batches(data, arguments):
  """The held-out batches; only some data sets can cut them in other ways."""
  given = arguments.window, arguments.stride
  try:
    inspect.signature(data.eval_batches).bind(arguments.split, *given)
  except TypeError:
    if given != (None, None):
      raise ValueError(
        '--window and --stride do not apply to the data of this run, whose '
        'eval_batches takes only the split'
      ) from None
    return data.eval_batches(arguments.split)
  return data.eval_batches(arguments.split, *given)


def _count_bytes(data, arguments):
  """The bytes of text of the scored tokens; None if they are not known."""
  from trax_hier.training.text_bytes import count_text_bytes

  context = arguments.window, arguments.stride
  n = arguments.batches
  n_bytes = count_text_bytes(data, arguments.split, n, *context)
  if n is not None and n_bytes is None and data.unit == 'token':
    print_note('bits per byte are not known for a part of the split')
  return n_bytes


def _coverage(evaluator):
  from trax_hier.training.logging.coverage import describe_coverage

  share = describe_coverage(evaluator.coverage)
  if evaluator.coverage < 1:
    return f'the first {evaluator.n_batches:,} batches, {share}'
  return share


def _mesh(axes):
  """The mesh of the run, or one of all local devices if it does not fit."""
  from trax_hier.training.mesh import make_mesh

  try:
    return make_mesh(axes)
  except ValueError as error:
    print_note(f'{error}; rows are split over all local devices instead')
    return make_mesh()


def _context(batches, unit, layer):
  """Describes the context of each prediction."""
  if getattr(batches, 'context', None) is None:
    first = batches[0]
    text = f'rows of {first["inputs"].shape[1]:,}; each {unit} is predicted '
    text += 'from those before it'
    text += ' in its document' * ('documents' in first)
    # Documents of one row need no memory; the longest documents come first.
    has_long_documents = not all(
      batches[i]['start_of_sequence'].all() for i in range(min(2, len(batches)))
    )
    if 'sources' in first:
      text += ', and from the sources'
    elif layer.n_in == 2 and has_long_documents:
      text += ', and from a memory of the rows before'
    if not first['weights'][:, 0].any():
      text += f'; the first {unit} of a row is not scored'
    return text
  window, stride = batches.context
  fewest = window - stride
  first = ' (in the first window 0 or more)' if fewest else ''
  return (
    f'window {window:,}, stride {stride:,}; each {unit} is predicted from the '
    f'{fewest:,} to {window - 1:,} before it{first}'
  )


def _print_result(result, unit, n_bytes):
  from trax_hier.training.logging.coverage import describe_sources

  name = f'bits_per_{unit}'
  bits, n = result[name], round(result['tokens'])
  print(f'bits per {unit}: {bits:.4f}{describe_sources(result, name)}')
  if n_bytes is None:
    print(f'{unit}s scored: {n:,}')
  else:
    print(f'bits per byte: {bits * n / n_bytes:.4f}')
    print(f'scored: {n:,} {unit}s, which are {n_bytes:,} bytes of text')
  # Only of short rows are all predictions right.
  if right := result.get('sequence_accuracy'):
    print(f'sequence accuracy: {right:.4f}')
