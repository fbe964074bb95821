"""Data sets of the user's own, in training and in every program."""

import json
import types
from pathlib import Path

import numpy as np
import pytest

from trax_hier import config, trainer
from trax_hier.config import configurable
from trax_hier.data import IdVocab, OwnData, make_batch

MODEL = [
  'train.model = @TransformerLM',
  'TransformerLM.d_model = 8',
  'TransformerLM.d_ff = 8',
  'TransformerLM.n_heads = 2',
  'TransformerLM.n_layers = 1',
  'TransformerLM.vocab_size = None',
  'train.optimizer = @SGD',
  'SGD.learning_rate = 0.1',
  'train.eval_every = 2',
]


# The configuration calls what is not of trax_hier.
RUN = '--run=parts', '--trust_code'


@configurable(module='own')
class Least:
  """The least that `TrainData` asks for; 64-bit arrays, as numpy makes them."""

  unit = 'token'

  def __init__(self, batch_size: int = 2):
    # Not the attribute of our data sets: there are no shards.
    self.batch_size = batch_size
    self.vocab = IdVocab(7)

  def train_batch(self, step):
    tokens = np.random.default_rng(step).integers(1, 7, (self.batch_size, 6))
    return make_batch(tokens, np.ones(tokens.shape))

  def eval_batches(self, split):
    return [self.train_batch(10**6 + len(split))] * 2

  def describe(self):
    return 'Least: random ids'


@configurable(module='own')
class Additions(OwnData):
  """As the example of the README; its name must differ from that."""

  def n_rows(self, split):
    return {'train': 8, 'valid': 3, 'test': 2}[split]

  def row(self, split, i):
    return f'{i}+{i}={2 * i}'


