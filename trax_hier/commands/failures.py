"""Messages on standard error and exit codes of the command-line programs."""

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator


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
def user_errors() -> Iterator[None]:
  """Turns errors that user input can cause into a `Failure`.

  Raises:
    Failure: Code 1 for checkpoints that cannot be loaded, 2 for other errors.
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
