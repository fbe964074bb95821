"""Messages on standard error and exit codes of the command-line programs."""

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator

from trax_hier.environment import platform_message


class Failure(Exception):
  """Ends a program with one message and an exit code."""

  def __init__(self, message: object, code: int):
    """Takes the message to print and the exit code."""
    super().__init__(message)
    self.code = code


def fail(program: str, message: object, code: int) -> int:
  """Prints a message on standard error; returns the code."""
  print(f'{program}: {message}', file=sys.stderr)
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
  from trax_hier import config
  from trax_hier.compat import base
  from trax_hier.training.checkpoints import CheckpointError

  try:
    with data_errors():
      yield
  except BrokenPipeError:
    raise
  except (CheckpointError, FloatingPointError) as error:
    raise Failure(error, 1) from error
  except (
    ValueError,
    TypeError,
    OSError,
    MemoryError,
    base.LayerError,
  ) as error:
    raise Failure(config.explain(error), 2) from error
  except (RuntimeError, AssertionError) as error:
    message = platform_message(error)
    if message is None:
      raise
    raise Failure(message, 2) from error
