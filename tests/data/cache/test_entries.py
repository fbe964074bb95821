"""Entries of the data cache: whole or absent, and made once."""

import errno
import os
import signal
import subprocess
import sys
import threading

import filelock
import pytest

from trax_hier.data.cache import entries, folder
from trax_hier.data.cache.entries import open_entry, remember


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('TRAX_HIER_DATA_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


def _build(calls):
  def build(root):
    calls.append(root)
    (root / 'x').write_text('content')

  return build


def test_an_entry_is_made_once(cache):
  calls = []
  for _ in range(2):
    found = open_entry('kind/key', _build(calls), 'my.txt')
    assert (found / 'x').read_text() == 'content'
  assert len(calls) == 1
  assert found == cache / 'kind' / 'key'
  assert not list((cache / 'unfinished').rglob('x'))


@pytest.mark.parametrize('damage', ['shorter', 'missing', 'no sizes'])
def test_a_damaged_entry_is_made_again(capsys, damage):
  calls = []
  found = open_entry('key', _build(calls), 'my.txt')
  if damage == 'shorter':
    (found / 'x').write_text('con')
  else:
    (found / {'missing': 'x', 'no sizes': 'sizes.json'}[damage]).unlink()
  open_entry('key', _build(calls), 'my.txt')
  assert (found / 'x').read_text() == 'content'
  assert len(calls) == 2
  assert 'damaged, and is made again' in capsys.readouterr().err


@pytest.mark.parametrize('can_continue', [False, True])
@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError, ValueError])
def test_an_error_leaves_no_entry(cache, error, can_continue):
  def fail(root):
    (root / 'half').write_text('half')
    raise error

  with pytest.raises(error):
    open_entry('key', fail, 'my.txt', can_continue)
  assert not (cache / 'key').exists()
  # Only what another call can use is kept.
  kept = can_continue and error is not ValueError
  assert (cache / 'unfinished' / 'key' / 'half').exists() == kept
  seen = []
  open_entry('key', lambda root: seen.extend(root.iterdir()), 'x', can_continue)
  assert bool(seen) == kept


def test_a_full_disk_is_one_message(cache):
  def fail(root):
    raise OSError(errno.ENOSPC, 'No space left on device')

  with pytest.raises(ValueError, match='no space left') as caught:
    open_entry('key', fail, 'my.txt')
  message = str(caught.value)
  for part in ('preparing my.txt', str(cache), 'TRAX_HIER_DATA_CACHE'):
    assert part in message
  assert '\n' not in message


_KILLED = """
import sys, time
from trax_hier.data.cache.entries import open_entry
def build(root):
  (root / 'half').write_text('half')
  print('building', flush=True)
  time.sleep(60)
open_entry('key', build, 'my.txt', can_continue=True)
"""


def test_a_second_process_waits_and_a_killed_one_leaves_no_entry(cache, capsys):
  process = subprocess.Popen(
    [sys.executable, '-c', _KILLED], stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == 'building\n'
  seen = []
  waiting = threading.Thread(
    target=lambda: open_entry(
      'key', lambda root: seen.extend(root.iterdir()), 'my.txt', True
    )
  )
  waiting.start()
  waiting.join(0.5)
  assert waiting.is_alive()
  assert not (cache / 'key').exists()
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  process.stdout.close()
  waiting.join(10)
  assert [path.name for path in seen] == ['half']
  assert (cache / 'key').is_dir()
  error = capsys.readouterr().err
  assert f'my.txt is being prepared by process {process.pid} on ' in error
  assert 'waiting for it' in error


def test_values_are_remembered(tmp_path):
  assert remember(tmp_path, 'x', lambda: [1]) == [1]
  assert remember(tmp_path, 'x', lambda: pytest.fail()) == [1]
  assert remember(tmp_path / 'none', 'x', lambda: 2) == 2


def test_a_chosen_folder_must_be_writable(monkeypatch):
  monkeypatch.setenv('TRAX_HIER_DATA_CACHE', '/proc/cache')
  with pytest.raises(ValueError, match='TRAX_HIER_DATA_CACHE=/proc/cache: can'):
    folder.cache_folder()


@pytest.mark.parametrize('text', ['', 'null', '[]', '3', '{"x": null}'])
def test_damaged_records_are_made_again(cache, text):
  found = open_entry('key', _build([]), 'my.txt')
  (found / 'sizes.json').write_text(text)
  assert (open_entry('key', _build([]), 'my.txt') / 'x').exists()
  (found / 'x.json').write_text('null')
  assert remember(found, 'x', lambda: [1]) == [1]


def test_a_read_only_cache_serves_what_it_has(cache, monkeypatch):
  found = open_entry('key', _build([]), 'my.txt')
  monkeypatch.setattr(entries, 'why_not_writable', lambda folder: 'read-only')
  assert open_entry('key', pytest.fail, 'my.txt') == found
  with pytest.raises(
    ValueError, match=r'y\.txt is not prepared .*\(read-only\)'
  ):
    open_entry('other', pytest.fail, 'y.txt')
  assert not (cache / 'unfinished' / 'other').exists()


def test_without_a_home_folder_the_cache_is_temporary(monkeypatch, capsys):
  monkeypatch.delenv('TRAX_HIER_DATA_CACHE')
  monkeypatch.setenv('XDG_CACHE_HOME', '/proc')
  found = folder.cache_folder()
  assert found == folder.cache_folder()
  assert found.is_dir()
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert '/proc/trax_hier/data cannot be written' in error


def test_a_file_system_without_locks_is_said(monkeypatch, capsys):
  def fail(self, **_):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(filelock.FileLock, 'acquire', fail)
  open_entry('key', _build([]), 'my.txt')
  assert 'cannot be locked (No locks available)' in capsys.readouterr().err
