"""`trax-hier data describe`: shows what training would read."""

import argparse

from trax_hier.commands.describe import config_files
from trax_hier.commands.failures import print_note, user_errors
from trax_hier.commands.flags import add_config, add_config_file, add_trust

HELP = 'show the data: sizes, vocabulary, first rows'
DESCRIPTION = 'Shows data sets; see trax-hier data describe --help.'
_DESCRIPTION = """
Shows the data set that gin files or a run define, as training would read it:
where it comes from, how it was split and what was left out; the vocabulary and
what it loses; the size of each split, in batches, tokens and bytes; the share
of padding; and the first rows of each split, decoded. Nothing is compiled.

Figures per token are those of the first --batches batches of a split.

  trax-hier data describe --config_file=text.gin --config="DATA = 'my.txt'"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the subcommand and its flags."""
  commands = parser.add_subparsers(
    dest='data_command', required=True, metavar='COMMAND'
  )
  describe = commands.add_parser(
    'describe',
    help=HELP,
    description=_DESCRIPTION,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  source = describe.add_mutually_exclusive_group(required=True)
  add_config_file(source)
  source.add_argument(
    '--run', metavar='DIR', help='a run directory, instead of --config_file'
  )
  add_trust(describe)
  add_config(describe, 'the files')
  describe.add_argument(
    '--batches',
    type=_positive,
    default=8,
    metavar='N',
    help='batches of each split to read; default: 8',
  )
  describe.add_argument(
    '--rows',
    type=_positive,
    default=2,
    metavar='N',
    help='rows of each split to show; default: 2',
  )


def main(arguments: argparse.Namespace) -> None:
  """Builds the data set alone and prints the sections."""
  print_note('loading the configuration and the data ...')
  with user_errors():
    import trax_hier.storage.configurables  # noqa: F401
    from trax_hier import config
    from trax_hier.commands import data_sections
    from trax_hier.storage.runs import check_data_files
    from trax_hier.training.data_checks import check_data

    config.clear()
    is_trusted = arguments.run is None or arguments.trust_code
    config.parse(config_files(arguments), arguments.config, is_trusted)
    if arguments.run is not None:
      check_data_files(arguments.run)
    data = config.value('train.data')
    check_data(data)
    splits = data_sections.read_splits(data, arguments.batches)
  data_sections.print_summary(data, splits)
  data_sections.print_splits(data, splits)
  data_sections.print_rows(data, splits, arguments.rows)


def _positive(text):
  # Python converts no text of thousands of digits.
  if not text.isdecimal() or len(text) > 9 or int(text) < 1:
    raise argparse.ArgumentTypeError(
      f'must be a whole number, at least 1, got {text!r:.80}'
    )
  return int(text)
