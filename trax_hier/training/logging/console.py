"""Console output of a run: messages above a progress line.

On a terminal the progress line is redrawn in place; elsewhere (a file, a pipe,
a notebook) it is printed as a plain line every 15 seconds.
"""

import time

import rich.console
import rich.progress

_REDRAW_SECONDS = 0.5
_PLAIN_SECONDS = 15.0


class Console:
  """Prints messages and the progress of a run of a known number of steps."""

  def __init__(self, steps: int, enabled: bool = True):
    """Prints nothing yet.

    Args:
      steps: Number of the last step.
      enabled: Whether anything is printed at all.
    """
    self._steps = steps
    self._console = rich.console.Console(
      highlight=False, markup=False, soft_wrap=True, quiet=not enabled
    )
    self._live = self._console.is_terminal
    self._first = self._start = None
    self._last_update = float('-inf')
    self._bar = None

  def say(self, text: str) -> None:
    """Prints a line, above the progress line."""
    self._console.print(text)

  def due(self, step: int) -> bool:
    """Whether it is time to update the progress line."""
    every = _REDRAW_SECONDS if self._live else _PLAIN_SECONDS
    return step == self._steps or time.monotonic() - self._last_update >= every

  def update(self, step: int, text: str) -> None:
    """Shows the number of the step, `text` and the estimated time left."""
    self._last_update = now = time.monotonic()
    if self._start is None:
      # The first step includes compilation, so it does not count.
      self._start, self._first = now, step
    elif step < self._steps:
      per_step = (now - self._start) / (step - self._first)
      text += f', {format_duration(per_step * (self._steps - step))} left'
    if self._live:
      self._redraw(step, text)
    else:
      self.say(f'step {step}/{self._steps}: {text}')

  def close(self) -> None:
    """Stops redrawing; the progress line stays visible."""
    if self._bar is not None:
      self._bar.stop()

  def _redraw(self, step, text):
    if self._bar is None:
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn('step {task.completed}/{task.total}'),
        rich.progress.BarColumn(bar_width=20),
        rich.progress.TextColumn('{task.description}', markup=False),
        console=self._console,
        auto_refresh=False,
      )
      self._bar.add_task('', total=self._steps)
      self._bar.start()
    self._bar.update(
      self._bar.task_ids[0], completed=step, description=text, refresh=True
    )


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
