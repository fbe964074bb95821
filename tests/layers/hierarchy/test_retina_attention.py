"""Attention to tokens and blocks: which keys a query has, and how many."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.layers.attention.cache import KeyValueCache
from trax_hier.layers.hierarchy.attend_to_scales import AttendToScales

P = functools.partial

# Window, scales and number of tokens, which none of the windows divides.
RETINAS = [
  (4, (1,), 21),
  (4, (1, 2), 101),
  (4, (1, 2, 4), 101),
  (8, (1, 4), 101),
  (12, (1, 2, 6), 130),
  (16, (1, 4, 16), 121),
  (8, (1, 2, 4, 8), 101),
]
each_retina = pytest.mark.parametrize('window, scales, length', RETINAS)


# Exact cover
# ------------------------------------------------------------------------------
def reader(window, scales, length, mode, dropout=0.0):
  """A retina layer that gives all its keys one weight, and its weights.

  Of tokens that are one-hot vectors, the output is the mean of the keys that a
  token sees: a block of S tokens is S times 1 / S.
  """
  layer = hl.RetinaAttention(
    length, 1, scales, window, dropout=dropout, mode=mode, max_len=length
  )
  shapes, state = toy.shapes(layer, toy.normal(1, 1, length))
  leaves, tree = jax.tree.flatten(shapes)
  query, *others = [np.eye(length, dtype=np.float32)] * 4
  kernels = iter([0 * query, *others])
  weights = [
    next(kernels) if leaf.ndim == 2 else jnp.zeros(leaf.shape)
    for leaf in leaves
  ]
  return layer, jax.tree.unflatten(tree, weights), toy.zeros_like(state)


def one_hot(length):
  return np.eye(length, dtype=np.float32)[None]


def covers(means):
  """How much of each token (columns) is in the keys of a token (rows).

  The token itself is one of its own keys, and no key is of no token.
  """
  (means,) = np.asarray(means)
  toy.close(means.sum(axis=-1), np.ones(len(means)))
  return means / np.diag(means)[:, None]


def in_keys(window, scales, length):
  """The same by the rule: 1 / S of the tokens that are in a block of S."""
  ends, n = [], 1
  for scale in scales:
    n += scale
    ends.append(n)
  ends[-1] = length  # Windows back, where the band of a scale has ended.
  cover = np.zeros((length, length))
  for t in range(length):
    for i in range(t + 1):
      back = t // window - i // window
      j = next(j for j, end in enumerate(ends) if back < end)
      cover[t, i] = 1 / scales[j]
  return cover


@each_retina
def test_keys_cover_every_token_once(window, scales, length):
  layer, weights, state = reader(window, scales, length, 'eval')
  means, _ = toy.run(layer, one_hot(length), weights, state)
  cover = covers(means)
  toy.close(cover, in_keys(window, scales, length))

  # The same said in properties.
  past = np.tril(np.ones((length, length), bool))
  assert not cover[~past].any()
  assert np.isclose(cover[past][:, None], 1 / np.array(scales)).any(1).all()
  for t in range(length):
    near = slice(max(0, (t // window - 1) * window), t + 1)
    toy.close(cover[t, near], np.ones_like(cover[t, near]))
  n_keys = cover.sum(axis=1)
  toy.close(n_keys, n_keys.round())
  if len(scales) > 1:
    assert (n_keys <= 2 * window + length / scales[1]).all()


def all_splits():
  """Calls of all retinas; of most of them CI leaves out some."""
  for window, scales, length in RETINAS:
    after_prompt = [1] * (length - 2 * window - 3)
    splits = [
      [1] * length,
      [2 * window + 3, *after_prompt],
      [length - window - 2, window + 2],
    ]
    for i, split in enumerate(splits):
      fast = window == 12 or (i == 0 and window in (4, 16) and scales[1:])
      marks = [] if fast else [pytest.mark.slow]
      name = f'{scales} {window} after {split[0]}'
      yield pytest.param(window, scales, length, split, marks=marks, id=name)


@pytest.mark.parametrize('window, scales, length, split', list(all_splits()))
def test_keys_cover_every_token_once_in_decoding(window, scales, length, split):
  layer, weights, state = reader(window, scales, length, 'predict')
  step = jax.jit(layer.pure_fn)
  x, means = one_hot(length), []
  for part in np.split(x, np.cumsum(split)[:-1], axis=1):
    y, state = step(part, weights, state, toy.KEY)
    means.append(y)
  cover = covers(np.concatenate(means, axis=1))
  toy.close(cover, in_keys(window, scales, length))


def test_dropout_drops_keys_in_training_alone():
  *_, length = retina = 4, (1, 2, 4), 45
  cover = in_keys(*retina)
  means = cover / cover.sum(axis=1, keepdims=True)
  layer, weights, state = reader(*retina, 'train', dropout=0.5)
  y, _ = toy.run(layer, one_hot(length), weights, state)
  seen = cover > 0
  dropped = np.asarray(y[0])[seen] == 0
  assert 0.4 < dropped.mean() < 0.6
  toy.close(np.asarray(y[0])[seen], np.where(dropped, 0, 2 * means[seen]))
  layer, weights, state = reader(*retina, 'eval', dropout=0.5)
  y, _ = toy.run(layer, one_hot(length), weights, state)
  toy.close(y[0], means)


# Number of keys
# ------------------------------------------------------------------------------
def equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax.tree.leaves(list(equation.params.values())):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        yield from equations(inner)


def n_computed(layer, x):
  """Queries (.., q) of a layer's only softmax, and its number of keys."""
  weights, state = toy.shapes(layer, x)
  x = jax.ShapeDtypeStruct(x.shape, x.dtype)
  jaxpr = jax.make_jaxpr(layer.pure_fn)(x, weights, state, toy.KEY)
  shapes = [
    e.outvars[0].aval.shape
    for e in equations(jaxpr.jaxpr)
    if e.primitive.name == 'exp'
  ]
  (queries,) = {shape[:-1] for shape in shapes}
  return queries, sum(shape[-1] for shape in shapes)


