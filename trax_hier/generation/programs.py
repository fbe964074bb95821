"""The compiled programs of generation, and the decoding state they pass on.

One program reads the prompts in large chunks. Another decodes token by token:
it feeds the last token, samples the next one on the device, and stops when
every row has ended. Neither depends on the lengths of prompts or on settings of
sampling: they are compiled once for a model, a batch size, a capacity of the
caches and, for decoding, a number of beams.
"""

import dataclasses
import threading
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import ShapeDtype, base
from trax_hier.generation import beam_search
from trax_hier.generation.sampling import (
  Sampling,
  have_finite_maximum,
  sample_tokens,
)
from trax_hier.generation.stop_sequences import NOT_NEW, matched_length
from trax_hier.layers import (
  decoding_state,
  decoding_weights,
  has_prefix,
  longest_sequence,
)

# Prompts are read in chunks of these lengths; the rest, token by token.
_CHUNKS = (256, 16)
SMALLEST_CHUNK = _CHUNKS[-1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Request:
  """The settings of one call, as arrays: new values do not recompile.

  Attributes:
    sampling: Settings of sampling.
    rng: Random key, (2,).
    n_tokens: Maximum number of new tokens of a row.
    stop: Stop sequences from `stop_array`, int32 (s, w).
  """

  sampling: Sampling
  rng: jax.Array
  n_tokens: jax.Array
  stop: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
  """The state of decoding a batch.

  With k beams, `state`, `sources`, `tokens` and `recent` have b k rows.

  Attributes:
    state: State of the model.
    sources: Sources of an encoder-decoder model, int32 (b, m); else None.
    t: Number of tokens fed, the leading 0 included.
    tokens: 0, prompt and new tokens of each row, int32 (b, 1 + max_len).
    prompt_lengths: Lengths of the prompts, (b,).
    recent: The last w new tokens, (b, w).
    n_new: Number of new tokens of each row without its stop sequence, (b,).
    done: Whether a row has ended, (b,).
    is_finite: Whether the logits of all its new tokens were finite, (b,); if
      not, it has ended, and its last token means nothing.
    search: State of beam search; None when sampling.
  """

  state: Any
  sources: jax.Array | None
  t: jax.Array
  tokens: jax.Array
  prompt_lengths: jax.Array
  recent: jax.Array
  n_new: jax.Array
  done: jax.Array
  is_finite: jax.Array
  search: beam_search.Search | None = None

  @property
  def first_inputs(self) -> Any:
    """Inputs of the model's first call; axis 0 of each array is the rows."""
    first = self.tokens[:, :1]
    return first if self.sources is None else (self.sources, first)


class Programs:
  """Programs for a model, a batch size and a capacity.

  `prefill` and `decode` reuse the memory of the `Decoding` that they are given.

  Attributes:
    start: weights, tokens, lengths, request, sources -> the first `Decoding`.
    prefill: weights, `Decoding` -> `Decoding` after all but a few tokens of the
      shortest prompt.
    start_beams: weights, `Decoding`, k, length penalty -> `Decoding` with k
      beams.
    decode: weights, `Decoding`, request, limit -> `Decoding` in which every row
      has ended or `limit` tokens are fed.
    n_ids: Number of token ids of the model.
    n_positions: Number of learned positions of the model; None means any number
      of tokens.
    source_length: Length of the sources, padding included; None without
      sources.
  """

  def __init__(
    self,
    model: Callable[..., base.Layer],
    batch: int,
    max_len: int,
    precision: str,
    source_length: int | None,
  ):
    """Traces the model; programs are compiled when they are first called."""
    layer = model(mode='predict', max_len=max_len)
    signature = ShapeDtype((batch, 1), np.int32)
    if layer.n_in == 2 and source_length is None:
      raise ValueError('an encoder-decoder model needs sources')
    if layer.n_in == 1 and source_length is not None:
      raise ValueError('only encoder-decoder models take sources')
    if source_length is not None and has_prefix(layer):
      # The caches of a model with a prefix also hold its sources.
      layer = model(mode='predict', max_len=max_len + source_length)
    self.n_positions = longest_sequence(layer)
    if source_length is not None:
      source_length = min(source_length, self.n_positions or source_length)
      signature = ShapeDtype((batch, source_length), np.int32), signature
    self.source_length = source_length
    self._layer, self._batch, self._max_len = layer, batch, max_len
    self._precision, self._rng = precision, jax.random.PRNGKey(0)
    self.start = jax.jit(self._start)
    self.prefill = jax.jit(self._prefill, donate_argnums=1)
    self.start_beams = jax.jit(self._start_beams, static_argnums=2)
    self.decode = jax.jit(self._decode, donate_argnums=1)
    logits, _ = jax.eval_shape(
      lambda x: layer.pure_fn(x, *layer.init(signature, self._rng), self._rng),
      signature,
    )
    self.n_ids = logits.shape[-1]

  def _first_state(self, weights, inputs):
    # XLA drops the initial weights, which are not among the outputs.
    shapes = jax.tree.map(lambda x: ShapeDtype(x.shape, x.dtype), inputs)
    _, state = self._layer.init(shapes, self._rng)
    known = None if self.source_length is None else inputs
    return decoding_state(self._layer, weights, state, self._precision, known)

  def _start(self, weights, tokens, lengths, request, sources=None):
    inputs = tokens[:, :1] if sources is None else (sources, tokens[:, :1])
    first = Decoding(
      self._first_state(weights, inputs),
      sources,
      jnp.int32(0),
      tokens,
      lengths,
      jnp.full((self._batch, request.stop.shape[1]), NOT_NEW),
      jnp.zeros(self._batch, jnp.int32),
      jnp.zeros(self._batch, bool),
      jnp.ones(self._batch, bool),
    )
    # Weak types, which constants have, would make `decode` compile twice.
    return jax.tree.map(
      lambda x: jax.lax.convert_element_type(x, x.dtype), first
    )

  def _feed(self, weights, decoding, n):
    """Feeds the next n tokens; returns the logits (b, v) after the last too."""
    x = jax.lax.dynamic_slice_in_dim(decoding.tokens, decoding.t, n, axis=1)
    x = x if decoding.sources is None else (decoding.sources, x)
    logits, state = self._layer.pure_fn(x, weights, decoding.state, self._rng)
    fed = dataclasses.replace(decoding, state=state, t=decoding.t + n)
    return logits[:, -1], fed

  def _prefill(self, weights, decoding):
    for n in _CHUNKS:
      if n <= min(self._max_len, self.n_positions or n):
        decoding = jax.lax.while_loop(
          lambda d, n=n: d.t + n <= jnp.min(d.prompt_lengths),
          lambda d, n=n: self._feed(weights, d, n)[1],
          decoding,
        )
    return decoding

  def _row_axes(self, weights, decoding, n_rows):
    """Axes of rows in the state, found by comparing it with one of n_rows."""
    other = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((n_rows, *x.shape[1:]), x.dtype),
      decoding.first_inputs,
    )
    other = jax.eval_shape(self._first_state, weights, other)
    return beam_search.row_axes(decoding.state, other)

  def _start_beams(self, weights, decoding, k, length_penalty):
    axes = self._row_axes(weights, decoding, self._batch * k)
    length = decoding.tokens.shape[1]
    sources, tokens, recent = jax.tree.map(
      lambda x: jnp.repeat(x, k, axis=0),
      (decoding.sources, decoding.tokens, decoding.recent),
    )
    return dataclasses.replace(
      decoding,
      state=beam_search.repeat_rows(decoding.state, axes, self._batch, k),
      sources=sources,
      tokens=tokens,
      recent=recent,
      search=beam_search.start(self._batch, k, length, length_penalty),
    )

  def _decode(self, weights, decoding, request, limit):
    if decoding.search is not None:
      axes = self._row_axes(weights, decoding, self._batch)

    def step(decoding):
      logits, decoding = self._feed(weights, decoding, 1)
      if decoding.search is None:
        return _append_tokens(decoding, request, logits)
      decoding, beams = _append_beam_tokens(decoding, request, logits)
      state = beam_search.reorder_state(decoding.state, axes, beams)
      return dataclasses.replace(decoding, state=state)

    return jax.lax.while_loop(
      lambda d: (d.t < limit) & ~jnp.all(d.done), step, decoding
    )


