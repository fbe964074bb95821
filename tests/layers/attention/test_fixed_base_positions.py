"""Fixed-base positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier.compat import base
from trax_hier.layers import FixedBasePositions, longest_sequence

# After trax_hier.compat, which patches trax for current JAX.
from trax.layers.research import position_encodings  # isort: skip

X = toy.normal(2, 9, 16)


def layer_of(mode, stride=1, **arguments):
  (layer,) = FixedBasePositions(**arguments).embed(mode, stride)
  return layer


def added(layer, seed=0, length=9, state=()):
  x = jnp.zeros((200, length, 16))
  weights, _ = toy.make(layer, x, scale=1.0)
  y, _ = toy.run(layer, x, weights, state, jax.random.PRNGKey(seed))
  return np.asarray(y)


def test_equals_trax():
  official = position_encodings.FixedBasePositionalEncoding(mode='eval')
  weights, state = toy.make(official, X)
  expected, _ = toy.run(official, X, weights, state)
  bases, first = weights
  ours = jnp.stack([jnp.concatenate(b) for b in bases]), first.ravel()
  toy.close(toy.run(layer_of('eval'), X, ours, ())[0], expected)


@pytest.mark.parametrize('stride', [1, 300])
def test_decoding_equals_evaluation(stride):
  layer = layer_of('predict', stride)
  weights, state = toy.make(layer, X)
  expected, _ = toy.run(layer_of('eval', stride), X, weights, ())
  start = 0
  for n in (1, 3, 0, 5):
    part = X[:, start : start + n]
    y, state = toy.run(layer, part, weights, state)
    toy.close(y, expected[:, start : start + n])
    start += n


def test_strides_count_in_tokens():
  coarse, fine = layer_of('eval', 4), layer_of('eval')
  np.testing.assert_allclose(
    added(coarse, length=3), added(fine)[:, ::4], 1e-5, 1e-5
  )


def test_training_starts_at_random_positions():
  expected = added(layer_of('eval'))[0]
  y = added(layer_of('train', random_starts=0.25, dropout=0.0))
  at_zero = np.isclose(y, expected, 1e-4, 1e-4).all((1, 2))
  assert 0.6 < at_zero.mean() < 0.9
  # The rows from other positions differ.
  assert len(np.unique(y[~at_zero, 1, 0])) == (~at_zero).sum()


def test_training_drops_the_digits_of_some_rows():
  y = added(layer_of('train', random_starts=0.0, dropout=0.25))
  dropped = (y[:, 1:] == 0).all((1, 2))
  assert 0.1 < dropped.mean() < 0.4
  # All rows mark the first token.
  assert (y[:, 0] != 0).all()


def test_without_randomness_training_is_evaluation():
  y = added(layer_of('train', random_starts=0.0, dropout=0.0))
  np.testing.assert_array_equal(y, added(layer_of('eval')))


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(bases=()), r'bases = \(\) must be'),
    (dict(bases=(1, 2)), r'bases = \(1, 2\) must be'),
    (dict(n_digits=0), 'n_digits = 0 must be positive'),
    (dict(random_starts=1.5), 'random_starts = 1.5 must be'),
    (dict(dropout=-0.1), 'dropout = -0.1 must be'),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=f'FixedBasePositions.{message}'):
    FixedBasePositions(**arguments)


def test_digits_must_divide_the_width():
  with pytest.raises(base.LayerError, match='n_digits = 5 must divide d_model'):
    toy.shapes(layer_of('eval', n_digits=5), X)


def test_too_long_a_sequence():
  layer = layer_of('eval', bases=(2, 3), n_digits=2)
  assert longest_sequence(layer) == 4
  weights, state = toy.make(layer, X)
  toy.run(layer, X[:, :4], weights, state)
  with pytest.raises(base.LayerError, match='exceeds the 4 positions'):
    toy.run(layer, X[:, :5], weights, state)
