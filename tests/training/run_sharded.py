"""Compares gradients on a mesh with those on one device: run_sharded.py NAME.

NAME is a key of `contract.ROWS`. Prints JSON: the largest difference relative
to the largest gradient of its array, the fraction of parameters that is
sharded, the all-gathered batches and the number of all-gathers.
"""

import json
import re
import sys

import contract
import jax
import jax.numpy as jnp
import numpy as np
import toy

from trax_hier.training import mesh as meshes
from trax_hier.training.state import init_layer, lane_axes, store_shapes

ROWS, LENGTH = 2, contract.LENGTH


def compare(name):
  row = contract.ROWS[name]
  layer = row.model(mode='train', dropout=0.1)
  tokens = np.asarray(toy.tokens(LENGTH, batch=ROWS))
  batch = {'inputs': tokens, 'start_of_sequence': np.ones(ROWS, bool)}
  init = jax.jit(lambda rng: init_layer(layer, batch, rng))
  weights, state = init(jax.random.PRNGKey(0))
  store_shapes(layer, weights, state)
  inputs = (tokens, batch['start_of_sequence'])[: layer.n_in]
  inputs = inputs if layer.n_in == 2 else tokens
  rng = jax.random.PRNGKey(1)

  def gradients(weights, state, inputs):
    def loss(weights):
      logits, _ = layer.pure_fn(inputs, weights, state, rng)
      nats = -jax.nn.log_softmax(logits)
      return jnp.mean(jnp.take_along_axis(nats, tokens[..., None], 2))

    return jax.grad(loss)(weights)

  expected = jax.jit(gradients)(weights, state, inputs)
  mesh = meshes.make_mesh({'fsdp': -1})
  split = meshes.weight_shardings(mesh, weights)
  lanes = jax.tree.map(lambda _: -1, state)
  # The state of these models has two rows for any batch size.
  if 'sources' not in name and 'terraformer' not in name:
    lanes = lane_axes(layer, batch, state)
  lanes = meshes.lane_shardings(mesh, lanes)
  store_shapes(layer, weights, state)
  program = jax.jit(
    meshes.all_gather_weights(mesh, ROWS)(gradients),
    in_shardings=(split, lanes, meshes.row_sharding(mesh)),
    out_shardings=split,
  )
  compiled = program.lower(weights, state, inputs).compile()
  found = compiled(
    jax.device_put(weights, split),
    jax.device_put(state, lanes),
    jax.device_put(inputs, meshes.row_sharding(mesh)),
  )

  def difference(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3))

  gathered = re.findall(
    r' = \w+\[([\d,]+)\]\S* all-gather\(', compiled.as_text()
  )
  gathered = [[int(n) for n in shape.split(',')] for shape in gathered]
  sizes = [
    (x.size, s.is_fully_replicated)
    for x, s in zip(
      jax.tree.leaves(weights), jax.tree.leaves(split), strict=True
    )
  ]
  return {
    'worst': max(
      map(difference, jax.tree.leaves(found), jax.tree.leaves(expected))
    ),
    'sharded': sum(n for n, whole in sizes if not whole)
    / sum(n for n, _ in sizes),
    # Excludes the row indices of an embedding gradient, and a bias (heads,
    # length, length) with as many heads as the batch has rows.
    'batches gathered': [
      s
      for s in gathered
      if s[:2] == [ROWS, LENGTH] and s[2:] not in ([1], [LENGTH])
    ],
    'weights gathered': len(gathered),
  }


if __name__ == '__main__':
  meshes._SMALL = 1
  print(json.dumps(compare(sys.argv[1])))
