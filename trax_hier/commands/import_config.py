"""`trax-hier import_config`: translates gin files of Trax and meliad."""

import argparse
from pathlib import Path

from trax_hier.commands.failures import Failure, print_note, user_errors
from trax_hier.commands.flags import add_config
from trax_hier.environment import expand_home

HELP = 'translate gin files of Trax or meliad'
DESCRIPTION = """
Translates a gin file of Trax, or a stack of gin files of meliad, to one of
trax_hier. Several files are one configuration, in this order:

  trax-hier import_config hourglass_enwik8.gin --output=enwik8.gin
  trax-hier import_config base_memory.gin pg19_tokens_t5.gin bias_skip.gin \\
      --output=bias_skip.gin

The new file says at its end, with file and line, which settings have no
counterpart, and at its beginning what is yours to decide, such as the data and
the batch of all devices. Bindings of parts that the model does not use are left
out. Defaults of Trax are written where those here differ. Of a file for
trax-trainer, models and layers of trax_hier are kept. The new model is built
without weights, to count its parameters.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  parser.add_argument(
    'old_file', nargs='+', metavar='FILE', help='a gin file to translate'
  )
  parser.add_argument(
    '--output',
    required=True,
    metavar='FILE',
    help='the gin file to write, which must not exist; FILE.rejected if its '
    'model cannot be built',
  )
  add_config(parser, 'the files, in the old names')


def main(arguments: argparse.Namespace) -> None:
  """Writes the new file, builds its model, and says what differs."""
  from trax_hier.config import ConfigError
  from trax_hier.translation.translate import translate
  from trax_hier.translation.writing import file_text

  output = expand_home(arguments.output)
  if output.exists():
    raise Failure(f'--output={output}: exists already', 2)
  try:
    found = translate(arguments.old_file, arguments.config, _is_ours)
  except ConfigError as error:
    raise Failure(error, 2) from error
  names = [Path(name).name for name in arguments.old_file]
  # OUTPUT is written once its model is built: a second try finds no file.
  rejected = output.with_name(f'{output.name}.rejected')
  try:
    rejected.write_text(file_text(found, names, arguments.output), 'utf-8')
  except OSError as error:
    raise Failure(f'--output={output}: {error.strerror}', 2) from error
  print_note('building the model ...')
  try:
    n_parameters = _count(rejected, found.draft)
  except Failure as error:
    raise Failure(
      f'the translation is kept as {rejected}: its model cannot be built: '
      f'{error}',
      error.code,
    ) from error
  text = file_text(found, names, arguments.output, n_parameters)
  rejected.write_text(text, 'utf-8')
  rejected.rename(output)
  _print_summary(arguments.output, found, n_parameters)


def _is_ours(name, parameter):
  from trax_hier.commands.listing_source import parts

  part = parts().get(name)
  return part is not None and parameter in {a.name for a in part.arguments}


def _count(output, draft):
  """Builds the model of the new file; returns its number of parameters."""
  from trax_hier.commands.configured_model import (
    abstract_model,
    build_configured,
    called_in_training,
  )
  from trax_hier.commands.jax_settings import set_up_jax
  from trax_hier.translation.draft import REQUIRED

  with user_errors():
    import trax_hier.storage.configurables  # noqa: F401
    from trax_hier import config
    from trax_hier.training.state import n_parameters

    set_up_jax()
    config.clear()
    given = [f"{n} = 'x'" for n, v in draft.macros.items() if v == REQUIRED]
    # The devices of this machine need not be those of the run.
    config.parse([str(output)], [*given, *_without_mesh(draft)])
    built = build_configured((1, *draft.lengths))
    config.check_used(called_in_training(True))
    _, weights, *_ = abstract_model(built)
    return n_parameters(weights)


def _without_mesh(draft):
  has_mesh = 'train.mesh' in draft.sections['Training']
  return ['train.mesh = None'] * has_mesh


def _print_summary(output, found, n_parameters):
  draft = found.draft
  print(f'{output}: {found.model}, {n_parameters:,} parameters')
  if draft.decisions:
    print(f'yours to decide: {", ".join(draft.decisions)}')
  for setting, reason in draft.lost:
    print(f'differs: {f"{setting.key}: " if setting else ""}{reason}')
  if found.unknown:
    names = ', '.join(setting.key for setting in found.unknown)
    print(f'unknown settings ({len(found.unknown)}), left out: {names}')
  if found.unused:
    n = sum(found.unused.values())
    print(f'left out: {n} settings of parts not used, or of the old data')
