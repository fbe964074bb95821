"""The command-line program `trax-hier`.

    trax-hier train --config_file=quickstart.gin --output_dir=runs/quickstart
    trax-hier generate --run=runs/quickstart --prompt='def main('
    trax-hier evaluate --run=runs/quickstart
    trax-hier describe --config_file=quickstart.gin
    trax-hier data describe --config_file=quickstart.gin

Each error is one message on standard error. Exit codes (those of `train` are in
`trax_hier.trainer`):

    1    no checkpoint can be loaded, results are not finite, data cannot be
         read any more, or the reader has closed the output pipe
    2    any other user error
    130  Ctrl-C
"""

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence

import trax_hier
from trax_hier.commands import (
  compare,
  data,
  describe,
  evaluate,
  export,
  failures,
  flags,
  generate,
  import_config,
  import_trax,
  listing,
  train,
)
from trax_hier.commands.huge_pages import restart_with_huge_pages
from trax_hier.environment import flag_names, print_any_text, quiet_logs

_COMMANDS = {
  'train': train,
  'generate': generate,
  'evaluate': evaluate,
  'describe': describe,
  'data': data,
  'list': listing,
  'compare': compare,
  'export': export,
  'import_config': import_config,
  'import_trax': import_trax,
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code.

  Args:
    argv: The arguments; None means those of this process, which a code other
      than 0 then ends.
  """
  code = _main(argv)
  if code and argv is None:
    # Threads of a failed training may still raise errors; do not print them.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return code


def _main(argv):
  print_any_text()
  quiet_logs()
  arguments = _parser().parse_args(flag_names(argv))
  if argv is None and not getattr(arguments, 'no_huge_pages', True):
    restart_with_huge_pages()
  program = f'trax-hier {arguments.command}'
  try:
    flags.check_files(arguments)
    code = _COMMANDS[arguments.command].main(arguments) or 0
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
  return code


def _versions():
  """The versions of the program, of what it needs most and of Python."""

  def version(package):
    try:
      return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      return 'not installed'

  packages = ', '.join(f'{name} {version(name)}' for name in ('jax', 'trax'))
  own = f'trax-hier {trax_hier.__version__}'
  return f'{own} ({packages}, Python {platform.python_version()})'


def _parser():
  parser = argparse.ArgumentParser(
    prog='trax-hier',
    description='Trains, evaluates, describes, converts, samples from models.',
  )
  parser.add_argument('--version', action='version', version=_versions())
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
