"""CPU seconds from a command to its first result, cold and warm.

    python benchmarks/startup.py [--against=COMMIT] [--setting=NAME=VALUE]
        [--rounds=1] [--stages=train,deep,generate,describe,abstract]

Each command runs in a process of its own, first with an empty cache of compiled
programs (cold), then again with the cache that it left (warm). With --against,
the code of another commit runs the same commands alternately; with --setting,
this code with an environment variable does. Figures are user and system seconds
of the whole process; a machine that is busy with other work inflates them. With
several rounds, they are medians.

* first step: from the command of a training run of the quickstart's model
  until the line of its first step is printed.
* deep first step: the same for hourglass/enwik8.gin with its 34 blocks, d 16.
* closing sample: in the same run, which ends after that step, from the line of
  the evaluation until the process has ended: the probes, the sample of 256
  tokens, the end of the checkpoint's writing.
* first token: the whole process of `generate` for one token after a prompt of
  40 bytes. Its cache is not that of the training run.
* describe: the whole process of `describe --no_compile`.
* abstract init: only the abstract initialization of hourglass/enwik8.gin, which
  has 24 shortened and 10 other blocks, without imports.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_GOALS = {  # CPU seconds on an idle machine, cold and warm.
  'first step': (25, 7),
  'closing sample': (10, 3),
  'first token': (12, 4),
  'describe': (4, 4),
  'abstract init': (3, 3),
}
_PROMPT = 'def initialize(self, value, default=0): '
_TICKS = os.sysconf('SC_CLK_TCK')
_ABSTRACT_INIT = """
import time
import trax_hier.storage.configurables
from trax_hier import config
from trax_hier.commands.jax_settings import set_up_jax
from trax_hier.training.state import abstract_init, token_shapes
set_up_jax()
config.parse(['hourglass/enwik8.gin'], ["DATA = ''"])
layer = config.value('train.model')(mode='eval')
start = time.process_time()
abstract_init(layer, token_shapes((8, 2049)))
print('seconds', time.process_time() - start)
"""


@dataclasses.dataclass(frozen=True)
class Code:
  """A version of the code, and a folder for what it writes.

  Attributes:
    name: Name in the table.
    tree: Folder that holds the package.
    folder: Folder of its cache of programs and its run.
    settings: Further variables of the environment.
  """

  name: str
  tree: pathlib.Path
  folder: pathlib.Path
  settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def cache(self) -> pathlib.Path:
    """The folder that holds the cache of programs."""
    return self.folder / 'cache'

  @property
  def run(self) -> pathlib.Path:
    """The folder of the training run."""
    return self.folder / 'run'

  def environment(self) -> dict[str, str]:
    """Environment variables of its processes."""
    inherited = os.environ.copy()
    inherited.pop('JAX_COMPILATION_CACHE_DIR', None)
    return (
      inherited
      | {
        'PYTHONPATH': str(self.tree),
        'PYTHONUNBUFFERED': '1',
        'XDG_CACHE_HOME': str(self.cache),
      }
      | self.settings
    )


def cpu_seconds(
  code: Code, command: Sequence[str], marks: Mapping[str, str]
) -> dict[str, float]:
  """Runs a Python command; returns its CPU seconds at marks and at its end.

  Args:
    code: The code to run.
    command: Arguments of Python.
    marks: For each mark, a regular expression; the first line of the output
      that matches it sets the mark.

  Returns:
    The seconds by mark; those of the whole process by 'end'.

  Raises:
    RuntimeError: The command fails, or prints no such line.
  """
  child = subprocess.Popen(
    [sys.executable, *command],
    env=code.environment(),
    cwd=code.folder,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    errors='replace',
  )
  seconds, lines = {}, []
  for line in child.stdout:
    lines.append(line)
    for name, pattern in marks.items():
      if name not in seconds and re.search(pattern, line):
        seconds[name] = _seconds_so_far(child.pid)
  _, status, usage = os.wait4(child.pid, 0)
  child.returncode = os.waitstatus_to_exitcode(status)
  if child.returncode or seconds.keys() != marks.keys():
    raise RuntimeError(f'{command} of {code.name}:\n{"".join(lines)}')
  return seconds | {'end': usage.ru_utime + usage.ru_stime}


def _seconds_so_far(pid):
  """CPU seconds of all threads of a running process."""
  stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  # The name of the program, in parentheses, may hold spaces.
  fields = stat.rpartition(')')[2].split()
  user, system = map(int, fields[11:13])
  return (user + system) / _TICKS


def train(code: Code) -> dict[str, float]:
  """Seconds of the first training step and of the closing sample."""
  # A small text of which the evaluation takes no time.
  data = f"--config=DATA = '{argparse.__file__}'"
  seconds = _train(
    code, ['--config_file=text.gin', data], evaluated='^held-out at step 1'
  )
  return {
    'first step': seconds['first step'],
    'closing sample': seconds['end'] - seconds['evaluated'],
  }


def deep(code: Code) -> dict[str, float]:
  """Seconds of the first training step of a deep model."""
  files = ['--config_file=hourglass/enwik8.gin', '--config_file=smoke.gin']
  return {'deep first step': _train(code, files)['first step']}


def _train(code, flags, **marks):
  """`cpu_seconds` of a training of one step."""
  shutil.rmtree(code.run, ignore_errors=True)
  command = [
    *('-m', 'trax_hier.trainer', *flags, f'--output_dir={code.run}'),
    *('--config=train.steps = 1', '--config=train.eval_every = 1'),
  ]
  return cpu_seconds(code, command, {'first step': r'^step 1/1\b', **marks})


def generate(code: Code) -> dict[str, float]:
  """Seconds of `generate` for one token; needs the run of `train`."""
  command = [
    *('-m', 'trax_hier.cli', 'generate', f'--run={code.run}'),
    *(f'--prompt={_PROMPT}', '--n_tokens=1'),
  ]
  return {'first token': cpu_seconds(code, command, {})['end']}


def describe(code: Code) -> dict[str, float]:
  """Seconds of `describe` without compilation."""
  command = [
    *('-m', 'trax_hier.cli', 'describe', '--config_file=quickstart.gin'),
    '--no_compile',
  ]
  return {'describe': cpu_seconds(code, command, {})['end']}


def abstract(code: Code) -> dict[str, float]:
  """Seconds of the abstract initialization of a deep model."""
  output = subprocess.check_output(
    [sys.executable, '-c', _ABSTRACT_INIT],
    env=code.environment(),
    cwd=code.folder,
    text=True,
  )
  return {'abstract init': float(re.search(r'seconds (\S+)', output)[1])}


_STAGES = {f.__name__: f for f in (train, deep, generate, describe, abstract)}


def measure(stage: Callable, code: Code) -> dict[str, tuple[float, float]]:
  """The cold and the warm seconds of a stage."""
  shutil.rmtree(code.cache, ignore_errors=True)
  if stage is generate and not code.run.is_dir():
    train(code)
    shutil.rmtree(code.cache)
  cold, warm = stage(code), stage(code)
  return {name: (cold[name], warm[name]) for name in cold}


def unpack(commit: str, folder: pathlib.Path) -> pathlib.Path:
  """Writes the files of a commit to a folder, and returns it."""
  archive = subprocess.check_output(['git', 'archive', commit], cwd=_ROOT)
  subprocess.run(['tar', '-x'], cwd=folder, input=archive, check=True)
  return folder


@contextlib.contextmanager
def versions(against: str | None, setting: str | None) -> Iterator[list[Code]]:
  """This code, that of another commit, and this one with a setting."""
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    codes = [Code('this code', _ROOT, folder / 'this')]
    if against is not None:
      tree = folder / 'tree'
      tree.mkdir()
      codes.append(Code(against, unpack(against, tree), folder / 'other'))
    if setting is not None:
      name, _, value = setting.partition('=')
      codes.append(Code(setting, _ROOT, folder / 'set', {name: value}))
    for code in codes:
      code.folder.mkdir()
    yield codes


def main() -> None:
  """Measures and prints a table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--against', metavar='COMMIT')
  parser.add_argument('--setting', metavar='NAME=VALUE')
  parser.add_argument('--rounds', type=int, default=1)
  parser.add_argument('--stages', default='train,generate,describe,abstract')
  arguments = parser.parse_args()
  measured = {}
  with versions(arguments.against, arguments.setting) as codes:
    for stage in map(_STAGES.get, arguments.stages.split(',')):
      for _ in range(arguments.rounds):
        for code in codes:
          for name, seconds in measure(stage, code).items():
            measured.setdefault((name, code.name), []).append(seconds)
            print(f'{name:18}{code.name:26}', *map('{:7.1f}'.format, seconds))
  print(f'\n{"":44}{"cold":>8}{"goal":>6}{"warm":>8}{"goal":>6}')
  for (name, code), rounds in sorted(measured.items()):
    line = f'{name:18}{code:26}'
    both = zip(*rounds, strict=True)
    for values, goal in zip(both, _GOALS.get(name, ('', '')), strict=True):
      line += f'{statistics.median(values):8.1f}{goal:>6}'
    print(line)


if __name__ == '__main__':
  main()
