"""`trax-hier describe`: its sections, errors."""

import contextlib
import io
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from messages import messages

from trax_hier import cli, config
from trax_hier.commands import printing
from trax_hier.commands.describe_sections import print_parameters
from trax_hier.commands.describe_zero_batches import ZeroBatches
from trax_hier.inspection.layer_tree import Node

TINY = """
include 'base/adam.gin'
include 'base/transformer.gin'

VOCAB_SIZE = 256
D_MODEL = 16
D_FF = 32
N_HEADS = 2
DROPOUT = 0.1
TransformerLM.n_layers = 3
TransformerLM.positions = @NoPositions
TransformerLM.block = @inner/deep/DecoderBlock
inner/LayerNorm.epsilon = 1e-5
Dense.use_bias = True
multifactor.constant = 1e-3
train.data = @TextFiles()
TextFiles.path = 'nowhere/to/be/found'
TextFiles.batch_size = 4
TextFiles.length = 8
train.steps = 10
"""
# Parameters of a block: attention projections, feed-forward, two norms.
BLOCK = 4 * (16 * 16 + 16) + 2 * 16 * 32 + 32 + 16 + 2 * 2 * 16
# Embedding, norm, logits.
N_PARAMS = 256 * 16 + 3 * BLOCK + 2 * 16 + 16 * 256 + 256
BATCH = '--batch=4,8'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A run directory with config.gin, whose data are missing."""
  folder = tmp_path_factory.mktemp('describe')
  (folder / 'config.gin').write_text(TINY)
  return folder


@pytest.fixture
def describe(capsys):
  """Runs `trax-hier describe`; returns code, stdout, stderr."""

  def run(*flags):
    code = cli.main(['describe', *map(str, flags)])
    out, err = capsys.readouterr()
    return code, out, messages(err)

  return run


def sections(out):
  """The lines of each section by its title; '' is the summary."""
  texts = re.split(r'\n(.+)\n-+\n', out)
  return dict(
    zip(['', *texts[1::2]], map(str.splitlines, texts[::2]), strict=True)
  )


def rows(lines):
  """Cells, separated by two spaces or more, by the first cell of each line."""
  cells = (re.split(r'\s{2,}', line.strip()) for line in lines if line)
  return {first: rest for first, *rest in cells}


@pytest.fixture(scope='module')
def shown(folder):
  """The sections that describe a tiny model, compiled."""
  # The includes of a run's own config.gin need trust.
  flags = [f'--run={folder}', '--trust_code', BATCH, '--depth=9']
  flags.append('--config=train.seed = 3')
  with contextlib.redirect_stdout(io.StringIO()) as out:
    assert cli.main(['describe', *flags]) == 0
  config.clear()
  return sections(out.getvalue())


def test_the_summary(shown):
  model, data, devices = shown['']
  assert model == f'model: TransformerLM, {N_PARAMS:,} parameters'
  assert data == 'data: none; batches of 4 rows of 8'
  n = jax.device_count()
  assert devices == f'devices: {n} x cpu (data {n}, fsdp 1)'


def line_of(text):
  return TINY[: TINY.index(text)].count('\n') + 1


def test_values_and_their_origins(shown, folder):
  file = os.path.relpath(folder / 'config.gin')
  file = str(folder / 'config.gin') if file.startswith('..') else file
  table = rows(shown['Configuration'])
  at = {text: f'{file}:{line_of(text)}' for text in TINY.splitlines()[4:]}
  assert table['D_MODEL'] == ['16', at['D_MODEL = 16']]
  # Value and origin are those of the macro.
  assert table['TransformerLM.d_model'] == [
    '16',
    f'{at["D_MODEL = 16"]} (D_MODEL)',
  ]
  layers = 'TransformerLM.n_layers = 3'
  assert table['TransformerLM.n_layers'] == ['3', at[layers]]
  assert table['TransformerLM.max_len'] == ['2048', 'default']
  assert table['train.seed'] == ['3', '--config']
  assert table['train.eval_every'] == ['1000', 'default']
  assert table['train.steps'] == ['10', at['train.steps = 10']]
  # A binding applies in its own scope and in nested scopes.
  epsilon = 'inner/LayerNorm.epsilon = 1e-5'
  assert table['inner/deep/LayerNorm.epsilon'] == ['1e-05', at[epsilon]]
  assert table['LayerNorm.epsilon'] == ['1e-06', 'default']
  bias = at['Dense.use_bias = True']
  assert table['inner/deep/Dense.use_bias'] == ['True', bias]
  # An included file.
  assert re.fullmatch(r'.*base/adam.gin:\d+', table['Adam.b2'][1])
  # Only callers set these; gin cannot bind the last three.
  hidden = 'output_dir', 'accept_changes', 'before_compile', 'probe'
  assert not {f'train.{name}' for name in hidden} & table.keys()
  assert not any(name.startswith('trax.') for name in table)


def test_the_layers(shown):
  lines = shown['Layers']
  table = rows(lines)
  assert table['TransformerLM'] == [
    f'{N_PARAMS:,}',
    '(4, 8)',
    '(4, 8, 256)',
  ]
  assert table['Repeat(3)'][0] == f'{3 * BLOCK:,}'
  # Equal blocks are listed once, with the parameters of one.
  assert table['3 x DecoderBlock'] == [f'{BLOCK:,}', '(4, 8, 16)', '(4, 8, 16)']
  assert sum('DecoderBlock' in line for line in lines) == 1
  assert table['Dense_32'] == [f'{17 * 32}', '(4, 8, 16)', '(4, 8, 32)']
  names = [line.split('  ')[0] for line in map(str.lstrip, lines) if line]
  for name in 'Dropout', 'Serial', 'Parallel', 'Branch', 'Add', 'SplitHeads':
    assert not any(name in n for n in names)
  assert all(line == line.rstrip() for line in lines)
  # Children are indented.
  (feed_forward,) = (line for line in lines if 'FeedForward' in line)
  (inside,) = (line for line in lines if 'Dense_32' in line)
  assert re.match(r'        F', feed_forward) and re.match(
    r'          D', inside
  )


def test_depth(describe, folder):
  flags = f'--config_file={folder}/config.gin', BATCH, '--no_compile'
  _, out, _ = describe(*flags, '--depth=1')
  table = rows(sections(out)['Layers'])
  assert 'Repeat(3) ...' in table and 'LayerNorm' in table
  assert not any('DecoderBlock' in name for name in table)
  assert 'step: temporary' not in out


def test_parameters_by_component(shown):
  table = rows(shown['Parameters by component'])
  assert table['TransformerLM'] == [
    f'{N_PARAMS:,}',
    '100.0%',
    printing.format_amount(4 * N_PARAMS, 'B'),
  ]
  share = f'{3 * BLOCK / N_PARAMS:.1%}'
  assert table['Repeat(3)'][:2] == [f'{3 * BLOCK:,}', share]
  # The components add up to the model.
  components = [
    line
    for line in shown['Parameters by component']
    if re.match('  [A-Z]', line)
  ]
  numbers = [int(c.split()[1].replace(',', '')) for c in components]
  assert sum(numbers) == N_PARAMS


def test_parameters_of_repeated_layers_count_each_time(capsys):
  children = [Node('A', n_parameters=4, n=3), Node('B', n_parameters=6, n=3)]
  repeat = Node('Repeat(3)', n_parameters=30, children=children)
  print_parameters(Node('Model', n_parameters=40, children=[repeat]))
  table = rows(sections(capsys.readouterr().out)['Parameters by component'])
  assert table['3 x A'] == ['12', '30.0%', '48 B']
  assert table['3 x B'][0] == '18'


def test_flops(shown):
  # Projections, attention scores and averages, feed-forward; logits.
  block = 4 * 16 * 16 + 2 * 8 * 16 + 2 * 16 * 32
  forward = 2 * 32 * (3 * block + 16 * 256)
  table = rows(shown['FLOPs'])
  assert table['forward'][0] == f'{forward:,}'
  assert table['training'][0] == f'{3 * forward:,}'
  assert table['forward'][2] == printing.format_amount(forward / 32, 'FLOP')


def test_memory(shown):
  table = rows(shown['Memory of each device'])
  n = {
    name: int(cells[0].replace(',', ''))
    for name, cells in table.items()
    if len(cells) == 2
  }
  assert n['weights'] == n['gradients, during a step'] == 4 * N_PARAMS
  # Adam's two moments, and its counts.
  assert 8 * N_PARAMS <= n['optimizer state'] <= 8 * N_PARAMS + 32
  held = n['weights'] + n['optimizer state'] + n['model state']
  batch = 4 * 8 * (4 + 4 + 4) + 4
  n_devices = jax.device_count()
  # 64 bytes for step and key; unused arguments take none.
  assert held <= n['step: arguments'] <= held + batch / n_devices + 64
  assert n['step: results aliased to arguments'] >= 0.95 * held
  assert n['step: temporary'] > 4 * N_PARAMS  # It holds the gradients.
  assert n['step: total'] == (
    n['step: arguments']
    + n['step: results']
    - n['step: results aliased to arguments']
    + n['step: temporary']
  )


def test_a_model_larger_than_this_machine_on_many_devices(folder):
  code = """
