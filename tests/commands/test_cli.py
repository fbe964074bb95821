"""The program trax-hier: what it prints, what it refuses, its exit codes."""

import atexit
import dataclasses
import functools
import importlib
import io
import json
import os
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import cli, config, generation
from trax_hier.commands import generate as command
from trax_hier.commands import shared
from trax_hier.commands.evaluate import _context
from trax_hier.data import (
  ByteVocab,
  DocumentLanes,
  ImageBytes,
  SpanCorruption,
  Synthetic,
  TextFiles,
)
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.windows import EvalWindows
from trax_hier.layers import PRECISIONS
from trax_hier.models import TransformerLM
from trax_hier.storage import runs
from trax_hier.training import CheckpointError, evaluate

MODEL = functools.partial(
  TransformerLM, 256, d_model=8, d_ff=8, n_heads=2, n_layers=1
)


@pytest.fixture(autouse=True)
def forget():
  yield
  config.clear()


@pytest.fixture
def program(capsys):
  """Runs the program; returns code, stdout, stderr."""

  def run(*arguments):
    code = cli.main([*map(str, arguments)])
    return (code, *capsys.readouterr())

  return run


@dataclasses.dataclass
class FakeRun:
  """In the place of a run from a folder."""

  data: object
  model: object = MODEL
  compute_dtype: str = 'float32'
  folder: str = 'a/run'
  mesh: object = None

  def load_weights(self, step, say):
    del step, say
    return 7, toy.random_like(
      toy.shapes(self.model(mode='eval'), np.ones((1, 4), np.int32))[0]
    )


@pytest.fixture
def fake_run(monkeypatch):
  """Puts a run in place of the one that --run names."""
  monkeypatch.setattr(shared, 'check_there', lambda arguments: None)
  return lambda *args, **changes: monkeypatch.setattr(
    runs, 'open_run', lambda *_: FakeRun(*args, **changes)
  )


# The program ------------------------------------------------------------------


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
def test_what_is_wrong_is_one_message(
  program, tiny_run, name, flags, code, message
):
  flags = [flag.format(run=tiny_run.folder) for flag in flags]
  prompt = ['--prompt=a'] * (name == 'generate')
  found, out, err = program(name, *flags, *prompt)
  assert (found, out) == (code, '')
  assert err.startswith(f'trax-hier {name}: ') and message in err
  assert len(err.strip().splitlines()) == 1


def test_a_run_without_checkpoints_is_code_1(program, monkeypatch, fake_run):
  fake_run(Synthetic('copy', 2, 16))

  def load_weights(*_):
    raise CheckpointError('there are no checkpoints')

  monkeypatch.setattr(FakeRun, 'load_weights', load_weights)
  code, out, err = program('evaluate', '--run=x')
  assert (code, out) == (1, '')
  assert err == 'trax-hier evaluate: there are no checkpoints\n'


def test_ctrl_c(program, monkeypatch):
  def interrupt(*_):
    raise KeyboardInterrupt

  ends = []
  monkeypatch.setattr(atexit, 'register', lambda *args: ends.append(args))
  monkeypatch.setattr(shared, 'check_there', interrupt)
  code, out, err = program('evaluate', '--run=x')
  assert (code, out, err) == (130, '', 'trax-hier evaluate: interrupted\n')
  assert ends == [(os._exit, 130)]


def test_gin_files_may_import_what_lies_here(monkeypatch, fake_run, capsys):
  here = os.getcwd()
  fake_run(Synthetic('copy', 2, 16))
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p not in ('', here)])
  cli.main(['evaluate', '--run=x'])
  assert sys.path[0] == here


# evaluate ---------------------------------------------------------------------


def results(out):
  """The lines of `evaluate` by what stands before the colon."""
  return dict(line.split(': ', 1) for line in out.strip().splitlines())


def plain_bits(tiny_run, window, stride):
  """Bits per byte of the test split, one window at a time, in numpy."""
  config.clear()
  config.parse([str(tiny_run.folder / 'config.gin')])
  layer = config.value('train.model')(mode='eval')
  apply = jax.jit(layer.pure_fn)
  text = np.frombuffer(tiny_run.text[-100:], np.uint8).astype(np.int32)
  nats, begin, scored = [], 0, 0
  while scored < len(text):
    part = text[begin : begin + window]
    _, state = toy.shapes(layer, part[None])
    logits, _ = apply(
      part[None], tiny_run.result.weights, toy.zeros_like(state), toy.KEY
    )
    logits = np.asarray(logits[0], np.float64)
    log_z = np.log(np.sum(np.exp(logits), axis=-1))
    costs = log_z - logits[np.arange(len(part)), part]
    nats.extend(costs[scored - begin :])
    scored = begin + len(part)
    begin += stride
  assert len(nats) == 100
  return np.mean(nats) / np.log(2)


