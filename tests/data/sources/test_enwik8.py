"""Enwik8 and its download command, on a small stub of the file."""

import gzip
import hashlib
import lzma
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from trax_hier.data import Enwik8
from trax_hier.data import enwik8 as command
from trax_hier.data.sources import enwik8

_CONTENT = np.arange(2000).astype(np.uint8).tobytes()


@pytest.fixture
def small(monkeypatch):
  """Makes Enwik8 accept `_CONTENT` as the file of the benchmark."""
  monkeypatch.setattr(enwik8, 'SIZE', len(_CONTENT))
  monkeypatch.setattr(enwik8, 'SHA256', hashlib.sha256(_CONTENT).hexdigest())
  monkeypatch.setattr(enwik8, '_HELD_OUT', 100)


def _pack(tmp_path, suffix, content=_CONTENT):
  path = tmp_path / f'enwik8{suffix}'
  if suffix == '.zip':
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('enwik8', content)
  else:
    opener = {'': open, '.gz': gzip.open, '.xz': lzma.open}[suffix]
    with opener(path, 'wb') as file:
      file.write(content)
  return path


def test_the_published_file_is_pinned():
  assert enwik8.SIZE == 100_000_000
  assert enwik8.SHA256.startswith('2b49720ec4d78c3c9fabaee6e4179a5e997302b3')


@pytest.mark.parametrize('suffix', ['', '.zip', '.gz', '.xz'])
@pytest.mark.usefixtures('small')
def test_split_from_any_archive(tmp_path, suffix):
  data = Enwik8(str(_pack(tmp_path, suffix)), 2, 32, verify=True)
  scored = {
    split: b''.join(
      bytes(batch['targets'][batch['weights'] == 1].tolist())
      for batch in data.eval_batches(split)
    )
    for split in ('valid', 'test')
  }
  assert scored == {'valid': _CONTENT[1800:1900], 'test': _CONTENT[1900:]}
  assert 'train 1,800, valid 100, test 100 bytes' in data.describe()
  assert data.train_batch(0)['inputs'].shape == (2, 32)


def test_a_missing_file_names_the_command(tmp_path):
  with pytest.raises(
    ValueError, match=r'Enwik8\.path = .*trax_hier\.data\.enw'
  ):
    Enwik8(str(tmp_path / 'enwik8'), 2, 32)


def test_a_file_of_another_size_is_named(tmp_path):
  path = _pack(tmp_path, '.gz')
  with pytest.raises(ValueError, match=r'Enwik8\.path = .*2,000 bytes'):
    Enwik8(str(path), 2, 32)


@pytest.mark.usefixtures('small')
@pytest.mark.parametrize('suffix', ['', '.zip', '.gz', '.xz'])
def test_a_longer_file_is_named(tmp_path, suffix):
  path = _pack(tmp_path, suffix, _CONTENT + b'x' * 50)
  with pytest.raises(ValueError, match='more than 2,000 bytes'):
    Enwik8(str(path), 2, 32)


@pytest.mark.usefixtures('small')
def test_a_wrong_checksum_is_named(tmp_path):
  path = str(_pack(tmp_path, '', _CONTENT[::-1]))
  Enwik8(path, 2, 32)
  with pytest.raises(ValueError, match=r'Enwik8\.path = .*sha256'):
    Enwik8(path, 2, 32, verify=True)


@pytest.mark.parametrize('suffix', ['.zip', '.gz', '.xz'])
def test_a_broken_archive_is_named(tmp_path, suffix):
  path = tmp_path / f'enwik8{suffix}'
  path.write_bytes(b'not packed at all')
  with pytest.raises(ValueError, match=r'Enwik8\.path = '):
    Enwik8(str(path), 2, 32)


@pytest.mark.usefixtures('small')
def test_a_truncated_archive_is_named(tmp_path):
  for suffix in ('.gz', '.xz'):
    path = _pack(tmp_path, suffix)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r'Enwik8\.path = '):
      Enwik8(str(path), 2, 32)


@pytest.mark.usefixtures('small')
def test_the_command_downloads_and_verifies(tmp_path, capsys):
  url = _pack(tmp_path, '.zip').as_uri()
  out = tmp_path / 'new' / 'folder'
  arguments = [f'--output_dir={out}', f'--url={url}']
  assert command.main(arguments) == 0
  assert f"Enwik8.path = '{out}/enwik8'" in capsys.readouterr().out
  assert (out / 'enwik8').read_bytes() == _CONTENT
  assert [path.name for path in out.iterdir()] == ['enwik8']
  assert command.main([f'--output_dir={out}', '--url=file:///nowhere']) == 0


@pytest.mark.usefixtures('small')
def test_the_command_rejects_another_file(tmp_path, capsys):
  url = _pack(tmp_path, '.zip', _CONTENT[::-1]).as_uri()
  out = tmp_path / 'out'
  assert command.main([f'--output_dir={out}', f'--url={url}']) == 1
  assert 'sha256' in capsys.readouterr().err
  assert list(out.iterdir()) == []


def test_a_failed_download_names_the_url(tmp_path, capsys):
  url = 'http://127.0.0.1:9/enwik8.zip'
  assert command.main([f'--output_dir={tmp_path}', f'--url={url}']) == 1
  assert url in capsys.readouterr().err


def test_the_command_runs_as_a_module():
  out = subprocess.run(
    [sys.executable, '-W', 'error', '-m', 'trax_hier.data.enwik8', '--help'],
    capture_output=True,
    text=True,
    check=True,
  )
  assert '--output_dir' in out.stdout
