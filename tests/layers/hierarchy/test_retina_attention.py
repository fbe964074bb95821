"""Retina attention: the keys of a query, their number and their caches."""

import functools

import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import pytest
import toy

from trax_hier import layers as hl

P = functools.partial

# Window, scales and length; no window divides its length.
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
def uniform_retina(window, scales, length, mode, dropout=0.0):
  """A retina layer with uniform attention weights, its weights and its state.

  For one-hot tokens, the output is the mean of the keys of a token: a block of
  S tokens is 1 / S at each of them.
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


def key_shares(means):
  """The share of each token (columns) in the keys of a token (rows).

  Each token is one of its own keys, with a share of 1; also checks that no key
  is padding.
  """
  (means,) = np.asarray(means)
  toy.close(means.sum(axis=-1), np.ones(len(means)))
  return means / np.diag(means)[:, None]


def expected_shares(window, scales, length):
  """The expected shares: 1 / S for tokens in a block of scale S."""
  ends, n = [], 1
  for scale in scales:
    n += scale
    ends.append(n)
  ends[-1] = length  # Windows back at which the band of each scale ends.
  cover = np.zeros((length, length))
  for t in range(length):
    for i in range(t + 1):
      back = t // window - i // window
      j = next(j for j, end in enumerate(ends) if back < end)
      cover[t, i] = 1 / scales[j]
  return cover


@each_retina
def test_keys_cover_every_token_once(window, scales, length):
  layer, weights, state = uniform_retina(window, scales, length, 'eval')
  means, _ = toy.run(layer, one_hot(length), weights, state)
  cover = key_shares(means)
  toy.close(cover, expected_shares(window, scales, length))

  # The documented properties.
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
  """Lengths of the calls for all retinas; CI skips the slow ones."""
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
  layer, weights, state = uniform_retina(window, scales, length, 'predict')
  step = jax.jit(layer.pure_fn)
  x, means = one_hot(length), []
  for part in np.split(x, np.cumsum(split)[:-1], axis=1):
    y, state = step(part, weights, state, toy.KEY)
    means.append(y)
  cover = key_shares(np.concatenate(means, axis=1))
  toy.close(cover, expected_shares(window, scales, length))


def test_dropout_drops_keys_only_in_training():
  *_, length = retina = 4, (1, 2, 4), 45
  cover = expected_shares(*retina)
  means = cover / cover.sum(axis=1, keepdims=True)
  layer, weights, state = uniform_retina(*retina, 'train', dropout=0.5)
  y, _ = toy.run(layer, one_hot(length), weights, state)
  attended = cover > 0
  dropped = np.asarray(y[0])[attended] == 0
  assert 0.4 < dropped.mean() < 0.6
  kept = np.where(dropped, 0, 2 * means[attended])
  toy.close(np.asarray(y[0])[attended], kept)
  layer, weights, state = uniform_retina(*retina, 'eval', dropout=0.5)
  y, _ = toy.run(layer, one_hot(length), weights, state)
  toy.close(y[0], means)


# Number of keys
# ------------------------------------------------------------------------------
def n_computed(layer, x):
  """The shape of the queries (.., q) of the softmax, and its number of keys."""
  weights, state = toy.shapes(layer, x)
  x = jax.ShapeDtypeStruct(x.shape, x.dtype)
  jaxpr = jax.make_jaxpr(layer.pure_fn)(x, weights, state, toy.KEY)
  shapes = [
    e.outvars[0].aval.shape
    for e in jaxprs.equations(jaxpr.jaxpr)
    if e.primitive.name == 'exp'
  ]
  (queries,) = {shape[:-1] for shape in shapes}
  return queries, sum(shape[-1] for shape in shapes)


# (window, scales, length) -> number of keys of each scale whose scores are
# computed: from the far end of the scale's band to the query. The mask hides
# the keys after the band.
COMPUTED = {
  (4, (1,), 21): [24],
  (4, (1, 2), 101): [8, 52],
  (4, (1, 2, 4), 101): [8, 4 * 2, 26],
  (12, (1, 2, 6), 130): [24, 4 * 6, 22],
  (16, (1, 4, 16), 121): [32, 6 * 4, 8],
  (64, (1, 4, 16), 2048): [128, 6 * 16, 128],
  (64, (1, 4, 16), 4096): [128, 6 * 16, 256],
  (8, (1, 2, 4, 8), 256): [16, 4 * 4, 8 * 2, 32],
  # No query attends to the last scale, or one band covers the sequence.
  (64, (1, 4, 16), 128): [128],
  (64, (1, 4, 16), 129): [128, 48],
  (64, (1, 4, 16), 384): [128, 96],
  (64, (1, 4, 16), 385): [128, 96, 28],
  # Shorter than a window.
  (64, (1, 4), 10): [12],
}


@pytest.mark.parametrize('retina', COMPUTED, ids=str)
def test_number_of_computed_keys(retina):
  window, scales, length = retina
  layer = hl.RetinaAttention(16, 2, scales, window, mode='train')
  queries, n_keys = n_computed(layer, toy.normal(1, length, 16))
  window = min(window, length + -length % scales[-1])
  n = -(-length // window)
  assert queries == (1, n, 2, window)
  assert n_keys == sum(COMPUTED[retina])
  if len(scales) > 1 and length > 3 * scales[1] * window:
    assert n_keys <= 2 * window + n * window / scales[1]


# Memory
# ------------------------------------------------------------------------------
@pytest.mark.parametrize('scales', [(1, 4), (1, 2, 8)], ids=str)
def test_caches_are_bounded(scales):
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
    # The band of blocks of 2 and the two windows of tokens after it.
    assert kept[2:4] == [4 * window // 2] * 2
  assert len(kept) == 2 * len(scales)


def test_retina_with_one_scale_caches_all_rows():
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
    (dict(mode='test'), "RetinaAttention.mode = 'test' must be 'train'"),
    (dict(n_heads=3), 'n_heads = 3 must divide d_model = 16'),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    hl.RetinaAttention(16, **{'window': 16, **arguments})


# Positions in tokens
# ------------------------------------------------------------------------------
class Stretched(hl.RotaryPositions):
  """Rotary positions with distances multiplied by 4."""

  def encode(self, x, positions):
    return super().encode(x, 4 * positions)


def attend(make, mode, **arguments):
  """Outputs of an attention layer; layers of the same shapes share weights."""
  x = toy.normal(2, 13, 16)
  layer = make(16, 2, mode=mode, max_len=64, **arguments)
  weights, state = toy.make(layer, x)
  return jax.jit(layer.pure_fn)(x, weights, state, toy.KEY)[0]


@pytest.mark.parametrize(
  'positions', [hl.RotaryPositions(), hl.T5Positions(2)], ids=['rotary', 't5']
)
def test_stride_of_tokens(positions):
  retina = P(hl.RetinaAttention, scales=(1,), window=4)
  y = attend(retina, 'eval', positions=positions, stride=4)
  toy.close(y, attend(hl.SelfAttention, 'eval', positions=positions, stride=4))
  assert np.abs(y - attend(retina, 'eval', positions=positions)).max() > 0.01


@pytest.mark.parametrize('mode', ['eval', 'predict'])
def test_stride_of_blocks(mode):
  retina = P(hl.RetinaAttention, scales=(1, 2), window=2)
  near = attend(retina, mode, positions=hl.RotaryPositions())
  far = attend(retina, mode, positions=hl.RotaryPositions(), stride=4)
  toy.close(far, attend(retina, mode, positions=Stretched()))
  assert np.abs(far - near).max() > 0.01
