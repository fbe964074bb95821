"""The sections that `trax-hier describe` prints."""

import math

import jax
import numpy as np

from trax_hier.commands.describe_origins import configuration
from trax_hier.commands.printing import (
  format_amount,
  print_heading,
  print_table,
)
from trax_hier.compat import base
from trax_hier.inspection.layer_tree import Node
from trax_hier.training.build import Build
from trax_hier.training.flops import forward_flops
from trax_hier.training.loop import train
from trax_hier.training.state import Batch

PyTree = object


def print_summary(built: Build, root: Node) -> None:
  """Prints the model with its size, the data and the devices."""
  devices = built.mesh.devices.flat
  axes = ', '.join(f'{name} {n}' for name, n in built.mesh.shape.items())
  print(f'model: {root.name}, {root.n_parameters:,} parameters')
  print(f'data: {built.data.describe()}')
  print(f'devices: {len(devices)} x {devices[0].device_kind} ({axes})')


def print_configuration() -> None:
  """Prints the name, the value and the origin of each gin parameter."""
  print_heading('Configuration')
  print_table(('parameter', 'value', 'set by'), configuration(train))


def print_layers(root: Node, depth: int) -> None:
  """Prints the layer tree down to `depth` levels below the root."""
  print_heading('Layers')
  print(root.text(depth))
  print('\n"n x": one of n equal layers. "...": layers deeper than --depth.')


def print_parameters(root: Node) -> None:
  """Prints the parameter count of each component of the model."""
  rows = [_parameter_row(0, root, root)]
  for child in filter(_n_parameters, root.children):
    rows.append(_parameter_row(1, child, root))
    inner = list(filter(_n_parameters, child.children))
    if len(inner) > 1:
      rows += [_parameter_row(2, node, root) for node in inner]
  print_heading('Parameters by component')
  print_table(
    ('component', 'parameters', 'share', 'float32'), rows, numbers=[1, 2, 3]
  )


def _parameter_row(level, node, root):
  n = _n_parameters(node)
  share = f'{n / root.n_parameters:.1%}'
  return (
    f'{"  " * level}{node.title}',
    f'{n:,}',
    share,
    format_amount(4 * n, 'B'),
  )


def _n_parameters(node):
  """The parameters of a node, counted once per repetition of its layer."""
  return node.n * node.n_parameters


def print_flops(
  layer: base.Layer, weights: PyTree, model_state: PyTree, batch: Batch
) -> None:
  """Prints the FLOPs of a forward pass and of a training step."""
  forward = forward_flops(layer, weights, model_state, batch)
  n_tokens = math.prod(batch['inputs'].shape)
  rows = [
    (
      name,
      f'{n:,}',
      format_amount(n, 'FLOP'),
      format_amount(n / n_tokens, 'FLOP'),
    )
    for name, n in (('forward', forward), ('training', 3 * forward))
  ]
  print_heading('FLOPs')
  columns = 'pass', 'per batch', '', 'per token'
  print_table(columns, rows, numbers=[1, 2, 3])
  print(
    f'\nA batch has {n_tokens:,} tokens to predict. A training step counts as '
    'three forward passes.'
  )


def print_memory(built: Build, batch: Batch, compiled: bool) -> None:
  """Prints the memory of a device between steps and, if compiled, in a step."""
  state = built.abstract
  held = {
    'weights': state.weights,
    'optimizer state': state.opt_state,
    'model state': state.model_state,
    'gradients, during a step': state.weights,
  }
  sizes = {name: _bytes_per_device(tree) for name, tree in held.items()}
  if compiled:
    step = built.step.lower(state, batch).compile().memory_analysis()
    sizes |= {
      'step: arguments': step.argument_size_in_bytes,
      'step: results': step.output_size_in_bytes,
      'step: results aliased to arguments': step.alias_size_in_bytes,
      'step: temporary': step.temp_size_in_bytes,
    }
    sizes['step: total'] = (
      step.argument_size_in_bytes
      + step.output_size_in_bytes
      - step.alias_size_in_bytes
      + step.temp_size_in_bytes
    )
  print_heading('Memory of each device')
  rows = [(name, f'{n:,}', format_amount(n, 'B')) for name, n in sizes.items()]
  print_table(('memory', 'bytes', ''), rows, numbers=[1, 2])
  if compiled:
    kind = built.mesh.devices.flat[0].device_kind
    print(
      '\nTemporary memory holds activations, gradients and scratch buffers of '
      f'the step,\nas XLA compiles it for {kind}.'
    )


def _bytes_per_device(tree):
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize
    for x in jax.tree.leaves(tree)
  )
