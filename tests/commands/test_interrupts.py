"""Ctrl-C while the main thread does not return to Python."""

import signal
import subprocess
import sys
import time

from trax_hier.commands.interrupts import watch_interrupts

# The hash keeps the main thread in C for minutes, as the compiler does.
PROGRAM = """
import hashlib, signal
from trax_hier.commands.interrupts import watch_interrupts

signal.signal(signal.SIGINT, lambda *_: None)
def abort():
  print('aborted', flush=True)
  return 130
with watch_interrupts(lambda: print('noted', flush=True), abort):
  print('ready', flush=True)
  hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
"""


def test_a_second_interrupt_ends_a_busy_process():
  child = subprocess.Popen(
    [sys.executable, '-c', PROGRAM], stdout=subprocess.PIPE, text=True
  )
  assert child.stdout.readline() == 'ready\n'
  child.send_signal(signal.SIGINT)
  time.sleep(0.2)
  assert child.poll() is None
  child.send_signal(signal.SIGINT)
  try:
    assert child.wait(20) == 130
  finally:
    child.kill()
  assert child.stdout.read() == 'noted\naborted\n'


def test_a_main_thread_that_ends_in_time_is_not_aborted():
  previous = signal.signal(signal.SIGINT, lambda *_: None)
  noted, aborted = [], []
  try:
    with watch_interrupts(lambda: noted.append(1), lambda: aborted.append(1)):
      signal.raise_signal(signal.SIGINT)
      time.sleep(0.1)
      signal.raise_signal(signal.SIGINT)
      time.sleep(0.1)
  finally:
    signal.signal(signal.SIGINT, previous)
  assert (noted, aborted) == ([1], [])
  assert signal.set_wakeup_fd(-1) == -1
