"""`trax-hier evaluate`: scores a whole split, each byte once."""

import argparse
import time

from trax_hier._commands.shared import add_run, say, user_errors

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

_DEFAULTS = {
  'n_beams': 1,
  'length_penalty': 0.6,
  'lead': 3,
  'batch_size': 8,
}
_SECONDS_PER_REMARK = 10


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
  _add_rouge(parser)


def _add_rouge(parser):
  """Adds --rouge and the flags that go with it."""
  add = parser.add_argument_group('summaries').add_argument
  add(
    '--rouge',
    action='store_true',
    help='generate summaries and compare them, instead of bits',
  )
  add(
    '--n_examples',
    type=int,
    metavar='N',
    help='only the first pairs of the split; default: all',
  )
  add(
    '--n_tokens',
    type=int,
    metavar='N',
    help="the most tokens of a summary; default: the data's target_length",
  )
  add(
    '--n_beams',
    type=int,
    metavar='K',
    help='search with so many beams; default: 1, the likeliest token each time',
  )
  add(
    '--length_penalty',
    type=float,
    metavar='A',
    help='of the beams: higher is longer; default: '
    f'{_DEFAULTS["length_penalty"]}',
  )
  add(
    '--lead',
    type=int,
    metavar='K',
    help='sentences of the document that are a baseline; default: '
    f'{_DEFAULTS["lead"]}',
  )
  add(
    '--batch_size',
    type=int,
    metavar='B',
    help=f'summaries at a time; default: {_DEFAULTS["batch_size"]}',
  )


def main(arguments: argparse.Namespace) -> None:
  """Scores, and prints what was scored, how, and the result."""
  if arguments.rouge:
    _main_rouge(arguments)
  else:
    _main_bits(arguments)


def _main_bits(arguments):
  with user_errors():
    for name in ('n_examples', 'n_tokens', *_DEFAULTS):
      if getattr(arguments, name) is not None:
        raise ValueError(f'--{name} goes with --rouge')

    import jax

    from trax_hier.runs import open_run
    from trax_hier.training.build import COMPUTE_DTYPES
    from trax_hier.training.evaluate import Evaluator
    from trax_hier.training.mesh import data_mesh, replicated

    run = open_run(arguments.run, arguments.config)
    batches = run.data.eval_batches(
      arguments.split, arguments.window, arguments.stride
    )
    mesh = data_mesh()
    layer = run.model(mode='eval')
    evaluator = Evaluator(
      layer,
      batches,
      run.data.unit,
      mesh,
      COMPUTE_DTYPES[run.compute_dtype],
    )
    step, weights = run.load_weights(arguments.step, say)
  result = evaluator(jax.device_put(weights, replicated(mesh)))
  n_bytes = run.data.count_bytes(arguments.split)
  print(f'run: {arguments.run}, step {step}, {run.compute_dtype}')
  print(f'split: {arguments.split}')
  print(f'context: {_context(batches, run.data.unit, layer)}')
  _print_result(result, run.data.unit, n_bytes)


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


def _main_rouge(arguments):
  with user_errors():
    settings = _rouge_settings(arguments)

    from trax_hier import generation, rouge
    from trax_hier.runs import open_run

    # Before the summaries, which may take hours.
    rouge.import_rouge_score()
    run = open_run(arguments.run, arguments.config)
    if not hasattr(run.data, 'pairs'):
      name = run.data.describe().partition(':')[0]
      raise ValueError(
        f'{run.folder}: --rouge needs pairs of texts, such as @TextPairs() '
        f'gives; the data of this run is {name}'
      )
    n_tokens = settings['n_tokens'] or run.data.target_length
    settings['n_tokens'] = n_tokens
    pairs = run.data.pairs(arguments.split)
    n = min(len(pairs), settings['n_examples'] or len(pairs))
    if not n:
      raise ValueError(f'the {arguments.split} split is empty')
    step, weights = run.load_weights(arguments.step, say)
    weights = generation.prepare(run.model, weights)
    texts = _summarize(run, weights, pairs, n, settings)
    references = texts.pop('reference')
    scores = {name: rouge.score(references, t) for name, t in texts.items()}
  print(f'run: {arguments.run}, step {step}, float32')
  print(f'split: {arguments.split}, {n:,} of {len(pairs):,} pairs')
  print(f'decoding: {_decoding(settings)}')
  _print_scores(scores)


