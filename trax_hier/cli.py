"""The command-line program `trax-hier`: everything but training.

    trax-hier generate --run=runs/quickstart --prompt='def main('
    trax-hier evaluate --run=runs/quickstart
    trax-hier describe --config_file=quickstart.gin

Each error is one message on standard error. Exit codes:

    1    no checkpoint can be loaded, results are not finite, data cannot be
         read any more, or the reader has closed the output pipe
    2    any other user error
    130  Ctrl-C

To train a model, use `python -m trax_hier.trainer`.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from trax_hier.commands import (
  compare,
  describe,
  evaluate,
  export,
  failures,
  flags,
  generate,
  import_trax,
)
from trax_hier.environment import flag_names, print_any_text

_COMMANDS = {
  'generate': generate,
  'evaluate': evaluate,
  'describe': describe,
  'compare': compare,
  'export': export,
  'import_trax': import_trax,
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  print_any_text()
  arguments = _parser().parse_args(flag_names(argv))
  program = f'trax-hier {arguments.command}'
  try:
    flags.check_files(arguments)
    _COMMANDS[arguments.command].main(arguments)
    sys.stdout.flush()
  except failures.Failure as error:
    return failures.fail(program, error, error.code)
  except KeyboardInterrupt:
    return failures.interrupted(program, 'interrupted')
  except BrokenPipeError:
    # The reader, such as `head`, has closed the pipe. Python's flush at exit
    # would fail again, so it goes to the null device.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  return 0


def _parser():
  parser = argparse.ArgumentParser(
    prog='trax-hier',
    description='Describes, samples from, evaluates and converts models.',
  )
  commands = parser.add_subparsers(
    dest='command', required=True, metavar='COMMAND'
  )
  for name, command in _COMMANDS.items():
    command.add_arguments(
      commands.add_parser(
        name,
        help=command.HELP,
        description=command.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
      )
    )
  return parser


if __name__ == '__main__':
  sys.exit(main())
