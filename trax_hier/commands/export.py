"""`trax-hier export`: writes a model as a self-contained folder."""

import argparse

from trax_hier.commands.failures import print_note, user_errors
from trax_hier.commands.flags import add_output_folder, add_run
from trax_hier.environment import expand_home

HELP = 'write the model of a run as a folder of safetensors'
DESCRIPTION = """
Writes a folder from which a model can be used without its run and data:
model.safetensors, config.gin, config.json, the vocabulary if it is a file, and
README.md, which describes the model and its scores. In Python:

  exported = trax_hier.load('DIR')
  exported.sample('def main(')

config.gin is copied from the run, including the paths in it.

The name of a tensor is its path through the layers; the blocks of a stack are
separate tensors: blocks.0.attention.query.weights.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  add_run(parser)
  add_output_folder(parser)
  parser.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16'),
    default='float32',
    help='type of the weights in the file; bfloat16 rounds them to half the '
    'bytes; default: float32, unchanged',
  )


def main(arguments: argparse.Namespace) -> None:
  """Writes the export and prints a summary of it."""
  with user_errors():
    print_note(f'loading {arguments.run} ...')
    from trax_hier.storage import export
    from trax_hier.storage.runs import open_run
    from trax_hier.training.build import batch_shapes
    from trax_hier.training.logging.jsonl import read_metrics
    from trax_hier.training.state import n_parameters

    output = expand_home(arguments.output)
    # Checked first: reading the data may take long.
    export.check_free(output)
    run = open_run(arguments.run, arguments.config, arguments.trust_code)
    batch = batch_shapes(run.data)
    step, weights = run.load_weights(arguments.step, print_note)
    sources = batch.get('sources')
    exportable = export.ExportableModel(
      model=run.model,
      weights=weights,
      vocab=run.data.vocab,
      config_text=_config_text(run.folder, arguments.config),
      length=batch['inputs'].shape[1],
      source_length=None if sources is None else sources.shape[1],
      step=step,
      unit=run.data.unit,
      data=run.data.describe(),
      metrics=_held_out(read_metrics(run.folder), step),
    )
    export.save(output, exportable, arguments.dtype)
  print(
    f'{output}: {n_parameters(weights):,} parameters of step {step}, '
    f'{arguments.dtype}'
  )


def _config_text(folder, bindings):
  text = (folder / 'config.gin').read_text('utf-8')
  if not bindings:
    return text
  return '\n'.join([text.rstrip(), '', '# Given to export', *bindings, ''])


def _held_out(metrics, step):
  """The last held-out metrics at a step; empty if there are none."""
  for line in reversed(metrics):
    if (line['kind'], line['step']) == ('valid', step):
      return {k: v for k, v in line.items() if k not in ('kind', 'step')}
  return {}
