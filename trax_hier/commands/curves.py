"""The plot of `trax-hier compare`."""

import dataclasses

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

_SMOOTHED = 0.05  # Part of a run that a point of its training is a mean of.
_HEAD = 0.05  # Part of a run whose high scores do not set the scale.


@dataclasses.dataclass(frozen=True)
class Curves:
  """A run as it is plotted.

  Attributes:
    name: for the legend.
    score: what is plotted, such as 'bits_per_byte'.
    train: steps and scores of training,
    valid: and of the held-out set.
    batch_tokens: tokens of a step; None if that is not known.
  """

  name: str
  score: str
  train: list[tuple[int, float]]
  valid: list[tuple[int, float]]
  batch_tokens: int | None


def plot(runs: list[Curves], path: str) -> None:
  """Plots scores against steps, and against tokens where batches differ.

  Args:
    runs: in the order of their colours.
    path: the PNG file to write.
  """
  sizes = {run.batch_tokens for run in runs}
  by_tokens = len(sizes) > 1 and None not in sizes
  # Not by pyplot, which wants to know of a screen.
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


def _draw(axis, run, colour, tokens_per_step):
  if run.train:
    steps, scores = np.array(run.train).T
    axis.plot(
      steps * tokens_per_step,
      _smooth(scores),
      color=colour,
      alpha=0.4,
      label=f'{run.name}: training, smoothed',
    )
  if run.valid:
    steps, scores = np.array(run.valid).T
    axis.plot(
      steps * tokens_per_step,
      scores,
      color=colour,
      marker='o',
      markersize=3,
      label=f'{run.name}: held out',
    )


def _smooth(scores):
  """The means of each point with its neighbours, fewer at the ends."""
  n = max(1, round(_SMOOTHED * len(scores)))
  kernel = np.ones(2 * (n // 2) + 1)
  total = np.convolve(scores, kernel)
  count = np.convolve(np.ones(len(scores)), kernel)
  inner = slice(n // 2, n // 2 + len(scores))
  return total[inner] / count[inner]


def _limits(runs):
  """A scale on which the end of the runs can be told apart."""
  shown = []
  for run in runs:
    for points in (run.train, run.valid):
      if points:
        scores = _smooth(np.array(points)[:, 1])
        shown += list(scores[int(_HEAD * len(scores)) :])
  margin = 0.05 * (max(shown) - min(shown)) or 0.1
  return min(shown) - margin, max(shown) + margin
