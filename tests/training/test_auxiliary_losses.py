"""Losses of layers: in the objective, apart in the metrics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
import toy_training

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.layers.base.auxiliary import sum_reported
from trax_hier.models import HourglassLM
from trax_hier.training.build import build
from trax_hier.training.loss import weighted_sums
from trax_hier.training.optimizers import SGD
from trax_hier.training.step import METRICS, apply_model

P = functools.partial


def block(weight):
  return tl.Residual(
    hl.Dense(8),
    tl.Dup(),
    tl.Fn('Square', lambda x: jnp.mean(x * x)),
    hl.AuxiliaryLoss('square', weight),
  )


def model(mode='train', weight=0.5):
  return tl.Serial(
    tl.ShiftRight(mode=mode),
    tl.Embedding(toy_training.VOCAB, 8),
    hl.Repeat(lambda: block(weight), 2, remat=True),
    hl.Head(tl.Dense(toy_training.VOCAB)),
  )


def step(model=model, **kwargs):
  """Names and values of the metrics of a step of SGD, and its gradients."""
  data = toy_training.Data()
  built = build(model, data, P(SGD, 1.0), **kwargs)
  state = built.init(jax.random.PRNGKey(0))
  before = jax.tree.map(np.asarray, state.weights)
  after, metrics = built.step(state, data.train_batch(0))
  gradients = jax.tree.map(lambda a, b: a - b, before, after.weights)
  return dict(zip(built.metrics, metrics.tolist(), strict=True)), gradients


def objective(weights, layer, state, batch):
  apply = P(apply_model, layer, weights, state, batch, toy.KEY, jnp.float32)
  logits, new = apply()
  nats, _ = weighted_sums(logits, batch)
  added, values = sum_reported(layer, new)
  loss = nats / jnp.sum(batch['weights'])
  return loss + added, (loss, values)


@pytest.fixture(scope='module')
def expected():
  data, layer = toy_training.Data(), model()
  batch = data.train_batch(0)
  built = build(model, data, SGD)
  start = built.init(jax.random.PRNGKey(0))
  return jax.jit(
    lambda: jax.grad(objective, has_aux=True)(
      start.weights, layer, start.model_state, batch
    )
  )()


@pytest.mark.parametrize(
  'arguments',
  [{}, dict(accumulate_steps=4), dict(loss_chunk=2)],
  ids=str,
)
def test_the_gradient_has_the_loss_and_the_metrics_show_it(expected, arguments):
  gradients, (loss, values) = expected
  metrics, found = step(**arguments)
  assert tuple(metrics) == (*METRICS, 'square')
  toy.close(found, gradients)
  np.testing.assert_allclose(metrics['loss'], loss, 1e-5)
  np.testing.assert_allclose([metrics['square']], values, 1e-5)


def test_its_weight_changes_the_gradient_alone():
  light, heavy = (step(P(model, weight=w)) for w in (0.0, 2.0))
  assert light[0]['loss'] == heavy[0]['loss']
  assert light[0]['square'] == heavy[0]['square']
  assert light[0]['grad_norm'] != heavy[0]['grad_norm']


def test_evaluations_show_it_apart():
  data = toy_training.Data()

  def evaluate(weight):
    built = build(P(model, weight=weight), data, SGD)
    return built.evaluator(built.init(jax.random.PRNGKey(0)).weights)

  values, others = evaluate(0.0), evaluate(2.0)
  assert values == others and values['square'] > 0
  assert values['bits_per_byte'] == values['loss'] / np.log(2)


def test_metrics_of_dynamic_levels():
  sizes = {**toy.SIZES, 'vocab_size': toy_training.VOCAB}
  dynamic = P(HourglassLM, hierarchy='1@~2 1@~4 1@~2', **sizes)
  metrics, gradients = step(dynamic, accumulate_steps=2)
  parts = 'ratio_loss', 'segment_length', 'dropped', 'after_space'
  names = {f'level_{n}/{part}' for n in (1, 2) for part in parts}
  assert set(metrics) == {*METRICS, *names}
  assert np.isfinite(list(metrics.values())).all()
  assert 1 <= metrics['level_1/segment_length'] < 6
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