KINDS = {
  'least': ['train.data = @own.Least()'],
  'rows': [
    'train.data = @own.Additions()',
    'Additions.batch_size = 2',
    'Additions.length = 8',
  ],
  'arrays': [
    'train.data = @FromArrays()',
    "FromArrays.train = 'train.npy'",
    "FromArrays.valid = 'valid.npy'",
    "FromArrays.test = 'valid.npy'",
    'FromArrays.batch_size = 2',
    'FromArrays.length = 6',
  ],
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  ids = np.random.default_rng(0).integers(0, 7, 300).astype(np.uint16)
  np.save('train.npy', ids)
  np.save('valid.npy', ids[::-3])


def train(folder, kind, steps, *more):
  config.clear()
  bindings = [*MODEL, *KINDS[kind], f'train.steps = {steps}', *more]
  flags = [f'--config={binding}' for binding in bindings]
  return trainer.main([f'--output_dir={folder}', *flags])


def losses(folder):
  with open(f'{folder}/metrics.jsonl') as file:
    lines = list(map(json.loads, file))
  return {x['step']: x['loss'] for x in lines if x['kind'] == 'valid'}


@pytest.mark.parametrize('kind', KINDS)
def test_an_own_data_set_goes_everywhere(program, kind):
  assert train('whole', kind, 4) == 0
  # A run that resumes gets the same batches.
  assert train('parts', kind, 2) == 0
  assert train('parts', kind, 4) == 0
  assert losses('parts')[4] == losses('whole')[4]

  code, out, err = program('evaluate', *RUN, '--split=test')
  assert (code, 'bits per' in out) == (0, True), err
  code, out, err = program('evaluate', *RUN, '--batches=1')
  assert code == 0, err
  prompt = '1+1=' if kind == 'rows' else '1 2'
  code, out, err = program(
    'generate', *RUN, f'--prompt={prompt}', '--n_tokens=3'
  )
  assert (code, out.startswith(prompt)) == (0, True), err
  code, _, err = program('export', *RUN, '--output=exported')
  assert code == 0, err
  flags = [f'--config={binding}' for binding in (*MODEL, *KINDS[kind])]
  Path('empty.gin').write_text('')
  code, out, err = program(
    'describe', '--config_file=empty.gin', '--no_compile', *flags
  )
  assert (code, 'data: ' in out) == (0, True), err


def test_changed_data_do_not_resume(capsys):
  assert train('run', 'arrays', 2) == 0
  np.save('train.npy', np.arange(300, dtype=np.uint16) % 7)
  capsys.readouterr()
  assert train('run', 'arrays', 4) == 1
  assert 'train' in capsys.readouterr().err


def test_window_flags_need_windows(program):
  assert train('parts', 'least', 2) == 0
  code, _, err = program('evaluate', *RUN, '--window=4')
  assert code == 2
  assert '--window and --stride do not apply to the data of this run' in err


def test_a_vocabulary_without_texts_cannot_continue_one(program, fake_run):
  fake_run(_broken(vocab=types.SimpleNamespace(size=256)))
  code, _, err = program('generate', '--run=x', '--prompt=a')
  assert code == 2
  assert 'the vocabulary of the data has no encode' in err


def _broken(**changes):
  """`Least` with other attributes; None removes one."""
  kept = {k: v for k, v in vars(Least).items() if not k.startswith('__')}
  kept |= {'vocab': IdVocab(7), 'batch_size': 2} | changes
  return type('Mine', (), {k: v for k, v in kept.items() if v is not None})()


def _batch(**changes):
  batch = make_batch(np.ones((2, 6), np.int32)) | changes
  batch = {k: v for k, v in batch.items() if v is not None}
  return _broken(train_batch=lambda self, step: batch)


BROKEN = {
  'a class': (lambda: Least, r'must be a data set .*parentheses'),
  'no method': (
    lambda: _broken(eval_batches=None, describe=None),
    r'Mine: it has no eval_batches \(a method of \(split\).*no describe',
  ),
  'no vocabulary': (lambda: _broken(vocab=None), r'it has no vocab \(a voc'),
  'no size': (lambda: _broken(vocab=object()), r'vocab.size must be the num'),
  'unit': (lambda: _broken(unit='word'), r"unit = 'word' must be one of 'byt"),
  'a tuple': (
    lambda: _broken(train_batch=lambda self, step: (1, 2)),
    r'train_batch\(0\) must be a dict of arrays, got tuple; .*make_batch',
  ),
  'no weights': (
    lambda: _batch(weights=None),
    r"train_batch\(0\) has no 'weights', only 'inputs', 'targets', 'start",
  ),
  'floats': (
    lambda: _batch(inputs=np.ones((2, 6))),
    r"\['inputs'\] must be a numpy array of integers \(b, l\), got float64 \(2",
  ),
  'a list': (
    lambda: _batch(inputs=[[1, 2]]),
    r"\['inputs'\] must be a numpy array of integers \(b, l\), got list",
  ),
  'one axis': (
    lambda: _batch(inputs=np.ones(6, np.int32)),
    r'integers \(b, l\), got int32 \(6,\)',
  ),
  'empty': (
    lambda: _batch(inputs=np.ones((0, 6), np.int32)),
    r'integers \(b, l\), got int32 \(0, 6\)',
  ),
  'other shapes': (
    lambda: _batch(weights=np.ones((2, 5), np.float32)),
    r"\['weights'\] must .* numbers \(b, l\), b = 2, l = 6, got float32 \(2, 5",
  ),
  'ids': (
    lambda: _batch(targets=np.full((2, 6), 7, np.int32)),
    r"\['targets'\] has the id 7: ids must be in \[0, 7\)",
  ),
  'negative ids': (
    lambda: _batch(inputs=np.full((2, 6), -1, np.int32)),
    r"\['inputs'\] has the id -1",
  ),
  'an iterator': (
    lambda: _broken(eval_batches=lambda self, split: iter(())),
    r'eval_batches\(split\) must return a sequence of batches.*iterator',
  ),
  'no held-out batch': (
    lambda: _broken(eval_batches=lambda self, split: []),
    r'has no batches: it is too short',
  ),
  'a held-out batch': (
    lambda: _broken(eval_batches=lambda self, split: [{'inputs': 1}]),
    r"the first held-out batch has no 'targets', 'weights', only 'inputs'",
  ),
}


@pytest.mark.parametrize('name', BROKEN)
def test_faults_are_named_before_anything_compiles(name, monkeypatch):
  import jax

  from trax_hier.models import TransformerLM
  from trax_hier.training import SGD
  from trax_hier.training.build import build

  monkeypatch.setattr(jax, 'eval_shape', pytest.fail)
  make, message = BROKEN[name]
  data = make()
  is_held_out = name in ('an iterator', 'no held-out batch', 'a held-out batch')
  if is_held_out:
    monkeypatch.undo()

  def model(mode):
    return TransformerLM(7, d_model=8, d_ff=8, n_heads=2, n_layers=1, mode=mode)

  with pytest.raises(ValueError, match=message):
    build(model, data, SGD)
