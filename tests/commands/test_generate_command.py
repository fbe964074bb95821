"""`trax-hier generate`: prompts, output, flags, errors."""

import io
import os
import sys
import types

import numpy as np
import pytest
from messages import messages

from trax_hier import cli, config, generation
from trax_hier.commands import generate as command
from trax_hier.commands.generate_prompts import encode_source
from trax_hier.data import (
  ByteVocab,
  ImageBytes,
  SpanCorruption,
  Synthetic,
  TextFiles,
)
from trax_hier.layers import PRECISIONS


class FakeGenerate:
  """Stub of `generation` that returns given chunks and records its calls."""

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
    self.calls.append(types.SimpleNamespace(**locals()))
    chunks = [np.frombuffer(c, np.uint8).astype(np.int32) for c in self.chunks]
    for chunk in chunks if on_tokens else ():
      on_tokens([chunk])
    return [np.concatenate(chunks)]


@pytest.fixture
def fake_generate(monkeypatch, fake_run, tmp_path):
  """A text run whose model generates 'é, you?', split inside the 'é'."""
  (tmp_path / 'text').write_bytes(b'x' * 100)
  run = fake_run(TextFiles(str(tmp_path / 'text'), 2, 16))
  fake = FakeGenerate(['é'.encode()[:1], 'é'.encode()[1:] + b', y', b'ou?'])
  monkeypatch.setattr(generation, 'prepare', fake.prepare)
  monkeypatch.setattr(generation, 'generate', fake.generate)
  fake.model = run.model
  return fake


def test_generate_prints_prompt_continuation_and_speed(
  program, fake_generate, monkeypatch
):
  ticks = iter([10.0, 10.5, 11.0])
  clock = types.SimpleNamespace(perf_counter=lambda: next(ticks))
  monkeypatch.setattr(command, 'time', clock)
  code, out, err = program('generate', '--run=x', '--prompt=Oh')
  assert (code, out) == (0, 'Ohé, you?\n')
  # The first chunk starts the clock.
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


def test_generate_passes_its_flags(program, fake_generate):
  flags = ['--n_tokens=9', '--temperature=0.5', '--top_k=3', '--top_p=0.25']
  flags += ['--seed=4', '--max_len=77', '--precision=int8']
  flags += ['--stop=END', '--stop=é']
  assert program('generate', '--run=x', '--prompt=Oh', *flags)[0] == 0
  (call,) = fake_generate.calls
  assert call.model is fake_generate.model and call.weights == 'int8'
  assert [p.tolist() for p in call.prompt] == [[*b'Oh']]
  assert (call.n_tokens, call.temperature, call.seed) == (9, 0.5, 4)
  assert (call.top_k, call.top_p, call.max_len) == (3, 0.25, 77)
  assert [list(s) for s in call.stop] == [[0], [*b'END'], [*'é'.encode()]]
  assert call.n_ids == 256 and call.sources is None


def test_defaults_of_generate(program, fake_generate):
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


def test_a_single_chunk_has_no_speed(program, fake_generate):
  fake_generate.chunks = [b'abc']
  _, out, err = program('generate', '--run=x', '--prompt=Oh')
  assert (out, err) == ('Ohabc\n', '3 tokens\n')


def test_generate_ends_with_an_incomplete_character(program, fake_generate):
  fake_generate.chunks = [b'a', 'é'.encode()[:1]]
  assert program('generate', '--run=x', '--prompt=Oh')[1] == 'Oha\ufffd\n'


def test_generate_keeps_the_bytes_of_a_file(program, fake_generate, tmp_path):
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
def test_generate_prompts_at_a_terminal(
  program, fake_generate, monkeypatch, end
):
  monkeypatch.setattr(sys, 'stdin', Terminal(f'one\ntwo\n{end}'))
  code, out, _ = program('generate', '--run=x', '--seed=5')
  assert code == 0
  assert out.rstrip('\n') == '> oneé, you?\n> twoé, you?\n> '
  assert [bytes(c.prompt[0].tolist()) for c in fake_generate.calls] == [
    b'one',
    b'two',
  ]
  assert [call.seed for call in fake_generate.calls] == [5, 6]


