"""Progress lines of work that takes long."""

import time

from trax_hier.data.cache.folder import say

_FIRST, _NEXT = 2.0, 10.0  # seconds until the first line, and between lines


def megabytes(n: int) -> str:
  """Writes a number of bytes.

  Example:
    >>> megabytes(1_234_567), megabytes(1_234_567_890)
    ('1.2 MB', '1,235 MB')
  """
  return f'{n / 1e6:,.{0 if n >= 1e7 else 1}f} MB'


class Progress:
  """Prints how far some work is: nothing if it is done in two seconds."""

  def __init__(self, what: str, total: int, say_now: bool = False):
    """Starts the clock.

    Args:
      what: The work, such as 'encoding my.txt'.
      total: Bytes to work on; 0 if unknown.
      say_now: Whether to print the first line at once.
    """
    self._what = what
    self._total = total
    self._done = 0
    self._begin = time.monotonic()
    self._last = None
    if say_now:
      self._print()

  def add(self, n: int) -> None:
    """Counts `n` more bytes as done; prints a line from time to time."""
    self._done += n
    now = time.monotonic()
    wait = _FIRST if self._last is None else _NEXT
    if now - (self._last or self._begin) >= wait:
      self._print()

  def end(self, result: str) -> None:
    """Prints the result and the time, if lines have been printed."""
    if self._last is not None:
      seconds = time.monotonic() - self._begin
      speed = self._done / 1e6 / max(seconds, 1e-3)
      say(f'{self._what}: {result} in {seconds:,.0f} s ({speed:,.1f} MB/s)')

  def _print(self):
    self._last = time.monotonic()
    seconds = self._last - self._begin
    text = f'{self._what}: {megabytes(self._done)}'
    if self._total:
      text += f' of {megabytes(self._total)}'
    if self._done:
      text += f', {self._done / 1e6 / max(seconds, 1e-3):,.1f} MB/s'
      if self._total:
        left = seconds * (self._total - self._done) / self._done
        text += f', {left:,.0f} s left'
    say(text)
