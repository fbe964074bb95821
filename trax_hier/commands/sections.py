"""The sections that `trax-hier describe` prints."""

import math

import jax
import numpy as np

from trax_hier.commands.origins import configuration
from trax_hier.commands.tables import amount, heading, print_table
from trax_hier.compat import base
from trax_hier.inspection.layer_tree import Node
from trax_hier.training.build import Build
from trax_hier.training.flops import forward_flops
from trax_hier.training.loop import train
from trax_hier.training.state import Batch

PyTree = object


def print_summary(built: Build, root: Node) -> None:
  """Prints the model, its size, its data and its devices, a line each."""
  devices = built.mesh.devices.flat
  axes = ', '.join(f'{name} {n}' for name, n in built.mesh.shape.items())
  print(f'model: {root.name}, {root.n_parameters:,} parameters')
  print(f'data: {built.data.describe()}')
  print(f'devices: {len(devices)} x {devices[0].device_kind} ({axes})')


def print_configuration() -> None:
  """Prints each gin parameter, its value, and who set it."""
  heading('Configuration')
  print_table(('parameter', 'value', 'set by'), configuration(train))


def print_layers(root: Node, depth: int) -> None:
  """Prints the tree of layers, `depth` levels below the root."""
  heading('Layers')
  print(root.text(depth))
  print('\n"n x": one of n equal layers. "...": has layers below --depth.')


def print_weights(root: Node) -> None:
  """Prints how the weights are shared out among the parts of the model."""
  rows = [_row_of_weights(0, root, root)]
  for part in filter(_n_weights, root.children):
    rows.append(_row_of_weights(1, part, root))
    inner = list(filter(_n_weights, part.children))
    if len(inner) > 1:
      rows += [_row_of_weights(2, node, root) for node in inner]
  heading('Weights by part')
  print_table(
    ('part', 'parameters', 'share', 'float32'), rows, numbers=[1, 2, 3]
  )


def _row_of_weights(level, node, root):
  n = _n_weights(node)
  share = f'{n / root.n_parameters:.1%}'
  return f'{"  " * level}{node.title}', f'{n:,}', share, amount(4 * n, 'B')


def _n_weights(node):
  return node.n * node.n_parameters


def print_flops(
  layer: base.Layer, weights: PyTree, model_state: PyTree, batch: Batch
) -> None:
  """Prints the FLOPs of a forward pass and of a training step."""
  forward = forward_flops(layer, weights, model_state, batch)
  n_tokens = math.prod(batch['inputs'].shape)
  rows = [
    (name, f'{n:,}', amount(n, 'FLOP'), amount(n / n_tokens, 'FLOP'))
    for name, n in (('forward', forward), ('training', 3 * forward))
  ]
  heading('FLOPs')
  columns = 'pass', 'a batch', '', 'a token'
  print_table(columns, rows, numbers=[1, 2, 3])
  print(
    f'\nA batch has {n_tokens:,} tokens to predict. Training counts as three '
    'forward passes.'
  )


def print_memory(built: Build, batch: Batch, compiled: bool) -> None:
  """Prints what a device holds between steps and, compiled, during one."""
  state = built.abstract
  held = {
    'weights': state.weights,
    'optimizer state': state.opt_state,
    'model state': state.model_state,
    'gradients, in a step': state.weights,
  }
  sizes = {name: _bytes_per_device(tree) for name, tree in held.items()}
  if compiled:
    step = built.step.lower(state, batch).compile().memory_analysis()
    sizes |= {
      'step: arguments': step.argument_size_in_bytes,
      'step: results': step.output_size_in_bytes,
      'step: results in place of arguments': step.alias_size_in_bytes,
      'step: temporary': step.temp_size_in_bytes,
    }
    sizes['step: all together'] = (
      step.argument_size_in_bytes
      + step.output_size_in_bytes
      - step.alias_size_in_bytes
      + step.temp_size_in_bytes
    )
  heading('Memory of each device')
  rows = [(name, f'{n:,}', amount(n, 'B')) for name, n in sizes.items()]
  print_table(('what', 'bytes', ''), rows, numbers=[1, 2])
  if compiled:
    kind = built.mesh.devices.flat[0].device_kind
    print(
      '\nTemporary are activations, gradients and working memory, as XLA '
      f'compiles the step for {kind}.'
    )


def _bytes_per_device(tree):
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize
    for x in jax.tree.leaves(tree)
  )
