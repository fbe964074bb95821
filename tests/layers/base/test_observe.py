"""Observations from layers, and their absence in training programs."""

import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier.compat import tl
from trax_hier.layers import (
  FixedGate,
  LSTMGate,
  Repeat,
  SparseFF,
  SRUBranch,
)
from trax_hier.layers.base.observe import (
  N_BINS,
  Counts,
  collecting,
  observe_choices,
  observe_gate,
)
from trax_hier.layers.recurrent.sru import SRU

STATES = tuple(toy.normal(2, 3, 8, seed=i) for i in range(3))


def observed(layer, weights, state, x):
  """The program with observations, and their counts."""
  total = Counts()

  @jax.jit
  def run(weights, state, x):
    with collecting(total):
      return layer.pure_fn(x, weights, state, toy.KEY)

  return functools.partial(run, weights, state, x), total


def run_observed(layer, x):
  """The weights of a layer, and the counts of its observations for x."""
  weights, state = toy.make(layer, x)
  run, total = observed(layer, weights, state, x)
  run()
  return weights, total.take()


def histogram(x):
  return np.histogram(x, N_BINS, (0, 1))[0]


def sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_fixed_gate():
  (bias,), counts = run_observed(FixedGate(), STATES)
  assert counts.keys() == {'FixedGate/keep'}
  np.testing.assert_array_equal(
    counts['FixedGate/keep'], histogram(sigmoid(bias))
  )


def test_lstm_gate():
  ((w_f, b_f), (w_i, b_i)), counts = run_observed(LSTMGate(bias=2.0), STATES)
  h = STATES[2]
  expected = {
    'LSTMGate/forget': histogram(sigmoid(h @ w_f + b_f + 2)),
    'LSTMGate/input': histogram(sigmoid(h @ w_i + b_i - 2)),
  }
  assert counts.keys() == expected.keys()
  for name, count in expected.items():
    np.testing.assert_array_equal(counts[name], count)


def test_sru():
  x = toy.normal(2, 5, 8)
  (kernel, bias), counts = run_observed(SRU(), x)
  reset, forget, _ = np.split(sigmoid(x @ kernel + bias), 3, axis=-1)
  assert counts.keys() == {'SRU/reset', 'SRU/forget'}
  np.testing.assert_array_equal(counts['SRU/reset'], histogram(reset))
  np.testing.assert_array_equal(counts['SRU/forget'], histogram(forget))


def test_equal_names_get_numbers():
  x = toy.normal(2, 5, 8)
  _, counts = run_observed(SRUBranch(8, d_sru=4, n_layers=2), x)
  names = ['SRU/reset', 'SRU/forget', 'SRU_1/reset', 'SRU_1/forget']
  assert list(counts) == names
  assert [c.sum() for c in counts.values()] == [2 * 5 * 4] * 4
  assert (counts['SRU/reset'] != counts['SRU_1/reset']).any()


@pytest.mark.parametrize('x, i', [(0.0, 0), (0.999, -1), (1.0, -1)])
def test_gates_of_0_and_1_are_counted(x, i):
  total = Counts()
  with collecting(total):
    observe_gate('gate', jnp.full((2, 3), x, jnp.bfloat16))
  ((name, counts),) = total.take().items()
  assert name == '/gate' and counts[i] == 6 == counts.sum()


