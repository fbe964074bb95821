"""The refusal of training steps that cannot fit in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import config, environment
from trax_hier.data.batching.batches import EvalBatches
from trax_hier.training import build as build_module
from trax_hier.training.build import build
from trax_hier.training.evaluate import Evaluator
from trax_hier.training.memory_limit import check_memory
from trax_hier.training.mesh import make_mesh
from trax_hier.training.optimizers import SGD
from trax_hier.training.state import TrainState

MEMORY = 10**9
HUGE = 10**10


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def check(weights=1, optimizer=1, state=1, batch=1, logits=1, **others):
  train_state = TrainState(
    step=array(),
    weights=array(weights),
    model_state=array(state),
    opt_state=array(optimizer),
    rng=array(2),
  )
  arguments = dict(n_devices=1) | others
  check_memory(
    train_state, {'inputs': array(batch)}, array(logits), **arguments
  )


@pytest.fixture(autouse=True)
def available(monkeypatch):
  monkeypatch.setattr(environment, 'memory', lambda: (MEMORY, 'this machine'))


@pytest.mark.parametrize(
  'part, name',
  [
    ('weights', r'weights 40\.0 GB, gradients 40\.0 GB'),
    ('optimizer', r'optimizer state 40\.0 GB'),
    ('state', r'model state 40\.0 GB'),
    ('batch', r'batch 40\.0 GB'),
    ('logits', r'logits 40\.0 GB'),
  ],
)
def test_the_message_names_the_part_and_the_memory(part, name):
  with pytest.raises(ValueError, match=f'{name}.*this machine has 1.0 GB'):
    check(**{part: HUGE})


def test_weights_count_twice_for_their_gradients():
  check(weights=MEMORY // 8 - 10)
  with pytest.raises(ValueError, match='the largest weights are'):
    check(weights=MEMORY // 8 + 10)


def test_micro_batches_share_the_memory_of_logits():
  logits = MEMORY // 4 + 10
  with pytest.raises(ValueError, match='logits'):
    check(logits=logits)
  check(logits=logits, accumulate_steps=2)


def test_unknown_memory_refuses_nothing(monkeypatch):
  monkeypatch.setattr(environment, 'memory', lambda: (None, ''))
  check(weights=HUGE)


def test_build_refuses_only_what_must_fit(monkeypatch):
  monkeypatch.setattr(environment, 'memory', lambda: (100, 'this machine'))
  arguments = toy_training.Model, toy_training.Data(), SGD
  build(*arguments)
  with pytest.raises(ValueError, match='a training step needs at least'):
    build(*arguments, must_fit=True)


def test_evaluation_steps_are_checked(monkeypatch):
  data = toy_training.Data()
  built = build(toy_training.Model, data, SGD)
  built.evaluator.check_memory(n_ids=16)
  # 8 rows of 6 tokens.
  with pytest.raises(
    ValueError, match=r'logits 19\.2 GB.*: set train.loss_chunk, or'
  ):
    built.evaluator.check_memory(n_ids=10**8)
  monkeypatch.setattr(environment, 'memory', lambda: (100, 'this machine'))
  monkeypatch.setattr(build_module, 'check_memory', lambda *_: None)
  with pytest.raises(ValueError, match='an evaluation step'):
    build(toy_training.Model, data, SGD, must_fit=True)


def test_the_shapes_of_large_evaluation_batches_need_no_memory():
  rows = EvalBatches(
    lambda index: (np.zeros((len(index), 4), np.int32),) * 2, 1, 10**9
  )
  evaluator = Evaluator(toy_training.Model('eval'), rows, 'byte', make_mesh())
  with pytest.raises(ValueError, match=r'batch 49\.0 GB, logits 256\.0 GB'):
    evaluator.check_memory(n_ids=16)


def test_an_evaluation_batch_that_cannot_be_read():
  class Batches(list):
    def __getitem__(self, i):
      return {'inputs': np.zeros((1, 1 << 60), np.int32)}

  with pytest.raises(ValueError, match='batch does not fit in memory: Unable'):
    Evaluator(toy_training.Model('eval'), Batches([1]), 'byte', make_mesh())


def test_the_message_names_the_binding():
  config.parse([], [f'TextFiles.batch_size = {HUGE}'], True)
  try:
    with pytest.raises(ValueError, match=f'lower TextFiles.*{HUGE}, or use'):
      check(batch=HUGE)
  finally:
    config.clear()
