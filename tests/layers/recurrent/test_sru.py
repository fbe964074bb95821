"""SRU: parity with trax 1.4.1 and with a plain recurrence, and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.layers.recurrent.sru import _recur

D = 4
X = toy.normal(2, 11, D)
# Masked rows at the start, in the middle and at the end.
MASK = np.array([[0, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1], [1] * 6 + [0, 1, 1, 0, 0]])
MASK = MASK.astype(bool)


def evaluate(layer, weights, state, inputs):
  return toy.run(layer, inputs, weights, state)[0]


def sru(mode, masked=False):
  return hl.SRU(masked, mode)


def sru_weights():
  """Weights that open and close the gates, fully and partly."""
  return toy.random_like(toy.shapes(sru('eval'), X)[0], scale=1.0)


def recurrence(x, weights, mask):
  """Output of an SRU, row by row in double precision."""
  kernel, bias = (np.asarray(w, np.float64) for w in weights)
  outputs, cells = [], np.zeros_like(x[:, 0], np.float64)
  for t in range(x.shape[1]):
    r, f, y = np.split(x[:, t] @ kernel + bias, 3, axis=-1)
    r, f = 1 / (1 + np.exp(-r)), 1 / (1 + np.exp(-f))
    new = f * cells + (1 - f) * y
    cells = np.where(mask[:, t, None], new, cells)
    outputs.append(r * cells + (1 - r) * x[:, t] * np.sqrt(3))
  return np.stack(outputs, axis=1)


def sru_in_calls(layer, weights, inputs, lengths):
  """Outputs of an SRU in predict mode, in calls of these lengths."""

  def chunk(start, n):
    return jax.tree.map(lambda x: x[:, start : start + n], inputs)

  _, state = toy.make(layer, chunk(0, lengths[0]))
  step, outputs, start = jax.jit(layer.pure_fn), [], 0
  for n in lengths:
    y, state = step(chunk(start, n), weights, state, toy.KEY)
    outputs.append(y)
    start += n
  assert start == X.shape[1]
  return jnp.concatenate(outputs, axis=1)


def test_sru_equals_trax():
  official = tl.SRU(D, mode='eval')
  weights, state = toy.make(official, X, scale=1.0)
  expected = evaluate(official, weights, state, X)
  ours = tuple(jax.tree.leaves(weights))
  toy.close(evaluate(sru('eval'), ours, (), X), expected)
  official = tl.SRU(D, mode='predict')
  tokens = [1] * X.shape[1]
  expected = sru_in_calls(official, weights, X, tokens)
  toy.close(sru_in_calls(sru('predict'), ours, X, tokens), expected)


def test_sru_is_its_recurrence():
  weights = sru_weights()
  expected = recurrence(X, weights, np.ones(X.shape[:2], bool))
  toy.close(evaluate(sru('eval'), weights, (), X), expected)
  toy.close(sru_in_calls(sru('predict'), weights, X, [4, 1, 1, 3, 2]), expected)


def cells_one_by_one(factor, term, start):
  cells = [start]
  for t in range(factor.shape[1]):
    cells.append(factor[:, t] * cells[-1] + term[:, t])
  return jnp.stack(cells[1:], axis=1)


@pytest.mark.parametrize('length', [1, 2, 3, 9, 11, 30])
def test_gradient_is_that_of_the_recurrence(length):
  factor = np.asarray(toy.normal(2, length, D))  # 0 forgets all.
  factor[:, length // 2] = 0
  inputs = factor, toy.normal(2, length, D, seed=1), toy.normal(2, D, seed=2)

  def gradients(recur):
    def loss(*inputs):
      return jnp.sum(jnp.sin(recur(*inputs)))

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*inputs)

  toy.close(gradients(_recur), gradients(cells_one_by_one))


def test_masked_rows_leave_the_cells_of_an_sru():
  weights = sru_weights()
  expected = recurrence(X, weights, MASK)[MASK]
  y = evaluate(sru('eval', True), weights, (), (X, MASK))
  toy.close(y[MASK], expected)
  layer = sru('predict', True)
  y = sru_in_calls(layer, weights, (X, MASK), [2, 3, 1, 1, 4])
  toy.close(y[MASK], expected)
  # Unmasked rows give what they would give without the masked rows.
  for x, mask, row in zip(X, MASK, y, strict=True):
    x = x[mask][None]
    alone = recurrence(x, weights, np.ones(x.shape[:2], bool))
    toy.close(row[mask], alone[0])