@pytest.mark.parametrize(
  'flags, window, stride',
  [
    # The split has 100 bytes; the run was trained on windows of 32.
    pytest.param([], 32, 32, marks=pytest.mark.slow),
    (['--window=50', '--stride=25'], 50, 25),
    pytest.param(['--stride=7'], 32, 7, marks=pytest.mark.slow),
    pytest.param(['--window=130'], 130, 130, marks=pytest.mark.slow),
  ],
)
def test_evaluate_is_the_plain_computation(
  program, tiny_run, flags, window, stride
):
  expected = plain_bits(tiny_run, window, stride)
  code, out, err = program('evaluate', f'--run={tiny_run.folder}', *flags)
  assert (code, err) == (0, '')
  found = results(out)
  assert found['run'] == f'{tiny_run.folder}, step 4, float32'
  assert found['split'] == 'test'
  assert found['bytes scored'] == '100'
  assert float(found['bits per byte']) == pytest.approx(expected, abs=6e-5)
  assert found['context'].startswith(f'window {window}, stride {stride}; each')
  assert f'the {window - stride} to {window - 1} before' in found['context']
  assert ('first window' in found['context']) == (stride < window)


def test_evaluate_gives_what_training_printed(program, tiny_run):
  _, out, _ = program('evaluate', f'--run={tiny_run.folder}', '--split=valid')
  bits = tiny_run.result.evaluation['bits_per_byte']
  assert results(out)['bits per byte'] == f'{bits:.4f}'
  assert results(out)['bytes scored'] == '50'


def test_evaluate_computes_as_the_run_did(program, tiny_run, monkeypatch):
  got = {}

  def evaluator(layer, batches, unit, mesh, compute_dtype):
    del layer, batches, mesh
    got['dtype'] = compute_dtype

    def score(weights):
      got['weights'] = weights
      return {f'bits_per_{unit}': 1.5, 'tokens': 1234.0}

    return score

  monkeypatch.setattr(evaluate, 'Evaluator', evaluator)
  folder = tiny_run.folder
  half = '--config=train.compute_dtype = "bfloat16"'
  _, out, _ = program('evaluate', f'--run={folder}', '--step=2', half)
  assert got['dtype'] == jnp.bfloat16
  _, weights = runs.open_run(folder).load_weights(2)
  toy.close(got['weights'], weights, 0)
  assert results(out)['run'] == f'{folder}, step 2, bfloat16'
  assert results(out)['bits per byte'] == '1.5000'
  assert results(out)['bytes scored'] == '1,234'


@pytest.mark.slow
def test_evaluate_where_there_are_other_devices(program, tiny_run):
  arguments = 'evaluate', f'--run={tiny_run.folder}', '--split=valid'
  _, here, _ = program(*arguments)
  code, out, err = program(*arguments, "--config=train.mesh = {'fsdp': 8}")
  assert code == 0 and out == here
  assert 'train.mesh' in err and 'rows are split over all devices' in err