def _rouge_settings(arguments):
  """Returns the values of the flags of --rouge; None where there is no default.

  Raises:
    ValueError: if one is out of its range, or does not go with --rouge.
  """
  from trax_hier.data import checks

  for name in ('window', 'stride'):
    if getattr(arguments, name) is not None:
      raise ValueError(f'--{name} does not go with --rouge')
  settings = {}
  for name in ('n_examples', 'n_tokens', *_DEFAULTS):
    value = getattr(arguments, name)
    if value is not None and name != 'length_penalty':
      checks.check_positive(f'--{name}', value)
    settings[name] = _DEFAULTS.get(name) if value is None else value
  if arguments.length_penalty is not None and settings['n_beams'] == 1:
    raise ValueError('--length_penalty goes with --n_beams of 2 or more')
  return settings


def _summarize(run, weights, pairs, n, settings):
  """Generates summaries of the first n documents.

  Documents of nearly the same length make a batch, the longest first: if memory
  lasts for these, it lasts for all.

  Returns:
    Texts in the order of the batches: by 'reference', by 'model', and by the
    names of the baselines.
  """
  from trax_hier import rouge

  lengths = [len(pairs[i].ids) for i in range(n)]
  order = sorted(range(n), key=lambda i: -lengths[i])
  batch_size = min(n, settings['batch_size'])
  lead, n_tokens = settings['lead'], settings['n_tokens']
  texts = {'reference': [], 'model': []}
  leads = texts.setdefault(f'lead-{lead}', [])
  heads = texts.setdefault(f'first {n_tokens} tokens', [])
  begin = said = time.monotonic()
  for start in range(0, n, batch_size):
    batch = [pairs[i] for i in order[start : start + batch_size]]
    sources = [pair.ids for pair in batch]
    texts['model'] += _generate(run, weights, sources, batch_size, settings)
    texts['reference'] += [pair.target for pair in batch]
    leads += [rouge.lead(pair.source, lead) for pair in batch]
    heads += [run.data.vocab.decode(ids[:n_tokens]) for ids in sources]
    now, done = time.monotonic(), start + len(batch)
    if done == n or now - said > _SECONDS_PER_REMARK:
      say(f'{done:,} of {n:,} summaries in {now - begin:,.0f} s')
      said = now
  return texts


def _generate(run, weights, sources, batch_size, settings):
  """Returns the texts that the model writes for sources, (n,) int32 each."""
  import numpy as np

  from trax_hier import generation

  beams = {}
  if settings['n_beams'] > 1:
    beams = {name: settings[name] for name in ('n_beams', 'length_penalty')}
  # A smaller last batch would be compiled for anew.
  filled = sources + sources[-1:] * (batch_size - len(sources))
  rows = generation.generate(
    run.model,
    weights,
    [np.zeros(0, np.int32)] * batch_size,
    settings['n_tokens'],
    temperature=0,
    stop=[[0]],
    n_ids=run.data.vocab.size,
    sources=filled,
    **beams,
  )
  return [run.data.vocab.decode(row) for row in rows[: len(sources)]]


def _decoding(settings):
  """How summaries were generated, in words."""
  how = 'the likeliest token each time'
  if settings['n_beams'] > 1:
    how = (
      f'{settings["n_beams"]} beams, length penalty '
      f'{settings["length_penalty"]:g}'
    )
  return f'{how}; up to {settings["n_tokens"]:,} tokens'


def _print_scores(scores):
  import importlib.metadata

  from trax_hier import rouge

  version = importlib.metadata.version('rouge-score')
  print(f'rouge-score {version}: mean F1 in percent, with its stemmer')
  width = max(map(len, scores))
  print(' ' * width, *(f'{name:>9}' for name in rouge.TYPES))
  for name, row in scores.items():
    print(f'{name:{width}}', *(f'{row[k]:9.2f}' for k in rouge.TYPES))
