"""Generation: one program that gives what evaluation would."""

import functools

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


def test_text():
  class Vocab:
    def encode(self, text):
      return np.array([ord(c) - 96 for c in text], np.int32)

    def decode(self, ids):
      assert 0 not in ids
      return ''.join(chr(96 + i) for i in ids)

  text = sample_text(
    MODELS['transformer'], weights_of('transformer'), Vocab(), 'abc', 8
  )
  assert isinstance(text, str) and len(text) <= 8
