"""Trains a model from gin files: `python -m trax_hier.trainer --help`.

    python -m trax_hier.trainer --config_file=gin/quickstart.gin \\
        --config='train.steps = 200' --output_dir=runs/quickstart

Each error is one message on standard error. Exit codes:

    1    checkpoints cannot be loaded, the loss is not finite, the disk is full
    2    a flag or the configuration is invalid; nothing has been compiled
    130  Ctrl-C
    143  SIGTERM; the trainer has saved a checkpoint

To resume a stopped run, repeat its command.

On several hosts, run the same command in one process per host, with an
output_dir on a shared file system and --distributed or, where JAX does not
recognize the cluster:

    … --coordinator=10.0.0.1:1234 --n_processes=2 --process_id=0
"""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence

from trax_hier.commands.compilation_cache import enable_compilation_cache
from trax_hier.commands.failures import Failure, fail, interrupted
from trax_hier.commands.flags import add_config, add_config_file, check_files

_PROGRAM = 'trax_hier.trainer'
_RESUME = 'the same command resumes the run'


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  arguments = _parser().parse_args(argv)

  try:
    check_files(arguments)
  except Failure as failure:
    return fail(_PROGRAM, failure, failure.code)

  # Slow to import; --help and mistyped flags do not need it.
  import trax_hier.storage.configurables  # noqa: F401
  from trax_hier import config

  try:
    config.parse(arguments.config_file, arguments.config)
  except config.ConfigError as error:
    return fail(_PROGRAM, error, 2)
  enable_compilation_cache()
  try:
    _join_hosts(arguments)
  except (ValueError, RuntimeError) as error:
    return fail(_PROGRAM, f'cannot connect to the other hosts: {error}', 2)
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
    help='the run directory: configuration, checkpoints, metrics',
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
    help='detect the cluster: Slurm, Kubernetes, Open MPI or TPU',
  )
  hosts.add_argument(
    '--coordinator',
    metavar='HOST:PORT',
    help='the address of process 0, instead of --distributed',
  )
  hosts.add_argument(
    '--n_processes', type=int, metavar='N', help='number of processes'
  )
  hosts.add_argument(
    '--process_id', type=int, metavar='I', help='this process, from 0'
  )
  return parser


def _join_hosts(arguments):
  """Connects the hosts; must precede the first use of a JAX device.

  Raises:
    ValueError, RuntimeError: Flags are missing, or the connection fails.
  """
  cluster = {
    'coordinator_address': arguments.coordinator,
    'num_processes': arguments.n_processes,
    'process_id': arguments.process_id,
  }
  given = [value is not None for value in cluster.values()]
  if any(given) and not all(given):
    raise ValueError(
      '--coordinator, --n_processes and --process_id go together'
    )
  if any(given) or arguments.distributed:
    import jax

    jax.distributed.initialize(**cluster)


def _train(arguments):
  import jax

  from trax_hier import config
  from trax_hier.inspection.probes import Probes
  from trax_hier.training.loop import train

  # Orbax also logs the errors that it raises.
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  is_built = False
  # Multi-host runs have no probes: one host would wait for the others.
  probes = Probes() if jax.process_count() == 1 else None

  def before_compile():
    nonlocal is_built
    config.check_used()
    is_built = True

  try:
    result = train(
      output_dir=arguments.output_dir,
      accept_changes=arguments.accept_changes,
      before_compile=before_compile,
      probe=probes,
    )
  except (Exception, KeyboardInterrupt) as error:
    code = _fail(error, is_built)
    if code is None:
      raise
    return code
  if jax.process_index() == 0:
    _print_result(result, probes, arguments.output_dir)
  return 0


def _fail(error, is_built):
  """Prints an error and returns its exit code; returns None for a bug."""
  from trax_hier import config
  from trax_hier.compat import base
  from trax_hier.training.checkpoints import CheckpointError
  from trax_hier.training.logging.report import NotFiniteError
  from trax_hier.training.stopping import Stopped

  if isinstance(error, KeyboardInterrupt):
    return interrupted(_PROGRAM, f'interrupted; {_RESUME}')
  message = config.explain(error)
  if isinstance(error, Stopped):
    return fail(_PROGRAM, f'{message}; {_RESUME}', 143)
  if isinstance(error, NotFiniteError | CheckpointError):
    return fail(_PROGRAM, message, 1)
  if is_built and isinstance(error, OSError):
    reason = error.strerror or message
    return fail(_PROGRAM, f'{reason}; training stopped, {_RESUME}', 1)
  # Before the first compilation, these errors come from the configuration.
  user_errors = ValueError, TypeError, OSError, base.LayerError
  if not is_built and isinstance(error, user_errors):
    return fail(_PROGRAM, message, 2)
  return None


def _print_result(result, probes, output_dir):
  """Prints the score, a sample, the run directory and the next command."""
  unit = result.data.unit
  bits = result.evaluation[f'bits_per_{unit}']
  print(f'\nheld-out after {result.step} steps: {bits:.4f} bits per {unit}')
  trained = result.model, result.data, result.weights
  if probes is not None and (sample := probes.sample(result.step, *trained)):
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
  print(f'to continue training: {shlex.join(command)}')


if __name__ == '__main__':
  code = main()
  sys.stdout.flush()
  sys.stderr.flush()
  if code:
    # Threads of the failed run may still raise errors; do not print them.
    os._exit(code)
