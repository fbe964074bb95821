"""Memory carried from step to step when training on lanes of documents.

The reference for lanes, resets, evaluation, gradient accumulation and shardings
is each document alone: in a batch of one row, starting with a memory of zeros.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.special
import toy

from trax_hier import layers as hl
from trax_hier.data import DocumentLanes, TextFiles
from trax_hier.generation import generate
from trax_hier.models import BlockRecurrentLM
from trax_hier.training import SGD, Adam, read_metrics, train
from trax_hier.training.build import build
from trax_hier.training.checkpoints import Checkpoints
from trax_hier.training.evaluate import Evaluator
from trax_hier.training.mesh import make_mesh

P = functools.partial
HERE = Path(__file__).parent
LANES, LENGTH, WINDOW, N_STATES, WIDTH = 4, 8, 4, 3, 8
# Some documents are shorter than a segment, some end where a segment ends, some
# span five segments.
SIZES = {
  'train': (25, 3, 40, 16, 33, 9, 21, 5, 30),
  'test': (19, 8, 35, 1, 12, 27),
}
MODEL = P(
  BlockRecurrentLM,
  vocab_size=256,
  d_model=WIDTH,
  d_ff=16,
  n_layers=2,
  recurrent_layers=(2,),
  n_heads=2,
  dropout=0.0,
  attention=P(hl.SlidingAttention, window=WINDOW),
  recurrent_attention=P(
    hl.BlockRecurrentCell, window=WINDOW, n_states=N_STATES
  ),
)
# Not Adam, whose steps are large even if a gradient is only rounding error.
OPTIMIZER = P(SGD, 0.5)


def write_documents(folder):
  """Writes random documents of eight letters, learned in a few steps."""
  rng = np.random.default_rng(0)
  documents, table, content = {}, [], b''
  for split, sizes in SIZES.items():
    documents[split] = []
    for size in sizes:
      text = rng.integers(97, 105, size, np.uint8).tobytes()
      documents[split].append(text)
      table.append([f'{split} {size}', split, len(content), size])
      content += text
  (folder / 'my.docs').write_bytes(content)
  (folder / 'my.docs.json').write_text(json.dumps(table))
  return str(folder / 'my.docs'), documents


@pytest.fixture(scope='module')
def docs(tmp_path_factory):
  """The documents' `path`, `texts` by split, and `data`."""
  path, texts = write_documents(tmp_path_factory.mktemp('docs'))
  data = DocumentLanes(path, LANES, LENGTH, test_as_valid=True)
  return types.SimpleNamespace(path=path, texts=texts, data=data)


class DocumentReader:
  """Applies the model to one document, in a batch of one row.

  Each document starts with a memory of zeros, so nothing is reset.
  """

  def __init__(self):
    layer = MODEL(mode='eval')
    x = np.zeros((1, LENGTH), np.int32), np.zeros(1, bool)
    self.zeros = toy.zeros_like(toy.shapes(layer, x)[1])
    self._run = jax.jit(
      lambda weights, x, state: layer.pure_fn(
        (x, np.zeros(1, bool)), weights, state, toy.KEY
      )
    )

  def read(self, weights, text, forget=False):
    """Logits (l, v), and the memory after the last segment."""
    tokens = np.frombuffer(text, np.uint8).astype(np.int32)
    tokens = np.pad(tokens, (0, -len(text) % LENGTH)).reshape(-1, 1, LENGTH)
    state, outputs = self.zeros, []
    for segment in tokens:
      y, state = self._run(weights, segment, self.zeros if forget else state)
      outputs.append(y[0])
    return np.concatenate(outputs)[: len(text)], memory_of(state)


@functools.cache
def reader():
  return DocumentReader()


def memory_of(model_state):
  """The arrays kept per lane, with the lane axis first.

  Found from the ranks of this model's state, independently of `lane_axes`.
  """
  # All others are dropout rates; in stacked layers, lanes are the second axis.
  return [
    np.array(x if x.dtype == np.int32 else np.moveaxis(x, 1, 0))
    for x in jax.tree.leaves(model_state)
    if x.ndim > 1
  ]


