"""Sampling from a language model: prefill and token loop, one program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.trax_compat import ShapeDtype, base


def generate(
  model: Callable[..., base.Layer],
  weights: Any,
  prompt: np.ndarray,
  n_tokens: int,
  temperature: float = 1.0,
  seed: int = 0,
  n_ids: int | None = None,
) -> np.ndarray:
  """Continues prompts with tokens drawn from the model.

  Args:
    model: The model's factory, called with `mode` and `max_len`.
    weights: The model's weights.
    prompt: Tokens int32 (batch, length); may be empty.
    n_tokens: Number of tokens to draw for each row.
    temperature: What logits are divided by; 0 takes the likeliest token.
    seed: Seed of the draws.
    n_ids: Draws from the first so many token ids; None is all of the model's.

  Returns:
    The new tokens, int32 (batch, n_tokens).

  Raises:
    ValueError: n_tokens or temperature is out of range.
  """
  if n_tokens < 1:
    raise ValueError(f'n_tokens = {n_tokens} must be positive')
  if temperature < 0:
    raise ValueError(f'temperature = {temperature} must not be negative')
  batch, length = prompt.shape
  layer = model(mode='predict', max_len=length + n_tokens)
  rng = jax.random.PRNGKey(seed)
  signature = ShapeDtype((batch, 1), np.int32)
  # Weights are not among the outputs, so none are drawn.
  state = jax.jit(lambda rng: layer.init(signature, rng)[1])(rng)

  def draw(logits, rng):
    logits = logits[:, :n_ids]
    if temperature == 0:
      return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.random.categorical(rng, logits / temperature).astype(jnp.int32)

  @jax.jit
  def run(weights, state, prompt, rng):
    def step(carry, rng):
      tokens, state = carry
      draw_rng, model_rng = jax.random.split(rng)
      logits, state = layer.pure_fn(tokens, weights, state, model_rng)
      token = draw(logits[:, -1], draw_rng)
      return (token[:, None], state), token

    rngs = jax.random.split(rng, n_tokens)
    # Logits at a position predict the token that is fed next: begin with BOS.
    inputs = jnp.pad(prompt, [(0, 0), (1, 0)])
    carry, first = step((inputs, state), rngs[0])
    _, rest = jax.lax.scan(step, carry, rngs[1:])
    return jnp.concatenate([first[None], rest]).T

  prompt = jnp.asarray(prompt, jnp.int32)
  return np.asarray(run(weights, state, prompt, rng))


def sample_text(
  model: Callable[..., base.Layer],
  weights: Any,
  vocab: Any,
  prompt: str,
  n_tokens: int,
  temperature: float = 1.0,
  seed: int = 0,
) -> str:
  """Continues a text; `vocab` encodes the prompt and decodes the new tokens.

  The text ends before the first token 0, which ends a document.
  """
  ids = vocab.encode(prompt)[None]
  n_ids = vocab.size
  (new,) = generate(model, weights, ids, n_tokens, temperature, seed, n_ids)
  ends = np.flatnonzero(new == 0)
  return vocab.decode(new[: ends[0]] if ends.size else new)
