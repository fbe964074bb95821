"""Compiled programs of models that are no longer used are released."""

import functools
import gc
import pathlib
import weakref

import jax
import pytest
import toy

from trax_hier import config
from trax_hier.data import ByteVocab, TextFiles
from trax_hier.generation import programs, sample_text
from trax_hier.layers import Dense
from trax_hier.models import TransformerLM
from trax_hier.training import Adam, train

MAPS = pathlib.Path('/proc/self/maps')


class Factory:
  """Makes models; factories of the same width are equal."""

  def __init__(self, width=1):
    self.width = width

  def __eq__(self, other):
    return self.width == other.width

  def __hash__(self):
    return self.width

  def __call__(self, mode):
    del mode
    return Dense(self.width)

  model = __call__


ONE = Factory()


def converter(model, fingerprint='', precision='float32'):
  return programs.weights_converter(model, fingerprint, precision)


def forget_recent():
  """Pushes other factories out of the most recent."""
  for width in (101, 102):
    converter(Factory(width))


def test_programs_are_released_with_their_factory():
  factory = Factory()
  released = weakref.ref(converter(factory))
  forget_recent()
  gc.collect()
  assert released() is converter(factory)
  forget_recent()
  del factory
  gc.collect()
  assert released() is None


def test_programs_of_old_gin_bindings_are_released():
  factory = Factory()
  first, second, _ = (weakref.ref(converter(factory, f)) for f in 'abc')
  gc.collect()
  assert first() is None and second() is converter(factory, 'b')


@pytest.mark.parametrize(
  'make', [Factory, lambda: ONE.model], ids=['equal', 'bound method']
)
def test_factories_made_anew_share_programs(make):
  first = converter(make())
  gc.collect()
  assert converter(make()) is first
  assert converter(make(), precision='bfloat16') is not first


def test_factories_that_their_programs_keep_alive_are_few():
  def programs_of_a_factory(width):
    factory = Factory(width)
    made = converter(factory)
    made.factory = factory
    return weakref.ref(made)

  made = [programs_of_a_factory(width) for width in range(200, 240)]
  gc.collect()
  assert sum(ref() is not None for ref in made) <= 16


def sizes_of_process(folder, widths):
  """Memory maps and programs after each model that was used and dropped."""
  text = folder / 'text.txt'
  text.write_text('abc def. ' * 100)
  client = jax.devices()[0].client
  for width in widths:
    model = functools.partial(
      TransformerLM,
      n_layers=1,
      **{**toy.SIZES, 'vocab_size': 256, 'd_model': width},
    )
    data = TextFiles(str(text), length=16, batch_size=2, test_fraction=0.2)
    run = str(folder / str(width))
    result = train(run, model, data, Adam, steps=2, eval_every=1)
    sample_text(model, result.weights, ByteVocab(), 'abc', n_tokens=2)
    del model, data, result
    gc.collect()
    maps = MAPS.read_bytes().count(b'\n')
    yield maps, len(client.live_executables())


@pytest.mark.slow
@pytest.mark.skipif(not MAPS.exists(), reason='needs /proc')
def test_a_sweep_over_models_releases_what_it_compiled(tmp_path):
  config.clear()
  sizes = list(sizes_of_process(tmp_path, [8, 12, 16, 20, 24]))
  (maps, compiled), (last_maps, last_compiled) = sizes[2], sizes[4]
  assert last_maps < 1.05 * maps, sizes
  assert last_compiled <= compiled + 2, sizes
