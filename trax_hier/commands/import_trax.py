"""`trax-hier import_trax`: weights of Trax's own Hourglass, to be used here."""

import argparse

from trax_hier.commands.shared import add_config, add_config_file, user_errors

HELP = "import the weights of Trax's own Hourglass"
DESCRIPTION = """
Reads the weights of trax.models.research.hourglass.HourglassLM from a file that
Trax has written (model.pkl.gz, of Layer.save_to_file or of a training Loop) and
writes a folder as `trax-hier export` does, for trax_hier.load.

The gin files must bind train.model = @HourglassLM with the arguments that
Trax's model had. Other bindings do not matter, but a file may ask for them:

  trax-hier import_trax --weights=model.pkl.gz --output=my_model \\
      --config_file=hourglass/enwik8.gin --config="DATA = 'not needed'"

A pickle can ask for anything to be executed. Nothing of this one is: the file
may hold arrays and containers, and what else it asks for ends the import.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  parser.add_argument(
    '--weights',
    required=True,
    metavar='FILE',
    help='model.pkl.gz; a model.weights.npy.gz that belongs to it must lie '
    'beside it',
  )
  add_config_file(parser, required=True)
  add_config(parser, 'the files')
  parser.add_argument(
    '--vocab',
    metavar='FILE',
    help='the SentencePiece model that the model was trained with; default: '
    'its tokens are bytes',
  )
  parser.add_argument(
    '--output',
    required=True,
    metavar='DIR',
    help='the folder to write, new or empty',
  )


def main(arguments: argparse.Namespace) -> None:
  """Writes the export, and prints what it is."""
  with user_errors():
    from pathlib import Path

    import trax_hier.storage.configurables  # noqa: F401
    from trax_hier import config
    from trax_hier.storage import export, import_trax
    from trax_hier.training.state import n_parameters

    output = Path(arguments.output).expanduser()
    export.check_free(output)
    config.clear()
    config.parse(arguments.config_file, arguments.config)
    source = import_trax.hourglass_from_file(arguments.weights, arguments.vocab)
    export.save(output, source)
  print(f'{output}: {n_parameters(source.weights):,} parameters')
