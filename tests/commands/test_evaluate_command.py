"""`trax-hier evaluate`: scores, contexts, errors."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import config
from trax_hier.commands.evaluate import _context
from trax_hier.data import ByteVocab, DocumentLanes, FromArrays, ImageBytes
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.windows import EvalWindows
from trax_hier.storage import runs
from trax_hier.training import evaluate
from trax_hier.training.loss import Loss


def results(out):
  """The printed values by their names."""
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
    tokens = text[begin : begin + window]
    _, state = toy.shapes(layer, tokens[None])
    logits, _ = apply(
      tokens[None], tiny_run.result.weights, toy.zeros_like(state), toy.KEY
    )
    logits = np.asarray(logits[0], np.float64)
    log_z = np.log(np.sum(np.exp(logits), axis=-1))
    costs = log_z - logits[np.arange(len(tokens)), tokens]
    nats.extend(costs[scored - begin :])
    scored = begin + len(tokens)
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
def test_evaluate_equals_the_plain_computation(
  program, tiny_run, flags, window, stride
):
  expected = plain_bits(tiny_run, window, stride)
  code, out, err = program('evaluate', f'--run={tiny_run.folder}', *flags)
  assert (code, err) == (0, '')
  found = results(out)
  assert found['run'] == f'{tiny_run.folder}, step 4, float32'
  assert found['split'] == 'test, the whole split'
  assert found['bytes scored'] == '100'
  assert float(found['bits per byte']) == pytest.approx(expected, abs=6e-5)
  assert found['context'].startswith(f'window {window}, stride {stride}; each')
  assert f'the {window - stride} to {window - 1} before' in found['context']
  assert ('first window' in found['context']) == (stride < window)


def test_evaluate_equals_the_evaluation_of_training(program, tiny_run):
  _, out, _ = program('evaluate', f'--run={tiny_run.folder}', '--split=valid')
  bits = tiny_run.result.evaluation['bits_per_byte']
  assert results(out)['bits per byte'] == f'{bits:.4f}'
  assert results(out)['bytes scored'] == '50'


def test_evaluate_uses_the_compute_dtype_of_the_run(
  program, tiny_run, monkeypatch
):
  got = {}

  def evaluator(
    layer, batches, unit, mesh, compute_dtype, n_batches, loss, n_ids
  ):
    del layer, batches, mesh, n_ids
    assert n_batches is None and loss == Loss()
    got['dtype'] = compute_dtype

    def score(weights, before_batch):
      before_batch(0, 1)
      got['weights'] = weights
      return {f'bits_per_{unit}': 1.5, 'tokens': 1234.0}

    score.check_memory = lambda n_ids: None
    score.coverage = 1.0
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


def test_evaluate_the_first_batches(program, tiny_run):
  # Of 50 bytes, in batches of 2 windows of 8 bytes.
  flags = '--split=valid', '--window=8', '--batches=2'
  code, out, err = program('evaluate', f'--run={tiny_run.folder}', *flags)
  assert (code, err) == (0, '')
  found = results(out)
  assert found['split'].startswith('valid, the first 2 batches, ')
  assert found['split'].endswith('% of the split')
  assert int(found['bytes scored']) < 50
  run = f'--run={tiny_run.folder}'
  code, _, err = program('evaluate', run, '--batches=0')
  assert code == 2 and '--batches=0: must be 1 or more' in err


@pytest.mark.slow
def test_evaluate_on_other_devices_than_the_run(program, tiny_run):
  arguments = 'evaluate', f'--run={tiny_run.folder}', '--split=valid'
  _, here, _ = program(*arguments)
  code, out, err = program(*arguments, "--config=train.mesh = {'fsdp': 8}")
  assert code == 0 and out == here
  assert 'train.mesh' in err and 'rows are split over all local devices' in err


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


def test_an_error_of_the_data_is_one_message(program, fake_run):
  windows = EvalWindows(np.arange(1, 31), 8, 8)

  def rows(index):
    if index[0]:
      raise ValueError('line 7: is blank')
    return windows.rows(index)

  data = DataSet(
    'Mine', '', rows, lambda split, _: (rows, 4), ByteVocab(), 'token', 2
  )
  fake_run(data)
  code, out, err = program('evaluate', '--run=x')
  assert (code, out) == (1, '')
  assert err == (
    'trax-hier evaluate: held-out batch 2 cannot be read: line 7: is blank\n'
  )


def test_evaluate_gives_subwords_in_bits_per_byte_too(program, fake_run):
  windows = EvalWindows(np.arange(1, 31), 8, 8)
  data = DataSet(
    'Subwords',
    '',
    windows.rows,
    lambda split, _: (windows.rows, windows.n_windows),
    ByteVocab(),
    'token',
    2,
    count_bytes={'test': 120}.get,
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
def test_evaluate_rejects(program, tiny_run, flags, message):
  code, out, err = program('evaluate', f'--run={tiny_run.folder}', *flags)
  assert (code, out) == (2, '')
  assert err.startswith('trax-hier evaluate: ') and message in err


def test_context_of_documents_in_lanes(tmp_path):
  # Five segments and two of 8: the second batch continues documents.
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


def test_context_in_rows_of_several_documents():
  data = FromArrays([[1, 2]], 2, 8, valid=[[1, 2], [1]], packed=True)
  batches = data.eval_batches('valid')
  text = _context(batches, 'token', types.SimpleNamespace(n_in=1))
  assert text.endswith('from those before it in its document')
