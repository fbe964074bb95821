"""Trains a model from gin files: `python -m trax_hier.trainer --help`.

    python -m trax_hier.trainer --config_file=gin/quickstart.gin \\
        --config='train.steps = 200' --output_dir=runs/quickstart

What can be wrong in the configuration is said in one message on standard
error, with exit code 2, before anything is compiled. A training that fails
later (a loss that is not finite, checkpoints that cannot be loaded, a full
disk) ends with one message and exit code 1; Ctrl-C with 130; SIGTERM, upon
which the run is saved, with 143. The same command again resumes a stopped run.

Several hosts run the same command, one process each, with an output_dir that
all of them see, and --distributed, or where JAX does not know the cluster:

    … --coordinator=10.0.0.1:1234 --n_processes=2 --process_id=0
"""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence

from trax_hier.commands.shared import (
  Failure,
  add_config,
  add_config_file,
  check_there,
  fail,
  interrupted,
  keep_compiled,
)

_PROGRAM = 'trax_hier.trainer'
_RESUME = 'the same command resumes the run'


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  arguments = _parser().parse_args(argv)

  try:
    check_there(arguments)
  except Failure as failure:
    return fail(_PROGRAM, failure, failure.code)

  # Imported here so that --help and mistyped flags answer at once.
  import trax_hier.storage.configurables  # noqa: F401
  from trax_hier import config

  try:
    config.parse(arguments.config_file, arguments.config)
  except config.ConfigError as error:
    return fail(_PROGRAM, error, 2)
  keep_compiled()
  try:
    _join_hosts(arguments)
  except (ValueError, RuntimeError) as error:
    return fail(_PROGRAM, f'the hosts did not meet: {error}', 2)
  return _train(arguments)


def _parser():
  parser = argparse.ArgumentParser(
    prog='python -m trax_hier.trainer',
    description='Trains a model from gin files; resumes a stopped run.',
  )
  add_config_file(parser)
  add_config(parser, 'the files')
  parser.add_argument(
    '--output_dir',
    required=True,
    metavar='DIR',
    help='the folder of the run: configuration, checkpoints, metrics',
  )
  parser.add_argument(
    '--accept_changes',
    action='store_true',
    help='resume although the configuration has changed',
  )
  hosts = parser.add_argument_group('several hosts')
  hosts.add_argument(
    '--distributed',
    action='store_true',
    help='find the others by the cluster: Slurm, Kubernetes, Open MPI, TPU',
  )
  hosts.add_argument(
    '--coordinator',
    metavar='HOST:PORT',
    help='where process 0 is to listen, in place of --distributed',
  )
  hosts.add_argument('--n_processes', type=int, metavar='N', help='how many')
  hosts.add_argument(
    '--process_id', type=int, metavar='I', help='this one, from 0'
  )
  return parser


def _join_hosts(arguments):
  """Meets the other processes, before anything asks JAX for its devices.

  Raises:
    ValueError, RuntimeError: if flags are missing or the others do not come.
  """
  by_hand = {
    'coordinator_address': arguments.coordinator,
    'num_processes': arguments.n_processes,
    'process_id': arguments.process_id,
  }
  given = [value is not None for value in by_hand.values()]
  if any(given) and not all(given):
    raise ValueError(
      '--coordinator, --n_processes and --process_id go together'
    )
  if any(given) or arguments.distributed:
    import jax

    jax.distributed.initialize(**by_hand)


def _train(arguments):
  import jax

  from trax_hier import config
  from trax_hier.compat import base
  from trax_hier.inspection.probes import Probes
  from trax_hier.training.checkpoints import CheckpointError
  from trax_hier.training.logging.report import NotFiniteError
  from trax_hier.training.loop import train
  from trax_hier.training.stopping import Stopped

  # Orbax logs what it raises as well.
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  built = []
  # With several hosts, all would have to look.
  looks = Probes() if jax.process_count() == 1 else None

  def before_compile():
    config.check_used()
    built.append(True)

  try:
    result = train(
      output_dir=arguments.output_dir,
      accept_changes=arguments.accept_changes,
      before_compile=before_compile,
      look=looks,
    )
  except Stopped as error:
    return fail(_PROGRAM, f'{config.explain(error)}; {_RESUME}', 143)
  except (NotFiniteError, CheckpointError) as error:
    return fail(_PROGRAM, config.explain(error), 1)
  except (ValueError, TypeError, OSError, base.LayerError) as error:
    # Until everything is built, what fails is what the user has written.
    if built and isinstance(error, OSError):
      what = error.strerror or config.explain(error)
      return fail(_PROGRAM, f'{what}; training stopped, {_RESUME}', 1)
    if built:
      raise
    return fail(_PROGRAM, config.explain(error), 2)
  except KeyboardInterrupt:
    return interrupted(_PROGRAM, f'interrupted; {_RESUME}')
  if jax.process_index() == 0:
    _conclude(result, looks, arguments.output_dir)
  return 0


def _conclude(result, looks, output_dir):
  """Prints the result, a sample, where the run is, and what to type next."""
  unit = result.data.unit
  bits = result.evaluation[f'bits_per_{unit}']
  print(f'\nheld-out after {result.step} steps: {bits:.4f} bits per {unit}')
  parts = result.model, result.data, result.weights
  if looks is not None and (sample := looks.sample(result.step, *parts)):
    print(sample)
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


if __name__ == '__main__':
  code = main()
  sys.stdout.flush()
  sys.stderr.flush()
  if code:
    # What has failed may be at work in threads still: no need to hear of it.
    os._exit(code)
