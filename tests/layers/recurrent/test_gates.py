"""Gates of recurrent states and their configurations, against numpy."""

import functools

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.layers.recurrent.configurations import CONFIGURATIONS

P = functools.partial
B, D = 2, 16


def sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x)))


def gate(layer, s, z, h):
  weights, state = toy.make(layer, (s, z, h), scale=1.0)
  y, _ = toy.run(layer, (s, z, h), weights, state)
  return y, [np.asarray(w) for w in jax.tree.leaves(weights)]


def gate_inputs():
  s, z = (toy.normal(B, 3, D, seed=seed) for seed in (0, 1))
  return s, z, toy.normal(B, 3, 5, seed=2)


def test_fixed_gate():
  s, z, h = gate_inputs()
  y, (b_g,) = gate(hl.FixedGate(), s, z, h)
  g = sigmoid(b_g)
  np.testing.assert_allclose(y, g * s + (1 - g) * z, 1e-5, 1e-5)
  y, (b_g, b_z) = gate(hl.FixedGate(paper_candidate=True), s, z, h)
  g = sigmoid(b_g)
  np.testing.assert_allclose(y, g * s + (1 - g) * (z + b_z), 1e-5, 1e-5)


def test_lstm_gate():
  s, z, h = gate_inputs()
  y, (wf, bf, wi, bi) = gate(hl.LSTMGate(), s, z, h)
  expected = sigmoid(h @ wf + bf + 1) * s + sigmoid(h @ wi + bi - 1) * z
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)
  layer = hl.LSTMGate(bias=2.0, paper_candidate=True)
  y, (wf, bf, wi, bi, bz) = gate(layer, s, z, h)
  z = np.tanh(z + bz)
  expected = sigmoid(h @ wf + bf + 2) * s + sigmoid(h @ wi + bi - 2) * z
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


@pytest.mark.parametrize('b_g, chosen', [(20.0, 0), (-20.0, 1)])
def test_fixed_gate_open_and_closed(b_g, chosen):
  inputs = gate_inputs()
  weights = (np.full(D, b_g, np.float32),)
  y, _ = toy.run(hl.FixedGate(), inputs, weights, ())
  np.testing.assert_allclose(y, inputs[chosen], 1e-6, 1e-6)


def initial_weights(layer, *inputs):
  weights, _ = jax.jit(lambda: layer.init(toy.signature(inputs), toy.KEY))()
  return [np.asarray(w) for w in jax.tree.leaves(weights)]


WIDE = np.zeros((1, 1, 1024), np.float32)


@pytest.mark.parametrize('bias', [0.0, 1.0])
def test_initial_fixed_gate(bias):
  b_g, b_z = initial_weights(hl.FixedGate(bias, True), WIDE, WIDE, WIDE)
  assert abs(sigmoid(b_g).mean() - sigmoid(bias)) < 0.01
  slope = sigmoid(bias) * sigmoid(-bias)
  assert abs(sigmoid(b_g).std() - 0.1 * slope) < 0.003
  assert abs(b_z.mean()) < 0.01 and abs(b_z.std() - 0.1) < 0.01
  assert len(initial_weights(hl.FixedGate(bias), WIDE, WIDE, WIDE)) == 1
  assert (b_g - bias != b_z).all()


def test_initial_lstm_gate():
  layer, h = hl.LSTMGate(), WIDE[..., :64]
  wf, bf, wi, bi = initial_weights(layer, WIDE, WIDE, h)
  for w in (wf, wi):
    assert abs(w.mean()) < 1e-3 and abs(w.std() - (0.1 / 64) ** 0.5) < 1e-3
  for b in (bf, bi):
    assert abs(b.std() - 0.1) < 0.01
  assert (wf != wi).mean() > 0.99 and (bf != bi).mean() > 0.99
  weights = (0 * wf, bf), (0 * wi, bi)
  one = np.ones_like(WIDE)
  forget, _ = toy.run(layer, (one, WIDE, h), weights, ())
  enter, _ = toy.run(layer, (WIDE, one, h), weights, ())
  assert abs(forget.mean() - 0.7311) < 0.003
  assert abs(enter.mean() - 0.2689) < 0.003
  assert np.abs(forget - 0.7311).max() < 0.1


@pytest.mark.parametrize('paper', [False, True])
@pytest.mark.parametrize('make', [hl.FixedGate, hl.LSTMGate])
def test_candidate_of_the_single_configuration(make, paper):
  gate = P(make, paper_candidate=paper)
  layer = CONFIGURATIONS['single'](D, 7, gate, hl.RMSNorm)
  s, _, o = gate_inputs()
  weights, state = toy.make(layer, (s, o), scale=1.0)
  y, _ = toy.run(layer, (s, o), weights, state)
  w1, w2, *rest = (np.asarray(w) for w in jax.tree.leaves(weights))
  hidden = np.maximum(o @ w1, 0)
  z = hidden @ w2
  if not paper:
    z = np.tanh(z)
  elif make is hl.FixedGate:
    z = z + rest[1]
  else:
    z = np.tanh(z + rest[4])
  if make is hl.FixedGate:
    g = sigmoid(rest[0])
    expected = g * s + (1 - g) * z
  else:
    wf, bf, wi, bi = rest[:4]
    forget, enter = sigmoid(hidden @ wf + bf + 1), sigmoid(hidden @ wi + bi - 1)
    expected = forget * s + enter * z
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)
