"""The program `trax-hier`, for everything but training: `trax-hier --help`.

    trax-hier generate --run=runs/quickstart --prompt='def main('
    trax-hier evaluate --run=runs/quickstart
    trax-hier describe --config_file=quickstart.gin

User errors end with one message on standard error and exit code 2, checkpoints
that cannot be loaded with code 1, Ctrl-C with 130. To train a run, use
`python -m trax_hier.trainer`.
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
  arguments = _parser().parse_args(argv)
  program = f'trax-hier {arguments.command}'
  # The gin files of a run may import modules of the working directory, as with
  # `python -m`.
  if '' not in sys.path and os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())
  try:
    flags.check_files(arguments)
    _COMMANDS[arguments.command].main(arguments)
    sys.stdout.flush()
  except failures.Failure as error:
    return failures.fail(program, error, error.code)
  except KeyboardInterrupt:
    return failures.interrupted(program, 'interrupted')
  except BrokenPipeError:
    # The reader, such as `head`, has closed the pipe. Without this, Python's
    # final flush would fail again.
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
