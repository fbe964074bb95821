"""Messages on standard error and exit codes of the command-line programs."""

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator

from trax_hier.environment import escape_controls, platform_message

_MAX_MESSAGE = 4000


class Failure(Exception):
  """Ends a program with one message and an exit code."""

  def __init__(self, message: object, code: int):
    """Takes the message to print and the exit code."""
    super().__init__(message)
    self.code = code


def fail(program: str, message: object, code: int) -> int:
  """Prints a message on standard error; returns the code.

  Names in a file may hold characters that control a terminal: these become
  escapes. A very long message is cut.
  """
  text = str(message)
  if len(text) > _MAX_MESSAGE:
    text = f'{text[:_MAX_MESSAGE]}... ({len(text):,} characters)'
  print(f'{program}: {escape_controls(text)}', file=sys.stderr)
  return code


def interrupted(program: str, message: str) -> int:
  """Handles Ctrl-C: prints a message and returns exit code 130.

  XLA may still be compiling in its own threads, which crash when the
  interpreter shuts down. So the process is set to exit without a shutdown.
  """
  code = fail(program, message, 130)
  sys.stdout.flush()
  atexit.register(os._exit, code)
  return code


def print_note(line: str) -> None:
  """Prints a line on standard error; results go to standard output."""
  print(line, file=sys.stderr)


@contextlib.contextmanager
def data_errors() -> Iterator[None]:
  """Turns errors of the data after the model is built into a `Failure`.

  Raises:
    Failure: Code 1, for a `DataError`.
  """
  from trax_hier.training.data_error import DataError

  try:
    yield
  except DataError as error:
    raise Failure(error, 1) from error


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
  """Turns errors that user input can cause into a `Failure`.

  Raises:
    Failure: Code 1 for checkpoints that cannot be loaded, for values that are
      not finite and for a `DataError`, 2 for other errors.
  """
  try:
    yield
  except (Failure, BrokenPipeError):
    raise
  except Exception as error:
    failure = _failure(error)
    if failure is None:
      raise
    raise failure from error


def _failure(error):
  """The `Failure` that an error causes; None for an error of the program."""
  # Slow to import; only errors need them.
  from trax_hier import config
  from trax_hier.compat import base
  from trax_hier.training.checkpoints import CheckpointError
  from trax_hier.training.data_error import DataError

  if isinstance(error, DataError | CheckpointError | FloatingPointError):
    return Failure(error, 1)
  of_jax = RuntimeError, AssertionError, base.LayerError
  if isinstance(error, of_jax) and (message := platform_message()):
    return Failure(message, 2)
  user_errors = ValueError, TypeError, OSError, MemoryError, base.LayerError
  if isinstance(error, user_errors):
    return Failure(config.explain(error), 2)
  return None
