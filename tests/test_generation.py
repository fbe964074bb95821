"""Generation: one program that gives what evaluation would."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier.generation import generate, sample_text
from trax_hier.models import HourglassLM, TransformerLM

SIZES = {key: value for key, value in toy.SIZES.items() if key != 'max_len'}
MODELS = {
  'transformer': functools.partial(TransformerLM, n_layers=2, **SIZES),
  'hourglass': functools.partial(HourglassLM, hierarchy='1@3', **SIZES),
}
N_NEW = 6


@functools.cache
def weights_of(name):
  return toy.random_like(toy.shapes(MODELS[name](mode='eval'), prompt(4))[0])


def prompt(length):
  return toy.tokens(length)


@pytest.mark.parametrize(
  'name, length',
  # No prompt at all, and one that ends inside a group of three.
  [('transformer', 0), ('transformer', 4), ('hourglass', 4)],
)
def test_greedy_is_the_argmax_of_evaluation(name, length):
  factory, weights = MODELS[name], weights_of(name)
  new = generate(factory, weights, prompt(length), N_NEW, temperature=0)
  assert new.shape == (2, N_NEW) and new.dtype == np.int32
  model = factory(mode='eval')
  whole = np.concatenate([prompt(length), new], axis=1)
  _, state = toy.shapes(model, whole)
  # As models are causal, one evaluation gives all of the steps' logits.
  logits, _ = toy.run(model, whole, weights, toy.zeros_like(state))
  expected = np.asarray(logits).argmax(-1)[:, length:]
  np.testing.assert_array_equal(new, expected)


def test_draws_depend_on_the_seed():
  name = 'transformer'
  first, again, other = (
    generate(MODELS[name], weights_of(name), prompt(4), 20, seed=seed)
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()
  assert (first[0] != first[1]).any()


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(n_tokens=0), 'n_tokens = 0 must be positive'),
    (dict(n_tokens=1, temperature=-1.0), 'temperature = -1.0'),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    generate(MODELS['transformer'], None, prompt(4), **arguments)


class Letters:
  """a to p are ids 1 to 16."""

  size = toy.VOCAB

  def encode(self, text):
    return np.array([ord(c) - 96 for c in text], np.int32)

  def decode(self, ids):
    assert 0 not in ids
    return ''.join(chr(96 + i) for i in ids)


def test_text_ends_before_the_first_zero():
  factory, weights = MODELS['transformer'], weights_of('transformer')
  ids = Letters().encode('abc')[None]
  for seed in range(20):
    new = list(generate(factory, weights, ids, 20, 3.0, seed)[0])
    if 0 in new[1:]:
      break
  text = sample_text(factory, weights, Letters(), 'abc', 20, 3.0, seed)
  assert text == Letters().decode(new[: new.index(0)])


def test_draws_are_among_the_ids_of_the_vocabulary():
  new = generate(
    MODELS['transformer'],
    weights_of('transformer'),
    prompt(4),
    30,
    9.0,
    n_ids=3,
  )
  assert set(new.ravel()) == {0, 1, 2}


@pytest.mark.parametrize('name', MODELS)
def test_bfloat16_weights_decode_as_they_evaluate(name):
  layer = MODELS[name](mode='eval')
  weights = jax.tree.map(lambda w: w.astype(jnp.bfloat16), weights_of(name))
  _, state = toy.shapes(layer, prompt(4))
  whole = prompt(9)
  expected, _ = toy.run(layer, whole, weights, toy.zeros_like(state))
  decoder = MODELS[name](mode='predict', max_len=9)
  _, state = toy.make(decoder, whole[:, :1])
  inputs = np.pad(whole, [(0, 0), (1, 0)])[:, :9]
  parts = []
  for new in (inputs[:, :5], *np.split(inputs[:, 5:], 4, axis=1)):
    logits, state = toy.run(decoder, new, weights, state)
    parts.append(logits)
  toy.close(jnp.concatenate(parts, axis=1), expected, 3e-2)
