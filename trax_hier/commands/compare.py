"""`trax-hier compare`: metrics, settings and curves of several runs."""

import argparse
import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path

from trax_hier.commands.failures import user_errors

HELP = 'compare runs: metrics, settings that differ, a plot'
DESCRIPTION = """
Compares runs: their progress, the best and the last score on the held-out set,
and the gin parameters that differ ("-" where a run has no such parameter). Of
the evaluations of a run, those of the same share of the split as the last one
count.
--output also plots the held-out scores and the smoothed training scores against
steps and, if the batches differ in size, against tokens. Runs are only read and
may still be training.
"""

_MISSING = '-'
_SCORE_PREFIX = 'bits_per_'
_MAX_WIDTH = 48  # Characters of a value in the table.


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  parser.add_argument(
    'runs', nargs='+', metavar='RUN', help='at least two run directories'
  )
  parser.add_argument(
    '--output', metavar='FILE', help='the plot to write, a .png file'
  )


def main(arguments: argparse.Namespace) -> None:
  """Prints the tables and writes the plot."""
  with user_errors():
    _check(arguments)
    runs = [_read(folder) for folder in arguments.runs]
    for run, name in zip(runs, _names(arguments.runs), strict=True):
      run.name = name
    lines = [*_metrics(runs), '', *_differences(runs)]
    if arguments.output is not None:
      from trax_hier.commands import compare_curves

      compare_curves.plot([run.curves() for run in runs], arguments.output)
  print('\n'.join(lines))
  if arguments.output is not None:
    print(f'\nplot: {arguments.output}')


@dataclasses.dataclass
class _Run:
  """The logged metrics and the settings of a run.

  Attributes:
    train: Lines of metrics.jsonl about training steps.
    valid: Lines of metrics.jsonl about evaluations of one coverage.
    parameters: Values of the gin parameters, as gin text.
    coverage: Share of the held-out split that the evaluations read.
    n_others: Number of evaluations of another coverage, which are left out.
    name: Name in the tables.
  """

  train: list[dict]
  valid: list[dict]
  parameters: dict[str, str]
  coverage: float = 1.0
  n_others: int = 0
  name: str = ''

  def score(self) -> str:
    """Returns the name of the score, such as 'bits_per_byte'."""
    return next(key for key in self.lines()[0] if key.startswith(_SCORE_PREFIX))

  def lines(self) -> list[dict]:
    """Returns the lines of metrics.jsonl about training and evaluation."""
    return [*self.train, *self.valid]

  def batch_tokens(self) -> int | None:
    """Returns the tokens per training batch; None if the settings lack them."""
    data = self.parameters.get('train.data', '').strip('@()')
    sizes = [
      self.parameters.get(f'{data}.{name}', '')
      for name in ('batch_size', 'length')
    ]
    if not all(size.isdecimal() for size in sizes):
      return None
    return math.prod(map(int, sizes))

  def curves(self):
    """Returns the curves to plot."""
    from trax_hier.commands import compare_curves

    return compare_curves.Curves(
      name=self.name,
      score=self.score(),
      train=_scored(self.train, self.score()),
      valid=_scored(self.valid, self.score()),
      batch_tokens=self.batch_tokens(),
    )


def _check(arguments):
  """Checks the flags, before anything is imported or read."""
  if len(arguments.runs) < 2:
    raise ValueError('give at least two run directories')
  if arguments.output is not None:
    output = Path(arguments.output)
    if output.suffix != '.png':
      raise ValueError(f'--output={output}: the name must end in .png')
    if not output.absolute().parent.is_dir():
      raise ValueError(f'--output={output}: its folder does not exist')


def _read(folder):
  from trax_hier import config
  from trax_hier.config import files
  from trax_hier.storage.run_folder import config_file
  from trax_hier.training.logging.coverage import coverage
  from trax_hier.training.logging.jsonl import read_metrics

  file = config_file(folder)
  by_kind = {'train': [], 'valid': []}
  for line in read_metrics(file.parent):
    if line['kind'] in by_kind:
      by_kind[line['kind']].append(line)
  if not any(by_kind.values()):
    if (file.parent / 'model.safetensors').is_file():
      raise ValueError(f'{folder}: an export has no metrics; give its run')
    raise ValueError(f'{folder}: no metrics have been logged yet')
  for kind, lines in by_kind.items():
    by_kind[kind] = [line for line in lines if _has_score(line)]
  if not any(by_kind.values()):
    raise ValueError(
      f'{folder}: metrics.jsonl has no {_SCORE_PREFIX}... metric'
    )
  share = coverage(by_kind['valid'][-1] if by_kind['valid'] else {})
  comparable = [x for x in by_kind['valid'] if coverage(x) == share]
  n_others = len(by_kind['valid']) - len(comparable)
  by_kind['valid'] = comparable
  parameters = config.parameters(files.read_text(file), str(file))
  return _Run(
    **by_kind, parameters=parameters, coverage=share, n_others=n_others
  )


