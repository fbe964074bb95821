"""Settings of the test suite; they take effect before JAX is imported."""

import gc
import importlib.metadata
import os
import pathlib
import tempfile
import types

import pytest

# Toy models run for microseconds but compile for seconds, so optimize less.
_FLAGS = [
  '--xla_backend_optimization_level=0',
  '--xla_llvm_disable_expensive_passes=true',
]
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  # Later versions of XLA have no such flag.
  _FLAGS.append('--xla_cpu_use_fusion_emitters=false')
if 'cuda' in os.environ.get('JAX_PLATFORMS', ''):
  _FLAGS = []  # On GPUs, tests check the programs that users run.
os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *_FLAGS])

# Programs that tests start share a temporary compilation cache.
_CACHE = tempfile.TemporaryDirectory()
os.environ.setdefault('XDG_CACHE_HOME', _CACHE.name)


def pytest_configure(config):
  """Makes xdist run all tests of a file in one process.

  Tests of a file share compiled programs.
  """
  if config.getoption('dist', 'no') == 'load':
    config.option.dist = 'loadfile'


# Compiled programs hold memory maps. Linux allows a process 65,530 of them, and
# one more lets XLA's compiler crash.
_MAPS = pathlib.Path('/proc/self/maps')
_MOST_MAPS = 20_000
# Tests of a module share programs; those of a large one make too many.
_MOST_MAPS_OF_MODULE = 40_000


def pytest_runtest_teardown(item, nextitem):
  """Releases compiled programs if there are too many."""
  if nextitem is None or not _MAPS.exists():
    return
  is_same = nextitem.path == item.path
  most = _MOST_MAPS_OF_MODULE if is_same else _MOST_MAPS
  if _MAPS.read_bytes().count(b'\n') > most:
    import jax

    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope='session')
def tiny_run(tmp_path_factory):
  """A training run of a small Hourglass on bytes: `folder`, `text`, `result`.

  It has checkpoints 2 and 4. The test split is the last 100 bytes of the text.
  """
  from trax_hier import config
  from trax_hier.storage import configurables  # noqa: F401
  from trax_hier.training import train

  folder = tmp_path_factory.mktemp('tiny')
  text = ''.join(f'{n} is naïve. ' for n in range(100)).encode()[:1000]
  (folder / 'text.txt').write_bytes(text)
  bindings = [
    f"DATA = '{folder}/text.txt'",
    'D_MODEL = 8',
    'D_FF = 16',
    'N_HEADS = 2',
    "HourglassLM.hierarchy = '1@3'",
    'HourglassLM.shorten = @LinearShorten',
    'HourglassLM.upsample = @LinearUpsample',
    'TextFiles.batch_size = 3',
    'TextFiles.length = 32',
    'TextFiles.test_fraction = 0.1',
    'train.steps = 4',
    'train.eval_every = 2',
  ]
  config.clear()
  config.parse(['text.gin'], bindings)
  result = train(output_dir=str(folder / 'run'))
  config.clear()
  return types.SimpleNamespace(folder=folder / 'run', text=text, result=result)