_RECENT = 2  # Factories that stay alive; configurations of each factory.
_SHAPES = 16  # Programs of a configuration.
_FACTORIES = 16
_lock = threading.RLock()
# A factory's programs are released with it. A bound method, or a new factory
# that equals an earlier one, is found among the most recent.
_recent = {}
_kept = weakref.WeakKeyDictionary()


def _get(kept, key, make, most):
  """kept[key], or make() at first; keeps only the `most` last used."""
  value = kept.pop(key) if key in kept else make()
  kept[key] = value
  while len(kept) > most:
    del kept[next(iter(kept))]
  return value


def _keep(model, fingerprint, key, make):
  """Calls make() unless the programs of the model have its result for a key.

  A factory's model depends on gin bindings, that is, on the fingerprint.
  """
  with _lock:
    model = _get(_recent, model, lambda: model, _RECENT)
    configurations = _get(_kept, model, dict, _FACTORIES)
    found = _get(configurations, fingerprint, dict, _RECENT)
    return _get(found, key, make, _SHAPES)


def programs_of(
  model: Callable[..., base.Layer],
  fingerprint: str,
  batch: int,
  max_len: int,
  precision: str,
  source_length: int | None = None,
) -> Programs:
  """The programs of a model, kept for calls with the same arguments.

  They are released with the factory, or when its gin bindings have changed
  twice.

  Args:
    model: Factory of the model.
    fingerprint: `config.fingerprint()`.
    batch: Number of prompts.
    max_len: Capacity in tokens.
    precision: Precision of the weights, as for `prepare`.
    source_length: Length of the sources, padding included; None without
      sources.
  """
  key = batch, max_len, precision, source_length
  return _keep(model, fingerprint, key, lambda: Programs(model, *key))


