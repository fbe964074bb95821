"""README.md: its commands and code run, and the files that it names exist.

Code blocks run in order in one folder, so a block may use the files that the
blocks above it wrote. Later bindings reduce trainings to a smoke-test size.
"""

import argparse
import dataclasses
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from trax_hier import cli, config, trainer, trax_trainer
from trax_hier.storage import configurables  # noqa: F401

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
FENCE = re.compile(r'(?:<!-- (\w+) -->\n)?```(\w*)\n(.*?)\n```\n', re.DOTALL)
RESULTS = ROOT / 'benchmarks' / 'results'

SMOKE_SIZE = ['D_MODEL = 16', 'D_FF = 32', 'N_HEADS = 2']
SMOKE_SIZE += ['train.steps = 2', 'train.eval_every = 2']
# Linear resampling halves the compile time.
LINEAR = ['HourglassLM.shorten = @LinearShorten']
LINEAR += ['HourglassLM.upsample = @LinearUpsample']
# Files and bindings that reduce the sizes of a configuration and of its data.
SMOKE_SIZE_BY_FILE = {
  'hourglass/enwik8.gin': ['smoke.gin'],
  'scaling/800m_ff_qkv.gin': [],
  'quickstart.gin': [
    *LINEAR,
    'StandardLibrary.batch_size = 2',
    'StandardLibrary.length = 48',
  ],
  'text.gin': [
    *LINEAR,
    'TextFiles.batch_size = 2',
    'TextFiles.length = 48',
  ],
  'block_recurrent/books.gin': [
    'WINDOW = 16',
    'N_STATES = 8',
    'BlockRecurrentLM.n_layers = 2',
    'BlockRecurrentLM.recurrent_layers = (1,)',
    'DocumentLanes.length = 64',
  ],
  'terraformer/pairs_spans.gin': ['VOCAB_SIZE = 600'],
  'terraformer/pairs.gin': [
    'VOCAB_SIZE = 600',
    'TextPairs.source_length = 32',
    'TextPairs.target_length = 16',
  ],
}
MAINS = {'trax_hier.data.enwik8': 'trax_hier.data.enwik8'}
# Commands that `.ci/run` or the slow test below runs.
RUN_ELSEWHERE = {'python3 -m venv', 'pip install', 'ruff', 'pytest'}


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced block: the mark in the comment above it, language and text."""

  mark: str
  language: str
  text: str

  @property
  def file(self):
    """Name of the file that the first line says the block is, or ''."""
    named = re.match(r'# (\w+\.\w+)\n', self.text)
    return named[1] if named else ''

  def __str__(self):
    return re.sub(r'[^\w.=/-]+', ' ', self.text.splitlines()[-1])[:50].strip()


BLOCKS = [Block(*match) for match in FENCE.findall(README)]


def is_long(block):
  """Whether a block runs other models than the quickstart's."""
  files = set(
    re.findall(r'^\w.* --config_file=(?:gin/)?(\S+)', block.text, re.M)
  )
  others = files - {'quickstart.gin', 'text.gin'}
  return bool(others) or 'data.subwords' in block.text


def test_languages_of_blocks_are_known():
  assert {b.language for b in BLOCKS} == {'bash', 'gin', 'python', 'text'}
  assert README.count('```') == 2 * len(BLOCKS)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with the data and files that the README's commands read."""
  place = tmp_path_factory.mktemp('readme')
  words = [f'{"abcdefghij"[n % 10] * (n % 7 + 1)}{n * n}' for n in range(3000)]
  sentences = [' '.join(words[i : i + 9]) + '.' for i in range(0, 3000, 9)]
  for name in ('my.txt', 'train.txt', 'article.txt'):
    (place / name).write_text('\n'.join(sentences))
  (place / 'my_books').mkdir()
  for i in range(20):
    text = '\n'.join(sentences[10 * i : 10 * i + 30])
    (place / 'my_books' / f'{i}.txt').write_text(text)
  (place / 'pairs').mkdir()
  for name in ('train', 'valid', 'test'):
    pairs = [
      {'document': ' '.join(sentences[i : i + 3]), 'summary': sentences[i]}
      for i in range(8)
    ]
    lines = '\n'.join(map(json.dumps, pairs))
    (place / 'pairs' / f'{name}.jsonl').write_text(lines)
  (place / 'gin').symlink_to(ROOT / 'gin')
  for block in BLOCKS:
    if block.file:
      (place / block.file).write_text(block.text)
  return place


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
  monkeypatch.chdir(place)
  monkeypatch.syspath_prepend(str(place))
  yield
  config.clear()


