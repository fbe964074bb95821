"""Trains a model from gin files: `python -m trax_hier.trainer --help`.

    python -m trax_hier.trainer --config_file=gin/quickstart.gin \\
        --config='train.steps = 200' --output_dir=runs/quickstart

What can be wrong in the configuration is said in one message on standard
error, with exit code 2, before anything is compiled. A training that fails
later (a loss that is not finite, checkpoints that cannot be loaded) ends with
one message and exit code 1. The same command again resumes a stopped run.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from trax_hier._commands.shared import add_config, fail, interrupted

_PROGRAM = 'trax_hier.trainer'

_SAMPLE_PROMPT = 32
_SAMPLE_TOKENS = 256
_SAMPLE_TEMPERATURE = 0.8
_SAMPLE_SHOWN = 300  # characters of a source


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  arguments = _parser().parse_args(argv)

  # Imported here so that --help and mistyped flags answer at once.
  import trax_hier._configurables  # noqa: F401
  from trax_hier import config

  try:
    config.parse(arguments.config_file, arguments.config)
  except config.ConfigError as error:
    return fail(_PROGRAM, error, 2)
  return _train(arguments.output_dir)


def _parser():
  parser = argparse.ArgumentParser(
    prog='python -m trax_hier.trainer',
    description='Trains a model from gin files; resumes a stopped run.',
  )
  parser.add_argument(
    '--config_file',
    action='append',
    default=[],
    metavar='FILE',
    help='a gin file, by path or by the name of a packaged one; repeatable, '
    'later files win',
  )
  add_config(parser, 'the files')
  parser.add_argument(
    '--output_dir',
    required=True,
    metavar='DIR',
    help='the folder of the run: configuration, checkpoints, metrics',
  )
  return parser


def _train(output_dir):
  from trax_hier import config
  from trax_hier.training.checkpoints import CheckpointError
  from trax_hier.training.loop import train
  from trax_hier.training.report import NotFiniteError
  from trax_hier.trax_compat import base

  built = []

  def before_compile():
    config.check_used()
    built.append(True)

  try:
    result = train(output_dir=output_dir, before_compile=before_compile)
  except (NotFiniteError, CheckpointError) as error:
    return fail(_PROGRAM, config.explain(error), 1)
  except (ValueError, TypeError, OSError, base.LayerError) as error:
    # Until everything is built, what fails is what the user has written.
    if built:
      raise
    return fail(_PROGRAM, config.explain(error), 2)
  except KeyboardInterrupt:
    return interrupted(
      _PROGRAM, 'interrupted; the same command resumes the run'
    )
  _conclude(result, output_dir)
  return 0


def _conclude(result, output_dir):
  """Prints the result, a sample, where the run is, and what to type next."""
  unit = result.data.unit
  bits = result.evaluation[f'bits_per_{unit}']
  print(f'\nheld-out after {result.step} steps: {bits:.4f} bits per {unit}')
  if unit != 'dim':
    _print_sample(result)
  print(f'run directory: {output_dir}')
  command = (
    'python',
    '-m',
    'trax_hier.trainer',
    f'--config_file={output_dir}/config.gin',
    f'--config=train.steps = {2 * result.step}',
    f'--output_dir={output_dir}',
  )
  print(f'to train on: {shlex.join(command)}')


def _print_sample(result):
  import numpy as np

  from trax_hier.generation import sample_text

  vocab = result.data.vocab
  batch = result.data.eval_batches('valid')[0]
  if 'sources' in batch:
    source, prompt = batch['sources'][0], ''
    source = np.trim_zeros(source, 'b')
    shown, what = vocab.decode(source), 'for a held-out source'
    if len(shown) > _SAMPLE_SHOWN:
      shown = f'{shown[:_SAMPLE_SHOWN]}…'
  else:
    source, prompt = None, vocab.decode(batch['inputs'][0, :_SAMPLE_PROMPT])
    shown, what = prompt, 'after held-out text'
  try:
    text = sample_text(
      result.model,
      result.weights,
      vocab,
      prompt,
      _SAMPLE_TOKENS,
      _SAMPLE_TEMPERATURE,
      0,
      source,
    )
  except ValueError as error:  # A part of the model cannot decode.
    print(f'no sample: {str(error).splitlines()[0]}')
    return
  print(f'sample, {what} in brackets:\n[{shown}]{text}\n')


if __name__ == '__main__':
  sys.exit(main())