def test_evaluate_images(program, fake_run, tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
  for split in ('train', 'test'):
    np.save(tmp_path / f'{split}.npy', images)
  fake_run(ImageBytes(str(tmp_path), 2))
  found = results(program('evaluate', '--run=x')[1])
  assert found['dims scored'] == '144'
  assert float(found['bits per dim']) > 0
  assert found['context'].startswith('rows of 48; each dim')
  code, _, err = program('evaluate', '--run=x', '--window=4')
  assert code == 2 and 'window and stride do not apply to ImageBytes' in err


def test_evaluate_subwords_gives_bits_per_byte_too(program, fake_run):
  windows = EvalWindows(np.arange(1, 31), 8, 8)
  data = DataSet(
    'Subwords',
    '',
    windows.rows,
    lambda split, _: (windows.rows, windows.n_windows),
    ByteVocab(),
    'token',
    2,
    n_bytes={'test': 120}.get,
  )
  fake_run(data)
  found = results(program('evaluate', '--run=x')[1])
  assert found['scored'] == '30 tokens, which are 120 bytes of text'
  bits = float(found['bits per token'])
  assert float(found['bits per byte']) == pytest.approx(bits / 4, abs=1e-4)


@pytest.mark.parametrize(
  'flags, message',
  [
    (['--window=0'], 'window = 0: must be'),
    (['--stride=33'], 'stride = 33: must be at most window = 32'),
    (
      ['--split=valid', '--config=TextFiles.valid_fraction = 0.0'],
      'the valid split is empty',
    ),
  ],
)
def test_evaluate_refuses(program, tiny_run, flags, message):
  code, out, err = program('evaluate', f'--run={tiny_run.folder}', *flags)
  assert (code, out) == (2, '')
  assert err.startswith('trax-hier evaluate: ') and message in err


# generate ---------------------------------------------------------------------


class FakeGenerate:
  """Continues with given chunks, a function of bytes; keeps what it got."""

  def __init__(self, chunks):
    self.chunks = chunks
    self.calls = []

  def prepare(self, model, weights, precision='float32'):
    del model, weights
    return precision

  def generate(
    self,
    model,
    weights,
    prompt,
    n_tokens,
    temperature=1.0,
    top_k=None,
    top_p=None,
    seed=0,
    stop=(),
    n_ids=None,
    max_len=None,
    on_tokens=None,
    sources=None,
    n_beams=1,
    length_penalty=0.6,
  ):
    got = dict(locals())
    self.calls.append(types.SimpleNamespace(**got))
    chunks = [np.frombuffer(c, np.uint8).astype(np.int32) for c in self.chunks]
    for chunk in chunks if on_tokens else ():
      on_tokens([chunk])
    return [np.concatenate(chunks)]


@pytest.fixture
def fake_generate(monkeypatch, fake_run, tmp_path):
  """A text run whose model draws 'é, you?', cut inside the 'é'."""
  (tmp_path / 'text').write_bytes(b'x' * 100)
  fake_run(TextFiles(str(tmp_path / 'text'), 2, 16))
  fake = FakeGenerate(['é'.encode()[:1], 'é'.encode()[1:] + b', y', b'ou?'])
  monkeypatch.setattr(generation, 'prepare', fake.prepare)
  monkeypatch.setattr(generation, 'generate', fake.generate)
  return fake


def test_generate_prints_prompt_continuation_and_speed(
  program, fake_generate, monkeypatch
):
  ticks = iter([10.0, 10.5, 11.0])
  clock = types.SimpleNamespace(perf_counter=lambda: next(ticks))
  monkeypatch.setattr(command, 'time', clock)
  code, out, err = program('generate', '--run=x', '--prompt=Oh')
  assert (code, out) == (0, 'Ohé, you?\n')
  # The first token came before the clock was started.
  assert err == '8 tokens, 7 tokens/s\n'


def test_generate_flushes_each_chunk(fake_generate, monkeypatch):
  class Screen(io.StringIO):
    shown = ()

    def flush(self):
      self.shown += (self.getvalue(),)

  screen = Screen()
  monkeypatch.setattr(sys, 'stdout', screen)
  assert cli.main(['generate', '--run=x', '--prompt=Oh']) == 0
  assert screen.shown[:3] == ('Oh', 'Ohé, y', 'Ohé, you?')


def test_generate_passes_on_its_flags(program, fake_generate):
  flags = ['--n_tokens=9', '--temperature=0.5', '--top_k=3', '--top_p=0.25']
  flags += ['--seed=4', '--max_len=77', '--precision=int8']
  flags += ['--stop=END', '--stop=é']
  assert program('generate', '--run=x', '--prompt=Oh', *flags)[0] == 0
  (call,) = fake_generate.calls
  assert call.model is MODEL and call.weights == 'int8'
  assert [p.tolist() for p in call.prompt] == [[*b'Oh']]
  assert (call.n_tokens, call.temperature, call.seed) == (9, 0.5, 4)
  assert (call.top_k, call.top_p, call.max_len) == (3, 0.25, 77)
  assert [list(s) for s in call.stop] == [[0], [*b'END'], [*'é'.encode()]]
  assert call.n_ids == 256 and call.sources is None


def test_generate_has_defaults(program, fake_generate):
  program('generate', '--run=x', '--prompt=')
  (call,) = fake_generate.calls
  assert call.prompt[0].shape == (0,) and call.weights == 'float32'
  assert (call.n_tokens, call.temperature, call.seed) == (256, 1.0, 0)
  assert (call.top_k, call.top_p, call.max_len) == (None, None, None)
  assert (call.n_beams, call.length_penalty) == (1, 0.6)
  assert [list(s) for s in call.stop] == [[0]]


def test_generate_reads_a_source(program, fake_generate, fake_run, tmp_path):
  data = TextFiles(str(tmp_path / 'text'), 2, 16)
  fake_run(SpanCorruption(data, 16, 8, 260))
  arguments = ['generate', '--run=x', '--prompt=']
  assert program(*arguments, '--source=a <0>')[0] == 0
  (call,) = fake_generate.calls
  assert [s.tolist() for s in call.sources] == [[*b'a ', 259]]
  file = tmp_path / 'source.txt'
  file.write_text('a <0>')
  assert program(*arguments, f'--source_file={file}')[0] == 0
  np.testing.assert_array_equal(
    fake_generate.calls[1].sources, fake_generate.calls[0].sources
  )
  code, _, err = program(*arguments, '--source_file=nowhere')
  assert code == 2 and '--source_file=nowhere: No such file' in err
  code, _, err = program(*arguments)
  assert (code, err.count('\n')) == (2, 1) and '--source' in err


def test_generate_searches_with_beams(program, fake_generate, monkeypatch):
  monkeypatch.setattr(sys, 'stdin', Terminal('one\ntwo\n'))
  flags = '--n_beams=4', '--length_penalty=1.5'
  code, out, err = program('generate', '--run=x', *flags)
  assert code == 0 and 'oneé, you?\n> twoé, you?\n' in out
  assert err == '8 tokens\n8 tokens\n'
  for call in fake_generate.calls:
    assert (call.n_beams, call.length_penalty, call.seed) == (4, 1.5, 0)
    assert call.on_tokens is None


def test_one_chunk_has_no_speed(program, fake_generate):
  fake_generate.chunks = [b'abc']
  _, out, err = program('generate', '--run=x', '--prompt=Oh')
  assert (out, err) == ('Ohabc\n', '3 tokens\n')


def test_generate_ends_with_an_incomplete_character(program, fake_generate):
  fake_generate.chunks = [b'a', 'é'.encode()[:1]]
  assert program('generate', '--run=x', '--prompt=Oh')[1] == 'Oha\ufffd\n'


def test_generate_reads_a_file_as_it_is(program, fake_generate, tmp_path):
  file = tmp_path / 'prompt.txt'
  file.write_bytes('é\r\n'.encode())
  program('generate', '--run=x', f'--prompt_file={file}')
  assert fake_generate.calls[0].prompt[0].tolist() == [*file.read_bytes()]
  file.write_bytes(b'ab\xff')
  code, _, err = program('generate', '--run=x', f'--prompt_file={file}')
  assert code == 2 and 'prompt.txt: byte 2 is not UTF-8 text' in err
  code, _, err = program('generate', '--run=x', '--prompt_file=nowhere')
  assert code == 2 and '--prompt_file=nowhere: No such file' in err


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_generate_reads_standard_input(program, fake_generate, monkeypatch):
  monkeypatch.setattr(sys, 'stdin', io.StringIO('two\nlines'))
  assert program('generate', '--run=x')[1] == 'two\nlinesé, you?\n'


@pytest.mark.parametrize('end', ['\nmore\n', ''])
def test_generate_asks_at_a_terminal(program, fake_generate, monkeypatch, end):
  monkeypatch.setattr(sys, 'stdin', Terminal(f'one\ntwo\n{end}'))
  code, out, _ = program('generate', '--run=x', '--seed=5')
  assert code == 0
  assert out.rstrip('\n') == '> oneé, you?\n> twoé, you?\n> '
  assert [bytes(c.prompt[0].tolist()) for c in fake_generate.calls] == [
    b'one',
    b'two',
  ]
  assert [call.seed for call in fake_generate.calls] == [5, 6]


def test_a_typed_line_that_fails_is_not_the_end(
  program, fake_generate, monkeypatch
):
  def only_short(model, weights, prompt, *args, **kwargs):
    if len(prompt[0]) > 3:
      raise ValueError('a prompt of 4 tokens exceeds max_len = 3')
    return fake_generate.generate(model, weights, prompt, *args, **kwargs)

  monkeypatch.setattr(generation, 'generate', only_short)
  monkeypatch.setattr(sys, 'stdin', Terminal('four\none\n'))
  code, out, err = program('generate', '--run=x')
  assert code == 0 and 'oneé, you?' in out
  assert err.startswith('a prompt of 4 tokens exceeds max_len = 3\n')


def test_generate_refuses_images(program, fake_run, tmp_path):
  for split in ('train', 'test'):
    np.save(tmp_path / f'{split}.npy', np.zeros((2, 4, 4, 3), np.uint8))
  fake_run(ImageBytes(str(tmp_path), 2))
  code, out, err = program('generate', '--run=x', '--prompt=a')
  assert (code, out) == (2, '')
  assert err == (
    'trax-hier generate: a/run: the data of this run are images, not text to '
    'continue\n'
  )


def test_generate_refuses_an_empty_stop(program, fake_generate):
  code, _, err = program('generate', '--run=x', '--prompt=a', '--stop=')
  assert code == 2 and "--stop='': the vocabulary has no token" in err


def test_a_model_that_cannot_decode_is_one_message(program, fake_run, tmp_path):
  def model(mode, **sizes):
    if mode == 'predict':
      raise ValueError('HashedAttention has no predict mode')
    return MODEL(mode=mode, **sizes)

  fake_run(Synthetic('copy', 2, 16), model)
  code, out, err = program('generate', '--run=x', '--prompt=a')
  assert (code, out) == (2, '')
  assert err == 'trax-hier generate: HashedAttention has no predict mode\n'


def test_what_generate_says_is_one_message(program, tiny_run):
  flags = '--prompt=abc', '--n_tokens=50', '--max_len=20'
  code, out, err = program('generate', f'--run={tiny_run.folder}', *flags)
  assert (code, out) == (2, '')
  assert err.startswith('trax-hier generate: a prompt of 3 tokens and n_tokens')
  assert len(err.splitlines()) == 1


def test_precisions_are_those_of_generation():
  assert PRECISIONS == command._PRECISIONS


@pytest.mark.slow
def test_generate_on_a_run(program, tiny_run):
  flags = '--prompt=4 is na', '--n_tokens=30', '--temperature=0'
  code, out, err = program('generate', f'--run={tiny_run.folder}', *flags)
  assert code == 0 and err.endswith(' tokens/s\n')
  config.clear()
  config.parse([str(tiny_run.folder / 'config.gin')])
  (new,) = generation.generate(
    config.value('train.model'),
    tiny_run.result.weights,
    [ByteVocab().encode('4 is na')],
    30,
    temperature=0,
    stop=[[0]],
    n_ids=256,
  )
  assert out == '4 is na' + ByteVocab().decode(new) + '\n'
  assert err.startswith(f'{len(new)} tokens, ')


def test_a_reader_that_has_enough(fake_generate, monkeypatch, capfd):
  """`trax-hier generate | head`."""
  read, write = os.pipe()
  with os.fdopen(write, 'w') as pipe:
    os.close(read)
    monkeypatch.setattr(sys, 'stdout', pipe)
    assert cli.main(['generate', '--run=x', '--prompt=Oh']) == 1
    # What Python does when it exits.
    pipe.flush()
  assert capfd.readouterr().err == ''


def test_context_of_documents_in_lanes(tmp_path):
  # Five segments and two of 8: the second batch goes on with documents.
  (tmp_path / 'x.docs').write_bytes(b'a' * 56)
  rows = [['a', 'train', 0, 40], ['b', 'test', 0, 40], ['c', 'test', 40, 16]]
  (tmp_path / 'x.docs.json').write_text(json.dumps(rows))

  def context(n_in, **kwargs):
    data = DocumentLanes(str(tmp_path / 'x.docs'), 2, 8, **kwargs)
    layer = types.SimpleNamespace(n_in=n_in)
    return _context(data.eval_batches('test'), data.unit, layer)

  plain = 'rows of 8; each byte is predicted from those before it'
  unscored = '; the first byte of a row is not scored'
  memory = ', and from a memory of the rows before'
  assert context(2) == plain + memory + unscored
  assert context(2, predict_first=True) == plain + memory
  assert context(1) == plain + unscored


def test_a_length_penalty_is_for_beams(program, tmp_path):
  (tmp_path / 'config.gin').write_text('')
  flags = f'--run={tmp_path}', '--prompt=a', '--length_penalty=2'
  code, out, err = program('generate', *flags)
  assert (code, out) == (2, '')
  assert '--length_penalty goes with --n_beams of 2 or more' in err


def test_a_source_is_cut_off_as_in_training(capsys):
  data = types.SimpleNamespace(vocab=ByteVocab(), source_length=3)
  ids = command._encode_source('abcde', data)
  np.testing.assert_array_equal(ids, [97, 98, 99])
  assert 'of the 5 tokens of the source the first 3' in capsys.readouterr().err
  # What fits, and what the data does not bound, stays whole, without a word.
  assert len(command._encode_source('abc', data)) == 3
  del data.source_length
  assert len(command._encode_source('abcde', data)) == 5
  assert not capsys.readouterr().err
