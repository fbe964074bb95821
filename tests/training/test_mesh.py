"""Sharded weights: gradients equal one device's; only weights are gathered."""

import json
import os
import subprocess
import sys
from pathlib import Path

import contract
import jax
import jax.numpy as jnp
import pytest

from trax_hier.training import mesh as meshes

HERE = Path(__file__).parent
IN_CI = 'transformer rotary'


def on_devices(program, *arguments, n=2):
  """Runs a program in this folder on n fake devices; returns its JSON."""
  root = HERE.parent.parent
  paths = [str(HERE), str(HERE.parent), str(root)]
  flags = f'--xla_force_host_platform_device_count={n}'
  result = subprocess.run(
    [sys.executable, HERE / program, *arguments],
    env=os.environ
    | {
      'PYTHONPATH': os.pathsep.join(paths),
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {flags}',
    },
    stdout=subprocess.PIPE,
    check=True,
  )
  return json.loads(result.stdout)


each_row = pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name != IN_CI))
    for name in contract.ROWS
  ],
)


@each_row
def test_gradients_equal_those_of_one_device(name):
  found = on_devices('run_sharded.py', name)
  assert found['worst'] < 2e-5
  assert found['sharded'] > 0.8  # `fsdp` does not divide some toy sizes.
  # Weights are all-gathered; activations of a whole batch are not.
  assert not found['batches gathered']
  assert found['weights gathered']


def test_the_longest_divisible_axis_is_sharded(monkeypatch):
  mesh = jax.sharding.AbstractMesh((2, 4), ('data', 'fsdp'))

  def spec(*shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return tuple(meshes.weight_shardings(mesh, x).spec)

  assert spec(6, 128, 512) == (None, None, 'fsdp')
  assert spec(6, 512, 128) == (None, 'fsdp')
  assert spec(64, 64) == (None, 'fsdp')
  assert spec(250, 4097) == ()
  assert spec(1023) == () and spec(1024) == ('fsdp',)
  assert spec() == ()


@pytest.mark.parametrize(
  'axes',
  [
    {'data': 3},
    {'fsdp': 2},
    {'data': -1, 'fsdp': -1},
    {'data': 0},
    {'data': 1.0},
    {'data': True},
    {'model': 1},
  ],
)
def test_meshes_that_do_not_fit_the_devices(axes):
  with pytest.raises(ValueError, match=r'train\.mesh = .* here 1; one of'):
    meshes.make_mesh(axes)


@pytest.mark.parametrize(
  'axes', [None, {}, {'data': -1}, {'fsdp': -1}, {'data': 1, 'fsdp': 1}]
)
def test_meshes_that_fit_the_devices(axes):
  assert meshes.make_mesh(axes).shape == {'data': 1, 'fsdp': 1}
