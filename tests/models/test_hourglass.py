"""Hourglass: which tokens a token depends on, sizes, cost."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import ShapeDtype, tl
from trax_hier.models import HourglassLM
from trax_hier.models.hourglass import parse_hierarchy

P = functools.partial
PLAIN = dict(shorten=hl.AverageShorten, upsample=hl.RepeatUpsample)


def toy_model(**kwargs):
  return HourglassLM(**{**toy.SIZES, **kwargs})


def dependencies(model, length):
  """Whether logits at i (rows) depend on token j (columns)."""
  x = toy.tokens(length)
  weights, state = toy.make(model, x)
  run = jax.jit(lambda x: model.pure_fn(x, weights, state, toy.KEY)[0])
  return toy.dependencies(x, run)


def test_without_vanilla_layers_a_group_hides_its_tokens():
  k, length = 3, 12
  model = toy_model(vanilla_layers=(0, 0), hierarchy='1@3', mode='eval')
  seen = dependencies(model, length)
  for i in range(length):
    # All tokens of earlier groups, and the token right before.
    expected = {*range(i // k * k), *([i - 1] if i else [])}
    assert set(np.flatnonzero(seen[i])) == expected
  assert set(np.flatnonzero(seen[5])) == {0, 1, 2, 4}


def test_a_smaller_shift_leaks():
  """Perturbation detects a shift by k - 2 instead of k - 1."""

  def shift_less(shorten_factor):
    undo = tl.Fn(
      'UndoOneShift', lambda x: jnp.pad(x, [(0, 0), (0, 1), (0, 0)])[:, 1:]
    )
    return tl.Serial(undo, hl.AverageShorten(shorten_factor))

  model = toy_model(
    hierarchy='1@4',
    shorten=shift_less,
    upsample=hl.RepeatUpsample,
    mode='eval',
  )
  leaks = toy.leaks(dependencies(model, 13))
  assert leaks == [(0, 0), (4, 4), (8, 8)]


@pytest.mark.parametrize(
  'hierarchy, levels',
  [
    ('8@3', [(8, 3)]),
    ('6@1', [(6, 1)]),
    ('1@2 4@4 1@2', [(1, 2), (4, 2)]),
    ('3@2 2@6 5@24 2@6 3@2', [(3, 2), (2, 3), (5, 4)]),
    ('  1@2  4@4 1@2 ', [(1, 2), (4, 2)]),
    ('1@2 0@2 1@2', [(1, 2), (0, 1)]),
  ],
)
def test_hierarchy(hierarchy, levels):
  assert parse_hierarchy(hierarchy) == levels


@pytest.mark.parametrize(
  'hierarchy, message',
  [
    ('1@2 2@3 1@2', 'has a factor 3 that 2 does not divide'),
    ('1@2 2@3', 'is not a palindrome'),
    ('1@2 2@4 2@4 1@2', 'with one innermost level'),
    ('', 'is not a palindrome'),
    ('6', "has a level '6' that is not 'N@f'"),
    ('6@0', "has a level '6@0'"),
    ('a@2', "has a level 'a@2'"),
    ('-1@2', "has a level '-1@2'"),
    ('1@2,1@4,1@2', 'has a level'),
  ],
)
def test_bad_hierarchy(hierarchy, message):
  with pytest.raises(ValueError, match=message) as error:
    toy_model(hierarchy=hierarchy)
  assert repr(hierarchy) in str(error.value)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(mode='test'), r"HourglassLM\.mode = 'test' must be 'train'"),
    (dict(n_heads=3), 'n_heads = 3 must divide d_model = 16'),
    (dict(hierarchy='1@3', shorten_factor_dropout=(2,)), 'contain its factor'),
    (
      dict(hierarchy='1@2 1@4 1@2', shorten_factor_dropout=(2, 3)),
      'with one level',
    ),
    (dict(shorten=3), 'HourglassLM.shorten = 3 must make a shortening'),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    toy_model(**{'hierarchy': '1@3', **arguments})


def test_factor_dropout_refuses_layers_whose_weights_depend_on_the_factor():
  model = toy_model(
    hierarchy='1@3', shorten_factor_dropout=(2, 3), shorten=hl.LinearShorten
  )
  with pytest.raises(Exception, match='weights of the same shapes'):
    toy.shapes(model, toy.tokens(6))


NAIVE_UP = P(hl.AttentionUpsample, expand=hl.RepeatUpsample)
LINEAR_DOWN = P(hl.AttentionShorten, pool=hl.LinearShorten)
PUBLISHED = {
  'test 2@4': (
    4_058,
    dict(vocab_size=26, d_model=8, d_ff=8, n_heads=2, hierarchy='2@4'),
  ),
  'test two levels': (
    25_591,
    dict(vocab_size=7, d_model=16, d_ff=16, n_heads=2, hierarchy='2@3 2@6 2@3'),
  ),
  'enwik8 gin': (
    123_211_008,
    dict(
      vocab_size=256,
      vanilla_layers=(5, 5),
      hierarchy='24@3',
      upsample=NAIVE_UP,
    ),
  ),
  'ImageNet32': (
    111_125_760,
    dict(
      vocab_size=256,
      vanilla_layers=(3, 3),
      hierarchy='24@3',
      shorten=LINEAR_DOWN,
    ),
  ),
  'CIFAR-10': (
    42_824_960,
    dict(vocab_size=256, hierarchy='8@3', shorten=LINEAR_DOWN),
  ),
  'wiki40b': (
    95_328_512,
    dict(vocab_size=32_000, vanilla_layers=(4, 4), hierarchy='8@4'),
  ),
  'enwik8 paper': (
    138_616_576,
    dict(
      vocab_size=256,
      d_model=768,
      d_ff=3072,
      vanilla_layers=(4, 4),
      hierarchy='8@3',
      upsample=NAIVE_UP,
    ),
  ),
  'enwik8 paper, linear': (
    140_388_352,
    dict(
      vocab_size=256,
      d_model=768,
      d_ff=3072,
      vanilla_layers=(4, 4),
      hierarchy='8@3',
    ),
  ),
}


# tests/test_gin_files.py counts all slow ones but one in CI.
@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * ('test' not in name))
    for name in PUBLISHED
  ],
)
def test_number_of_parameters(name):
  expected, arguments = PUBLISHED[name]
  weights, _ = toy.shapes(HourglassLM(**arguments), toy.tokens(24, batch=1))
  assert sum(math.prod(w.shape) for w in jax.tree.leaves(weights)) == expected


def n_flops(layer, *inputs):
  """FLOPs of one forward pass, counted without compiling it."""
  x = inputs if len(inputs) > 1 else inputs[0]
  weights, state = toy.shapes(layer, x)
  x = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), x)
  lowered = jax.jit(layer.pure_fn).lower(x, weights, state, toy.KEY)
  return lowered.cost_analysis()['flops']


D = 64


def rows(length):
  return ShapeDtype((1, length, D), np.float32)


def upsampling_flops(k, length):
  layer = hl.AttentionUpsample(
    k,
    D,
    d_ff=256,
    n_heads=4,
    mode='eval',
    positions=hl.RelativePositions(D, 4),
  )
  return n_flops(layer, rows(length // k), rows(length))


@pytest.mark.parametrize('k', [2, 3, 4])
def test_upsampling_costs_less_with_longer_groups(k):
  """The FLOPs that grow with length squared are 6 d l ** 2 / k."""
  length = 120  # 2 * length is still one span of queries.
  square = upsampling_flops(k, 2 * length) - 2 * upsampling_flops(k, length)
  products = 2 * 3 * D * length**2 / k  # q.k, q.r and weights times v.
  assert products < square / 2 < 1.25 * products


@pytest.mark.parametrize('k', [2, 3, 4, 6, 8])
def test_shortened_layers_cost_less(k):
  def flops(stride):
    block = hl.DecoderBlock(
      D,
      d_ff=256,
      n_heads=4,
      mode='eval',
      stride=stride,
      positions=hl.RelativePositions(D, 4),
    )
    return n_flops(block, rows(384 // stride))

  assert 1 / k**2 < flops(k) / flops(1) < 1 / k


def test_shortened_layers_run_once_per_group_when_decoding():
  k, length, runs = 3, 12, []

  def counted(shorten_factor):
    def count(x):
      jax.debug.callback(lambda: runs.append(1))
      return x

    return tl.Serial(tl.Fn('Count', count), hl.AverageShorten(shorten_factor))

  model = toy_model(
    hierarchy='1@3',
    shorten=counted,
    upsample=hl.RepeatUpsample,
    mode='predict',
  )
  x = toy.tokens(1)
  weights, state = toy.make(model, x)
  step = jax.jit(model.pure_fn)
  jax.effects_barrier()
  runs.clear()
  for _ in range(length):
    _, state = step(x, weights, state, toy.KEY)
  jax.block_until_ready(state)
  jax.effects_barrier()
  assert len(runs) == length // k


def test_decoding_keeps_fewer_rows_of_shortened_layers():
  def size(max_len):
    model = toy_model(
      hierarchy='2@4',
      positions=hl.RotaryPositions,
      max_len=max_len,
      mode='predict',
      **PLAIN,
    )
    _, state = toy.shapes(model, toy.tokens(1))
    return sum(math.prod(s.shape) for s in jax.tree.leaves(state))

  batch, d_model, length = 2, toy.SIZES['d_model'], 48
  per_layer = 2 * batch * d_model * length  # Keys and values.
  assert size(2 * length) - size(length) == 2 * per_layer + 2 * per_layer / 4


def test_shorten_factors_beyond_the_length_of_a_span():
  layer = HourglassLM(hierarchy='1@256', mode='eval', **toy.SIZES)
  logits, _ = jax.eval_shape(
    lambda: layer.pure_fn(
      jnp.zeros((1, 512), jnp.int32),
      *layer.init(ShapeDtype((1, 512), np.int32), toy.KEY),
      toy.KEY,
    )
  )
  assert logits.shape == (1, 512, toy.VOCAB)


def test_a_capacity_that_the_factor_does_not_divide():
  x = jnp.asarray(toy.normal(2, 10, 16))

  def stack(mode):
    return hl.ShortenedStack(
      3,
      hl.AttentionShorten(3, 16, d_ff=32, n_heads=2, mode=mode, max_len=10),
      tl.Serial(),
      hl.AttentionUpsample(3, 16, d_ff=32, n_heads=2, mode=mode, max_len=10),
      mode=mode,
      max_len=10,
    )

  weights, state = toy.make(stack('eval'), x)
  expected, _ = toy.run(stack('eval'), x, weights, state)
  decoder = stack('predict')
  _, state = toy.make(decoder, x[:, :1])
  outputs = []
  for t in range(10):
    y, state = toy.run(decoder, x[:, t : t + 1], weights, state)
    outputs.append(y)
  toy.close(jnp.concatenate(outputs, axis=1), expected, 1e-5)
