"""Quality: bits per byte of models that train for equal CPU time.

    python benchmarks/quality.py --sides=vanilla,fixed_4 --data=enwik8 \
        --minutes=10 --output_dir=DIR [--cores=0,1] [--rates=1e-3,2e-3,4e-3] \
        [--seeds=0,1]

Each side, a gin file in benchmarks/quality, is trained by the trainer in a
process of its own, pinned to one core; as many run at once as cores are given.
CPU time is the user and system time of the process, so other work on the
machine changes it little. The CPU time per step, measured in the first steps of
a side, gives the number of steps that fit into the time; the schedule of the
learning rate ends with them. The time includes evaluations of 25 batches.

With several rates, every side first trains with each of them for a fifth of the
time, and then with the best. All results are kept in the folder: if the
benchmark is stopped, the same command continues it.

Prints a table, and plots bits per byte against CPU time and tokens.
"""

import argparse
import concurrent.futures
import json
import os
import queue
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# The first run of a side evaluates at steps 40 and 80. Between lines of its log
# are 20 steps, the first evaluation with its compilation, and the second alone.
_SPEED = 20, 40, 60, 80, 100
_N_EVALS = 5
_TOKENS = 8 * 512  # Of a batch, as in quality/base.gin.


class Run:
  """A training of one side, in a folder of its own."""

  def __init__(self, folder, side, data, rate, seed):
    self.folder, self.side = folder, side
    self._data, self._rate, self._seed = data, rate, seed

  def _start(self, steps, core):
    files = [HERE / 'quality' / f'{x}.gin' for x in ('base', self.side)]
    values = dict(
      DATA=repr(str(self._data)), STEPS=steps, RATE=self._rate, SEED=self._seed
    )
    values['train.eval_every'] = -(-steps // _N_EVALS)
    return subprocess.Popen(
      [
        *(sys.executable, '-m', 'trax_hier.trainer'),
        *(f'--config_file={file}' for file in files),
        *(f'--config={name} = {value}' for name, value in values.items()),
        f'--output_dir={self.folder}',
      ],
      env=os.environ | {'JAX_PLATFORMS': 'cpu'},
      stdout=subprocess.DEVNULL,
      stderr=(self.folder / 'errors.txt').open('a'),
      preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )

  def train(self, steps, core, until=None):
    """Trains to a step; writes CPU seconds by step to cpu.jsonl."""
    self.folder.mkdir(parents=True, exist_ok=True)
    times = self.cpu_seconds()
    if until is None and self.score(steps):
      return
    before = max(times.values(), default=0)
    process = self._start(steps, core)
    try:
      while process.poll() is None:
        time.sleep(0.5)
        used, step = _used(process.pid), self._last_step()
        if step not in times and used is not None:
          times[step] = before + used
          with (self.folder / 'cpu.jsonl').open('a') as file:
            print(json.dumps([step, times[step]]), file=file)
        if until is not None and step >= until:
          break
    finally:
      process.terminate()
      process.wait()
    if until is None and process.returncode:
      text = (self.folder / 'errors.txt').read_text()
      raise RuntimeError(f'{self.side}: {text[-500:]}')

  def _lines(self):
    path = self.folder / 'metrics.jsonl'
    if not path.exists():
      return []
    whole, _, _ = path.read_text().rpartition('\n')
    return [json.loads(line) for line in whole.splitlines()]

  def _last_step(self):
    return max((line['step'] for line in self._lines()), default=0)

  def cpu_seconds(self):
    """CPU seconds by step, as far as it was trained."""
    path = self.folder / 'cpu.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(map(json.loads, lines))

  def evaluations(self):
    """The evaluations by step."""
    return {x['step']: x for x in self._lines() if x['kind'] == 'valid'}

  def score(self, steps):
    """The evaluation at a step; None if it is not reached."""
    return self.evaluations().get(steps)


def _used(pid):
  """User and system seconds of a process; None if it has ended."""
  try:
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
  except OSError:
    return None
  return sum(map(int, fields[11:13])) / os.sysconf('SC_CLK_TCK')


class Bench:
  """All runs of some sides."""

  def __init__(self, flags):
    self._flags = flags
    self._cores = queue.Queue()
    for core in flags.cores:
      self._cores.put(core)

  def _run(self, side, what, rate, seed):
    folder = Path(self._flags.output_dir) / side / what
    return Run(folder, side, self._flags.data, rate, seed)

  def _pinned(self, function, *arguments):
    core = self._cores.get()
    try:
      return function(*arguments, core)
    finally:
      self._cores.put(core)

  def steps(self, side, minutes):
    """Number of steps of a side in CPU minutes."""
    run = self._run(side, 'speed', self._flags.rates[0], 0)
    if max(run.cpu_seconds(), default=0) < _SPEED[-1]:
      steps = _N_EVALS * _SPEED[1]
      self._pinned(lambda core: run.train(steps, core, until=_SPEED[-1]))
    a, b, _, d, e = map(run.cpu_seconds().get, _SPEED)
    a_step = (b - a) / (_SPEED[1] - _SPEED[0])
    an_eval = max(0, e - d - (b - a))
    rest = 60 * minutes - e - (_N_EVALS - 2) * an_eval
    return max(_SPEED[-1], _SPEED[-1] + int(rest / a_step))

  def train(self, side, what, rate, seed, minutes):
    """A run that has trained for CPU minutes, and its number of steps."""
    steps = self.steps(side, minutes)
    run = self._run(side, what, rate, seed)
    self._pinned(lambda core: run.train(steps, core))
    return run, steps

  def best_rate(self, side):
    """The rate with which a side is best after a fifth of the time."""
    rates = self._flags.rates
    if len(rates) == 1:
      return rates[0]
    scores = {}
    for rate in rates:
      minutes = self._flags.minutes / 5
      run, steps = self.train(side, f'rate_{rate}', rate, 0, minutes)
      scores[rate] = run.score(steps)['bits_per_byte']
    grid = ', '.join(f'{rate}: {score:.3f}' for rate, score in scores.items())
    print(f'{side}: bits per byte by rate: {grid}', flush=True)
    return min(scores, key=scores.get)

  def side(self, side):
    """The rows of the table for a side, and its runs."""
    rate, rows = self.best_rate(side), []
    for seed in self._flags.seeds:
      what = f'seed_{seed}'
      run, steps = self.train(side, what, rate, seed, self._flags.minutes)
      rows.append((side, rate, seed, run, steps))
    return rows


def print_table(rows):
  """Prints what each run has reached."""
  print('side          rate  seed  CPU min  steps  Mtokens  bits per byte')
  for side, rate, seed, run, steps in rows:
    cpu = max(run.cpu_seconds().values()) / 60
    score = run.score(steps)
    more = [
      f'{name.partition("/")[2]} {value:.2f}'
      for name, value in score.items()
      if name.startswith('level_')
    ]
    print(
      f'{side:12} {rate:5} {seed:5} {cpu:8.1f} {steps:6} '
      f'{steps * _TOKENS / 1e6:8.2f} {score["bits_per_byte"]:14.3f}  '
      f'{", ".join(more)}',
      flush=True,
    )


def draw(rows, path):
  """Plots the curves of all runs."""
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
  for side, _, seed, run, _ in rows:
    times = run.cpu_seconds()
    found = run.evaluations()
    bits = [found[step]['bits_per_byte'] for step in sorted(found)]
    minutes = [
      min(t for x, t in times.items() if x >= step) / 60
      for step in sorted(found)
    ]
    tokens = [step * _TOKENS / 1e6 for step in sorted(found)]
    for ax, x in zip(axes, (minutes, tokens), strict=True):
      ax.plot(x, bits, marker='.', label=f'{side}, seed {seed}')
  axes[0].set(xlabel='CPU minutes', ylabel='bits per byte, held out')
  axes[1].set(xlabel='million tokens')
  axes[0].legend()
  figure.tight_layout()
  figure.savefig(path)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--sides', required=True, help='gin files, with commas')
  parser.add_argument('--data', required=True, help='a text, as TextFiles.path')
  parser.add_argument('--minutes', type=float, default=120)
  parser.add_argument('--output_dir', required=True)
  for name, kind, default in (
    ('cores', int, '0,1'),
    ('rates', float, '2e-3'),
    ('seeds', int, '0'),
  ):
    parser.add_argument(
      f'--{name}',
      type=lambda text, kind=kind: list(map(kind, text.split(','))),
      default=default,
    )
  flags = parser.parse_args()
  flags.data = str(Path(flags.data).resolve())
  sides = flags.sides.split(',')
  bench = Bench(flags)
  with concurrent.futures.ThreadPoolExecutor(len(flags.cores)) as pool:
    rows = [row for rows in pool.map(bench.side, sides) for row in rows]
  print_table(rows)
  draw(rows, Path(flags.output_dir) / 'curves.png')


if __name__ == '__main__':
  main()
