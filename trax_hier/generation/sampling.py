"""Drawing tokens from logits, on the device."""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are drawn; arrays, so that no value of them compiles anew.

  Attributes:
    temperature: What logits are divided by; 0 takes the likeliest token.
    top_k: Number of likeliest tokens to draw from.
    top_p: Draws from the fewest likeliest of these whose probabilities add up
      to at least this.
    n_ids: Draws from the first so many ids.
  """

  temperature: jax.Array
  top_k: jax.Array
  top_p: jax.Array
  n_ids: jax.Array


def sample_tokens(
  logits: jax.Array, keys: jax.Array, sampling: Sampling
) -> jax.Array:
  """Draws one token per row.

  Of tokens equally likely, those of lower id count as likelier.

  Args:
    logits: (b, v).
    keys: A random key for each row, (b, 2).
    sampling: How to draw.

  Returns:
    int32 (b,).

  Example:
    >>> logits = jnp.array([[1.0, 9.0, 3.0], [5.0, 2.0, 7.0]])
    >>> keys = jax.random.split(jax.random.PRNGKey(0), 2)  # One for each row.
    >>> greedy = jax.tree.map(jnp.asarray, Sampling(0.0, 3, 1.0, 3))
    >>> print(sample_tokens(logits, keys, greedy))
    [1 2]
  """
  n = logits.shape[-1]
  logits = jnp.where(jnp.arange(n) < sampling.n_ids, logits, -jnp.inf)

  def likeliest():
    # XLA for CPU takes longer for `argmax`.
    best = logits == jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(best, jnp.arange(n), n - 1), axis=-1)

  def any_token():
    return categorical(keys, logits / sampling.temperature)

  def likely_token():
    # Sorting is the dear part, so the other two do without.
    ids = jnp.argsort(-logits, axis=-1, stable=True)
    ranked = jnp.take_along_axis(logits, ids, axis=-1) / sampling.temperature
    ranked = jnp.where(jnp.arange(n) < sampling.top_k, ranked, -jnp.inf)
    before = jnp.cumsum(jax.nn.softmax(ranked), axis=-1)
    before = jnp.pad(before, [(0, 0), (1, 0)])[:, :-1]
    # Rounded sums may reach 1 before the last token.
    keep = (before < sampling.top_p) | (sampling.top_p >= 1)
    ranked = jnp.where(keep, ranked, -jnp.inf)
    rank = categorical(keys, ranked)
    return jnp.take_along_axis(ids, rank[:, None], axis=-1)[:, 0]

  categorical = jax.vmap(jax.random.categorical)
  filtered = (sampling.top_k < n) | (sampling.top_p < 1)
  way = jnp.where(sampling.temperature == 0, 0, 1 + filtered)
  tokens = jax.lax.switch(way, [likeliest, any_token, likely_token])
  return tokens.astype(jnp.int32)