def test_an_error_in_a_typed_line_does_not_end_the_program(
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


@pytest.mark.parametrize('is_terminal', [True, False])
def test_sampled_bytes_do_not_control_a_terminal(
  program, fake_generate, monkeypatch, is_terminal
):
  fake_generate.chunks = [b'\x1b[2J\t', b'\xc2\x9b\n', b'\x7f']
  monkeypatch.setattr(sys.stdout, 'isatty', lambda: is_terminal)
  _, out, _ = program('generate', '--run=x', '--prompt=a')
  raw, escaped = 'a\x1b[2J\t\x9b\n\x7f\n', 'a\\x1b[2J\t\\x9b\n\\x7f\n'
  assert out == (escaped if is_terminal else raw)


def test_generate_rejects_images(program, fake_run, tmp_path):
  for split in ('train', 'test'):
    np.save(tmp_path / f'{split}.npy', np.zeros((2, 4, 4, 3), np.uint8))
  fake_run(ImageBytes(str(tmp_path), 2))
  code, out, err = program('generate', '--run=x', '--prompt=a')
  assert (code, out) == (2, '')
  assert err == (
    'trax-hier generate: a/run: the data of this run are images, not text to '
    'continue\n'
  )


def test_generate_rejects_an_empty_stop(program, fake_generate):
  code, _, err = program('generate', '--run=x', '--prompt=a', '--stop=')
  assert code == 2 and "--stop='': the vocabulary has no token" in err


def test_a_model_that_cannot_decode_is_one_message(program, fake_run):
  plain = fake_run(None).model

  def model(mode):
    if mode == 'predict':
      raise ValueError('HashedAttention has no predict mode')
    return plain(mode=mode)

  fake_run(Synthetic('copy', 2, 16), model=model)
  code, out, err = program('generate', '--run=x', '--prompt=a')
  assert (code, out) == (2, '')
  assert err == 'trax-hier generate: HashedAttention has no predict mode\n'


def test_errors_of_generation_are_one_message(program, tiny_run):
  flags = '--prompt=abc', '--n_tokens=50', '--max_len=20'
  code, out, err = program('generate', f'--run={tiny_run.folder}', *flags)
  assert (code, out) == (2, '')
  assert err.startswith('trax-hier generate: a prompt of 3 tokens and n_tokens')
  assert len(err.splitlines()) == 1


@pytest.mark.parametrize('seed', [-1, 2**63, 2**70])
def test_seeds_out_of_range(program, fake_run, seed):
  fake_run(Synthetic('copy', 2, 16))
  flags = '--run=x', '--prompt=a', f'--seed={seed}'
  code, out, err = program('generate', *flags)
  assert (code, out) == (2, '')
  assert f'seed = {seed} must be at least 0 and below 2 ** 63' in err
  assert len(err.splitlines()) == 1


def test_precisions_equal_those_of_generation():
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


def test_a_closed_pipe_is_code_1_without_a_message(
  fake_generate, monkeypatch, capfd
):
  """`trax-hier generate | head`."""
  read, write = os.pipe()
  with os.fdopen(write, 'w') as pipe:
    os.close(read)
    monkeypatch.setattr(sys, 'stdout', pipe)
    assert cli.main(['generate', '--run=x', '--prompt=Oh']) == 1
    # Python flushes when it exits.
    pipe.flush()
  assert messages(capfd.readouterr().err) == ''


def test_a_length_penalty_needs_beams(program, tmp_path):
  (tmp_path / 'config.gin').write_text('')
  flags = f'--run={tmp_path}', '--prompt=a', '--length_penalty=2'
  code, out, err = program('generate', *flags)
  assert (code, out) == (2, '')
  assert '--length_penalty goes with --n_beams of 2 or more' in err


def test_a_source_is_truncated_as_in_training(capsys):
  data = types.SimpleNamespace(vocab=ByteVocab(), source_length=3)
  ids = encode_source('abcde', data)
  np.testing.assert_array_equal(ids, [97, 98, 99])
  message = 'the source has 5 tokens and is truncated to the first 3'
  assert message in capsys.readouterr().err
  # A source that fits or has no limit is kept, without a message.
  assert len(encode_source('abc', data)) == 3
  del data.source_length
  assert len(encode_source('abcde', data)) == 5
  assert not capsys.readouterr().err
