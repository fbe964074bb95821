"""Models of vocabularies of every kind, in training and in the programs."""

import json

import numpy as np
import pytest
import tiny_vocabularies

import trax_hier
from trax_hier import config, trainer
from trax_hier.data import ByteVocab, make_batch
from trax_hier.inspection import probes

TEXT = 'The naïve cat sat on the 世界 mat.\n' * 60


def train(vocab_line, *more):
  bindings = [
    'train.data = @TextFiles()',
    "TextFiles.path = 'my.txt'",
    'TextFiles.batch_size = 2',
    'TextFiles.length = 8',
    'TextFiles.valid_fraction = 0.1',
    'TextFiles.test_fraction = 0.1',
    *vocab_line,
    'train.model = @TransformerLM',
    'TransformerLM.d_model = 8',
    'TransformerLM.d_ff = 8',
    'TransformerLM.n_heads = 2',
    'TransformerLM.n_layers = 1',
    'TransformerLM.vocab_size = None',
    'train.optimizer = @SGD',
    'SGD.learning_rate = 0.1',
    'train.eval_every = 2',
    'train.steps = 2',
    *more,
  ]
  config.clear()
  flags = [f'--config={binding}' for binding in bindings]
  return trainer.main(['--output_dir=run', *flags])


def results(out):
  return dict(line.split(': ', 1) for line in out.splitlines())


@pytest.mark.parametrize('kind', ['bert', 'tiktoken'])
def test_a_vocabulary_goes_everywhere(
  program, tmp_path, monkeypatch, capsys, kind
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'my.txt').write_text(TEXT, encoding='utf-8')
  path = tiny_vocabularies.write(kind, tmp_path)
  line = [f'TextFiles.vocab = {path!r}']
  if kind == 'tiktoken':
    line = ['TextFiles.vocab = @Tiktoken()', f'Tiktoken.path = {path!r}']
    line.append(f'Tiktoken.pattern = {tiny_vocabularies.PATTERN!r}')
  assert train(line) == 0
  printed = capsys.readouterr().out
  assert ('which loses upper case' in printed) == (kind == 'bert')
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  (valid,) = (x for x in map(json.loads, lines) if x['kind'] == 'valid')
  n_bytes = int(len(TEXT.encode()) * 0.1)
  bits = valid['bits_per_token'] * valid['tokens'] / n_bytes
  assert valid['bits_per_byte'] == pytest.approx(bits)
  assert f'{bits:.4f} bits per byte' in printed

  code, out, err = program('evaluate', '--run=run')
  assert code == 0, err
  found = results(out)
  assert found['scored'].endswith(f' tokens, which are {n_bytes} bytes of text')
  code, out, err = program('evaluate', '--run=run', '--batches=1')
  assert code == 0, err
  n_tokens, n_first = map(
    int, results(out)['scored'].replace(' tokens, which are', '').split()[:2]
  )
  assert n_tokens == 16 <= n_first < n_bytes

  flags = '--prompt=the 世', '--n_tokens=5'
  code, out, err = program('generate', '--run=run', *flags)
  assert (code, out.startswith('the 世')) == (0, True), err
  assert program('export', '--run=run', '--output=exported')[0] == 0
  code, again, err = program('generate', '--run=exported', *flags)
  assert (code, again) == (0, out), err
  exported = trax_hier.load('exported')
  assert isinstance(exported.sample('the ', n_tokens=3), str)


def test_a_sample_continues_whole_characters(monkeypatch):
  """A held-out text may be cut within a character."""
  seen = []

  def sample_text(model, weights, vocab, prompt, *_, **__):
    seen.append(prompt)
    return 'x'

  monkeypatch.setattr(probes.generation, 'sample_text', sample_text)
  n = probes._PROMPT_TOKENS
  ids = ByteVocab().encode('a' * (n - 2) + '世' * 9)
  text = probes.sample(None, ByteVocab(), None, make_batch(ids[None]))
  np.testing.assert_array_equal(seen[0], ids[: n - 2])
  assert f'[{"a" * (n - 2)}]x' in text
  padded = np.append(ids[:3], [0, 0])
  weights = np.float32([[1, 1, 1, 0, 0]])
  probes.sample(None, ByteVocab(), None, make_batch(padded[None], weights))
  np.testing.assert_array_equal(seen[1], ids[:3])
