"""The program trax-hier: help, bad flags, error messages and exit codes."""

import atexit
import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from trax_hier import cli
from trax_hier.commands import flags
from trax_hier.commands.failures import fail
from trax_hier.data import Synthetic
from trax_hier.training import CheckpointError


@pytest.mark.parametrize(
  'arguments, word',
  [
    (['--help'], 'generate'),
    (['generate', '--help'], '--prompt_file'),
    (['evaluate', '--help'], 'beginning-of-sequence'),
  ],
)
def test_help_imports_nothing_heavy(arguments, word):
  code = f"""
import sys
from trax_hier import cli
try:
  cli.main({arguments})
finally:
  assert not {{'jax', 'numpy', 'trax', 'gin'}} & sys.modules.keys()
"""
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stderr) == (0, '')
  assert word in done.stdout


def test_the_program_is_installed():
  path = Path(__file__).parents[2] / 'pyproject.toml'
  scripts = tomllib.loads(path.read_text())['project']['scripts']
  module, _, function = scripts['trax-hier'].partition(':')
  assert getattr(importlib.import_module(module), function) is cli.main


@pytest.mark.parametrize(
  'arguments, message',
  [
    ([], 'COMMAND'),
    (['evaluate'], '--run'),
    (['evaluate', '--run=x', '--split=train'], "'valid', 'test'"),
    (['generate', '--run=x', '--prompt=a', '--prompt_file=b'], 'not allowed'),
    (['generate', '--run=x', '--precision=int4'], "'int8'"),
    (['generate', '--run=x', '--top_k=many'], '--top_k'),
    (['generate', '--run=x', '--source=a', '--source_file=b'], 'not allowed'),
  ],
)
def test_bad_flags(arguments, message, capsys):
  with pytest.raises(SystemExit) as e:
    cli.main(arguments)
  assert e.value.code == 2
  assert message in capsys.readouterr().err


@pytest.mark.parametrize(
  'flag, message',
  [
    ('--devices=10001', 'at most 10,000'),
    ('--devices=' + 5000 * '9', "at least 1, got '999"),
    ('--depth=' + 5000 * 'x', "at least 1, got 'xxx"),
    ('--batch=99999,99999', 'at most 536,870,912 tokens'),
    ('--batch=8,536870912', 'at most 536,870,912 tokens'),
    ('--batch=' + 5000 * 'x', "such as '8,512', got 'xxx"),
  ],
)
def test_bad_flags_of_describe(flag, message, capsys):
  with pytest.raises(SystemExit) as e:
    cli.main(['describe', '--config_file=x.gin', flag])
  assert e.value.code == 2
  err = capsys.readouterr().err.splitlines()[-1]
  assert message in err and len(err) < 300


@pytest.mark.parametrize(
  'command, flag',
  [
    ('evaluate', '--run=--'),
    pytest.param(
      *('evaluate', '--step=--'),
      marks=pytest.mark.skipif(
        sys.version_info >= (3, 12), reason='argparse refuses it'
      ),
    ),
    ('evaluate', '--config=--'),
    ('generate', '--stop=--'),
    ('export', '--output=--'),
    ('describe', '--config_file=--'),
  ],
)
def test_python_loses_a_value_of_two_dashes(program, command, flag):
  others = {'run': '--run=x', 'output': '--output=x'}
  others.pop(flag.partition('=')[0][2:], None)
  if command != 'export':
    others.pop('output', None)
  if command == 'describe':
    others.clear()
  code, out, err = program(command, *others.values(), flag)
  # Later versions of Python take the two dashes for the value.
  lost = f'trax-hier {command}: {flag}: -- is not a value\n'
  assert (code, out) == (2, '')
  assert err == lost or sys.version_info >= (3, 12)


@pytest.mark.parametrize('name', [5000 * 'x', 'x\x1b[31m', 'a\0b', ''])
@pytest.mark.parametrize(
  'flags',
  [
    ['evaluate', '--run={}'],
    ['compare', '{}', '{}'],
    ['describe', '--run={}'],
    ['describe', '--config_file={}'],
    ['import_trax', '--config_file={}', '--weights=x', '--output=x'],
  ],
)
def test_odd_names_of_files(program, flags, name):
  code, out, err = program(*(flag.format(name) for flag in flags))
  assert (code, out) == (2, '')
  assert len(err) < 6000 and err[:-1].isprintable()