def without_memory(state):
  """The training state with its memory set to zeros."""
  forget = lambda x: np.zeros_like(x) if x.ndim > 1 else x  # noqa: E731
  return dataclasses.replace(
    state, model_state=jax.tree.map(forget, state.model_state)
  )


def steps(built, state, numbers, data):
  """Losses of the steps, memories after each step, and the last state."""
  losses, memories = [], []
  for i in numbers:
    state, metrics = built.step(state, data.train_batch(i))
    losses.append(float(metrics[0]))
    memories.append(memory_of(state.model_state))
  return losses, memories, state


def gap(x, y):
  """The largest difference between two lists of numbers."""
  return np.abs(np.subtract(x, y)).max()


# Whole runs
# ------------------------------------------------------------------------------
class WithoutFirstReset:
  """A data set without the reset in the first batch of an evaluation.

  The memory is zero there; a memory left by training would change the loss.
  """

  def __init__(self, data):
    self._data = data

  def __getattr__(self, name):
    return getattr(self._data, name)

  def eval_batches(self, split):
    first, *others = self._data.eval_batches(split)
    assert first['start_of_sequence'].all()
    return [first | {'start_of_sequence': np.zeros(LANES, bool)}, *others]


class Runs:
  """Runs `train` with dropout, compiling it once."""

  def __init__(self, data):
    self._data = WithoutFirstReset(data)
    self.built = build(P(MODEL, dropout=0.3), self._data, P(Adam, 0.01))

  def __call__(self, folder, steps, eval_every=6):
    with pytest.MonkeyPatch.context() as patch:
      stub = lambda *_, **__: self.built  # noqa: E731
      patch.setattr('trax_hier.training.loop.build', stub)
      return train(
        str(folder),
        model=self.built.model,
        data=self._data,
        optimizer=Adam,
        steps=steps,
        eval_every=eval_every,
        checkpoint_every=2,
        log_every=1,
      )

  def restore(self, folder):
    """The training state of the newest checkpoint."""
    checkpoints = Checkpoints(folder / 'checkpoints', read_only=True)
    _, state, _ = checkpoints.restore(self.built.abstract, pytest.fail)
    checkpoints.close()
    return state


@pytest.fixture(scope='module')
def runs(docs):
  return Runs(docs.data)


@pytest.fixture(scope='module')
def whole(runs, tmp_path_factory):
  """A run of six steps: its folder and its result."""
  folder = tmp_path_factory.mktemp('whole')
  return folder, runs(folder, 6)


def logged(folder):
  """The logged metrics of training steps, without their speed."""
  lines = [m for m in read_metrics(folder) if m['kind'] == 'train']
  assert [m['step'] for m in lines] == [1, 2, 3, 4, 5, 6]
  timing = 'tokens_per_second'
  return [{k: v for k, v in m.items() if k != timing} for m in lines]


def test_a_resumed_run_restores_its_memory(runs, whole, docs, tmp_path):
  folder, result = whole
  runs(tmp_path, 2)
  stopped = runs.restore(tmp_path)
  resumed = runs(tmp_path, 6)
  assert logged(tmp_path) == logged(folder)
  assert resumed.evaluation == result.evaluation
  states = [runs.restore(f) for f in (tmp_path, folder)]
  jax.tree.map(np.testing.assert_array_equal, *states)

  # Lanes stopped in the middle of documents: without memory, losses differ.
  assert not docs.data.train_batch(2)['start_of_sequence'].all()
  expected = [m['loss'] for m in logged(folder)[2:]]
  for forget, is_equal in [(without_memory, False), (lambda s: s, True)]:
    state = jax.tree.map(np.array, forget(stopped))
    losses, _, _ = steps(runs.built, state, range(2, 6), docs.data)
    assert (losses == expected) == is_equal
    assert is_equal or abs(losses[0] - expected[0]) > 1e-4


