"""Digests: the same everywhere, and changed by every flipped bit."""

import contextlib
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trax_hier.training import digests
from trax_hier.training.digests import Summary, summarize


@pytest.mark.parametrize(
  'shape, dtype',
  [
    ((), 'float32'),
    ((0, 3), 'float32'),
    ((5, 7, 30), 'float32'),
    ((70_001,), 'bfloat16'),  # More than one chunk.
    ((33, 3), 'int32'),
    ((9,), 'bool'),
    ((3, 5), 'uint8'),
  ],
)
def test_devices_and_host_compute_the_same(shape, dtype):
  values = np.random.default_rng(0).normal(size=shape) * 100
  x = jnp.asarray(values).astype(dtype)
  digest, is_finite = jax.device_get(digests._on_devices(x))
  assert summarize({'x': x})['x'] == Summary(int(digest), bool(is_finite))
  assert is_finite


def test_every_bit_and_every_position_counts():
  x = np.random.default_rng(0).normal(size=4).astype(np.float32)
  found = {summarize({'x': x})['x'].digest}
  for bit in range(8 * x.nbytes):
    flipped = bytearray(x.tobytes())
    flipped[bit // 8] ^= 1 << bit % 8
    changed = np.frombuffer(flipped, np.float32)
    found.add(summarize({'x': changed})['x'].digest)
  found.add(summarize({'x': x[::-1]})['x'].digest)
  assert len(found) == 8 * x.nbytes + 2


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_arrays_that_are_not_finite(value, dtype):
  x = jnp.zeros((3, 40_000), dtype).at[2, 39_999].set(value)
  assert not summarize({'x': x})['x'].is_finite
  assert not jax.device_get(digests._on_devices(x)[1])


def test_one_program_at_a_time(monkeypatch):
  """Hosts that run many at once can wait for each other forever."""
  running = []

  def start(x):
    assert not running
    running.append(x)
    return x, True

  def wait(result):
    running.clear()
    return result

  monkeypatch.setattr(digests, '_is_local', lambda x: False)
  monkeypatch.setattr(digests, '_on_devices', start)
  monkeypatch.setattr(jax, 'device_get', wait)
  found = summarize({'x': 1, 'y': 2})
  assert found == {'x': Summary(1, True), 'y': Summary(2, True)}


HOST = """
import sys
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from trax_hier.training.digests import summarize

jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
mesh = jax.make_mesh((4,), ('fsdp',))
host = {str(i): np.full((8, 16), i, np.float32) for i in range(100)}
split = {
  name: jax.make_array_from_callback(
    x.shape, NamedSharding(mesh, PartitionSpec('fsdp')), lambda i, x=x: x[i]
  )
  for name, x in host.items()
}
for _ in range(3):
  assert summarize(split) == summarize(host)
"""


@pytest.mark.slow
def test_many_arrays_of_two_hosts():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    coordinator = f'localhost:{free.getsockname()[1]}'
  devices = '--xla_force_host_platform_device_count=2'
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': devices}
  with contextlib.ExitStack() as stack:
    hosts = [
      subprocess.Popen(
        [sys.executable, '-c', HOST, coordinator, str(i)], env=environment
      )
      for i in range(2)
    ]
    for host in hosts:
      stack.callback(host.kill)
    assert [host.wait(100) for host in hosts] == [0, 0]
