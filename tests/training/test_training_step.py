"""The training step, the evaluation step, and layer initialization."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training

from trax_hier.compat import base, tl
from trax_hier.layers import SelfAttention
from trax_hier.training.build import build
from trax_hier.training.loss import weighted_sums
from trax_hier.training.optimizers import SGD, Adam
from trax_hier.training.state import (
  abstract_init,
  init_layer,
  lane_axes,
  n_parameters,
  token_shapes,
)
from trax_hier.training.step import apply_model

SHAPE = (8, 6)
BATCH = token_shapes(SHAPE)


def run(
  n=3, model=toy_training.Model, data=None, optimizer=Adam, seed=0, **kwargs
):
  """Metrics of n steps, and the last state."""
  data = data or toy_training.Data()
  built = build(model, data, optimizer, **kwargs)
  state = built.init(jax.random.PRNGKey(seed))
  metrics = []
  for step in range(n):
    state, values = built.step(state, data.train_batch(step))
    metrics.append(np.asarray(values))
  return np.stack(metrics), state


def tracers(tree):
  return [x for x in jax.tree.leaves(tree) if isinstance(x, jax.core.Tracer)]


def test_weighted_sums_by_hand():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 3, 5)).astype(np.float32)
  targets = rng.integers(0, 5, (2, 3))
  weights = np.array([[1, 0.5, 0], [1, 1, 0]], np.float32)
  nats, correct = weighted_sums(
    jnp.asarray(logits), {'targets': targets, 'weights': weights}
  )
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  rows, columns = np.indices((2, 3))
  expected = -np.log(p[rows, columns, targets]) * weights
  assert float(nats) == pytest.approx(expected.sum(), rel=1e-5)
  right = (logits.argmax(-1) == targets) * weights
  assert float(correct) == right.sum()


def test_weighted_sums_are_float32_for_bfloat16_logits():
  batch = {'targets': np.zeros((1, 4), int), 'weights': np.ones((1, 4))}
  nats, _ = weighted_sums(jnp.zeros((1, 4, 7), jnp.bfloat16), batch)
  assert nats.dtype == jnp.float32
  assert float(nats) == pytest.approx(4 * np.log(7), rel=1e-6)


def test_abstract_init_leaves_only_shapes_in_the_layer():
  layer = toy_training.Model()
  weights, model_state = abstract_init(layer, BATCH)
  assert n_parameters(weights) == 16 * 8 + 8 * 16 + 16
  assert not tracers((layer.weights, layer.state, layer.rng))
  held = jax.tree.leaves((layer.weights, layer.state))
  assert all(isinstance(x, jax.ShapeDtypeStruct) for x in held)
  del model_state


def test_shared_layers_keep_their_weights_marker():
  dense = tl.Dense(8)
  layer = tl.Serial(tl.Embedding(16, 8), dense, dense, tl.Dense(16))
  weights, _ = abstract_init(layer, BATCH)
  assert isinstance(weights[2], dict)
  _, state = run(
    model=lambda mode: tl.Serial(
      tl.Embedding(16, 8), *[tl.Dense(8)] * 2, tl.Dense(16)
    )
  )
  assert jax.tree.structure(state.weights) == jax.tree.structure(weights)


def test_lane_axes():
  layer = toy_training.Model(memory=True)
  _, model_state = abstract_init(layer, BATCH)
  axes = jax.tree.leaves(lane_axes(layer, BATCH, model_state))
  assert sorted(axes) == [-1, -1, 0]


def test_loss_falls_and_the_step_compiles_once():
  data = toy_training.Data()
  built = build(toy_training.Model, data, functools.partial(Adam, 0.05))
  state = built.init(jax.random.PRNGKey(0))
  losses = []
  for step in range(60):
    state, metrics = built.step(state, data.train_batch(step))
    losses.append(float(metrics[0]))
  assert losses[0] == pytest.approx(np.log(toy_training.VOCAB), rel=0.05)
  assert losses[-1] < 0.7 * losses[0]
  assert built.step._cache_size() == 1
  assert int(state.step) == 60


def test_the_same_seed_is_bitwise_equal_and_another_is_not():
  model = functools.partial(toy_training.Model, dropout=0.5, memory=True)
  a, _ = run(model=model)
  b, _ = run(model=model)
  c, _ = run(model=model, seed=1)
  np.testing.assert_array_equal(a, b)
  assert not np.array_equal(a, c)


def test_dropout_differs_between_steps():
  class Same(toy_training.Data):
    def train_batch(self, step, shard=0, n_shards=1):
      return super().train_batch(0)

  model = functools.partial(toy_training.Model, dropout=0.5)
  metrics, _ = run(model=model, data=Same(), optimizer=lambda: SGD(0.0))
  assert len(set(metrics[:, 0])) == 3


@pytest.mark.parametrize('memory', [False, True])
@pytest.mark.parametrize('n', [2, 8])
def test_accumulation_gives_the_same_steps(memory, n):
  class Uneven(toy_training.Data):
    def _batch(self, seed, scored):
      return super()._batch(seed, 5)

  model = functools.partial(toy_training.Model, memory=memory)
  whole, a = run(model=model, data=Uneven())
  split, b = run(model=model, data=Uneven(), accumulate_steps=n)
  np.testing.assert_allclose(whole, split, rtol=1e-4)
  a, b = (jax.tree.leaves((s.weights, s.model_state)) for s in (a, b))
  for x, y in zip(a, b, strict=True):
    if x.dtype == np.float32:
      np.testing.assert_allclose(x, y, atol=1e-5)


def test_bfloat16_is_near_float32_and_stores_float32_weights():
  model = functools.partial(toy_training.Model, memory=True)
  full, _ = run(model=model)
  half, state = run(model=model, compute_dtype='bfloat16')
  np.testing.assert_allclose(full, half, rtol=0.05, atol=0.02)
  assert not np.array_equal(full[:, 0], half[:, 0])
  floats = [x for x in jax.tree.leaves(state) if x.dtype.kind == 'f']
  assert {x.dtype for x in floats} == {np.dtype(np.float32)}


def test_a_batch_without_weight_has_loss_zero():
  class Empty(toy_training.Data):
    def _batch(self, seed, scored):
      return super()._batch(seed, 0)

  metrics, _ = run(1, data=Empty())
  assert metrics[0, 0] == metrics[0, 2] == 0


def test_model_state_is_carried_and_not_changed_by_evaluation():
  data = toy_training.Data()
  built = build(functools.partial(toy_training.Model, memory=True), data, Adam)
  state = built.init(jax.random.PRNGKey(0))
  for step in range(2):
    state, _ = built.step(state, data.train_batch(step))
  before = jax.device_get(state)
  first = built.evaluator(state.weights)
  assert built.evaluator(state.weights) == first
  for a, b in zip(
    jax.tree.leaves(before), jax.tree.leaves(jax.device_get(state)), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  memory, count = before.model_state[2]
  assert count == 2 and np.abs(memory).max() > 0


def test_an_evaluation_may_read_only_the_first_batches():
  data = toy_training.Data(n_eval=3)
  built = build(toy_training.Model, data, Adam, eval_batches=2)
  weights = built.init(jax.random.PRNGKey(0)).weights
  values = built.evaluator(weights)
  assert values['tokens'] == 8 * 6 * 2 and values['coverage'] == 2 / 3
  data.eval_batches = lambda split: toy_training.Data.eval_batches(data, split)[
    :2
  ]
  for n in (2, 99, None):
    whole = build(toy_training.Model, data, Adam, eval_batches=n).evaluator
    assert whole(weights) == {**values, 'coverage': 1.0}


def test_evaluation_scores_every_token_once():
  data = toy_training.Data(n_eval=3)
  built = build(toy_training.Model, data, Adam)
  weights = built.init(jax.random.PRNGKey(0)).weights
  values = built.evaluator(weights)
  assert values['tokens'] == 8 * 6 * 2 + 4 * 6
  layer = toy_training.Model(mode='eval')
  _, state = abstract_init(layer, BATCH)
  state = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), state)
  nats = 0.0
  for batch in data.eval_batches('valid'):
    logits, _ = layer.pure_fn(
      batch['inputs'], weights, state, jax.random.PRNGKey(0)
    )
    nats += float(weighted_sums(logits, batch)[0])
  assert values['loss'] == pytest.approx(nats / values['tokens'], rel=1e-5)
  assert values['bits_per_byte'] == pytest.approx(values['loss'] / np.log(2))


@pytest.mark.parametrize(
  'change, message',
  [
    ({'compute_dtype': 'float16'}, 'train.compute_dtype must be one of'),
    ({'model': toy_training.Model()}, 'train.model must be a factory'),
    ({'model': SelfAttention}, 'train.model = @SelfAttention is not a model'),
    ({'optimizer': Adam()}, 'train.optimizer must be a factory'),
    ({'data': 'enwik8'}, 'train.data must be a data set'),
    ({'accumulate_steps': 3}, '8 rows does not split .*accumulate_steps = 3'),
    (
      {'model': lambda mode: tl.Serial(tl.Embedding(8, 4), tl.Dense(8))},
      r'logits of shape \(8, 6, 8\); the data needs \(8, 6, 16\)',
    ),
  ],
)
def test_errors_name_the_binding(change, message):
  arguments = {
    'model': toy_training.Model,
    'data': toy_training.Data(),
    'optimizer': Adam,
  }
  with pytest.raises(ValueError, match=message):
    build(**(arguments | change))


class FromStart(base.Layer):
  """Logits of 1 in lanes that start a sequence, else 0."""

  takes_start_of_sequence = True

  def __init__(self):
    super().__init__(n_in=2, n_out=1)

  def init_weights_and_state(self, input_signature):
    assert input_signature[1].shape == SHAPE[:1]
    self.weights = np.ones((), np.float32)

  def forward(self, inputs):
    tokens, start = inputs
    ones = jnp.ones((*tokens.shape, toy_training.VOCAB)) * self.weights
    return jnp.where(start[:, None, None], ones, 0.0)


def test_start_of_sequence_reaches_a_model_that_takes_it():
  layer = FromStart()
  weights, state = init_layer(layer, BATCH, jax.random.PRNGKey(0))
  start = np.arange(SHAPE[0]) % 2 == 0
  batch = {'inputs': np.zeros(SHAPE, np.int32), 'start_of_sequence': start}
  logits, _ = apply_model(
    layer, weights, state, batch, jax.random.PRNGKey(0), jnp.float32
  )
  np.testing.assert_array_equal(logits[:, 0, 0], start.astype(np.float32))