def weights_converter(
  model: Callable[..., base.Layer], fingerprint: str, precision: str
) -> Callable[[Any], Any]:
  """The program that converts weights for decoding, kept in the same way."""

  def make():
    layer = model(mode='predict')
    return jax.jit(lambda weights: decoding_weights(layer, weights, precision))

  return _keep(model, fingerprint, precision, make)


def _append_tokens(decoding, request, logits):
  """Writes sampled tokens at t, except in a prompt or a finished row."""
  t = decoding.t
  n_sampled = t - decoding.prompt_lengths  # At most 0 inside the prompt.
  rows = jnp.arange(len(n_sampled))
  keys = jax.vmap(jax.random.fold_in, (None, 0))(request.rng, rows)
  keys = jax.vmap(jax.random.fold_in)(keys, n_sampled)
  sampled = sample_tokens(logits, keys, request.sampling)
  given = jax.lax.dynamic_index_in_dim(decoding.tokens, t, 1, keepdims=False)
  new = (n_sampled > 0) & ~decoding.done
  is_finite = have_finite_maximum(logits)
  token = jnp.where(new, sampled, given)
  recent = jnp.where(new, sampled, NOT_NEW)[:, None]
  recent = jnp.concatenate([decoding.recent[:, 1:], recent], axis=1)
  matched = matched_length(recent, request.stop)
  ends = (matched > 0) | (n_sampled >= request.n_tokens) | ~is_finite
  return dataclasses.replace(
    decoding,
    tokens=jax.lax.dynamic_update_slice(
      decoding.tokens, token[:, None], (0, t)
    ),
    recent=recent,
    n_new=jnp.where(new, n_sampled - matched, decoding.n_new),
    done=decoding.done | (new & ends),
    is_finite=decoding.is_finite & (is_finite | ~new),
  )


def _append_beam_tokens(decoding, request, logits):
  """Writes the tokens of beams at t; also returns their parents (b, k)."""
  t, old = decoding.t, decoding.search
  length = t - decoding.prompt_lengths
  new = (length > 0) & ~decoding.done
  # Slots are empty before the first token, and with fewer ids than beams.
  is_empty = jnp.isneginf(old.log_p)
  is_finite = have_finite_maximum(logits).reshape(is_empty.shape) | is_empty
  is_finite = jnp.all(is_finite, axis=1)
  candidates = beam_search.extend(
    old.log_p,
    decoding.recent,
    logits,
    request.sampling.n_ids,
    request.stop,
  )
  beams = beam_search.select_beams(candidates, old.log_p.shape[1])
  best, done = beam_search.update_best(
    old, candidates, beams, t, length, request.n_tokens
  )

  def where_new(x, y):
    y = y.reshape(x.shape)
    return jnp.where(new.reshape(-1, *[1] * (x.ndim - 1)), x, y)

  def set_column(array, column):
    return jax.lax.dynamic_update_slice(array, column.reshape(-1, 1), (0, t))

  given = jax.lax.dynamic_index_in_dim(decoding.tokens, t, 1, keepdims=False)
  stay = jnp.broadcast_to(jnp.arange(old.log_p.shape[1]), old.log_p.shape)
  parents = where_new(beams.parents, stay)
  search = dataclasses.replace(
    old,
    log_p=where_new(beams.log_p, old.log_p),
    parents=set_column(old.parents, parents),
    best=jax.tree.map(where_new, best, old.best),
  )
  recent = where_new(beams.recent, decoding.recent)
  decoding = dataclasses.replace(
    decoding,
    tokens=set_column(decoding.tokens, where_new(beams.tokens, given)),
    recent=recent.reshape(decoding.recent.shape),
    n_new=search.best.n_new,
    done=decoding.done | (new & (done | ~is_finite)),
    is_finite=decoding.is_finite & (is_finite | ~new),
    search=search,
  )
  return decoding, parents
