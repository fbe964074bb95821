"""`trax-hier describe`: a configured model before it is trained."""

import argparse
import inspect

from trax_hier.commands.shared import (
  add_config,
  add_config_file,
  keep_compiled,
  user_errors,
)

_TRAIN = 'trax_hier.training.train'

HELP = 'show configuration, layers, weights, FLOPs and memory, without training'
DESCRIPTION = """
Shows what gin files or a run come to, before anything is trained: each gin
parameter with its value and the line that set it; the layers with the shapes
that go in and out; the weights by part; FLOPs and memory of a training step.
No weights are made: a model far larger than this machine can be described.

FLOPs are those of matrix multiplications and convolutions; a training step is
three forward passes, and what it computes again to save memory is not counted.
Temporary memory is that of the step as XLA compiles it for the devices at hand,
which for CPU is not that of a GPU or TPU; --no_compile leaves it out.

What a gin file leaves to the user must be given. Where its data are not here,
--batch says the shape of a batch in their place:

  trax-hier describe --config_file=terraformer/17b.gin --config="DATA = ''" \\
      --batch=64,256,512 --devices=64 --config="train.mesh = {'fsdp': 64}"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  what = parser.add_mutually_exclusive_group(required=True)
  add_config_file(what)
  what.add_argument('--run', metavar='DIR', help='or the folder of a run')
  add_config(parser, 'the files')
  parser.add_argument(
    '--batch',
    type=_batch_shape,
    metavar='ROWS,LENGTH[,SOURCES]',
    help='describe without the data: rows of a batch, tokens in a row and, for '
    'an encoder-decoder model, tokens in a row of sources',
  )
  parser.add_argument(
    '--devices',
    type=_positive,
    metavar='N',
    help='as if there were N devices; their memory is then that of CPUs',
  )
  parser.add_argument(
    '--depth',
    type=_positive,
    default=4,
    metavar='N',
    help='levels of the tree of layers; default: 4',
  )
  parser.add_argument(
    '--no_compile',
    action='store_true',
    help='leave out the memory of the compiled step, which takes the longest',
  )


def main(arguments: argparse.Namespace) -> None:
  """Builds the abstract model and prints what it is."""
  if arguments.devices is not None:
    _simulate_devices(arguments.devices)
  with user_errors():
    import trax_hier.storage.configurables  # noqa: F401
    from trax_hier import config
    from trax_hier.inspection.layer_tree import model_tree

    keep_compiled()
    config.clear()
    config.parse(_files(arguments), arguments.config)
    built = _build(arguments.batch)
    config.check_used(_called_later(arguments.batch is not None))
    layer, weights, model_state, batch = _model(built)
  from trax_hier.commands import sections

  root = model_tree(layer, weights, model_state, batch)
  sections.print_summary(built, root)
  sections.print_configuration()
  sections.print_layers(root, arguments.depth)
  sections.print_weights(root)
  sections.print_flops(layer, weights, model_state, batch)
  sections.print_memory(built, batch, not arguments.no_compile)


def _positive(text):
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(
      f'must be a whole number, at least 1, got {text!r}'
    )
  return int(text)


def _batch_shape(text):
  sizes = text.split(',')
  if len(sizes) not in (2, 3):
    raise argparse.ArgumentTypeError(
      f"must be two or three numbers, such as '8,512', got {text!r}"
    )
  return tuple(map(_positive, sizes))


def _simulate_devices(n):
  import jax

  # Read once, when JAX first looks for devices.
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', n)


def _files(arguments):
  if arguments.run is None:
    return arguments.config_file
  from trax_hier.storage.run_folder import config_file

  return [str(config_file(arguments.run))]


def _build(batch_shape):
  """What `train` would build from the gin that was parsed."""
  from trax_hier import config
  from trax_hier.training.build import build

  bound = {
    binding.parameter
    for binding in config.resolved()
    if binding.selector == _TRAIN and not binding.scope
  }
  arguments = {
    parameter.name: config.value(f'train.{parameter.name}')
    for parameter in inspect.signature(build).parameters.values()
    if parameter.name != 'data'
    and (parameter.name in bound or parameter.default is parameter.empty)
  }
  if batch_shape is None:
    return build(data=_data(), **arguments)
  return build(data=_blanks(batch_shape, arguments['model']), **arguments)


def _data():
  from trax_hier import config

  try:
    return config.value('train.data')
  except (ValueError, OSError) as error:
    raise ValueError(
      f'{config.explain(error)}. To describe the model without its data, give '
      'the shape of a batch: --batch=ROWS,LENGTH[,SOURCES]'
    ) from error


def _blanks(batch_shape, model):
  from trax_hier.commands.blanks import Blanks
  from trax_hier.training.build import check_parts
  from trax_hier.training.state import model_inputs

  data = Blanks(*batch_shape)
  check_parts(model, data, 'float32')
  layer = model(mode='train')
  try:
    model_inputs(layer, data.train_batch(0))
  except ValueError as error:
    few = len(batch_shape) == 2
    raise ValueError(
      f'--batch={",".join(map(str, batch_shape))}: the model reads '
      f'{"sources" if few else "no sources"}; give it '
      f'--batch=ROWS,LENGTH{",SOURCES" if few else ""}'
    ) from error
  return data


def _called_later(is_without_data):
  """The configurables that only a training calls."""
  from trax_hier import config

  selectors = {binding.selector for binding in config.resolved()}
  data = {s for s in selectors if s.startswith('trax_hier.data.')}
  return [_TRAIN, *(data if is_without_data else ())]


def _model(built):
  """The model, its weights and state as shapes, and the shapes of a batch."""
  from trax_hier.training.state import abstract_init, shapes_of

  batch = shapes_of(built.data.train_batch(0))
  layer = built.model(mode='train')
  return (layer, *abstract_init(layer, batch), batch)
