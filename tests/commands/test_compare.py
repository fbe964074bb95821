"""`trax-hier compare`: tables, plot, errors."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from trax_hier import cli
from trax_hier.commands import compare_curves as curves
from trax_hier.commands.compare import _differences, _Run

CONFIG = """
D_MODEL = {d_model}
train.model = @TransformerLM
TransformerLM.d_model = %D_MODEL
TransformerLM.block = \\
    @DecoderBlock
train.data = @TextFiles()
TextFiles.batch_size = {batch_size}
TextFiles.length = 32
"""


def train_line(step, bits, speed):
  return dict(
    kind='train',
    step=step,
    loss=bits / 2,
    learning_rate=step / 1000,
    grad_norm=0.5,
    bits_per_byte=bits,
    tokens_per_second=speed,
  )


@pytest.fixture
def make(tmp_path):
  """Makes the folder of a run whose scores fall from 8 to `end`."""

  def run(name, end=2.0, lines=None, d_model=8, batch_size=4, steps=100):
    folder = tmp_path / name
    folder.mkdir(parents=True)
    text = CONFIG.format(d_model=d_model, batch_size=batch_size)
    (folder / 'config.gin').write_text(text)
    if lines is None:
      bits = np.linspace(8, end, steps // 10)
      speeds = [0.0, *range(1001, 1000 + len(bits))]
      lines = [
        train_line(10 * i + 10, b, s)
        for i, (b, s) in enumerate(zip(bits, speeds, strict=True))
      ]
      for step, score in ((steps // 2, end - 0.1), (steps, end + 0.1)):
        lines += [dict(kind='valid', step=step, loss=1, bits_per_byte=score)]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'metrics.jsonl').write_text(text)
    return str(folder)

  return run


@pytest.fixture
def compare(capsys):
  """Runs the command; returns code, stdout, stderr."""

  def run(*arguments):
    code = cli.main(['compare', *map(str, arguments)])
    return (code, *capsys.readouterr())

  return run


def cells(out):
  """The rows of the tables, by their first column."""
  rows = [line.split('  ') for line in out.splitlines() if line]
  rows = [[cell.strip() for cell in row if cell.strip()] for row in rows]
  return {row[0]: row[1:] for row in rows}


def test_metrics(make, compare):
  code, out, err = compare(make('a'), make('b', end=3.0, steps=200))
  assert (code, err) == (0, '')
  rows = cells(out)
  assert rows['a'] == ['b']
  assert rows['steps'] == ['100', '200']
  assert rows['tokens seen'] == ['12,800', '25,600']
  # The median skips the first speed, which is 0.
  assert rows['tokens per second, median'] == ['1,005', '1,010']
  assert rows['learning rate, last'] == ['0.1', '0.2']
  assert rows['gradient norm, last'] == ['0.5', '0.5']
  assert rows['training bits per byte, last'] == ['2', '3']
  assert rows['held-out bits per byte, last'] == [
    '2.1000 (step 100)',
    '3.1000 (step 200)',
  ]
  assert rows['held-out bits per byte, best'] == [
    '1.9000 (step 50)',
    '2.9000 (step 100)',
  ]
  assert out.endswith('\nsettings: identical\n')


def test_evaluations_of_different_coverage_are_not_compared(make, compare):
  def evaluation(step, bits, **more):
    return dict(kind='valid', step=step, loss=1, bits_per_byte=bits, **more)

  lines = [
    train_line(10, 2.0, 0.0),
    evaluation(10, 1.0),  # Of an earlier version: whole.
    evaluation(20, 3.0, coverage=0.25),
    evaluation(30, 4.0, coverage=0.25),
  ]
  rows = cells(compare(make('a', lines=lines), make('b'))[1])
  assert rows['held-out bits per byte, best'][0] == '3.0000 (step 20)'
  assert rows['held-out scores are of'] == [
    '25% of the split (1 of another share left out)',
    'the whole split',
  ]


def test_a_probe_may_be_logged_first(make, compare):
  probe = dict(kind='look', step=5, mean_gate=0.5)
  lines = [probe, train_line(10, 2.0, 0.0), train_line(20, 1.0, 9.0)]
  code, out, err = compare(make('a', lines=lines), make('b'))
  assert (code, err) == (0, '') and 'bits per byte' in out
  code, _, err = compare(make('c', lines=[probe]), make('d'))
  assert code == 2 and 'no metrics have been logged yet' in err


def test_columns_are_aligned(make, compare):
  _, out, _ = compare(
    make('a'), make('a_longer_name'), make('b', d_model=123456)
  )
  numbers, settings = out.rstrip().split('\n\n')
  for table in (numbers, settings):
    assert len({len(line) for line in table.splitlines()}) == 1


def test_settings_that_differ(make, compare):
  runs = make('a'), make('b', d_model=16), make('c', d_model=16, batch_size=8)
  _, out, _ = compare(*runs)
  table = out.split('\n\n')[1]
  assert cells(table) == {
    'settings that differ': ['a', 'b', 'c'],
    'TransformerLM.d_model': ['8', '16', '16'],
    'TextFiles.batch_size': ['4', '4', '8'],
  }


def test_missing_and_long_settings():
  runs = [
    _Run([], [], {'x.a': '1', 'x.b': "'" + 60 * 'b' + "'"}, 'a'),
    _Run([], [], {'x.b': '2'}, 'b'),
  ]
  _, a, b = _differences(runs)
  assert a.split() == ['x.a', '1', '-']
  assert b.split() == ['x.b', "'" + 46 * 'b' + '…', '2']


def test_runs_of_other_units_and_without_evaluations(make, compare):
  token = train_line(10, 5.0, 0.0)
  token['bits_per_token'] = token.pop('bits_per_byte')
  _, out, _ = compare(make('a'), make('b', lines=[token]))
  rows = cells(out)
  assert rows['held-out bits per byte, best'] == ['1.9000 (step 50)', '-']
  assert rows['training bits per byte, last'] == ['2', '-']
  assert rows['training bits per token, last'] == ['-', '5']
  assert rows['held-out bits per token, last'] == ['-', '-']
  assert rows['tokens per second, median'] == ['1,005', '-']


def test_names_are_the_shortest_that_differ(make, compare):
  _, out, _ = compare(make('x/run'), make('y/run'))
  assert out.splitlines()[0].split() == ['x/run', 'y/run']


def test_unknown_token_counts_are_not_guessed(make, compare):
  folder = make('a')
  config = f'{folder}/config.gin'
  with open(config, 'a') as file:
    file.write('TextFiles.length = None\n')
  _, out, _ = compare(folder, make('b'))
  assert cells(out)['tokens seen'] == ['-', '12,800']


@pytest.mark.parametrize('batch_sizes, n_panels', [((4, 4), 1), ((4, 8), 2)])
def test_size_of_the_plot(make, compare, tmp_path, batch_sizes, n_panels):
  runs = [make(f'{n}{i}', batch_size=n) for i, n in enumerate(batch_sizes)]
  file = tmp_path / 'plot.png'
  code, out, _ = compare(*runs, f'--output={file}')
  assert code == 0 and out.endswith(f'\nplot: {file}\n')
  with Image.open(file) as image:
    assert image.size == (150 * (9 + 5 * (n_panels - 1)), 825)
    assert len(image.convert('RGB').getcolors(1 << 20)) > 50


def test_contents_of_the_plot(monkeypatch, tmp_path):
  figures = []
  monkeypatch.setattr(
    curves.Figure, 'savefig', lambda figure, *_, **__: figures.append(figure)
  )
  runs = [
    curves.Curves(
      name=f'run {size}',
      score='bits_per_byte',
      train=[(i, 9.0 if i == 0 else 4.0) for i in range(0, 400, 10)],
      valid=[(200, 3.0), (400, 2.0)],
      batch_tokens=size,
    )
    for size in (10, 20)
  ]
  curves.plot(runs, 'x.png')
  (figure,) = figures
  by_step, by_token = figure.axes
  assert (
    by_step.get_xlabel() == 'step' and by_token.get_xlabel() == 'tokens seen'
  )
  assert by_step.get_ylabel() == 'bits per byte'
  for axis, factors in ((by_step, (1, 1)), (by_token, (10, 20))):
    _, valid, _, other = axis.get_lines()
    for line, factor in zip((valid, other), factors, strict=True):
      np.testing.assert_array_equal(
        line.get_xydata(), [(200 * factor, 3), (400 * factor, 2)]
      )
  # The scores of the first steps do not set the scale.
  low, high = by_step.get_ylim()
  assert 1.5 < low < 2 and 4 < high < 6
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == [
    'run 10: training, smoothed',
    'run 20: training, smoothed',
    'run 10: held out',
    'run 20: held out',
  ]


@pytest.mark.parametrize('name', ['compare', 'export', 'import_trax'])
def test_help_imports_nothing_heavy(name):
  code = f"""
