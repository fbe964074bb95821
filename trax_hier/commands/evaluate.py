"""`trax-hier evaluate`: scores a whole split, each byte once."""

import argparse

from trax_hier.commands import summaries
from trax_hier.commands.shared import add_run, keep_compiled, say, user_errors

HELP = 'score a held-out split: bits per byte, or ROUGE of summaries'
DESCRIPTION = """
Scores a whole split of a run's data with its weights. Each byte (or token, or
dimension of an image) is counted exactly once.

Context: the split is cut into windows of --window tokens that begin --stride
tokens apart. A window scores its last --stride tokens, the first window all of
its own, so a token is predicted from the window - stride tokens before it or
more, up to window - 1. With stride = window, windows lie side by side, and the
first token of each is predicted from the beginning-of-sequence mark alone. A
smaller stride gives more context, a better value, and takes window / stride
times as long. Documents in rows, such as those of @DocumentLanes, are not cut
into windows: models with a memory carry it from row to row.

With --rouge, the data are pairs of texts, as those of @TextPairs: a summary of
each document is generated and compared with the one that is there. Beside it
stand baselines: the first sentences of the document (lead-3), and its first
tokens. ROUGE is F1 in percent, by the package rouge-score with its stemmer.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  add_run(parser)
  parser.add_argument(
    '--split',
    choices=('valid', 'test'),
    default='test',
    help='which held-out part; default: test',
  )
  parser.add_argument(
    '--window',
    type=int,
    metavar='N',
    help='tokens in a window; default: as training evaluates',
  )
  parser.add_argument(
    '--stride',
    type=int,
    metavar='N',
    help='tokens that a window scores; default: all of --window if that is '
    'given, else as training evaluates',
  )
  summaries.add_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
  """Scores, and prints what was scored, how, and the result."""
  if arguments.rouge:
    summaries.main(arguments)
  else:
    _main_bits(arguments)


def _main_bits(arguments):
  with user_errors():
    for name in summaries.SETTINGS:
      if getattr(arguments, name) is not None:
        raise ValueError(f'--{name} goes with --rouge')

    import jax

    from trax_hier.storage.runs import open_run
    from trax_hier.training.build import COMPUTE_DTYPES
    from trax_hier.training.evaluate import Evaluator
    from trax_hier.training.mesh import weight_shardings

    keep_compiled()
    run = open_run(arguments.run, arguments.config)
    batches = run.data.eval_batches(
      arguments.split, arguments.window, arguments.stride
    )
    mesh = _mesh(run.mesh)
    layer = run.model(mode='eval')
    evaluator = Evaluator(
      layer,
      batches,
      run.data.unit,
      mesh,
      COMPUTE_DTYPES[run.compute_dtype],
    )
    step, weights = run.load_weights(arguments.step, say)
  shardings = weight_shardings(mesh, weights)
  result = evaluator(jax.device_put(weights, shardings))
  n_bytes = run.data.count_bytes(arguments.split)
  print(f'run: {arguments.run}, step {step}, {run.compute_dtype}')
  print(f'split: {arguments.split}')
  print(f'context: {_context(batches, run.data.unit, layer)}')
  _print_result(result, run.data.unit, n_bytes)


def _mesh(axes):
  """The mesh of the run, or where its devices are not here, that of those."""
  from trax_hier.training.mesh import make_mesh

  try:
    return make_mesh(axes)
  except ValueError as error:
    say(f'{error}; here rows are split over all devices')
    return make_mesh()


def _context(batches, unit, layer):
  """What each token was predicted from, in words."""
  if batches.context is None:
    first = batches[0]
    text = f'rows of {first["inputs"].shape[1]:,}; each {unit} is predicted '
    text += 'from those before it'
    # Of a document of one row there is no next one; the first are the longest.
    goes_on = not all(
      batches[i]['start_of_sequence'].all() for i in range(min(2, len(batches)))
    )
    if 'sources' in first:
      text += ', and from the sources'
    elif layer.n_in == 2 and goes_on:
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
  bits, n = result[f'bits_per_{unit}'], round(result['tokens'])
  print(f'bits per {unit}: {bits:.4f}')
  if n_bytes is None:
    print(f'{unit}s scored: {n:,}')
  else:
    print(f'bits per byte: {bits * n / n_bytes:.4f}')
    print(f'scored: {n:,} {unit}s, which are {n_bytes:,} bytes of text')
