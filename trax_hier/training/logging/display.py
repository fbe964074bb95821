"""Messages of a program, and below them what it is doing now.

On a terminal, the present activity is a line with the time that it has taken.
It is redrawn in place and disappears at its end. Elsewhere (a file, a pipe, a
notebook) it is a plain line at its first start and, while it counts, one every
15 seconds.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.live
import rich.text

PLAIN_SECONDS = 15.0
_REDRAWS_PER_SECOND = 2

# Takes the number of finished parts and the number of all parts.
Count = Callable[[int, int], None]


class Display:
  """Prints messages and activities."""

  def __init__(self, enabled: bool = True, stderr: bool = False):
    """Prints nothing yet.

    Args:
      enabled: Whether anything is printed at all.
      stderr: Whether to print on standard error instead of standard output.
    """
    self._console = rich.console.Console(
      highlight=False,
      markup=False,
      soft_wrap=True,
      quiet=not enabled,
      stderr=stderr,
    )
    # A dumb terminal, such as a shell in Emacs, cannot redraw.
    can_redraw = not self._console.is_dumb_terminal
    self._is_live = self._console.is_terminal and can_redraw
    self._live = self._activity = None
    self._announced = set()

  def say(self, text: str) -> None:
    """Prints a line, above the activity."""
    self._console.print(text)

  @contextlib.contextmanager
  def doing(self, text: str, done: str = '') -> Iterator[Count]:
    """Shows an activity as long as this context lasts.

    Args:
      text: The activity, such as 'evaluating'. Where it is a plain line, the
        second activity of this text begins without one.
      done: Printed at the end, with the duration; '' prints nothing.

    Yields:
      A function to call with the number of finished and of all parts of the
      activity, as often as is convenient.
    """
    outer, self._activity = self._activity, _Activity(text)
    activity = self._activity
    if self._is_live:
      self._redraw()
    elif text not in self._announced:
      self.say(f'{text} ...')
      self._announced.add(text)

    def count(n_done, n_all):
      activity.count(n_done, n_all)
      if not self._is_live and activity.is_due():
        self.say(activity.line())

    try:
      yield count
    finally:
      self._activity = outer
      if outer is None:
        self._stop()
    if done:
      self.say(f'{done} in {format_duration(activity.seconds())}')

  def _redraw(self):
    """Redraws now; starts periodic redrawing if it has not started."""
    if self._live is not None:
      self._live.refresh()
    else:
      self._live = rich.live.Live(
        console=self._console,
        get_renderable=self._render,
        refresh_per_second=_REDRAWS_PER_SECOND,
        transient=True,
        # Else what is printed to a file or a pipe would go to this terminal.
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=sys.stderr.isatty(),
      )
      self._live.start(refresh=True)

  def _stop(self):
    """Stops redrawing and removes the line."""
    if self._live is not None:
      self._live.stop()
      self._live = None

  def _render(self):
    """The line to draw; called by the thread that redraws, too."""
    activity = self._activity  # Another thread may end it.
    return rich.text.Text(activity.line() if activity else '')


class _Activity:
  """The text, the start and the progress of an activity."""

  def __init__(self, text):
    self._text = text
    self._start = self._last_line = time.monotonic()
    self._first = self._counted = None

  def count(self, n_done, n_all):
    now = time.monotonic()
    # The first part may include compilation, so it does not count.
    if self._first is None and n_done:
      self._first = n_done, now
    self._counted = n_done, n_all, now

  def is_due(self):
    """Whether it is time for another plain line."""
    if time.monotonic() - self._last_line < PLAIN_SECONDS:
      return False
    self._last_line = time.monotonic()
    return True

  def seconds(self):
    return time.monotonic() - self._start

  def line(self):
    """The text with the progress and the times."""
    line = self._text
    if self._counted is not None:
      n_done, n_all, now = self._counted
      line += f': {n_done:,} of {n_all:,}'
      first, since = self._first or (n_done, now)
      if n_done > first:
        left = (n_all - n_done) * (now - since) / (n_done - first)
        line += f', {format_duration(left)} left'
    return f'{line} ... {format_duration(self.seconds())}'


def show_cursor() -> None:
  """Shows the cursor, which displays hide, before an exit without cleanup."""
  rich.console.Console(file=sys.__stdout__).show_cursor()


def format_duration(seconds: float) -> str:
  """Formats a duration for people to read, in its two largest units.

  Example:
    >>> [format_duration(seconds) for seconds in (42, 200, 18420, 183600)]
    ['42s', '3m 20s', '5h 07m', '2d 03h']
  """
  seconds = round(seconds)
  for big, small, unit, subunit in (
    (86400, 3600, 'd', 'h'),
    (3600, 60, 'h', 'm'),
    (60, 1, 'm', 's'),
  ):
    if seconds >= big:
      return f'{seconds // big}{unit} {seconds % big // small:02d}{subunit}'
  return f'{seconds}s'
