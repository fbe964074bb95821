"""`trax-hier import_trax`: converts the weights of Trax's own models."""

import argparse

from trax_hier.commands.failures import print_note, user_errors
from trax_hier.commands.flags import (
  add_config,
  add_config_file,
  add_output_folder,
)
from trax_hier.environment import expand_home

HELP = "import the weights of Trax's own models"
DESCRIPTION = """
Reads the weights of one of Trax's models from a file that Trax has written
(model.pkl.gz, by Layer.save_to_file or by training) and writes a folder for
trax_hier.load and train.init_from, as `trax-hier export` does.

The gin files must bind train.model with the arguments of Trax's model:

  trax.models                 train.model
  HourglassLM                 @HourglassLM; PureLSHSelfAttentionWrapper (rotary,
                              2 weights) is @LSHAttention
  TransformerLM               @TransformerLM, with @LearnedPositions and
                              FeedForward.activation = @Relu
  Transformer                 @ScalingTransformer, with @SelfAttention,
                              @FeedForward and FeedForward.activation = @Relu
  ConfigurableTransformerLM   @ScalingTransformerLM
  ConfigurableTransformer     @ScalingTransformer
  ConfigurableTerraformer     @Terraformer; reversible_encoder is False and
                              positions are @FixedBasePositions by default in
                              Trax; center_layernorm = False is norm = @RMSNorm

Files of our own models, which trax-trainer has written, fit the same model.
tl.CausalAttention is @SelfAttention, and MultiplicativeConvCausalAttention is
@SparseAttention.

Other bindings have no effect, but those that a file requires must be given:

  trax-hier import_trax --weights=model.pkl.gz --output=my_model \\
      --config_file=hourglass/enwik8.gin --config="DATA = 'not needed'"

An error names the first array that does not fit, and the arguments that would.
Shapes do not tell n_heads, activations and norms: a note lists those in use.

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
    help="the SentencePiece model of Trax's model; or ids, if there is none: "
    'text is then numbers such as 3 17; default: tokens are bytes',
  )
  parser.add_argument(
    '--unit',
    choices=('byte', 'dim', 'token'),
    help='kind of token: dim is a color channel of a pixel; default: dim if '
    'train.data = @ImageBytes(), else byte, or token with --vocab',
  )
  add_output_folder(parser)


def main(arguments: argparse.Namespace) -> None:
  """Writes the export and prints a summary of it."""
  with user_errors():
    print_note(f'reading {arguments.weights} ...')
    import trax_hier.storage.configurables  # noqa: F401
    from trax_hier import config
    from trax_hier.storage import export
    from trax_hier.storage.import_trax import import_file
    from trax_hier.training.state import n_parameters

    output = expand_home(arguments.output)
    export.check_free(output)
    config.clear()
    config.parse(arguments.config_file, arguments.config)
    exportable = import_file(
      arguments.weights, arguments.vocab, arguments.unit, print_note
    )
    export.save(output, exportable)
  print(f'{output}: {n_parameters(exportable.weights):,} parameters')
