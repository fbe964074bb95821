"""Console output of a run: messages above a progress line.

On a terminal the progress is two lines that are redrawn in place; elsewhere (a
file, a pipe, a notebook) it is one plain line every 15 seconds.
"""

import time

import rich.console
import rich.progress_bar
import rich.table
import rich.text

from trax_hier.training.logging.display import (
  PLAIN_SECONDS,
  Display,
  format_duration,
)

_BAR_COLUMNS = 20
_LIVE_SECONDS = 0.5


class Console(Display):
  """Prints messages and the progress of a run of a known number of steps."""

  def __init__(self, steps: int, enabled: bool = True):
    """Prints nothing yet; the elapsed time starts.

    Args:
      steps: Number of the last step.
      enabled: Whether anything is printed at all.
    """
    super().__init__(enabled)
    self._steps = steps
    self._begin = time.monotonic()
    self._step, self._text, self._times = 0, '', ''
    self._first = None
    self._longest_pause = 0.0
    self._last_update = float('-inf')

  def due(self, step: int) -> bool:
    """Whether it is time to update the progress line."""
    every = _LIVE_SECONDS if self._is_live else PLAIN_SECONDS
    return step == self._steps or time.monotonic() - self._last_update >= every

  def update(self, step: int, text: str) -> None:
    """Shows the number of the step, `text`, the time so far and that left."""
    self._last_update = now = time.monotonic()
    times = f'{format_duration(now - self._begin)} elapsed'
    if self._first is None:
      # The first step includes compilation, so it does not count.
      self._first = step, now
    elif step < self._steps:
      first, start = self._first
      per_step = (now - start - self._longest_pause) / (step - first)
      times += f', {format_duration(per_step * (self._steps - step))} left'
    if self._is_live:
      self._step, self._text, self._times = step, text, times
      self._redraw()
    else:
      self.say(f'step {step}/{self._steps}: {text}, {times}')

  def paused(self, seconds: float) -> None:
    """Notes the duration of a pause of training, such as an evaluation.

    The longest one, which compiles, does not count for the time left.
    """
    if self._first is not None:
      self._longest_pause = max(self._longest_pause, seconds)

  def close(self) -> None:
    """Stops redrawing; the last progress line stays visible."""
    line = self._line()
    self._text = ''
    super()._stop()
    if line is not None:
      self._console.print(line)

  def _stop(self):
    """Removes the activity; the progress line stays until the end."""
    if not self._text:
      super()._stop()

  def _line(self):
    """The progress of steps on a terminal; None before the first step."""
    if not self._text:
      return None
    bar = rich.progress_bar.ProgressBar(
      self._steps, self._step, width=_BAR_COLUMNS
    )
    line = rich.table.Table.grid(padding=(0, 1))
    line.add_row(f'step {self._step}/{self._steps}', bar, self._times)
    return rich.console.Group(line, rich.text.Text(self._text))

  def _render(self):
    """The progress line and the activity."""
    line = self._line()
    activity = super()._render()
    if line is None:
      return activity
    return rich.console.Group(line, activity) if activity else line