@pytest.mark.slow
def test_evaluation_does_not_change_the_memory_of_training(
  runs, whole, tmp_path
):
  runs(tmp_path, 6, eval_every=1)
  assert sum(m['kind'] == 'valid' for m in read_metrics(tmp_path)) == 6
  assert logged(tmp_path) == logged(whole[0])
  states = [runs.restore(f) for f in (tmp_path, whole[0])]
  jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.parametrize('predict_first', [False, True])
def test_evaluation_equals_reading_each_document_alone(
  docs, whole, predict_first
):
  _, result = whole
  values = result.evaluation
  if predict_first:
    # Also with another number of lanes.
    data = DocumentLanes(docs.path, LANES, LENGTH, 0, True, eval_batch_size=3)
    values = Evaluator(
      MODEL(mode='eval'), data.eval_batches('test'), data.unit, make_mesh()
    )(result.weights)

  def loss(forget):
    nats = []
    for text in docs.texts['test']:
      logits, _ = reader().read(result.weights, text, forget)
      scores = -scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
      scored = [i for i in range(len(text)) if predict_first or i % LENGTH != 0]
      nats += [scores[i, text[i]] for i in scored]
    return np.mean(nats), len(nats)

  n = sum(SIZES['test'])
  n -= 0 if predict_first else sum(-(-size // LENGTH) for size in SIZES['test'])
  assert values['tokens'] == n
  expected, n_scored = loss(forget=False)
  assert n_scored == n
  assert values['loss'] == pytest.approx(expected, rel=1e-5)
  assert values['bits_per_byte'] == pytest.approx(expected / np.log(2))
  assert abs(loss(forget=True)[0] - expected) > 1e-4


# Steps
# ------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def plain(docs):
  """Four steps of training without dropout, and the states around them."""
  built = build(MODEL, docs.data, OPTIMIZER)
  # Copied to the host, as steps donate their state.
  first = jax.tree.map(np.array, built.init(jax.random.PRNGKey(0)))
  losses, memories, last = steps(built, first, range(4), docs.data)
  # A token, keys and values of two layers, states and their presence.
  assert len(memories[-1]) == 7 and all(x.any() for x in memories[-1])
  return types.SimpleNamespace(
    built=built,
    first=first,
    losses=losses,
    memories=memories,
    last=jax.tree.map(np.array, last),
  )


def test_lanes_remember_only_their_own_document(docs, plain):
  weights = plain.last.weights
  state, read, n_documents = plain.first, [b''] * LANES, 0
  for i in range(10):
    batch = docs.data.train_batch(i)
    state = dataclasses.replace(state, weights=weights)
    _, (memory,), state = steps(plain.built, state, [i], docs.data)
    for lane in range(LANES):
      if batch['start_of_sequence'][lane]:
        read[lane], n_documents = b'', n_documents + 1
      text = bytes(np.trim_zeros(batch['inputs'][lane], 'b').tolist())
      read[lane] += text
      assert any(t.startswith(read[lane]) for t in docs.texts['train'])
      _, expected = reader().read(weights, read[lane])
      toy.close([x[lane] for x in memory], [x[0] for x in expected])
  # Past the end of an epoch.
  assert n_documents > len(SIZES['train'])


@pytest.mark.slow
def test_micro_batches_keep_their_memories(docs, plain):
  built = build(MODEL, docs.data, OPTIMIZER, accumulate_steps=2)
  losses, memories, last = steps(built, plain.first, range(4), docs.data)
  toy.close(losses, plain.losses)
  toy.close(memories, plain.memories)
  toy.close(last.weights, plain.last.weights)


@pytest.mark.slow
def test_bfloat16_keeps_the_memory_in_float32(docs, plain):
  built = build(MODEL, docs.data, OPTIMIZER, compute_dtype='bfloat16')
  losses, memories, last = steps(built, plain.first, range(4), docs.data)
  assert np.isfinite(losses).all()
  assert 0 < gap(losses, plain.losses) < 0.02
  types_of = lambda tree: [x.dtype for x in jax.tree.leaves(tree)]  # noqa: E731
  assert types_of(last) == types_of(plain.first)
  assert {x.dtype.name for x in memories[-1]} == {'float32', 'int32', 'bool'}
  for x, y in zip(memories[-1], plain.memories[-1], strict=True):
    if x.dtype == np.float32:
      assert 0 < gap(x, y) < 0.1


@pytest.mark.slow
def test_each_of_two_devices_holds_its_lanes(docs, plain, tmp_path):
  paths = [HERE, HERE.parent, HERE.parent.parent]
  flags = '--xla_force_host_platform_device_count=2'
  subprocess.run(
    [sys.executable, __file__, docs.path, tmp_path],
    check=True,
    env=os.environ
    | {
      'PYTHONPATH': os.pathsep.join(
        [*map(str, paths), os.environ.get('PYTHONPATH', '')]
      ),
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {flags}',
    },
  )
  found = json.loads((tmp_path / 'found.json').read_text())
  toy.close(found['losses'], plain.losses)
  with np.load(tmp_path / 'memory.npz') as memory:
    toy.close(list(memory.values()), plain.memories[-1])
  for shape, shards in found['shards']:
    axis = 0 if shape == [LANES, 1] else 1
    assert shape[axis] == LANES
    half = [*shape]
    half[axis] //= 2
    assert shards == [half, half]
  assert len(found['shards']) == 7


def run_on_devices(path, folder):
  """Writes results for `test_each_of_two_devices_holds_its_lanes`."""
  assert jax.device_count() == 2
  data = DocumentLanes(path, LANES, LENGTH, test_as_valid=True)
  built = build(MODEL, data, OPTIMIZER)
  state = built.init(jax.random.PRNGKey(0))
  losses, memories, state = steps(built, state, range(4), data)
  np.savez(Path(folder) / 'memory.npz', *memories[-1])
  shards = [
    (x.shape, [shard.data.shape for shard in x.addressable_shards])
    for x in jax.tree.leaves(state.model_state)
    if x.ndim > 1
  ]
  found = {'losses': losses, 'shards': shards}
  (Path(folder) / 'found.json').write_text(json.dumps(found))


# Independent rows
# ------------------------------------------------------------------------------
@pytest.mark.slow
def test_memory_does_not_cross_independent_rows(plain, tmp_path):
  (tmp_path / 'text').write_bytes(b'to be, or not to be, that is it; ' * 30)
  data = TextFiles(str(tmp_path / 'text'), LANES, LENGTH)
  forgetful = P(MODEL, carry=False)
  built = build(forgetful, data, OPTIMIZER)
  # The previous steps left the lanes in the middle of documents.
  without = dataclasses.replace(
    plain.last, model_state=toy.zeros_like(built.abstract.model_state)
  )
  losses, _, state = steps(plain.built, plain.last, range(150), data)
  expected, _, _ = steps(built, without, range(150), data)
  toy.close(losses, expected)

  prompt = np.frombuffer(b'or no', np.uint8).astype(np.int32)
  (new,) = generate(MODEL, state.weights, [prompt], 12, temperature=0)
  # Blocks end within the prompt, and three times in the generated text.
  text = np.concatenate([prompt, new])[None]
  layer = forgetful(mode='eval')
  logits, _ = toy.run(
    layer, text, state.weights, toy.zeros_like(toy.shapes(layer, text)[1])
  )
  np.testing.assert_array_equal(new, logits[0, 5:].argmax(axis=-1))
  # A repeated token would not test the order.
  assert bytes(new.tolist()).startswith(b't to be, ')


if __name__ == '__main__':
  run_on_devices(*sys.argv[1:])