def test_messages_do_not_control_the_terminal(capsys):
  text = 'a \x1b]0;b\x07\r\u2028 c\n\td é' + 9999 * 'e'
  assert fail('p', text, 2) == 2
  err = capsys.readouterr().err
  assert err.startswith(r'p: a \x1b]0;b\x07\r\u2028 c' + '\n\td é')
  assert 4000 < len(err) < 4100


@pytest.mark.parametrize('name', ['evaluate', 'generate'])
@pytest.mark.parametrize(
  'flags, code, message',
  [
    (['--run={run}/nowhere'], 2, 'no such folder'),
    (['--run={run}/checkpoints'], 2, 'it has no config.gin'),
    (['--run={run}', '--step=3'], 2, 'of these steps: 2, 4'),
    (['--run={run}', '--config=train.stepz = 1'], 2, "parameter 'stepz'"),
    (['--run={run}', '--config=HourglassLM.d_model = 6'], 1, 'another model'),
    (['--run={run}', '--config=HourglassLM.n_heads = 3'], 2, 'n_heads = 3'),
  ],
)
def test_errors_are_one_message(program, tiny_run, name, flags, code, message):
  flags = [flag.format(run=tiny_run.folder) for flag in flags]
  prompt = ['--prompt=a'] * (name == 'generate')
  found, out, err = program(name, *flags, *prompt)
  assert (found, out) == (code, '')
  assert err.startswith(f'trax-hier {name}: ') and message in err
  assert len(err.strip().splitlines()) == 1


def test_a_run_without_checkpoints_is_code_1(program, fake_run):
  run = fake_run(Synthetic('copy', 2, 16))

  def load_weights(*_):
    raise CheckpointError('there are no checkpoints')

  run.load_weights = load_weights
  code, out, err = program('evaluate', '--run=x')
  assert (code, out) == (1, '')
  assert err == 'trax-hier evaluate: there are no checkpoints\n'


def test_ctrl_c_is_code_130(program, monkeypatch):
  def interrupt(*_):
    raise KeyboardInterrupt

  ends = []
  monkeypatch.setattr(atexit, 'register', lambda *args: ends.append(args))
  monkeypatch.setattr(flags, 'check_files', interrupt)
  code, out, err = program('evaluate', '--run=x')
  assert (code, out, err) == (130, '', 'trax-hier evaluate: interrupted\n')
  assert ends == [(os._exit, 130)]


def test_gin_files_may_import_from_the_working_directory(
  monkeypatch, tmp_path, program
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])
  Path('module_of_mine.py').write_text('', encoding='utf-8')
  program('describe', '--config_file=quickstart.gin', '--config=x = 1')
  assert str(tmp_path) not in sys.path
  both = '--config=import module_of_mine', '--config=x = 1'
  assert program('describe', '--config_file=quickstart.gin', *both)[0] == 2
  assert sys.modules.pop('module_of_mine') and sys.path[0] == str(tmp_path)


def test_flags_may_have_dashes(program, tmp_path):
  code, _, err = program(
    'import_trax',
    '--config-file=x.gin',
    f'--weights={tmp_path}',
    f'--output={tmp_path}',
  )
  assert code == 2 and "no gin file 'x.gin'" in err


def test_output_that_is_not_utf8(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'trax_hier.cli', 'compare', 'Größe', 'Größe'],
    capture_output=True,
    env=os.environ | {'PYTHONIOENCODING': 'ascii'},
    cwd=tmp_path,
    check=False,
  )
  assert (
    done.returncode == 2 and b'Gr\\xf6\\xdfe: no such folder' in done.stderr
  )


@pytest.mark.parametrize('path', ['~nosuchuser/x', '~nosuchuser'])
def test_an_unknown_home(program, path):
  for command in (
    ['evaluate', f'--run={path}'],
    ['generate', '--run=x', f'--prompt_file={path}'],
    ['compare', path, path],
  ):
    code, _, err = program(*command)
    assert code == 2 and len(err.splitlines()) == 1
