"""Boundaries by rules on bytes."""

import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.layers.hierarchy.boundary_rules import token_marks

TEXT = (
  "It's 3 a.m.,  call 12345678 (now)!\r\n\n Über naïve 東京 x\t\ty\n---\nend"
)
RULES = {
  'bytes': hl.ByteRule,
  'words': hl.WordRule,
  'pairs': lambda mode='train': hl.WordRule(2, mode),
  'fours': lambda mode='train': hl.WordRule(4, mode),
}


def tokens(text=TEXT):
  return np.array([[0, *text.encode()]], np.int32)


def marks(rule, text=TEXT):
  return np.asarray(jax.jit(rule)(tokens(text), rng=toy.KEY))[0]


def space_like(byte):
  is_word = bytes([byte]).isalnum() and byte < 128
  return not (is_word or 0x80 <= byte < 0xC0)


def test_byte_rule_is_that_of_the_paper():
  text = TEXT.encode()
  # After byte i, at position i + 1; position 0 is before the text.
  expected = [False] + [
    i == 0 or (space_like(byte) and not space_like(text[i - 1]))
    for i, byte in enumerate(text)
  ]
  np.testing.assert_array_equal(marks(hl.ByteRule()), expected)


def words_by_hand(text, n):
  """`WordRule` as a state machine on one byte at a time."""
  fires, run, words, before = [], {'digit': 0, 'mark': 0}, 0, None
  for byte in text.encode():
    char = chr(byte)
    if char in '\r\n':
      kind = 'line'
    elif byte in b' \t\v\f':
      kind = 'space'
    elif char.isdigit() and byte < 128:
      kind = 'digit'
    elif byte < 127 and not char.isalnum():
      kind = 'mark'
    else:
      kind = 'letter'
    for name in run:
      run[name] = run[name] + 1 if kind == name else 0
    fire = kind in run and run[kind] % 3 == 1
    fire |= kind == 'line' and before not in ('line', 'mark')
    if fire:
      words = 0
    elif kind == 'space' and before not in ('space', 'line', None):
      words += 1
      fire = words % n == 0
    fires.append(fire)
    before = kind
  return [False, *fires]


@pytest.mark.parametrize('n', [1, 2, 4])
def test_word_rule_is_its_state_machine(n):
  text = TEXT + ' one two three four five six, seven eight nine ten'
  expected = words_by_hand(text, n)
  np.testing.assert_array_equal(marks(hl.WordRule(n), text), expected)


def test_words_are_cut_as_documented():
  def cut(n, text):
    where = np.flatnonzero(marks(hl.WordRule(n), text)).tolist()
    ends = [*where, len(text)]
    return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]

  assert cut(1, 'to be or not') == ['to ', 'be ', 'or ', 'not']
  assert cut(2, 'to be or not') == ['to be ', 'or not']
  # The first byte of a group ends the segment before it.
  assert cut(1, 'a 12345') == ['a ', '1', '234', '5']
  assert cut(1, 'a...!b') == ['a.', '..!', 'b']
  assert cut(1, 'ab\n\ncd.\ne') == ['ab\n', '\ncd.', '\ne']


def test_coarser_boundaries_are_finer_boundaries():
  text = TEXT + ' one two three four five six, seven eight nine ten'
  one, two, four = (marks(hl.WordRule(n), text) for n in (1, 2, 4))
  assert four.sum() < two.sum() < one.sum()
  assert not (two & ~one).any() and not (four & ~two).any()


def test_no_boundary_is_inside_a_character():
  ends = np.cumsum([0] + [len(c.encode()) for c in TEXT])
  for n in 1, 2, 4:
    assert set(np.flatnonzero(marks(hl.WordRule(n)))) <= {*ends, 1}


@pytest.mark.parametrize('name', RULES)
def test_rules_are_causal_and_decode_in_parts(name):
  rule = RULES[name]
  x = np.repeat(tokens(), 2, axis=0)
  whole = np.asarray(rule()(x))
  for t in range(1, x.shape[1], 5):
    changed = x.copy()
    changed[:, t] = 32 if x[0, t] != 32 else 65
    same = np.asarray(rule()(changed))[:, :t] == whole[:, :t]
    assert same.all(), t
  layer = rule(mode='predict')
  state = layer.init(toy.signature(x[:, :1]), toy.KEY)[1]
  parts, start = [], 0
  for n in [1] * 12 + [7, x.shape[1] - 19]:
    y, state = layer.pure_fn(x[:, start : start + n], (), state, toy.KEY)
    parts.append(y)
    start += n
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_marks_are_valid_space_and_rules():
  rules = [hl.WordRule(1), hl.WordRule(2)]
  layer = token_marks(rules)
  found, _ = layer.pure_fn(tokens(), *toy.make(layer, tokens()), toy.KEY)
  assert found.dtype == bool and found[..., 0].all()
  spaces = [False] + [byte in b' \t\n\r\v\f' for byte in TEXT.encode()]
  np.testing.assert_array_equal(found[0, :, 1], spaces)
  for i, rule in enumerate(rules):
    np.testing.assert_array_equal(found[0, :, 2 + i], marks(rule))