# Of windows, scales and lengths, the keys of each scale. A band has the windows
# of its scale and all those after it, of which the mask hides some.
COMPUTED = {
  (4, (1,), 21): [24],
  (4, (1, 2), 101): [8, 52],
  (4, (1, 2, 4), 101): [8, 4 * 2, 26],
  (12, (1, 2, 6), 130): [24, 4 * 6, 22],
  (16, (1, 4, 16), 121): [32, 6 * 4, 8],
  (64, (1, 4, 16), 2048): [128, 6 * 16, 128],
  (64, (1, 4, 16), 4096): [128, 6 * 16, 256],
  (8, (1, 2, 4, 8), 256): [16, 4 * 4, 8 * 2, 32],
  # Where no query sees a scale, or a band is all there is.
  (64, (1, 4, 16), 128): [128],
  (64, (1, 4, 16), 129): [128, 48],
  (64, (1, 4, 16), 384): [128, 96],
  (64, (1, 4, 16), 385): [128, 96, 28],
  # Less than a window.
  (64, (1, 4), 10): [12],
}


@pytest.mark.parametrize('retina', COMPUTED, ids=str)
def test_number_of_keys_that_a_retina_computes(retina):
  window, scales, length = retina
  layer = hl.RetinaAttention(16, 2, scales, window, mode='train')
  queries, n_keys = n_computed(layer, toy.normal(1, length, 16))
  window = min(window, length + -length % scales[-1])
  n = -(-length // window)
  assert queries == (1, n, 2, window)
  assert n_keys == sum(COMPUTED[retina])
  if len(scales) > 1 and length > 3 * scales[1] * window:
    assert n_keys <= 2 * window + n * window / scales[1]


# Without a window
# ------------------------------------------------------------------------------
def look(scales, mode, max_len):
  """Attention to all complete blocks, with one weight for each."""
  return tl.Serial(  # q, k, v, ..
    tl.Parallel(None, KeyValueCache(max_len, None, mode)),
    AttendToScales(scales, None, 1, hl.NoPositions(), 0.0, mode, max_len),
  )


def zeros(*shape):
  return np.zeros(shape, np.float32)


@pytest.mark.parametrize('scales', [(1, 4, 16), (1, 2, 6)], ids=str)
def test_tokens_see_all_complete_blocks(scales):
  length = 37
  starts = np.concatenate([np.arange(0, length, s) for s in scales])
  sizes = np.concatenate([np.full(-(-length // s), s) for s in scales])
  tokens = np.arange(length)[:, None]
  seen = starts + sizes - 1 <= tokens
  expected = seen / seen.sum(axis=1, keepdims=True)

  one_hot = np.eye(len(starts), dtype=np.float32)[None, None]
  values = np.split(one_hot, np.flatnonzero(starts == 0)[1:], axis=2)
  rows = [x for v in values for x in (0 * v[..., :4], v)]
  layer = look(scales, 'eval', length)
  inputs = (zeros(1, 1, length, 4), *rows)
  weights, state = toy.make(layer, inputs)
  y, _ = toy.run(layer, inputs, weights, state)
  toy.close(y[0, 0], expected)

  def step_inputs(t, n):
    """Keys and values as of a `Coarse`: those without meaning are large."""
    yield zeros(1, 1, n, 4)
    for scale, v in zip(scales, values, strict=True):
      first, end = t // scale, (t + n) // scale
      new = np.full((1, 1, -(-n // scale), v.shape[-1]), 1e9, np.float32)
      new[:, :, : end - first] = v[:, :, first:end]
      yield 0 * new[..., :4]
      yield new

  decoder = look(scales, 'predict', length)
  _, first_state = toy.make(decoder, tuple(step_inputs(0, 1)))
  step = jax.jit(decoder.pure_fn)
  for lengths in [[1] * length, [7] + [1] * 30, [18, 19]]:
    state, t, outputs = first_state, 0, []
    for n in lengths:
      y, state = step(tuple(step_inputs(t, n)), weights, state, toy.KEY)
      outputs.append(y)
      t += n
    y = np.concatenate(outputs, axis=2)
    np.testing.assert_allclose(y[0, 0], expected, 1e-5, 1e-5, str(lengths))


def test_each_scale_has_an_embedding_of_its_own():
  """Keys are told apart by scale, even if all rows are the same."""
  scales, d, length = (1, 2, 4), 8, 12
  layer = hl.AttentionAggregation(scales, d, d_ff=16, n_heads=2, mode='eval')
  rows = tuple(toy.normal(1, length // s, d, seed=s) for s in scales)
  weights, state = toy.make(layer, rows)
  leaves, tree = jax.tree.flatten(weights)
  places = [i for i, leaf in enumerate(leaves) if leaf.shape == (2, 1, d // 2)]
  assert len(places) == len(scales)
  run = jax.jit(lambda w: layer.pure_fn(rows, w, state, toy.KEY)[0])
  y = run(weights)
  moved = []
  for i in places:
    changed = [x + (j == i) * x for j, x in enumerate(leaves)]
    moved.append((run(jax.tree.unflatten(tree, changed)) != y).any((0, 2)))
  for scale, by_token in zip(scales, moved, strict=True):
    # The first token sees itself alone, and all weights sum to 1.
    first = max(scale - 1, 1)
    assert list(np.flatnonzero(by_token)) == list(range(first, length))


# Positions
# ------------------------------------------------------------------------------
D, H = 16, 2
SCHEMES = {
  'rotary': hl.RotaryPositions,
  't5': lambda: hl.T5Positions(H, n_buckets=8, max_distance=24),
  'relative': lambda: hl.RelativePositions(D, H),
}


def positioned(kind, scheme, mode):
  """Attention over scales to the rows that are pooled from x (b, l, d)."""
  scales, positions = (1, 2, 4), SCHEMES[scheme]()
  sizes = dict(n_heads=H, mode=mode, max_len=30, positions=positions)
  if kind == 'retina':
    attention = hl.RetinaAttention(D, scales=scales, window=4, **sizes)
  else:
    attention = tl.Serial(
      hl.Pyramid(
        scales, lambda _: hl.AverageShorten(2), lambda _: tl.Serial(), mode
      ),
      hl.AttentionAggregation(scales, D, d_ff=D, **sizes),
    )
  return tl.Serial(hl.ShareWeights(*positions.shared), attention)


@pytest.mark.parametrize(
  'kind, scheme',
  [
    # The others depend on distances alone.
    *[('retina', 'rotary'), ('aggregation', 'rotary')],
    *(
      pytest.param(*parts, marks=pytest.mark.slow)
      for parts in [
        *[('retina', 't5'), ('retina', 'relative')],
        *[('aggregation', 't5'), ('aggregation', 'relative')],
      ]
    ),
  ],
)
def test_blocks_stand_at_the_same_places_in_decoding(kind, scheme):
  x = toy.normal(2, 30, D)
  layer = positioned(kind, scheme, 'eval')
  weights, state = toy.make(layer, x)
  expected, _ = toy.run(layer, x, weights, state)

  decoder = positioned(kind, scheme, 'predict')
  _, first_state = toy.make(decoder, x[:, :1])
  step = jax.jit(decoder.pure_fn)
  for lengths in [[11] + [1] * 19, [11, 11, 1, 1, 1, 1, 1, 1, 1, 1]]:
    state, outputs = first_state, []
    for part in np.split(x, np.cumsum(lengths)[:-1], axis=1):
      y, state = step(part, weights, state, toy.KEY)
      outputs.append(y)
    toy.close(np.concatenate(outputs, axis=1), expected, 1e-5)


# Memory
# ------------------------------------------------------------------------------
@pytest.mark.parametrize('scales', [(1, 4), (1, 2, 8)], ids=str)
def test_caches_of_a_retina_are_bounded(scales):
  window, batch, d = 16, 3, 8

  def sizes(max_len):
    layer = hl.RetinaAttention(
      d, 2, scales, window, mode='predict', max_len=max_len
    )
    _, state = toy.shapes(layer, toy.normal(batch, 1, d))
    return [s.shape for s in jax.tree.leaves(state)]

  short, long = sizes(256), sizes(1024)
  row = 2 * batch, d // 2
  changed = [(a, b) for a, b in zip(short, long, strict=True) if a != b]
  assert len(changed) == 2  # Keys and values of the last scale.
  for a, b in changed:
    assert (a[0], a[2]) == (b[0], b[2]) == row
    assert b[1] - a[1] == (1024 - 256) // scales[-1]
    assert a[1] <= 256 // scales[-1] + 1
  kept = [a[1] for a in short if len(a) == 3 and (a[0], a[2]) == row]
  assert kept[:2] == [2 * window] * 2
  if len(scales) == 3:
    # The band of blocks of 2, and the two windows of tokens after it.
    assert kept[2:4] == [4 * window // 2] * 2
  assert len(kept) == 2 * len(scales)


def test_a_retina_of_one_scale_keeps_everything():
  layer = hl.RetinaAttention(8, 2, (1,), 16, mode='predict', max_len=100)
  _, state = toy.shapes(layer, toy.normal(1, 1, 8))
  shapes = [s.shape for s in jax.tree.leaves(state)]
  assert shapes.count((2, 100, 4)) == 2


# Errors
# ------------------------------------------------------------------------------
@pytest.mark.parametrize(
  'arguments, message',
  [
    *(
      (dict(scales=scales), 'RetinaAttention.scales = ')
      for scales in [(), (2, 4), (1, 3, 4), (1, 4, 4)]
    ),
    *(
      (dict(window=window), f'RetinaAttention.window = {window} must be')
      for window in (0, -16, 4, 24)
    ),
    (dict(scales=(1, 3, 9), window=12), 'RetinaAttention.window = 12'),
    (dict(mode='test'), "mode must be .* got 'test'"),
    (dict(n_heads=3), 'n_heads = 3 must divide d_model = 16'),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    hl.RetinaAttention(16, **{'window': 16, **arguments})


# Positions in tokens
# ------------------------------------------------------------------------------
class Stretched(hl.RotaryPositions):
  """Rotary positions 4 times as far apart."""

  def encode(self, x, positions):
    return super().encode(x, 4 * positions)


def attend(make, mode, **arguments):
  """The outputs of an attention layer; equal shapes get equal weights."""
  x = toy.normal(2, 13, 16)
  layer = make(16, 2, mode=mode, max_len=64, **arguments)
  weights, state = toy.make(layer, x)
  return jax.jit(layer.pure_fn)(x, weights, state, toy.KEY)[0]


@pytest.mark.parametrize(
  'positions', [hl.RotaryPositions(), hl.T5Positions(2)], ids=['rotary', 't5']
)
def test_rows_that_are_four_tokens_apart(positions):
  retina = P(hl.RetinaAttention, scales=(1,), window=4)
  y = attend(retina, 'eval', positions=positions, stride=4)
  toy.close(y, attend(hl.SelfAttention, 'eval', positions=positions, stride=4))
  assert np.abs(y - attend(retina, 'eval', positions=positions)).max() > 0.01


@pytest.mark.parametrize('mode', ['eval', 'predict'])
def test_blocks_of_rows_that_are_four_tokens_apart(mode):
  retina = P(hl.RetinaAttention, scales=(1, 2), window=2)
  near = attend(retina, mode, positions=hl.RotaryPositions())
  far = attend(retina, mode, positions=hl.RotaryPositions(), stride=4)
  toy.close(far, attend(retina, mode, positions=Stretched()))
  assert np.abs(far - near).max() > 0.01


# Caches
# ------------------------------------------------------------------------------
@pytest.mark.parametrize(
  'positions',
  [
    pytest.param(hl.RotaryPositions(), marks=pytest.mark.slow, id='rotary'),
    pytest.param(
      hl.RelativePositions(8, 2), marks=pytest.mark.slow, id='relative'
    ),
  ],
)
def test_a_cache_is_read_as_far_as_it_is_filled(monkeypatch, positions):
  length, max_len, scales = 23, 27, (1, 2, 6)

  def layer(mode):
    rows = hl.Pyramid(
      scales,
      lambda j: hl.AverageShorten(scales[j] // scales[j - 1]),
      lambda j: tl.Serial(),
      mode,
    )
    aggregation = hl.AttentionAggregation(
      scales, 8, 16, 2, mode=mode, max_len=max_len, positions=positions
    )
    return tl.Serial(hl.ShareWeights(*positions.shared), rows, aggregation)

  x = toy.normal(2, length, 8)
  weights, state = toy.make(layer('eval'), x)
  expected, _ = toy.run(layer('eval'), x, weights, state)
  for least in 128, 2:
    monkeypatch.setattr(AttendToScales, '_MIN_CACHE', least)
    decoder = layer('predict')
    _, state = toy.make(decoder, x[:, :1])
    step = jax.jit(decoder.pure_fn)
    outputs = []
    for new in np.split(x, [3, 5, *range(6, length)], axis=1):
      y, state = step(new, weights, state, toy.KEY)
      outputs.append(y)
    toy.close(np.concatenate(outputs, axis=1), expected)
    program = str(jax.make_jaxpr(decoder.pure_fn)(new, weights, state, toy.KEY))
    # Of 27 tokens, and of 14, 7, .. where fewer may be read.
    assert 'f32[2,2,1,27]' in program
    assert ('f32[2,2,1,7]' in program) == (least == 2)


def test_a_retina_of_one_scale_reads_its_cache_as_far_as_it_is_filled(
  monkeypatch,
):
  monkeypatch.setattr(AttendToScales, '_MIN_CACHE', 2)
  make = P(hl.RetinaAttention, 8, 2, scales=(1,), window=4, max_len=27)
  x = toy.normal(2, 23, 8)
  layer = make(mode='eval')
  weights, state = toy.make(layer, x)
  expected, _ = toy.run(layer, x, weights, state)
  decoder = make(mode='predict')
  _, state = toy.make(decoder, x[:, :1])
  step = jax.jit(decoder.pure_fn)
  outputs = []
  for new in np.split(x, [3, *range(5, 23)], axis=1):
    y, state = step(new, weights, state, toy.KEY)
    outputs.append(y)
  toy.close(np.concatenate(outputs, axis=1), expected)
  program = str(jax.make_jaxpr(decoder.pure_fn)(new, weights, state, toy.KEY))
  assert 'f32[2,2,1,27]' in program and 'f32[2,2,1,7]' in program
