"""Hourglass with dynamic levels: notation, sizes, causality, decoding."""

import functools

import jax
import numpy as np
import pytest
import toy

from trax_hier import generation
from trax_hier import layers as hl
from trax_hier.models import HourglassLM
from trax_hier.models.hourglass import parse_hierarchy

P = functools.partial
TEXT = b'to be, or not to be: that is the question\nwhether'
BYTES = np.frombuffer(TEXT, np.uint8).astype(np.int32)[None]
WORDS, PAIRS = (
  P(
    hl.DynamicStack,
    boundaries=P(hl.WordRule, n),
    shorten=P(hl.TakeFirst, projection=True),
    upsample=P(hl.PositionLinear, n_positions=4),
  )
  for n in (1, 2)
)


def model(hierarchy='1@~3', **kwargs):
  sizes = {**toy.SIZES, 'vocab_size': 128, 'max_len': 64, 'mode': 'eval'}
  return HourglassLM(hierarchy=hierarchy, **{**sizes, **kwargs})


NESTED = P(
  model,
  '1@~5 1@~10 1@~5',
  dynamic=(WORDS, PAIRS),
  dynamic_d_model=(24, 32),
  dynamic_d_ff=(40, 48),
  dynamic_n_heads=(3, 4),
)


@pytest.mark.parametrize(
  'text, levels',
  [
    ('8@3', [(8, 3)]),
    ('8@~5.7', [(8, 5.7)]),
    ('2@~4 8@~16 2@~4', [(2, 4.0), (8, 4.0)]),
    ('2@2 8@~8 2@2', [(2, 2), (8, 4.0)]),
    ('2@~4 8@12 2@~4', [(2, 4.0), (8, 3)]),
  ],
)
def test_notation(text, levels):
  found = parse_hierarchy(text)
  assert found == levels
  kinds = [type(k) for _, k in found]
  assert kinds == [type(k) for _, k in levels]


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(hierarchy='8@~'), "not 'N@f' or 'N@~f'"),
    (dict(hierarchy='8@~0.5'), "not 'N@f' or 'N@~f'"),
    (dict(hierarchy='8@5.5'), "not 'N@f' or 'N@~f'"),
    (dict(hierarchy='1@~4 1@~2 1@~4'), '~2 below the 4 above it'),
    (dict(hierarchy='1@~4 1@6 1@~4'), 'a factor 6 that 4 does not divide'),
    (dict(dynamic_d_model=(8, 8)), 'each of the 1 dynamic levels'),
    (dict(hierarchy='1@3', dynamic_d_ff=(8,)), 'each of the 0 dynamic levels'),
    (dict(dynamic_n_heads=(3,)), 'HourglassLM.n_heads = 3 must divide'),
    (dict(shorten_factor_dropout=(3,)), 'contain its factor'),
    (dict(dynamic=hl.DecoderBlock), 'HourglassLM.dynamic = @DecoderBlock'),
    (
      dict(vocab_size=257, dynamic=WORDS),
      '@WordRule reads bytes, but HourglassLM.vocab_size = 257',
    ),
    (dict(dynamic=()), 'HourglassLM.dynamic must have one layer for each'),
    (dict(hierarchy='1@2 1@~6 1@2', dynamic=WORDS), 'a rule on tokens'),
    (dict(dynamic_positions='bytes'), "must be 'segments' or 'tokens'"),
    (dict(dynamic_positions='tokens'), '@RelativePositions needs vectors'),
    (
      dict(
        dynamic_positions='tokens',
        positions=hl.RotaryPositions,
        hierarchy='1@~2 1@4 1@~2',
      ),
      'a fixed level inside a dynamic one',
    ),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    model(**arguments)


@pytest.mark.parametrize('make', [NESTED, model], ids=['rules', 'router'])
def test_tokens_move_only_later_boundaries(make):
  """Every token is replaced by a space and by a letter."""
  layer = make()
  weights, state = toy.make(layer, BYTES)
  run = jax.jit(lambda x: layer.pure_fn(x, weights, state, toy.KEY)[0])
  expected = run(BYTES)
  for t in range(BYTES.shape[1]):
    for token in b' ', b'x', b'7':
      x = BYTES.copy()
      x[0, t] = token[0]
      same = np.all(run(x) == expected, axis=(0, 2))
      assert same[: t + 1].all()
      if x[0, t] != BYTES[0, t]:
        assert not same[t + 1 :].any()


def test_levels_have_their_own_widths():
  shapes, _ = toy.shapes(NESTED(), BYTES)
  kernels = {w.shape for w in jax.tree.leaves(shapes)}
  # Projections between levels, and those of feed-forward layers of one block.
  assert {(16, 24), (24, 32), (24, 16), (32, 24)} <= kernels
  assert {(1, 16, 32), (1, 24, 40), (1, 32, 48)} <= kernels
  assert {(1, 3, 1, 8), (1, 4, 1, 8)} <= kernels  # Biases of the positions.


def test_rows_of_other_texts_decode_together():
  make = P(NESTED)
  weights, _ = toy.make(make(), BYTES)
  prompts = [BYTES[0, :9], BYTES[0, 5:30], BYTES[0, 20:24]]

  def generate(prompts):
    return generation.generate(
      make, weights, prompts, 12, temperature=0, max_len=48
    )

  together = generate(prompts)
  layer = make()
  logits = jax.jit(
    lambda x: layer.pure_fn(x, weights, toy.make(layer, x)[1], toy.KEY)[0]
  )
  for prompt, new in zip(prompts, together, strict=True):
    row = np.concatenate([prompt, new])
    whole = np.pad(row, (0, 48 - len(row)))[None]
    best = np.asarray(logits(whole))[0].argmax(-1)
    np.testing.assert_array_equal(new, best[len(prompt) : len(row)])


@pytest.mark.parametrize('of', ['segments', 'tokens'])
def test_attention_counts_segments_or_tokens(of):
  """The text is changed where it moves tokens but no words."""
  layer = model(
    '2@~5',
    dynamic=P(hl.DynamicStack, boundaries=hl.WordRule),
    vanilla_layers=(0, 0),
    positions=hl.RotaryPositions,
    dynamic_positions=of,
  )
  # Without blocks outside, a vector knows the last byte before its segment.
  short, long = (
    np.array([[*text]], np.int32) for text in (b'a b c d', b'a bbbb c d')
  )
  weights, _ = toy.make(layer, short)
  ends = []
  for x in short, long:
    state = toy.make(layer, x)[1]
    ends.append(toy.run(layer, x, weights, state)[0][0, -2:])
  assert np.allclose(*ends, atol=1e-5) == (of == 'segments')
