"""StandardLibrary: splits, skipped folders and imports."""

import subprocess
import sys

import numpy as np
import pytest

from trax_hier.data import StandardLibrary
from trax_hier.data.corpora.listing import list_files
from trax_hier.data.sources import standard_library
from trax_hier.data.splits import split_of


@pytest.fixture(scope='module')
def data():
  return StandardLibrary(4, 256)


def test_batches_are_python_source(data):
  batch = data.train_batch(0)
  assert batch['inputs'].shape == (4, 256)
  assert data.unit == 'byte'
  assert 'import' in data.vocab.decode(
    np.concatenate([data.train_batch(i)['inputs'].ravel() for i in range(9)])
  )


def test_held_out_splits_are_large_enough(data):
  sizes = {
    split: sum(batch['weights'].sum() for batch in data.eval_batches(split))
    for split in ('valid', 'test')
  }
  assert sizes['valid'] > 50_000
  assert sizes['test'] > 50_000


def test_well_known_files_keep_their_split():
  fractions = (
    standard_library._VALID_FRACTION,
    standard_library._TEST_FRACTION,
  )
  names = ('argparse.py', 'enum.py', 'timeit.py', 'traceback.py')
  assert [split_of(name, *fractions) for name in names] == [
    'train',
    'valid',
    'valid',
    'test',
  ]


def test_only_source_of_the_library_is_read(tmp_path, monkeypatch):
  for name in (
    'a.py',
    'json/b.py',
    'json/__pycache__/c.py',
    'test/d.py',
    'unittest/test/e.py',
    'site-packages/pip/f.py',
    'idlelib/g.py',
    'encodings/h.py',
    'config-3.11-x/i.py',
    '_sysconfigdata__linux.py',
    'lib.so',
  ):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('x = 1\n' * 100)
  listed = list_files(str(tmp_path), '', '.py', standard_library._skip)
  assert list(listed.files) == ['a.py', 'json/b.py']

  monkeypatch.setattr(
    standard_library.sysconfig, 'get_path', lambda _: str(tmp_path / 'zip')
  )
  with pytest.raises(ValueError, match='StandardLibrary: no Python source'):
    StandardLibrary(4, 256)


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match=r'StandardLibrary\.length = 0'):
    StandardLibrary(4, 0)


def test_data_imports_neither_jax_nor_tensorflow():
  code = (
    'import sys, trax_hier.data as d; d.StandardLibrary(1, 8).train_batch(0);'
    'print([m for m in ("jax", "tensorflow", "tensorflow_datasets", "trax")'
    ' if m in sys.modules])'
  )
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == '[]'
