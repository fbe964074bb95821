"""Trains a model from gin files: `python -m trax_hier.trainer --help`.

    python -m trax_hier.trainer --config_file=gin/quickstart.gin \\
        --config='train.steps = 200' --output_dir=runs/quickstart

Each error is one message on standard error. Exit codes:

    1    checkpoints or data cannot be read, the loss is not finite, the disk is
         full
    2    a flag or the configuration is invalid, or another trainer writes to
         the output_dir; nothing has been compiled
    130  Ctrl-C; the trainer has saved a checkpoint, unless it was pressed twice
    143  SIGTERM; the trainer has saved a checkpoint (129 for SIGHUP)

To resume a stopped run, repeat its command.

On several hosts, run the same command in one process per host, with an
output_dir on a shared file system and --distributed or, where JAX does not
recognize the cluster:

    … --coordinator=10.0.0.1:1234 --n_processes=2 --process_id=0
"""

import argparse
import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Sequence

from trax_hier.commands.failures import Failure, fail, interrupted
from trax_hier.commands.flags import add_config, add_config_file, check_files
from trax_hier.commands.interrupts import watch_interrupts
from trax_hier.commands.jax_settings import set_up_jax
from trax_hier.environment import flag_names, platform_message, print_any_text

_PROGRAM = 'trax_hier.trainer'


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  print_any_text()
  arguments = _parser().parse_args(flag_names(argv))

  try:
    check_files(arguments)
  except Failure as failure:
    return fail(_PROGRAM, failure, failure.code)

  # Slow to import; --help and mistyped flags do not need it.
  import trax_hier.storage.configurables  # noqa: F401
  from trax_hier import config

  config.clear()  # An earlier call may have left bindings.
  try:
    config.parse(arguments.config_file, arguments.config)
  except config.ConfigError as error:
    return fail(_PROGRAM, error, 2)
  set_up_jax()
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
  from trax_hier.training.logging.not_finite import not_finite
  from trax_hier.training.loop import train

  # Orbax also logs the errors that it raises.
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  is_built = False
  # Multi-host runs have no probes: one host would wait for the others.
  try:
    probes = Probes() if jax.process_count() == 1 else None
  except (RuntimeError, AssertionError) as error:
    message = platform_message(error)
    if message is None:
      raise
    return fail(_PROGRAM, message, 2)

  with contextlib.ExitStack() as stack:

    def before_compile():
      nonlocal is_built
      config.check_used()
      is_built = True
      stack.enter_context(watch_interrupts(_note_interrupt, abort))

    def abort():
      return _interrupted(arguments.output_dir)

    try:
      result = train(
        output_dir=arguments.output_dir,
        accept_changes=arguments.accept_changes,
        before_compile=before_compile,
        probe=probes,
      )
    except (Exception, KeyboardInterrupt) as error:
      code = _fail(error, is_built, arguments.output_dir)
      if code is None:
        raise
      return code
  if jax.process_index() == 0:
    _print_result(result, probes, arguments.output_dir)
  if text := not_finite(result.evaluation):
    return fail(_PROGRAM, f'not finite after step {result.step}: {text}', 1)
  return 0


def _note_interrupt():
  print(
    f'{_PROGRAM}: interrupted: the step in progress is finished and saved; '
    'Ctrl-C again aborts at once',
    file=sys.stderr,
  )


def _interrupted(output_dir):
  """Prints what is saved after an abort by Ctrl-C; returns the exit code."""
  return interrupted(_PROGRAM, f'interrupted: {_saved(output_dir)}')


def _saved(output_dir):
  """Says which checkpoint is the newest, and what the same command does."""
  from trax_hier.training.checkpoints import saved_steps

  folder = os.path.join(os.path.expanduser(output_dir), 'checkpoints')
  if steps := saved_steps(folder):
    return f'checkpoint {steps[-1]} is saved; the same command resumes the run'
  return 'no checkpoint is saved; the same command starts from the first step'


def _fail(error, is_built, output_dir):
  """Prints an error and returns its exit code; returns None for a bug."""
  from trax_hier import config
  from trax_hier.compat import base
  from trax_hier.training.checkpoints import CheckpointError
  from trax_hier.training.data_error import DataError
  from trax_hier.training.logging.report import NotFiniteError
  from trax_hier.training.run_lock import FolderInUseError
  from trax_hier.training.stopping import Stopped

  if isinstance(error, KeyboardInterrupt):
    return _interrupted(output_dir)
  message = config.explain(error)
  if isinstance(error, Stopped):
    what = 'resumes the run' if error.step else 'starts from the first step'
    message = f'{message}; the same command {what}'
    return fail(_PROGRAM, message, 128 + error.signal)
  if isinstance(error, FolderInUseError):
    return fail(_PROGRAM, message, 2)
  if isinstance(error, NotFiniteError | CheckpointError):
    return fail(_PROGRAM, message, 1)
  if is_built and isinstance(error, DataError | OSError):
    reason = getattr(error, 'strerror', None) or message
    saved = _saved(output_dir)
    return fail(_PROGRAM, f'{reason}; training stopped: {saved}', 1)
  # Before the first compilation, these errors come from the configuration.
  user_errors = ValueError, TypeError, OSError, MemoryError, base.LayerError
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