import sys
from trax_hier import cli
try:
  cli.main(['{name}', '--help'])
finally:
  heavy = {{'jax', 'numpy', 'trax', 'gin', 'matplotlib'}}
  assert not heavy & sys.modules.keys()
"""
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stderr) == (0, '')
  assert '--output' in done.stdout


def test_smoothing_keeps_means_and_length():
  scores = np.random.default_rng(0).normal(size=100)
  smooth = curves._smooth(scores)
  assert smooth.shape == (100,)
  np.testing.assert_allclose(smooth[50], scores[48:53].mean())
  np.testing.assert_allclose(smooth[0], scores[:3].mean())
  np.testing.assert_allclose(smooth[-1], scores[-3:].mean())
  np.testing.assert_array_equal(curves._smooth(scores[:5]), scores[:5])


def test_errors_are_one_message(make, compare, tmp_path):
  good, empty = make('good'), make('empty', lines=[])
  other = make('other', lines=[dict(kind='train', step=1, loss=2.0)])
  (tmp_path / 'folder').mkdir()
  for arguments, message in (
    ([good], 'give at least two run directories'),
    ([good, f'{good}/'], 'the same run is given twice'),
    ([good, tmp_path / 'none'], f'{tmp_path}/none: no such folder'),
    ([good, tmp_path / 'folder'], 'not a run directory: it has no config'),
    ([good, empty], f'{empty}: no metrics have been logged yet'),
    ([good, other], 'metrics.jsonl has no bits_per_... metric'),
    ([good, empty, '--output=x.pdf'], 'the name must end in .png'),
    ([good, empty, '--output=no/x.png'], 'its folder does not exist'),
  ):
    code, out, err = compare(*arguments)
    assert (code, out, len(err.splitlines())) == (2, '', 1)
    assert err.startswith('trax-hier compare: ') and message in err


def test_damaged_lines_are_skipped_and_said(make, capsys):
  bad = ['null', '{}', '{"kind": "train", "step": 3}', '{"kind": "va']
  whole, damaged = make('whole'), make('damaged')
  assert cli.main(['compare', whole, damaged]) == 0
  expected = capsys.readouterr().out
  with open(f'{damaged}/metrics.jsonl') as file:
    lines = file.read().splitlines()
  with open(f'{damaged}/metrics.jsonl', 'w') as file:
    file.write('\n'.join([bad[2], lines[0], *bad, *lines[1:]]) + '\n')
  assert cli.main(['compare', whole, damaged]) == 0
  out, err = capsys.readouterr()
  assert out == expected
  assert err.count('\n') == 1 and '3 of ' in err and 'line 3' in err