import re, sys
from trax_hier import cli
code = cli.main(sys.argv[1:])
# getrusage would include the memory of the test process.
status = open('/proc/self/status').read()
print('peak', re.search(r'VmHWM:\\s*(\\d+) kB', status)[1])
sys.exit(code)
"""
  flags = ['--config_file=terraformer/17b.gin', "--config=DATA = ''"]
  flags += ['--batch=8,16,32', '--devices=4', '--no_compile', '--depth=1']
  flags += ["--config=train.mesh = {'data': 2, 'fsdp': 2}"]
  done = subprocess.run(
    [sys.executable, '-c', code, 'describe', *flags],
    capture_output=True,
    text=True,
    cwd=folder,
  )
  assert done.returncode == 0, done.stderr
  found = sections(done.stdout)
  model, data, devices = found['']
  assert model == 'model: Terraformer, 16,976,953,664 parameters'
  assert data == 'data: none; batches of 8 rows of 16 with sources of 32'
  assert devices == 'devices: 4 x cpu (data 2, fsdp 2)'
  held = rows(found['Memory of each device'])['weights'][0]
  # The large arrays are split over two devices.
  half = 4 * 16_976_953_664 // 2
  assert half <= int(held.replace(',', '')) < 1.001 * half
  assert int(done.stdout.split()[-1]) < 2_000_000  # kilobytes


@pytest.mark.parametrize(
  'flags, message',
  [
    ([], 'TextFiles.path'),
    ([], '--batch=ROWS,LENGTH[,SOURCES]'),
    ([BATCH, '--config=train.mesh = {"fsdp": 3}'], 'train.mesh'),
    ([BATCH, '--config=train.modell = @HourglassLM'], "'modell'"),
    ([BATCH, '--config=D_MODELL = 3'], '%D_MODELL'),
    ([BATCH, '--config=N_HEADS = 3'], 'n_heads = 3 must divide'),
    ([BATCH, '--config=SRUBranch.d_sru = 3'], 'nothing calls SRUBranch'),
    ([BATCH, '--config=train.accumulate_steps = 3'], '4 rows does not split'),
    (['--batch=4,8,8'], '--batch=4,8,8: the model reads no sources'),
  ],
)
def test_errors_are_one_message(describe, folder, flags, message):
  code, out, err = describe(f'--config_file={folder}/config.gin', *flags)
  assert (code, out) == (2, '')
  assert err.startswith('trax-hier describe: ') and message in err
  assert len(err.splitlines()) == 1


def test_an_encoder_decoder_model_needs_sources(describe):
  flags = '--config_file=terraformer/17b.gin', "--config=DATA = ''"
  code, out, err = describe(*flags, BATCH)
  assert (code, out) == (2, '')
  assert '--batch=4,8: the model reads sources' in err
  assert err.endswith('--batch=ROWS,LENGTH,SOURCES\n')


def test_a_folder_without_config_is_an_error(describe, tmp_path):
  code, _, err = describe(f'--run={tmp_path}')
  assert code == 2 and f'{tmp_path}: not a run directory' in err


@pytest.mark.parametrize(
  'flags, message',
  [
    ([], '--config_file'),
    (['--run=x', '--config_file=y'], 'not allowed'),
    (['--run=x', '--batch=8'], "such as '8,512'"),
    (['--run=x', '--batch=8,x'], "at least 1, got 'x'"),
    (['--run=x', '--batch=1,2,3,4'], "such as '8,512'"),
    (['--run=x', '--devices=0'], "at least 1, got '0'"),
    (['--run=x', '--depth=-1'], "at least 1, got '-1'"),
  ],
)
def test_bad_flags(flags, message, capsys):
  with pytest.raises(SystemExit) as e:
    cli.main(['describe', *flags])
  assert e.value.code == 2
  assert message in capsys.readouterr().err


def test_help_imports_nothing_heavy():
  code = """
