"""`trax-hier train`: trains a model from gin files."""

import argparse
import contextlib
import os
import sys

from trax_hier.commands.failures import fail, interrupted
from trax_hier.commands.flags import add_config, add_config_file
from trax_hier.commands.huge_pages import add_huge_pages
from trax_hier.commands.interrupts import watch_interrupts
from trax_hier.commands.jax_settings import set_up_jax
from trax_hier.environment import platform_message

HELP = 'train a model, or resume a stopped run'
DESCRIPTION = """
Trains a model from gin files into the run directory --output_dir, or resumes a
stopped run of that directory.

  trax-hier train --config_file=quickstart.gin --output_dir=runs/quickstart
"""
PROGRAM = 'trax-hier train'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
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
  add_huge_pages(parser)
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


def main(arguments: argparse.Namespace, program: str = PROGRAM) -> int:
  """Trains; returns the exit code.

  Args:
    arguments: The parsed flags.
    program: Name of the program, for messages.
  """
  print('loading JAX and the configuration ...', flush=True)
  # Slow to import; --help and mistyped flags do not need it.
  import trax_hier.storage.configurables  # noqa: F401
  from trax_hier import config

  config.clear()  # An earlier call may have left bindings.
  try:
    config.parse(arguments.config_file, arguments.config)
  except config.ConfigError as error:
    return fail(program, error, 2)
  set_up_jax()
  try:
    _join_hosts(arguments)
  except (ValueError, RuntimeError) as error:
    return fail(program, f'cannot connect to the other hosts: {error}', 2)
  return _train(arguments, program)


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


def _train(arguments, program):
  import jax

  from trax_hier import config
  from trax_hier.commands.train_result import print_result
  from trax_hier.inspection.probes import Probes
  from trax_hier.storage import export_weights
  from trax_hier.training.logging.display import show_cursor
  from trax_hier.training.logging.not_finite import not_finite
  from trax_hier.training.loop import train

  print('building the model and opening the data ...', flush=True)
  is_built, probes = False, Probes()
  try:
    jax.devices()
  except (RuntimeError, AssertionError):
    message = platform_message()
    if message is None:
      raise
    return fail(program, message, 2)

  with contextlib.ExitStack() as stack:

    def before_compile():
      nonlocal is_built
      for note in config.check_used():
        print(f'{program}: note: {note}', file=sys.stderr)
      is_built = True
      stack.enter_context(watch_interrupts(note_interrupt, abort))

    def note_interrupt():
      print(
        f'{program}: interrupted: the step in progress is finished and saved; '
        'Ctrl-C again aborts at once',
        file=sys.stderr,
      )

    def abort():
      show_cursor()
      return _interrupted(program, arguments.output_dir)

    try:
      result = train(
        output_dir=arguments.output_dir,
        accept_changes=arguments.accept_changes,
        before_compile=before_compile,
        probe=probes,
        exports=export_weights,
      )
    except (Exception, KeyboardInterrupt) as error:
      code = _fail(program, error, is_built, arguments.output_dir)
      if code is None:
        raise
      return code
  print_result(result, probes, arguments.output_dir)
  if text := not_finite(result.evaluation):
    return fail(program, f'not finite after step {result.step}: {text}', 1)
  return 0


def _interrupted(program, output_dir):
  """Prints what is saved after an abort by Ctrl-C; returns the exit code."""
  return interrupted(program, f'interrupted: {_saved(output_dir)}')


def _saved(output_dir):
  """Says which checkpoint is the newest, and what the same command does."""
  from trax_hier.training.checkpoints import saved_steps

  folder = os.path.join(os.path.expanduser(output_dir), 'checkpoints')
  if steps := saved_steps(folder):
    return f'checkpoint {steps[-1]} is saved; the same command resumes the run'
  return 'no checkpoint is saved; the same command starts from the first step'


def _fail(program, error, is_built, output_dir):
  """Prints an error and returns its exit code; returns None for a bug."""
  from trax_hier import config
  from trax_hier.compat import base
  from trax_hier.training.checkpoints import CheckpointError
  from trax_hier.training.data_error import DataError
  from trax_hier.training.logging.report import NotFiniteError
  from trax_hier.training.run_lock import FolderInUseError
  from trax_hier.training.stopping import Stopped

  if isinstance(error, KeyboardInterrupt):
    return _interrupted(program, output_dir)
  message = config.explain(error)
  if isinstance(error, Stopped):
    what = 'resumes the run' if error.step else 'starts from the first step'
    message = f'{message}; the same command {what}'
    return fail(program, message, 128 + error.signal)
  if isinstance(error, FolderInUseError):
    return fail(program, message, 2)
  if isinstance(error, NotFiniteError | CheckpointError):
    return fail(program, message, 1)
  if is_built and isinstance(error, DataError | OSError):
    reason = getattr(error, 'strerror', None) or message
    saved = _saved(output_dir)
    return fail(program, f'{reason}; training stopped: {saved}', 1)
  # Before the first compilation, these errors come from the configuration.
  user_errors = ValueError, TypeError, OSError, MemoryError, base.LayerError
  if not is_built and isinstance(error, user_errors):
    return fail(program, message, 2)
  return None
