"""`trax-hier import_trax`: converts the weights of Trax's own Hourglass."""

import argparse

from trax_hier.commands.failures import print_note, user_errors
from trax_hier.commands.flags import (
  add_config,
  add_config_file,
  add_output_folder,
)
from trax_hier.environment import expand_home

HELP = "import the weights of Trax's own Hourglass"
DESCRIPTION = """
Reads the weights of trax.models.research.hourglass.HourglassLM from a file that
Trax has written (model.pkl.gz, by Layer.save_to_file or a training Loop) and
writes a folder for trax_hier.load, as `trax-hier export` does.

The gin files must bind train.model = @HourglassLM with the arguments of Trax's
model. Other bindings have no effect, but those that a file requires must be
given:

  trax-hier import_trax --weights=model.pkl.gz --output=my_model \\
      --config_file=hourglass/enwik8.gin --config="DATA = 'not needed'"

Loading a pickle can execute any code. This command executes none: the file may
hold arrays and containers, and anything else ends the import.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  parser.add_argument(
    '--weights',
    required=True,
    metavar='FILE',
    help='model.pkl.gz; model.weights.npy.gz, if Trax wrote one, must be in '
    'the same folder',
  )
  add_config_file(parser, required=True)
  add_config(parser, 'the files')
  parser.add_argument(
    '--vocab',
    metavar='FILE',
    help="the SentencePiece model of Trax's model; default: tokens are bytes",
  )
  add_output_folder(parser)


def main(arguments: argparse.Namespace) -> None:
  """Writes the export and prints a summary of it."""
  with user_errors():
    print_note(f'reading {arguments.weights} ...')
    import trax_hier.storage.configurables  # noqa: F401
    from trax_hier import config
    from trax_hier.storage import export, import_trax
    from trax_hier.training.state import n_parameters

    output = expand_home(arguments.output)
    export.check_free(output)
    config.clear()
    config.parse(arguments.config_file, arguments.config)
    exportable = import_trax.hourglass_from_file(
      arguments.weights, arguments.vocab
    )
    export.save(output, exportable)
  print(f'{output}: {n_parameters(exportable.weights):,} parameters')
