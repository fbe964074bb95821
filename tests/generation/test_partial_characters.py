"""Texts of token ids that are cut within a character."""

import importlib

import numpy as np
import pytest
import tiny_vocabularies

from trax_hier.data import ByteVocab
from trax_hier.generation import sample_text
from trax_hier.generation.partial_characters import whole_characters


@pytest.mark.parametrize('kind', ['bytes', 'byte_level', 'tiktoken'])
def test_a_cut_text_has_whole_characters(kind, tmp_path):
  vocab = tiny_vocabularies.make(kind, tmp_path)
  text = 'né 世界😀!'
  ids = vocab.encode(text)
  for n in range(len(ids) + 1):
    found = whole_characters(ids[:n], vocab.decode)
    assert text.startswith(vocab.decode(found))
    assert 0 <= n - len(found) <= 3
  assert len(whole_characters(ids, vocab.decode)) == len(ids)


def test_a_replacement_character_of_the_text_stays():
  ids = ByteVocab().encode('a\ufffd\ufffd')
  assert len(whole_characters(ids, ByteVocab().decode)) in (4, 7)
  broken = np.full(9, 0xFF)
  assert len(whole_characters(broken, ByteVocab().decode)) == 9


def test_samples_keep_their_first_space(tmp_path, monkeypatch):
  """Which some vocabularies drop at the beginning of a text."""
  vocab = tiny_vocabularies.make('t5', tmp_path)
  ids = vocab.encode('the cat')
  n = len(vocab.encode('the'))
  assert vocab.decode(ids[n:]) == 'cat'
  module = importlib.import_module('trax_hier.generation.generate')
  prompts = []

  def generate(model, weights, rows, *_, **__):
    prompts.append(rows[0])
    return [ids[n:]]

  monkeypatch.setattr(module, 'generate', generate)
  for prompt in ('the', ids[:n]):
    assert sample_text(None, None, vocab, prompt, 9) == ' cat'
    np.testing.assert_array_equal(prompts.pop(), ids[:n])