def commands(text):
  """Yields the commands of a block, each as a list of words."""
  for line in text.replace('\\\n', ' ').splitlines():
    for command in line.split('&&'):
      yield shlex.split(command)


def with_smoke_size(arguments):
  """The flags of a training, with flags that reduce it to a smoke test."""
  arguments = list(arguments)
  (first, *_) = (x for x in arguments if x.startswith('--config_file='))
  file = first.removeprefix('--config_file=').removeprefix('gin/')
  more = SMOKE_SIZE_BY_FILE[file]
  if 'smoke.gin' in more:  # It sets the data.
    arguments = [x for x in arguments if not x.startswith('--config=DATA')]
  elif 'smoke' not in ' '.join(arguments):
    more = [*SMOKE_SIZE, *more]
  flags = ['config_file' if x.endswith('.gin') else 'config' for x in more]
  return [*arguments, *map('--{}={}'.format, flags, more)]


def run(words):
  """Runs a command in this process; returns its exit code."""
  config.clear()
  match words:
    case ['python', '-m', 'trax_hier.trainer', *arguments]:
      return trainer.main(with_smoke_size(arguments))
    case ['python', '-m', 'trax_hier.data.subwords' as module, *arguments]:
      smaller = re.sub(r'--size=\d+', '--size=300', shlex.join(arguments))
      return importlib.import_module(module).main(shlex.split(smaller))
    case ['trax-trainer', *arguments]:
      return trax_trainer.main([*arguments, '--config=train.steps = 2'])
    case ['trax-hier', 'describe', *_]:
      # The model has its published size and takes minutes to compile.
      arguments = [*words[1:], '--no_compile']
      if '--devices' not in ' '.join(words):
        return cli.main(arguments)
      # Devices must be simulated before JAX initializes.
      program = [sys.executable, '-m', 'trax_hier.cli', *arguments]
      return subprocess.run(program, check=False).returncode
    case ['trax-hier', *arguments]:
      return cli.main(arguments)
  raise AssertionError(f'no test runs {words}')


NAMES = {}  # Namespace of the Python blocks.


@pytest.mark.parametrize(
  'block',
  [
    pytest.param(b, marks=[pytest.mark.slow] * is_long(b), id=str(b))
    for b in BLOCKS
    if b.language != 'text'
  ],
)
def test_blocks(block, capsys):
  if block.language == 'bash':
    run_all(block.text, capsys)
  elif block.language == 'gin' and not block.file:
    describe(block, capsys)
  elif block.language == 'python' and not block.file:
    exec(block.text, NAMES)


def run_all(text, capsys):
  for words in commands(text):
    command = ' '.join(words)
    if command == '. .venv/bin/activate':
      continue
    if not command.startswith(tuple(RUN_ELSEWHERE)):
      assert run(words) == 0, (command, capsys.readouterr().err)


def describe(block, capsys):
  """Runs `describe` on the quickstart's model with the bindings of a block."""
  Path('block.gin').write_text(block.text)
  files = ['quickstart.gin', 'block.gin']
  flags = [f'--config_file={file}' for file in files]
  # Dynamic levels have slots of their own.
  is_dynamic = 'DynamicStack' in block.text
  flags += [f'--config={binding}' for binding in LINEAR if not is_dynamic]
  assert run(['trax-hier', 'describe', *flags]) == 0
  printed = capsys.readouterr().out
  for binding in re.findall(r'^(\S+) = ', block.text, re.MULTILINE):
    assert binding in printed


def test_results_of_python_blocks():
  assert NAMES['logits'].shape == (1, 94, 256)
  assert [len(row) for row in NAMES['new']] == [20, 20]
  assert NAMES['field'].shape == (94, 94)


def test_configurations_of_long_trainings_parse():
  n = 0
  for block in filter(is_long, BLOCKS):
    for words in commands(block.text):
      if words[2:3] == ['trax_hier.trainer']:
        parser = argparse.ArgumentParser()
        for name in ('config_file', 'config'):
          parser.add_argument(f'--{name}', action='append', default=[])
        parser.add_argument('--output_dir')
        flags = parser.parse_args(words[3:])
        config.clear()
        config.parse(flags.config_file, flags.config)
        n += 1
  assert n > 4


