"""Command-line flags that several programs share."""

import argparse

from trax_hier.commands.failures import Failure, print_note
from trax_hier.environment import expand_home


def add_config_file(
  parser: argparse._ActionsContainer, required: bool = False
) -> None:
  """Adds --config_file.

  Args:
    parser: The parser, or a group of it.
    required: Whether the flag must be given.
  """
  parser.add_argument(
    '--config_file',
    action='append',
    default=[],
    required=required,
    metavar='FILE',
    help='a gin file: a path, or the name of a packaged file; repeatable, '
    'later files override earlier ones',
  )


def add_config(parser: argparse.ArgumentParser, overrides: str) -> None:
  """Adds --config.

  Args:
    parser: The parser.
    overrides: The files that the bindings override, for the help text.
  """
  parser.add_argument(
    '--config',
    action='append',
    default=[],
    metavar="'NAME = VALUE'",
    help=f'a gin binding that overrides {overrides}; repeatable',
  )


def add_run(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that choose a checkpoint: --run, --step, --config."""
  parser.add_argument(
    '--run',
    required=True,
    metavar='DIR',
    help='the directory of a run, which may still be training, or an '
    'export; it is only read. The data of a run must be available, because '
    'they define the vocabulary; if they have moved: '
    """--config="DATA = 'path'\"""",
  )
  parser.add_argument(
    '--step',
    type=int,
    metavar='N',
    help='the step of the checkpoint; default: the newest',
  )
  add_trust(parser)
  add_config(parser, "the run's config.gin")


def add_trust(parser: argparse.ArgumentParser) -> None:
  """Adds --trust_code."""
  parser.add_argument(
    '--trust_code',
    action='store_true',
    help='let the config.gin of --run import modules and read any file: it can '
    'then run any code of its author',
  )


def add_output_folder(parser: argparse.ArgumentParser) -> None:
  """Adds --output, the folder of an export."""
  parser.add_argument(
    '--output',
    required=True,
    metavar='DIR',
    help='the folder to write; it must be new or empty',
  )


# Flags that take a path, or several.
_PATHS = (
  'output_dir',
  'output',
  'run',
  'runs',
  'config_file',
  'old_file',
  'prompt_file',
  'source_file',
  'weights',
  'vocab',
)
# Of these, those that are given without a flag.
_POSITIONAL = 'runs', 'old_file'
_REPEATABLE = 'config_file', 'config', 'runs', 'stop'


def check_files(arguments: argparse.Namespace) -> None:
  """Checks runs, gin files and bindings before the slow import of JAX.

  Args:
    arguments: Parsed flags, of which `run`, `runs`, `config_file` and `config`
      are checked, if the program has them, and that no path is a URL.

  Raises:
    Failure: A path is a URL, a folder is not a run directory, a gin file is
      missing or of Trax or meliad, or a file or a binding is not valid gin.
  """
  from trax_hier.config import files, foreign
  from trax_hier.storage.run_folder import config_file

  run = getattr(arguments, 'run', None)
  if run and arguments.trust_code:
    print_note(f'--trust_code: the configuration of {run} may run any code')
  try:
    _check_dashes(arguments)
    for name in _PATHS:
      given = getattr(arguments, name, None) or ()
      for path in [given] if isinstance(given, str) else given:
        expand_home(path, path if name in _POSITIONAL else f'--{name}={path}')
    for folder in [run] if run else getattr(arguments, 'runs', ()):
      config_file(folder)
    given = getattr(arguments, 'config_file', ())
    statements = [found for name in given for found in files.read_file(name)]
    foreign.check_own(statements, given)
    for binding in getattr(arguments, 'config', ()):
      list(files.read_bindings(binding))
  except (ValueError, OSError) as error:
    raise Failure(error, 2) from error


def _check_dashes(arguments):
  """Python 3.11 takes `--name=--` for a list of no values."""
  for name, value in vars(arguments).items():
    is_lost = value == [] and name not in _REPEATABLE
    if is_lost or (isinstance(value, list) and [] in value):
      raise ValueError(f'--{name}=--: -- is not a value')
