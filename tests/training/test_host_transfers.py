"""Transfers between host and device: a batch in, and the metrics out."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training

from trax_hier.training.step import METRICS

FIRST, LAST = 3, 8
GUARD = 'jax_transfer_guard_host_to_device'


class OnDevice(toy_training.Data):
  """Batches on the device; the steps between forbid transfers to it."""

  def __init__(self, events):
    super().__init__()
    self._events = events

  def train_batch(self, step, shard=0, n_shards=1):
    jax.config.update(GUARD, 'allow')
    self._events.append(f'batch {step}')
    batch = jax.tree.map(jnp.asarray, super().train_batch(step))
    if FIRST <= step < LAST:
      jax.config.update(GUARD, 'disallow')
    return batch


@pytest.fixture
def events(monkeypatch):
  """The batches that are made, and shapes of arrays that the host reads."""
  found, array = [], type(jnp.zeros(()))

  def recording(function):
    def call(x, *args, **kwargs):
      if isinstance(x, jax.Array):
        found.append(x.shape)
      return function(x, *args, **kwargs)

    return call

  monkeypatch.setattr(array, '_value', property(recording(array._value.fget)))
  for name in ('array', 'asarray'):  # On CPUs, these read memory.
    monkeypatch.setattr(np, name, recording(getattr(np, name)))
  yield found
  jax.config.update(GUARD, 'allow')


def test_a_step_reads_only_the_metrics_of_the_last(tmp_path, events):
  toy_training.run(
    tmp_path,
    LAST + 2,
    data=OnDevice(events),
    model=functools.partial(toy_training.Model, dropout=0.3, memory=True),
    eval_every=100,
  )
  begin, end = (events.index(f'batch {step}') for step in (FIRST, LAST))
  steps = [(f'batch {step}', (len(METRICS),)) for step in range(FIRST, LAST)]
  assert events[begin:end] == [*itertools.chain(*steps)]
