"""`trax-hier evaluate --rouge`: generates summaries and scores them."""

import argparse
import time

from trax_hier.commands.failures import print_note, user_errors
from trax_hier.commands.jax_settings import set_up_jax

_DEFAULTS = {
  'n_beams': 1,
  'length_penalty': 0.6,
  'lead': 3,
  'batch_size': 8,
}
_SECONDS_PER_NOTE = 10

# Flags that need --rouge.
SETTINGS = ('n_examples', 'n_tokens', *_DEFAULTS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds --rouge and the flags that need it."""
  add = parser.add_argument_group('summaries').add_argument
  add(
    '--rouge',
    action='store_true',
    help='score generated summaries by ROUGE, instead of bits',
  )
  add(
    '--n_examples',
    type=int,
    metavar='N',
    help='score only the first N pairs of the split; default: all',
  )
  add(
    '--n_tokens',
    type=int,
    metavar='N',
    help="maximum tokens per summary; default: the data's target_length",
  )
  add(
    '--n_beams',
    type=int,
    metavar='K',
    help='beams of the search; default: 1, greedy decoding',
  )
  add(
    '--length_penalty',
    type=float,
    metavar='A',
    help='length penalty of the beam search; higher favors longer summaries; '
    f'default: {_DEFAULTS["length_penalty"]}',
  )
  add(
    '--lead',
    type=int,
    metavar='K',
    help='sentences of the document in the lead baseline; default: '
    f'{_DEFAULTS["lead"]}',
  )
  add(
    '--batch_size',
    type=int,
    metavar='B',
    help=f'summaries per batch; default: {_DEFAULTS["batch_size"]}',
  )


def main(arguments: argparse.Namespace) -> None:
  """Generates summaries of a split and prints their scores."""
  with user_errors():
    settings = _rouge_settings(arguments)

    print_note(f'loading {arguments.run} ...')
    from trax_hier import generation
    from trax_hier.generation import rouge
    from trax_hier.storage.runs import open_run

    # Reports a missing package now, not after hours of generation.
    rouge.import_rouge_score()
    set_up_jax()
    run = open_run(arguments.run, arguments.config, arguments.trust_code)
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
    step, weights = run.load_weights(arguments.step, print_note)
    weights = generation.prepare(run.model, weights)
    texts = _summarize(run, weights, pairs, n, settings)
    references = texts.pop('reference')
    scores = {name: rouge.score(references, t) for name, t in texts.items()}
  print(f'run: {arguments.run}, step {step}, float32')
  print(f'split: {arguments.split}, {n:,} of {len(pairs):,} pairs')
  print(f'decoding: {_decoding(settings)}')
  _print_scores(scores, rouge.n_other_scripts(references), n)


def _rouge_settings(arguments):
  """Returns the values of the flags; None for a flag without a default.

  Raises:
    ValueError: A value is out of range, or a flag conflicts with --rouge.
  """
  from trax_hier.data import checks

  for name in ('window', 'stride', 'batches'):
    if getattr(arguments, name) is not None:
      raise ValueError(f'--{name} cannot be combined with --rouge')
  settings = {}
  for name in SETTINGS:
    value = getattr(arguments, name)
    if value is not None and name != 'length_penalty':
      checks.check_positive(f'--{name}', value)
    settings[name] = _DEFAULTS.get(name) if value is None else value
  if arguments.length_penalty is not None and settings['n_beams'] == 1:
    raise ValueError('--length_penalty goes with --n_beams of 2 or more')
  return settings


def _summarize(run, weights, pairs, n, settings):
  """Generates summaries of the first n documents.

  Documents are sorted by length, the longest first: if the first batch fits in
  memory, all batches do.

  Returns:
    Lists of texts in the same order: 'reference', 'model' and the baselines.
  """
  from trax_hier.generation import rouge
  from trax_hier.training.data_error import reading

  with reading('a pair'):
    lengths = [len(pairs[i].ids) for i in range(n)]
  order = sorted(range(n), key=lambda i: -lengths[i])
  batch_size = min(n, settings['batch_size'])
  lead, n_tokens = settings['lead'], settings['n_tokens']
  texts = {'reference': [], 'model': []}
  leads = texts.setdefault(f'lead-{lead}', [])
  heads = texts.setdefault(f'first {n_tokens} tokens', [])
  begin = noted = time.monotonic()
  for start in range(0, n, batch_size):
    with reading('a pair'):
      batch = [pairs[i] for i in order[start : start + batch_size]]
    sources = [pair.ids for pair in batch]
    texts['model'] += _generate(run, weights, sources, batch_size, settings)
    texts['reference'] += [pair.target for pair in batch]
    leads += [rouge.lead(pair.source, lead) for pair in batch]
    heads += [_decode(ids[:n_tokens], run.data.vocab) for ids in sources]
    now, done = time.monotonic(), start + len(batch)
    if done == n or now - noted > _SECONDS_PER_NOTE:
      print_note(f'{done:,} of {n:,} summaries in {now - begin:,.0f} s')
      noted = now
  return texts


def _generate(run, weights, sources, batch_size, settings):
  """Generates the summaries of sources, each (n,) int32."""
  import numpy as np

  from trax_hier import generation

  beams = {}
  if settings['n_beams'] > 1:
    beams = {name: settings[name] for name in ('n_beams', 'length_penalty')}
  # Padding the last batch avoids another compilation.
  padded = sources + sources[-1:] * (batch_size - len(sources))
  rows = generation.generate(
    run.model,
    weights,
    [np.zeros(0, np.int32)] * batch_size,
    settings['n_tokens'],
    temperature=0,
    stop=[[0]],
    n_ids=run.data.vocab.size,
    sources=padded,
    **beams,
  )
  return [_decode(row, run.data.vocab) for row in rows[: len(sources)]]


def _decode(ids, vocab):
  """The text of ids, without a character at the end that was cut."""
  from trax_hier.generation.partial_characters import whole_characters

  return vocab.decode(whole_characters(ids, vocab.decode))


def _decoding(settings):
  """Describes how summaries are decoded."""
  how = 'the most likely token at each step'
  if settings['n_beams'] > 1:
    how = (
      f'{settings["n_beams"]} beams, length penalty '
      f'{settings["length_penalty"]:g}'
    )
  return f'{how}; up to {settings["n_tokens"]:,} tokens'


def _print_scores(scores, n_other, n):
  import importlib.metadata

  from trax_hier.generation import rouge

  version = importlib.metadata.version('rouge-score')
  print(f'rouge-score {version}: mean F1 in percent, with its stemmer')
  if n_other:
    print(
      f'{n_other:,} of {n:,} references are not in Latin letters: words of all '
      'scripts count, and each letter of scripts without spaces'
    )
  width = max(map(len, scores))
  print(' ' * width, *(f'{name:>9}' for name in rouge.TYPES))
  for name, row in scores.items():
    print(f'{name:{width}}', *(f'{row[k]:9.2f}' for k in rouge.TYPES))
