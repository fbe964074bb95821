"""What the command line programs share: flags, messages, exit codes."""

import argparse
import atexit
import contextlib
import os
import sys
from collections.abc import Iterator

_CACHE_BYTES = 4 * 10**9


class Failure(Exception):
  """Ends a program with one message and an exit code."""

  def __init__(self, message: object, code: int):
    """Takes what is printed, and the code."""
    super().__init__(message)
    self.code = code


def fail(program: str, message: object, code: int) -> int:
  """Prints a message on standard error; returns the code."""
  print(f'{program}: {message}', file=sys.stderr)
  return code


def interrupted(program: str, message: str) -> int:
  """Like `fail` after Ctrl-C; the process ends with code 130 at its exit.

  XLA may be compiling in threads of its own, which crash if the interpreter is
  taken down in an orderly way.
  """
  code = fail(program, message, 130)
  sys.stdout.flush()
  atexit.register(os._exit, code)
  return code


def say(line: str) -> None:
  """Prints a remark where it does not mix with results."""
  print(line, file=sys.stderr)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
  """Marks code whose errors come of what the user has written.

  Raises:
    Failure: 1 for checkpoints that cannot be loaded, 2 for all else.
  """
  from trax_hier import config
  from trax_hier.compat import base
  from trax_hier.training.checkpoints import CheckpointError

  try:
    yield
  except BrokenPipeError:
    raise
  except CheckpointError as error:
    raise Failure(error, 1) from error
  except (ValueError, TypeError, OSError, base.LayerError) as error:
    raise Failure(config.explain(error), 2) from error


def keep_compiled() -> None:
  """Has JAX keep compiled programs from one process to the next.

  In `trax_hier` of the user's cache folder, at most 4 GB, unless JAX was told
  elsewhere: by JAX_COMPILATION_CACHE_DIR, or JAX_ENABLE_COMPILATION_CACHE=0.
  """
  import jax

  if jax.config.jax_compilation_cache_dir is not None:
    return
  cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  folder = os.path.join(os.path.expanduser(cache), 'trax_hier', 'compiled')
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError:
    return  # A home that cannot be written to: nothing is kept.
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_compilation_cache_max_size', _CACHE_BYTES)


def add_config_file(
  parser: argparse._ActionsContainer, required: bool = False
) -> None:
  """Adds --config_file.

  Args:
    parser: gets the flag; may be a group.
    required: whether there must be one.
  """
  parser.add_argument(
    '--config_file',
    action='append',
    default=[],
    required=required,
    metavar='FILE',
    help='a gin file, by path or by the name of a packaged one; repeatable, '
    'later files win',
  )


def check_there(arguments: argparse.Namespace) -> None:
  """Checks what can be checked before JAX is imported, which takes seconds.

  Args:
    arguments: with `run` or `runs`, `config_file` and `config`, or some of
      these.

  Raises:
    Failure: a folder is not of a run, a gin file is missing, or it or a binding
      is no gin.
  """
  from trax_hier.config import files
  from trax_hier.storage.run_folder import config_file

  run = getattr(arguments, 'run', None)
  try:
    for folder in [run] if run else getattr(arguments, 'runs', ()):
      config_file(folder)
    for name in getattr(arguments, 'config_file', ()):
      list(files.read_file(name))
    for binding in getattr(arguments, 'config', ()):
      list(files.read_bindings(binding))
  except ValueError as error:
    raise Failure(error, 2) from error


def add_config(parser: argparse.ArgumentParser, wins_over: str) -> None:
  """Adds --config.

  Args:
    parser: gets the flag.
    wins_over: the files it has precedence over, for the help.
  """
  parser.add_argument(
    '--config',
    action='append',
    default=[],
    metavar="'NAME = VALUE'",
    help=f'a gin binding that wins over {wins_over}; repeatable',
  )


def add_run(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that say which weights: --run, --step, --config."""
  parser.add_argument(
    '--run',
    required=True,
    metavar='DIR',
    help='the folder of a run, finished or still training; it is only read. '
    'Its data must be there too, as it has the vocabulary; data that moved: '
    """--config="DATA = 'where'\"""",
  )
  parser.add_argument(
    '--step',
    type=int,
    metavar='N',
    help='the step of a checkpoint; default: the newest',
  )
  add_config(parser, "the run's config.gin")
