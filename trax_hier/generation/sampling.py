"""Sampling of tokens from logits, on the device."""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampling:
  """Settings of sampling, as arrays: new values do not recompile.

  Attributes:
    temperature: Divisor of the logits; 0 takes the most likely token.
    top_k: Number of most likely tokens to sample from.
    top_p: Samples from the fewest most likely tokens, out of those that top_k
      keeps, whose probabilities add up to at least this.
    n_ids: Number of allowed token ids: 0 to n_ids - 1.
  """

  temperature: jax.Array
  top_k: jax.Array
  top_p: jax.Array
  n_ids: jax.Array


def have_finite_maximum(logits: jax.Array) -> jax.Array:
  """Whether tokens can be sampled from logits (.., v); bool (..).

  Some logits may be -inf, but not all. No logit may be NaN or inf.
  """
  return jnp.isfinite(jnp.max(logits, axis=-1))


def sample_tokens(
  logits: jax.Array, keys: jax.Array, sampling: Sampling
) -> jax.Array:
  """Samples one token per row.

  Among equally likely tokens, a lower id counts as more likely.

  Args:
    logits: Logits, (b, v).
    keys: Random key of each row, (b, 2).
    sampling: Settings of sampling.

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

  def most_likely():
    # Faster than `argmax` in XLA for CPU.
    best = logits == jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(best, jnp.arange(n), n - 1), axis=-1)

  def any_token():
    return categorical(keys, logits / sampling.temperature)

  def filtered_token():
    # Sorting is expensive, so the other two branches avoid it.
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
  is_filtered = (sampling.top_k < n) | (sampling.top_p < 1)
  branch = jnp.where(sampling.temperature == 0, 0, 1 + is_filtered)
  branches = [most_likely, any_token, filtered_token]
  return jax.lax.switch(branch, branches).astype(jnp.int32)