@pytest.mark.slow
@pytest.mark.parametrize('mark', ['quickstart', ''])
def test_installations(mark, tmp_path):
  (block,) = (b for b in BLOCKS if b.mark == mark and 'pip install' in b.text)
  clone = tmp_path / 'clone'
  subprocess.run(['git', 'clone', '-q', ROOT, clone], check=True)
  text = block.text if mark else f'python3 -m venv .venv\n{block.text}'
  text = text.replace('pip install', '.venv/bin/pip install')
  training = '-m trax_hier.trainer --config_file=gin/quickstart.gin'
  smoke = f'{training} --output_dir=smoke --config_file=smoke.gin'
  text = '\n'.join(x for x in text.splitlines() if training not in x)
  done = subprocess.run(
    ['bash', '-euo', 'pipefail', '-c', f'{text}\n.venv/bin/python {smoke}'],
    cwd=clone,
    check=False,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert (clone / 'smoke' / 'config.gin').is_file()


def test_file_tree_matches_the_repository():
  (tree,) = (b.text for b in BLOCKS if b.language == 'text')
  folder, named = ROOT, {}
  for line in tree.splitlines():
    indent, name = re.match(r'( *)(\S+)', line).groups()
    if len(indent) > 2:
      continue
    path = (folder if indent else ROOT) / name
    assert path.exists(), name
    folder = folder if indent else path
    named.setdefault(folder, set()).add(name.rstrip('/'))
  package = ROOT / 'trax_hier'
  public = {p.name for p in package.iterdir() if not re.match(r'[_.]', p.name)}
  assert named[package] - {'trax_hier'} == public


def test_linked_files_exist():
  links = re.findall(r'\]\(([^)#]+)\)', README)
  files = [link for link in links if '://' not in link]
  assert len(files) > 8
  assert [file for file in files if not (ROOT / file).is_file()] == []


def test_named_gin_files_exist():
  names = re.findall(r'`((?:\w+/)*\w+\.gin)`', README)
  gin_files = [n for n in names if n not in ('config.gin', 'gated.gin')]
  assert len(gin_files) > 30
  missing = [n for n in gin_files if not (ROOT / 'gin' / n).is_file()]
  assert missing == []


class Parsed(Exception):
  """Raised after a program has parsed its flags without an error."""


@pytest.fixture
def parsed(monkeypatch):
  """Makes programs raise `Parsed` once they have parsed their flags."""
  parse = argparse.ArgumentParser.parse_args

  def parse_and_stop(self, *arguments):
    parse(self, *arguments)
    raise Parsed

  monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_stop)


def test_commands_of_the_results_are_those_on_record(monkeypatch, parsed):
  lines = '\n'.join(path.read_text() for path in RESULTS.glob('*.txt'))
  recorded = re.findall(r'^\$ (.*?)(?:  #.*)?$', lines, re.MULTILINE)
  rows = re.findall(r'^\|.*\| (.+) \|$', README, re.MULTILINE)
  found = re.findall(r'`(python benchmarks/\w+\.py[^`]*)`', '\n'.join(rows))
  assert len(found) > 15
  monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
  for command in found:
    assert command in recorded
    _, script, *flags = command.split()
    monkeypatch.setattr(sys, 'argv', [script, *flags])
    spec = importlib.util.spec_from_file_location('script', ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(Parsed):
      module.main()


def test_named_extras_exist():
  settings = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  extras = settings['project']['optional-dependencies']
  named = re.findall(r"-e '\.\[([\w,]+)\]'", README)
  assert {x for names in named for x in names.split(',')} <= set(extras)


def test_programs_in_the_text_accept_their_flags(parsed):
  # These programs download files or print their flags.
  inline = re.findall(r'`(?:python -m|trax-hier) [^`]+`', README)
  assert len(inline) > 3
  for command in inline:
    program, *words = shlex.split(command.strip('`'))
    if program == 'trax-hier':
      main = cli.main
    else:
      _, name, *words = words
      main = importlib.import_module(MAINS.get(name, name)).main
    with pytest.raises((Parsed, SystemExit)) as stopped:
      main(words)
    assert getattr(stopped.value, 'code', 0) == 0, command
