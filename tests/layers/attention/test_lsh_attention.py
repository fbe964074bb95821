"""`LSHAttention` in a model and its masks; Trax tests the attention itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trax_hier import layers as hl
from trax_hier.compat import ShapeDtype, base
from trax_hier.models import HourglassLM

LENGTH = 48


def model(**changes):
  block = functools.partial(
    hl.DecoderBlock, attention=functools.partial(hl.LSHAttention, chunk_len=8)
  )
  settings = dict(
    vocab_size=17,
    d_model=16,
    d_ff=32,
    n_heads=2,
    vanilla_layers=(2, 1),
    hierarchy='1@3',
    vanilla_block=block,
    shorten=hl.LinearShorten,
    upsample=hl.LinearUpsample,
    dropout=0.0,
  )
  return HourglassLM(**settings | changes)


@pytest.mark.slow
def test_hourglass_with_lsh_attention_trains():
  layer = model()
  rng = jax.random.PRNGKey(0)
  signature = ShapeDtype((1, LENGTH), np.int32)
  weights, state = jax.jit(lambda rng: layer.init(signature, rng))(rng)
  tokens = jax.random.randint(rng, (1, LENGTH), 1, 17)

  def loss(weights):
    logits, _ = layer.pure_fn(tokens, weights, state, rng)
    return jnp.mean(logits[..., 0] ** 2)

  for gradient in jax.tree.leaves(jax.jit(jax.grad(loss))(weights)):
    assert jnp.all(jnp.isfinite(gradient)) and jnp.any(gradient != 0)


def test_causal():
  layer = hl.LSHAttention(16, n_heads=2, chunk_len=8)
  rng = jax.random.PRNGKey(0)
  x = jax.random.normal(rng, (1, LENGTH, 16))
  signature = ShapeDtype(x.shape, x.dtype)
  weights, state = jax.jit(lambda rng: layer.init(signature, rng))(rng)
  t = LENGTH // 2

  def until_t(x):
    y, _ = layer.pure_fn(x, weights, state, rng)
    return jnp.sum(y[:, : t + 1] ** 2)

  gradient = jnp.abs(jax.jit(jax.grad(until_t))(x)).max((0, 2))
  np.testing.assert_array_equal(gradient[t + 1 :], 0)
  assert jnp.all(gradient[: t + 1] > 0)


def test_errors():
  with pytest.raises(ValueError, match='no predict mode'):
    model(mode='predict')
  with pytest.raises(base.LayerError, match='chunk_len = 8'):
    model().init(ShapeDtype((1, 21), np.int32), jax.random.PRNGKey(0))


@pytest.mark.parametrize('causal', [True, False])
def test_masked_rows_are_not_attended_to(causal):
  layer = hl.LSHAttention(
    16, n_heads=2, chunk_len=8, causal=causal, masked=True
  )
  x = np.random.default_rng(0).normal(size=(3, 24, 16)).astype(np.float32)
  mask = jnp.arange(24) >= jnp.array([[0], [1], [10]])
  signature = tuple(ShapeDtype(a.shape, a.dtype) for a in (x, mask))
  rng = jax.random.PRNGKey(0)
  weights, state = jax.jit(lambda rng: layer.init(signature, rng))(rng)

  def visible(x):
    y, _ = layer.pure_fn((x, mask), weights, state, rng)
    return jnp.sum(jnp.where(mask[..., None], y, 0) ** 2)

  # Masked rows fill buckets, but buckets have no gradient.
  seen = np.any(np.asarray(jax.jit(jax.grad(visible))(x)), axis=-1)
  np.testing.assert_array_equal(seen, mask)


def test_a_language_model_cannot_see_later_positions():
  attention = functools.partial(hl.LSHAttention, chunk_len=4, causal=False)
  with pytest.raises(ValueError, match=r'LSHAttention.causal = False .* True'):
    hl.DecoderBlock(8, d_ff=16, n_heads=2, attention=attention)


@pytest.mark.parametrize('masked', [True, False])
def test_bfloat16_trains_and_is_near_float32(masked):
  # One chunk, as rounding moves some positions to other buckets.
  layer = hl.LSHAttention(16, 2, chunk_len=24, masked=masked)
  x = np.random.default_rng(0).normal(size=(2, 24, 16)).astype(np.float32)
  mask = [jnp.arange(24) >= jnp.array([[0], [5]])] * masked
  inputs = (x, *mask) if masked else x
  signature = jax.tree.map(lambda a: ShapeDtype(a.shape, a.dtype), inputs)
  rng = jax.random.PRNGKey(0)
  weights, state = jax.jit(lambda rng: layer.init(signature, rng))(rng)

  @jax.jit
  def run(weights, x):
    def loss(weights, x):
      y, _ = layer.pure_fn((x, *mask) if masked else x, weights, state, rng)
      assert y.dtype == x.dtype
      return jnp.sum(jnp.sin(y.astype(jnp.float32)))

    return jax.grad(loss, argnums=(0, 1))(weights, x)

  low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (weights, x))
  high = jax.tree.map(lambda x: x.astype(jnp.float32), low)
  for a, b in zip(*map(jax.tree.leaves, (run(*low), run(*high))), strict=True):
    assert a.dtype == jnp.bfloat16
    assert jnp.linalg.norm(a - b) < 0.03 * jnp.linalg.norm(b)
