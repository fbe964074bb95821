"""Ctrl-C while the main thread is inside the compiler.

Python runs signal handlers between two instructions of the main thread, and XLA
may compile for minutes. So another thread answers.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

_SECONDS_TO_END = 2.0


@contextlib.contextmanager
def watch_interrupts(
  note: Callable[[], None], abort: Callable[[], int]
) -> Iterator[None]:
  """Answers the first Ctrl-C, and ends the process at the second.

  The second one ends the process only if this context does not end within two
  seconds. The signal handlers are called as usual. Nothing is watched outside
  the main thread, or if another library, such as a notebook's event loop, gets
  the signals already.

  Args:
    note: Prints a message, in another thread.
    abort: Prints a message and returns the exit code, in another thread.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  reader, writer = socket.socketpair()
  ended = threading.Event()

  def watch():
    n = 0
    while number := reader.recv(1):
      n += number[0] == signal.SIGINT
      if number[0] == signal.SIGINT and n == 1:
        note()
      if n > 1 and not ended.wait(_SECONDS_TO_END):
        os._exit(abort())

  with reader, writer:
    writer.setblocking(False)
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    if previous == -1:
      thread = threading.Thread(target=watch, daemon=True)
      thread.start()
    else:
      signal.set_wakeup_fd(previous)
    try:
      yield
    finally:
      ended.set()
      signal.set_wakeup_fd(previous)
      writer.shutdown(socket.SHUT_WR)
      if previous == -1:
        thread.join()