import sys
from trax_hier import cli
try:
  cli.main(['describe', '--help'])
finally:
  assert not {'jax', 'numpy', 'trax', 'gin', 'rich'} & sys.modules.keys()
"""
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stderr) == (0, '')
  assert '--no_compile' in done.stdout


# Printing ---------------------------------------------------------------------


def test_amounts():
  amounts = [0, 7, 999, 1000, 1234, 45_678, 10**6, 4.2e15, 5e21]
  assert [printing.format_amount(n, 'B') for n in amounts] == [
    '0 B',
    '7 B',
    '999 B',
    '1 kB',
    '1.23 kB',
    '45.7 kB',
    '1 MB',
    '4.2 PB',
    '5e+03 EB',
  ]


def test_no_line_is_truncated_in_a_pipe(capsys):
  printing.print_table(('a', 'b'), [('x' * 300, '[bold]7'), ('y', '12')], [1])
  head, first, second = capsys.readouterr().out.splitlines()
  assert first == f'{"x" * 300}   [bold]7' and len(second) == len(first)
  assert head.startswith('a ') and head.endswith('b')


def test_zero_batches_have_the_shapes_of_data():
  data = ZeroBatches(2, 3, 5)
  batch = data.train_batch(0)
  assert {name: x.shape for name, x in batch.items()} == {
    'inputs': (2, 3),
    'targets': (2, 3),
    'weights': (2, 3),
    'start_of_sequence': (2,),
    'sources': (2, 5),
  }
  assert batch['sources'].dtype == batch['inputs'].dtype == np.int32