@pytest.mark.parametrize('remat, chunk_size', [(False, None), (True, 4)])
def test_choices_in_each_block_of_a_stack(remat, chunk_size):
  feed_forward = functools.partial(
    SparseFF, 12, 3, mode='eval', chunk_size=chunk_size
  )
  stack = Repeat(feed_forward, 2, remat)
  x = toy.normal(2, 6, 8)
  weights, state = toy.make(stack, x)
  run, total = observed(stack, weights, state, x)
  y, new_state = run()
  counts = total.take()
  assert list(counts) == [f'blocks.{i}.SparseFF/chosen' for i in range(2)]
  # The expected counts, from running one block after another.
  inputs = x
  (stacked,) = jax.tree.map(np.asarray, weights)
  one = feed_forward()
  for i, count in enumerate(counts.values()):
    block = jax.tree.map(lambda w, i=i: w[i], stacked)
    c1, c2, bias, *_ = block[0] if remat else block
    logits = (inputs @ c1 @ c2 + bias).reshape(12, 4, 3)
    expected = (logits.argmax(-1)[..., None] == np.arange(3)).sum(0)
    np.testing.assert_array_equal(count, expected)
    inputs, _ = toy.run(one, inputs, block[0] if remat else block, ())
  # Observing does not change outputs and state.
  expected, expected_state = toy.run(stack, x, weights, state)
  toy.close(y, expected)
  assert jax.tree.structure(new_state) == jax.tree.structure(expected_state)
  # Taking resets the counts; the same program counts again.
  assert not any(c.any() for c in total.take().values())
  run()
  toy.close(total.take(), counts, 0)


def test_a_layer_that_occurs_twice_has_one_name():
  stack = Repeat(lambda: SparseFF(12, 3, mode='eval'), 2)
  other = Repeat(lambda: SparseFF(12, 3, mode='eval'), 1)
  model = tl.Serial(stack, other, stack)
  x = toy.normal(2, 6, 8)
  weights, state = toy.make(model, x)
  run, total = observed(model, weights, state, x)
  y, _ = run()
  toy.close(y, toy.run(model, x, weights, state)[0])
  counts = {name: c.sum() for name, c in total.take().items()}
  once = 12 * 4
  assert counts == {
    'blocks.0.SparseFF/chosen': 2 * once,
    'blocks.1.SparseFF/chosen': 2 * once,
    'blocks.2.SparseFF/chosen': once,
  }


def test_loop_iterations_are_summed():
  total = Counts()

  @jax.jit
  def run(x):
    def body(total, x):
      observe_choices('chosen', x, 3)
      return jax.lax.cond(total > 1, lambda t: t + 1, lambda t: t, total), None

    with collecting(total):
      return jax.lax.scan(body, 0, x)

  x = np.array([[[0, 1], [2, 1]], [[0, 0], [0, 1]]])
  run(x)
  np.testing.assert_array_equal(total.take()['/chosen'], [[3, 0, 1], [1, 3, 0]])


def test_training_programs_have_no_observations():
  model = tl.Serial(
    Repeat(lambda: SparseFF(12, 3), 2), SRUBranch(8, d_sru=4), tl.Dense(5)
  )
  x = toy.normal(2, 6, 8)
  weights, state = toy.shapes(model, x)
  total = Counts()
  with collecting(total):
    jax.eval_shape(model.pure_fn, x, weights, state, toy.KEY)
  assert len(total) == 4
  step = jax.grad(lambda w, s: model.pure_fn(x, w, s, toy.KEY)[0].sum())
  program = jax.make_jaxpr(step)(weights, state)
  assert not program.effects and 'callback' not in str(program)
  observe_gate('none', None)
  observe_choices('none', None, 2)


@pytest.mark.parametrize(
  'row, names',
  [
    (
      'hourglass block-recurrent, sparse',
      {
        'blocks.0.SparseFF/chosen',
        'ShortenedStack.blocks.0.RecurrentStates.FixedGate/keep',
        'ShortenedStack.blocks.0.SparseFF/chosen',
        'ShortenedStack.blocks.1.RecurrentStates.FixedGate/keep',
        'ShortenedStack.blocks.1.SparseFF/chosen',
        'blocks.1.SparseFF/chosen',
      },
    ),
    (
      'block-recurrent lstm dual, remat',
      {
        f'blocks.2.RecurrentStates.LSTMGate{which}/{name}'
        for which in ('', '_1')
        for name in ('forget', 'input')
      },
    ),
  ],
)
def test_names_in_models(row, names):
  layer = contract.ROWS[row].model(mode='eval')
  tokens = toy.tokens(12)
  weights, state = toy.shapes(layer, tokens)
  total = Counts()
  with collecting(total):
    jax.eval_shape(layer.pure_fn, tokens, weights, state, toy.KEY)
  assert total.take().keys() == names
