"""`trax-hier describe`: shows a configured model before it is trained."""

import argparse

from trax_hier.commands.configured_model import (
  abstract_model,
  build_configured,
  called_in_training,
)
from trax_hier.commands.failures import print_note, user_errors
from trax_hier.commands.flags import add_config, add_config_file, add_trust
from trax_hier.commands.jax_settings import set_up_jax

# More would take minutes, or more memory than most machines have.
_MOST_DEVICES, _MOST_TOKENS = 10_000, 2**29

HELP = 'show configuration, layers, parameters, FLOPs and memory'
DESCRIPTION = """
Shows the model that gin files or a run define, without training it: each gin
parameter with its value and the line that set it; the layers with the shapes of
their inputs and outputs; parameters by component; FLOPs and memory of a
training step. Weights are not allocated, so a model may be far larger than this
machine.

FLOPs count matrix multiplications and convolutions. A training step counts as
three forward passes; rematerialization is not counted. XLA reports temporary
memory after compiling the step for the local devices; the numbers for CPU
differ from those for GPU or TPU. --no_compile skips it.

Give all bindings that a gin file requires. If the data are not available, give
the shape of a batch instead, as --batch:

  trax-hier describe --config_file=terraformer/17b.gin --config="DATA = ''" \\
      --batch=64,256,512 --devices=64 --config="train.mesh = {'fsdp': 64}"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  model = parser.add_mutually_exclusive_group(required=True)
  add_config_file(model)
  model.add_argument(
    '--run', metavar='DIR', help='a run directory, instead of --config_file'
  )
  add_trust(parser)
  add_config(parser, 'the files')
  parser.add_argument(
    '--batch',
    type=_batch_shape,
    metavar='ROWS,LENGTH[,SOURCES]',
    help='the shape of a batch, instead of the data: rows, tokens per row and, '
    'for an encoder-decoder model, tokens per source',
  )
  parser.add_argument(
    '--devices',
    type=_devices,
    metavar='N',
    help='simulate N CPU devices',
  )
  parser.add_argument(
    '--depth',
    type=_positive,
    default=4,
    metavar='N',
    help='levels of the layer tree; default: 4',
  )
  parser.add_argument(
    '--no_compile',
    action='store_true',
    help='skip the memory of the compiled step, the slowest part',
  )


def main(arguments: argparse.Namespace) -> None:
  """Traces the model without arrays and prints the sections."""
  print_note('loading JAX and the configuration ...')
  if arguments.devices is not None:
    _simulate_devices(arguments.devices)
  with user_errors():
    import trax_hier.storage.configurables  # noqa: F401
    from trax_hier import config
    from trax_hier.inspection.layer_tree import model_tree

    set_up_jax()
    config.clear()
    is_trusted = arguments.run is None or arguments.trust_code
    config.parse(config_files(arguments), arguments.config, is_trusted)
    if arguments.run is not None and arguments.batch is None:
      from trax_hier.storage.runs import check_data_files

      check_data_files(arguments.run)
    built = build_configured(arguments.batch)
    notes = config.check_used(called_in_training(arguments.batch is not None))
    layer, weights, model_state, batch = abstract_model(built)
  from trax_hier.commands import describe_sections as sections

  for note in notes:
    print_note(f'note: {note}')
  root = model_tree(layer, weights, model_state, batch)
  sections.print_summary(built, root)
  sections.print_configuration()
  sections.print_layers(root, arguments.depth)
  sections.print_parameters(root)
  sections.print_flops(layer, weights, model_state, batch)
  if not arguments.no_compile:
    print_note('compiling the training step ...')
  sections.print_memory(built, batch, not arguments.no_compile)


def _positive(text):
  # Python converts no text of thousands of digits.
  if not text.isdecimal() or len(text) > 20 or int(text) < 1:
    raise argparse.ArgumentTypeError(
      f'must be a whole number, at least 1, got {text!r:.80}'
    )
  return int(text)


def _devices(text):
  n = _positive(text)
  if n > _MOST_DEVICES:
    raise argparse.ArgumentTypeError(f'must be at most {_MOST_DEVICES:,}')
  return n


def _batch_shape(text):
  sizes = text.split(',')
  if len(sizes) not in (2, 3):
    raise argparse.ArgumentTypeError(
      f"must be two or three numbers, such as '8,512', got {text!r:.80}"
    )
  rows, *lengths = map(_positive, sizes)
  if rows * sum(lengths) > _MOST_TOKENS:
    raise argparse.ArgumentTypeError(
      f'must have at most {_MOST_TOKENS:,} tokens'
    )
  return rows, *lengths


def _simulate_devices(n):
  import jax

  # JAX reads these options at the first use of a device.
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', n)


def config_files(arguments: argparse.Namespace) -> list[str]:
  """Returns the gin files of --config_file, or that of --run."""
  if arguments.run is None:
    return arguments.config_file
  from trax_hier.storage.run_folder import config_file

  return [str(config_file(arguments.run))]
