"""Softmax attention over heads, with any mask and bias.

Letters: h heads, q queries, k keys, d d_model.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp

from trax_hier.layers.base.products import wide_einsum


def softmax_attention(q, k, v, bias, mask, dropout, rng):
  """Softmax attention: (.., h, q, d / h), in the dtype of v.

  The attention weights are the float32 softmax of (q.k + bias) / sqrt(d / h)
  over the keys where `mask` is True.
  """
  keys = scores(q, k, bias), mask, functools.partial(weighted_sum, v=v)
  return joint_softmax_attention([keys], v.dtype, dropout, rng)


def scores(q, k, bias):
  """Attention scores (q.k + bias) / sqrt(d / h), float32 (.., h, q, k)."""
  # Cached keys have one axis for batch and heads: see `cache.empty_buffer`.
  q_like_k = q.reshape(*k.shape[:-2], *q.shape[-2:]) if q.ndim != k.ndim else q
  products = wide_einsum('...qd,...kd->...qk', q_like_k, k)
  return (bias + products.reshape(*q.shape[:-1], -1)) / math.sqrt(q.shape[-1])


def weighted_sum(weights, v):
  """Sums of v: (.., h, q, k) x (.., h, k, d / h) -> (.., h, q, d / h)."""
  shape = *weights.shape[:-1], v.shape[-1]
  if weights.ndim != v.ndim:
    weights = weights.reshape(*v.shape[:-2], *weights.shape[-2:])
  return jnp.einsum('...qk,...kd->...qd', weights, v).reshape(shape)


def joint_softmax_attention(sets, dtype, dropout, rng):
  """Attention with one softmax over several sets of keys.

  Args:
    sets: For each set its scores, float32 (.., h, q, k); its mask; and a
      function from attention weights (.., h, q, k) to weighted sums of values
      (.., h, q, d / h).
    dtype: Dtype of the attention weights.
    dropout: Dropout rate of the attention weights.
    rng: PRNG key of the dropout.
  """
  logits, masks, sums = zip(*sets, strict=True)
  rngs = jax.random.split(rng, len(sets)) if len(sets) > 1 else [rng]
  y = []
  for weights, weighted, rng in zip(
    _softmax(logits, masks), sums, rngs, strict=True
  ):
    weights = weights.astype(dtype)
    if dropout:
      weights = _dropout(weights, dropout, rng)
    y.append(weighted(weights))
  return functools.reduce(operator.add, y)


def _dropout(x, rate, rng):
  """Dropout with 16 random bits per number, half as many as `uniform` uses."""
  *lead, n = x.shape
  words = jax.random.bits(rng, (*lead, -(-n // 2)), jnp.uint32)
  bits = jax.lax.bitcast_convert_type(words, jnp.uint16)  # (.., n / 2, 2)
  dropped = min(round(rate * 2**16), 2**16 - 1)
  keep = bits.reshape(*lead, -1)[..., :n] >= dropped
  return jnp.where(keep, x / (1 - dropped / 2**16), 0)


def _masked_softmax(logits, masks):
  """Softmax over the last axes of all arrays together; uniform if all masked.

  Does not concatenate the arrays: autodiff would store the concatenation too.
  """
  logits = [jnp.where(m, x, -1e9) for x, m in zip(logits, masks, strict=True)]
  maxima = [jnp.max(x, axis=-1, keepdims=True) for x in logits]
  maximum = functools.reduce(jnp.maximum, maxima)
  y = [jnp.exp(x - maximum) for x in logits]
  total = _sum(y)
  return tuple(x / total for x in y)


def _sum(arrays):
  """The sum over the last axes of all arrays."""
  return functools.reduce(
    operator.add, (jnp.sum(x, axis=-1, keepdims=True) for x in arrays)
  )


_softmax = jax.custom_jvp(_masked_softmax)


@_softmax.defjvp
def _softmax_jvp(primals, tangents):
  """Stores only the outputs for the gradient; autodiff would store 4 arrays."""
  ys = _masked_softmax(*primals)
  ts, _ = tangents
  mean = _sum([y * t for y, t in zip(ys, ts, strict=True)])
  return ys, tuple(y * (t - mean) for y, t in zip(ys, ts, strict=True))
