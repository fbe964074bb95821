"""The program `trax-hier`, for all but training: `trax-hier --help`.

    trax-hier generate --run=runs/quickstart --prompt='def main('
    trax-hier evaluate --run=runs/quickstart
    trax-hier describe --config_file=quickstart.gin

What the user got wrong is said in one message on standard error, with exit code
2; checkpoints that cannot be loaded give code 1, Ctrl-C 130. Runs are made by
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
  generate,
  import_trax,
  shared,
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
  # As `python -m` has it: what a run's gin files import may lie there.
  if '' not in sys.path and os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())
  try:
    shared.check_there(arguments)
    _COMMANDS[arguments.command].main(arguments)
    sys.stdout.flush()
  except shared.Failure as error:
    return shared.fail(program, error, error.code)
  except KeyboardInterrupt:
    return shared.interrupted(program, 'interrupted')
  except BrokenPipeError:
    # The reader, such as `head`, has enough. What Python still holds back would
    # fail once more when it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  return 0


def _parser():
  parser = argparse.ArgumentParser(
    prog='trax-hier',
    description='Describes models; samples from, scores and converts them.',
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