def _has_score(line):
  return any(key.startswith(_SCORE_PREFIX) for key in line)


def _names(folders):
  """Names of runs: the shortest ends of their paths that are all different."""
  paths = [Path(folder).absolute().parts for folder in folders]
  for n in range(1, max(map(len, paths)) + 1):
    names = [str(Path(*path[-n:])) for path in paths]
    if len(set(names)) == len(names):
      return names
  raise ValueError('the same run is given twice')


# Tables -----------------------------------------------------------------------


def _metrics(runs):
  """Lines of a table of progress and scores."""
  rows = [
    ('', [run.name for run in runs]),
    ('steps', [f'{max(m["step"] for m in run.lines()):,}' for run in runs]),
    ('tokens seen', [_tokens(run) for run in runs]),
    ('tokens per second, median', [_speed(run) for run in runs]),
    ('learning rate, last', [_last(run, 'learning_rate') for run in runs]),
    ('gradient norm, last', [_last(run, 'grad_norm') for run in runs]),
  ]
  for score in dict.fromkeys(run.score() for run in runs):
    title = score.replace('_', ' ')
    rows += [
      (f'training {title}, last', [_last(run, score) for run in runs]),
      (f'held-out {title}, last', [_held_out(r, score, -1) for r in runs]),
      (f'held-out {title}, best', [_held_out(r, score) for r in runs]),
    ]
  if any(run.coverage < 1 or run.n_others for run in runs):
    rows.append(('held-out scores are of', [_coverage(run) for run in runs]))
  return _table(rows)


def _coverage(run):
  from trax_hier.training.logging.coverage import describe_coverage

  if not run.valid:
    return _MISSING
  shown = describe_coverage(run.coverage)
  if run.n_others:
    shown += f' ({run.n_others} of another share left out)'
  return shown


def _differences(runs):
  """Lines of a table of the parameters that differ between the runs."""
  names = sorted(set().union(*(run.parameters for run in runs)))
  rows = []
  for name in names:
    values = [run.parameters.get(name, _MISSING) for run in runs]
    if len(set(values)) > 1:
      rows.append((name, [_short(value) for value in values]))
  if not rows:
    return ['settings: identical']
  return _table([('settings that differ', [run.name for run in runs]), *rows])


def _table(rows: Iterable[tuple[str, list[str]]]) -> list[str]:
  """Lines of a table: first column aligned left, the others right."""
  cells = [(name, *values) for name, values in rows]
  first, *widths = (
    max(map(len, column)) for column in zip(*cells, strict=True)
  )
  return [
    '  '.join([name.ljust(first), *map(str.rjust, values, widths)]).rstrip()
    for name, *values in cells
  ]


def _short(value):
  value = ' '.join(value.split())
  return value if len(value) <= _MAX_WIDTH else f'{value[: _MAX_WIDTH - 1]}…'


def _tokens(run):
  steps, tokens = max(m['step'] for m in run.lines()), run.batch_tokens()
  return _MISSING if tokens is None else f'{steps * tokens:,}'


def _speed(run):
  import statistics

  # Each process logs a speed of 0 on its first line: nothing is timed yet.
  speeds = [m.get('tokens_per_second') for m in run.train]
  speeds = [speed for speed in speeds if speed]
  return f'{statistics.median(speeds):,.0f}' if speeds else _MISSING


def _last(run, name):
  values = [m[name] for m in run.train if name in m]
  return f'{values[-1]:.5g}' if values else _MISSING


def _held_out(run, score, index=None):
  """The score of evaluation `index`, or the lowest if None, with its step."""
  if index is not None:
    scored = [(m['step'], m[score]) for m in run.valid if score in m]
    chosen = scored[index] if scored else None
  else:
    best = _scored(run.valid, score)
    chosen = min(best, key=lambda point: point[1], default=None)
  if chosen is None:
    return _MISSING
  step, value = chosen
  shown = f'{value:.4f}' if math.isfinite(value) else 'not finite'
  return f'{shown} (step {step:,})'


def _scored(lines, score):
  """(step, score) of the lines whose score is finite."""
  return [
    (line['step'], line[score])
    for line in lines
    if math.isfinite(line.get(score, math.nan))
  ]
