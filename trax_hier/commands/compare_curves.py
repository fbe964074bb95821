"""The plot of `trax-hier compare`."""

import dataclasses

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

_SMOOTHING = 0.05  # Window of the moving average, as a fraction of the run.
_HEAD = 0.05  # Initial fraction of the run; the y axis may cut its scores off.


@dataclasses.dataclass(frozen=True)
class Curves:
  """The curves of a run.

  Attributes:
    name: Name in the legend.
    score: Name of the score, such as 'bits_per_byte'.
    train: Steps and training scores.
    valid: Steps and held-out scores.
    batch_tokens: Tokens per step; None if unknown.
  """

  name: str
  score: str
  train: list[tuple[int, float]]
  valid: list[tuple[int, float]]
  batch_tokens: int | None


def plot(runs: list[Curves], path: str) -> None:
  """Plots scores against steps and, if batch sizes differ, against tokens.

  Args:
    runs: Curves, in the order of their colors.
    path: The PNG file to write.
  """
  sizes = {run.batch_tokens for run in runs}
  by_tokens = len(sizes) > 1 and None not in sizes
  # A plain Figure: pyplot would look for a display.
  figure = Figure(figsize=(9 + 5 * by_tokens, 5.5), layout='constrained')
  (axes,) = figure.subplots(ncols=1 + by_tokens, sharey=True, squeeze=False)
  for i, run in enumerate(runs):
    _draw(axes[0], run, f'C{i}', 1)
    if by_tokens:
      _draw(axes[1], run, f'C{i}', run.batch_tokens)
  scores = dict.fromkeys(run.score.replace('_', ' ') for run in runs)
  axes[0].set_ylabel(', '.join(scores))
  axes[0].set_ylim(*_limits(runs))
  for axis, label in zip(axes, ('step', 'tokens seen'), strict=False):
    axis.set_xlabel(label)
    axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
    axis.grid(alpha=0.3)
  lines = sorted(axes[0].get_lines(), key=lambda line: line.get_marker() == 'o')
  figure.legend(handles=lines, loc='outside lower center', ncols=2)
  figure.savefig(path, dpi=150)


def _draw(axis, run, color, x_per_step):
  if run.train:
    steps, scores = np.array(run.train).T
    axis.plot(
      steps * x_per_step,
      _smooth(scores),
      color=color,
      alpha=0.4,
      label=f'{run.name}: training, smoothed',
    )
  if run.valid:
    steps, scores = np.array(run.valid).T
    axis.plot(
      steps * x_per_step,
      scores,
      color=color,
      marker='o',
      markersize=3,
      label=f'{run.name}: held out',
    )


def _smooth(scores):
  """Moving average; at the ends, the window is truncated."""
  n = max(1, round(_SMOOTHING * len(scores)))
  kernel = np.ones(2 * (n // 2) + 1)
  total = np.convolve(scores, kernel)
  count = np.convolve(np.ones(len(scores)), kernel)
  inner = slice(n // 2, n // 2 + len(scores))
  return total[inner] / count[inner]


def _limits(runs):
  """Limits of the y axis; they fit the curves after their first `_HEAD`."""
  shown = []
  for run in runs:
    for points in (run.train, run.valid):
      if points:
        scores = _smooth(np.array(points)[:, 1])
        shown += list(scores[int(_HEAD * len(scores)) :])
  margin = 0.05 * (max(shown) - min(shown)) or 0.1
  return min(shown) - margin, max(shown) + margin
