"""Results that are not finite: one message and code 1; strict JSON on disk."""

import json

import numpy as np
import pytest

from trax_hier import generation
from trax_hier.data import Synthetic
from trax_hier.training import evaluate


def fail_with(message):
  def fail(*args, **kwargs):
    raise FloatingPointError(message)

  return fail


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_evaluate(program, fake_run, monkeypatch, value):
  fake_run(Synthetic('copy', 2, 16))
  scores = {'loss': value, 'bits_per_byte': value, 'tokens': 3.0}
  monkeypatch.setattr(evaluate.Evaluator, '__call__', lambda *_: scores)
  code, _, err = program('evaluate', '--run=x')
  assert code == 1
  assert err.splitlines()[-1] == (
    f'trax-hier evaluate: the scores are not finite: loss is {value}, '
    f'bits_per_byte is {value}'
  )


@pytest.mark.parametrize('flags', [[], ['--n_beams=2']])
def test_generate(program, fake_run, monkeypatch, flags):
  fake_run(Synthetic('copy', 2, 16))
  monkeypatch.setattr(generation, 'generate', fail_with('logits not finite'))
  code, out, err = program('generate', '--run=x', '--prompt=1', *flags)
  assert (code, out) == (1, '')
  assert err == 'trax-hier generate: logits not finite\n'


def test_export_has_strict_json(tiny_run, tmp_path, program):
  folder = tmp_path / 'export'
  flags = f'--run={tiny_run.folder}', f'--output={folder}'
  assert program('export', *flags)[0] == 0
  files = [folder / 'config.json', *tiny_run.folder.glob('*.jsonl')]
  for file in files:
    text = file.read_text()
    lines = text.splitlines() if file.suffix == '.jsonl' else [text]
    for line in lines:
      json.loads(line, parse_constant=pytest.fail)
