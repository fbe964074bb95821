"""The compiled programs of generation, and the decoding state they pass on.

One program decodes token by token: it feeds the last token, samples the next
one on the device, and stops when every row has ended. Others read long prompts
in chunks; shorter ones are fed token by token. None depends on the lengths of
prompts or on settings of sampling: they are compiled once for a model, a batch
size, a capacity of the caches and, for decoding, a number of beams.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import ShapeDtype, base
from trax_hier.generation import beam_search
from trax_hier.generation.kept import keep
from trax_hier.generation.memory_check import check_memory
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

# Compiling takes half the time, and decoding a small model up to four times as
# long. Only CPUs have such an option.
_FAST_COMPILATION = {'xla_backend_optimization_level': 0}

# Prompts are read in chunks of these lengths; the rest, token by token.
_CHUNKS = (256, 16)
# Each length is a program, which takes seconds to compile. It is worth that if
# feeding the prompt token by token reads this many bytes of weights, which
# takes half a second from the memory of a CPU.
_LONG_PROMPT_BYTES = 4 * 10**9


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
    start_beams: weights, `Decoding`, k, length penalty -> `Decoding` with k
      beams.
    decode: weights, `Decoding`, request, limit -> `Decoding` in which every row
      has ended or `limit` tokens are fed.
    n_positions: Number of positions of the model; None means any number
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
    compile_fast: bool,
  ):
    """Programs are traced and compiled when they are first called."""
    layer = model(mode='predict', max_len=max_len)
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
    self.source_length = source_length
    self._layer, self._batch, self._max_len = layer, batch, max_len
    self._precision, self._rng = precision, jax.random.PRNGKey(0)
    self._n_ids = self._state = None
    # All programs share the traces of these two.
    self._init = jax.jit(self._initial_state)
    self._model = jax.jit(self._apply)
    fast = compile_fast and jax.default_backend() == 'cpu'
    jit = functools.partial(
      jax.jit, compiler_options=_FAST_COMPILATION if fast else None
    )
    self.start = jit(self._start)
    self._read = jit(self._read_chunks, static_argnums=2, donate_argnums=1)
    self.start_beams = jit(self._start_beams, static_argnums=2)
    self.decode = jit(self._decode, donate_argnums=1)

  def n_ids(self, weights: Any) -> int:
    """Number of token ids of the model."""

    def tokens(length):
      return jax.ShapeDtypeStruct((self._batch, length), np.int32)

    if self._n_ids is None:
      first = tokens(1)
      if self.source_length is not None:
        first = tokens(self.source_length), first
      self._state = jax.eval_shape(self._first_state, weights, first)
      logits, _ = jax.eval_shape(self._model, weights, self._state, first)
      self._n_ids = logits.shape[-1]
    return self._n_ids

  def check_memory(self, n_beams: int) -> None:
    """Raises ValueError if decoding cannot fit; `n_ids` must come first."""
    sizes = self._batch, self._max_len, self._n_ids
    check_memory(self._state, *sizes, n_beams)

  def _initial_state(self, inputs):
    # XLA drops the initial weights, which are not among the outputs.
    shapes = jax.tree.map(lambda x: ShapeDtype(x.shape, x.dtype), inputs)
    return self._layer.init(shapes, self._rng)[1]

  def _apply(self, weights, state, inputs):
    return self._layer.pure_fn(inputs, weights, state, self._rng)

  def _first_state(self, weights, inputs):
    state = self._init(inputs)
    known = None if self.source_length is None else inputs
    state = decoding_state(self._layer, weights, state, self._precision, known)
    # Weak types, which constants have, would make `decode` compile twice.
    return jax.tree.map(
      lambda x: jax.lax.convert_element_type(x, x.dtype), state
    )

  def _start(self, weights, tokens, lengths, request, sources=None):
    inputs = tokens[:, :1] if sources is None else (sources, tokens[:, :1])
    return Decoding(
      self._first_state(weights, inputs),
      sources,
      jnp.int32(0),
      tokens,
      lengths,
      jnp.full((self._batch, request.stop.shape[1]), NOT_NEW, jnp.int32),
      jnp.zeros(self._batch, jnp.int32),
      jnp.zeros(self._batch, bool),
      jnp.ones(self._batch, bool),
    )

  def _feed(self, weights, decoding, n):
    """Feeds the next n tokens; returns the logits (b, v) after the last too."""
    x = jax.lax.dynamic_slice_in_dim(decoding.tokens, decoding.t, n, axis=1)
    x = x if decoding.sources is None else (decoding.sources, x)
    logits, state = self._model(weights, decoding.state, x)
    fed = dataclasses.replace(decoding, state=state, t=decoding.t + n)
    return logits[:, -1], fed

  def prefill(self, weights: Any, decoding: Decoding) -> Decoding:
    """Feeds all but a few tokens of the shortest prompt, if it is long."""
    length = int(np.min(decoding.prompt_lengths))
    n_bytes = sum(w.nbytes for w in jax.tree.leaves(weights))
    if length * n_bytes < _LONG_PROMPT_BYTES:
      return decoding
    for n in _CHUNKS:
      if n <= length:
        decoding = self._read(weights, decoding, n)
        length %= n
    return decoding

  def _read_chunks(self, weights, decoding, n):
    return jax.lax.while_loop(
      lambda d: d.t + n <= jnp.min(d.prompt_lengths),
      lambda d: self._feed(weights, d, n)[1],
      decoding,
    )

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


def programs_of(
  model: Callable[..., base.Layer],
  fingerprint: str,
  batch: int,
  max_len: int,
  precision: str,
  source_length: int | None = None,
  compile_fast: bool = False,
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
    compile_fast: As for `generate`.
  """
  key = batch, max_len, precision, source_length, compile_fast
  return keep(model, fingerprint, key, lambda: Programs(model, *key))


def weights_converter(
  model: Callable[..., base.Layer], fingerprint: str, precision: str
) -> Callable[[Any], Any]:
  """The program that converts weights for decoding, kept in the same way."""

  def make():
    layer = model(mode='predict')
    return jax.jit(lambda weights: decoding_weights(layer, weights, precision))

  return keep(model, fingerprint, precision, make)


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
    tokens=jax.lax.dynamic_update_slice_in_dim(
      decoding.tokens, token[:, None], t, axis=1
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
    return jax.lax.dynamic_update_slice_in_dim(
      array, column.reshape(-1, 1), t, axis=1
    )

  given = jax.lax.dynamic_index_in_dim(decoding.tokens, t, 1, keepdims=False)
  stay = jnp.arange(old.log_p.shape[1], dtype=jnp.int32)
  parents = where_new(beams.parents, jnp.broadcast_to(stay, old.log_p.shape))
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
