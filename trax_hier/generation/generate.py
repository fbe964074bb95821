"""Generation: prompts in, drawn tokens out, by compiled programs.

One program reads the prompts in large pieces. Another goes on token by token:
it feeds the last one, draws the next on the device, and stops when every row
has what it wants. Nothing in them depends on the length of a prompt or on how
tokens are drawn: they are compiled once for a model, a batch size, a capacity
of the caches and, for going on, a number of beams.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier import config
from trax_hier.compat import ShapeDtype, base
from trax_hier.generation import beam_search
from trax_hier.generation.sampling import Sampling, sample_tokens
from trax_hier.layers import (
  decoding_state,
  decoding_weights,
  has_prefix,
  longest_sequence,
)

Callback = Callable[[list[np.ndarray]], None]

# Prompts are read in pieces of these lengths; what is left, token by token.
_PIECES = (256, 16)
_SMALLEST_CAPACITY = 64
_SECONDS_PER_CALLBACK = 0.1
_NEVER = -1  # No token: pads stop sequences.
_NOT_NEW = -2  # Stands for a token that was given, which stops nothing.


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A model's weights laid out for decoding; made by `prepare`."""

  weights: Any
  precision: str


def prepare(
  model: Callable[..., base.Layer], weights: Any, precision: str = 'float32'
) -> Prepared:
  """Lays weights out for decoding, once for many calls of `generate`.

  Args:
    model: The model's factory.
    weights: The model's weights.
    precision: 'float32', 'bfloat16' (weights, caches and compute; for
      accelerators: CPUs widen all of it before every few tokens) or 'int8'
      (kernels of dense layers, with a scale for each output channel, and the
      rows of `SparseFF`; tables of embeddings and the rest of sparse layers
      stay as they are).

  Raises:
    ValueError: precision is none of these.

  Example:
    >>> from trax_hier.layers import Dense
    >>> weights = jnp.ones((8, 4)), jnp.zeros(4)
    >>> prepared = prepare(lambda mode: Dense(4), weights, 'int8')
    >>> [w.dtype.name for w in jax.tree.leaves(prepared.weights)]
    ['int8', 'float32', 'float32']
  """
  lay_out = _lay_out(model, config.fingerprint(), precision)
  return Prepared(lay_out(weights), precision)


def generate(
  model: Callable[..., base.Layer],
  weights: Any,
  prompt: np.ndarray | Sequence[np.ndarray],
  n_tokens: int,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
  seed: int = 0,
  stop: Sequence[Sequence[int]] = (),
  n_ids: int | None = None,
  max_len: int | None = None,
  on_tokens: Callback | None = None,
  sources: np.ndarray | Sequence[np.ndarray] | None = None,
  n_beams: int = 1,
  length_penalty: float = 0.6,
) -> list[np.ndarray]:
  """Continues prompts with tokens drawn from the model.

  A row gets the tokens that it would get alone, whatever the other prompts are;
  which random numbers it draws depends on its place in the batch.

  With n_beams = k above 1 nothing is drawn: each row is searched for the
  continuation of the highest score, log p / ((5 + length) / 6) **
  length_penalty, its length being that of all new tokens, the stop included. Of
  the 2 k likeliest continuations of its k beams by one token, those that end in
  a stop are compared by their score; of all others, the k likeliest are its
  next beams. It ends when these cannot reach the best score any more, or after
  n_tokens, when they are compared as well.

  Args:
    model: The model's factory, called with `mode` and `max_len`. Programs are
      kept per factory: calls with the same one do not compile again.
    weights: The model's weights, or what `prepare` made of them.
    prompt: Tokens int32 (b, l), or a sequence of arrays (l,), which may differ
      in length and be empty. What goes beyond the shortest is read token by
      token, while that one is continued.
    n_tokens: Number of tokens to draw for each row.
    temperature: What logits are divided by; 0 takes the likeliest token.
    top_k: Draws from so many likeliest tokens; None is all.
    top_p: Draws from the fewest likeliest tokens whose probabilities, after
      temperature and top_k, add up to at least this; None is all.
    seed: Seed of the draws.
    stop: Sequences of tokens; a row ends as soon as its new tokens end in one.
    n_ids: Draws from the first so many token ids; None is all of the model's.
    max_len: Capacity in tokens of prompt and new ones; None is as many as are
      needed, rounded up to a power of two.
    on_tokens: Called several times a second with the new tokens of each row
      since the last call, a list of arrays int32 (n,).
    sources: What the encoder of an encoder-decoder model reads, one for each
      prompt: tokens int32 (b, m), or a sequence of arrays (m,), which may
      differ in length. 0 is padding, which may come after a text alone.
    n_beams: Number of continuations of each row that are followed together.
      With more than one, temperature (of 0 or 1), top_k, top_p and seed have no
      meaning, and on_tokens cannot be: nothing is certain before the end.
    length_penalty: What long continuations are favoured by, with several beams;
      0 compares probabilities.

  Returns:
    The new tokens of each row, int32 (n,) with n at most n_tokens, without the
    stop sequence that ended it.

  Raises:
    ValueError: an argument is out of its range, or a prompt and its new tokens
      exceed max_len or what the model has positions for.

  Example:
    >>> from trax_hier.data import ByteVocab
    >>> from trax_hier.compat import tl
    >>> def model(mode, max_len=None):  # After each byte comes the next one.
    ...   following = tl.Fn('Next', lambda x: jax.nn.one_hot(x + 1, 256))
    ...   return tl.Serial(tl.ShiftRight(mode=mode), following)
    >>> vocab = ByteVocab()
    >>> prompts = [vocab.encode('abc'), vocab.encode('p')]
    >>> new = generate(
    ...   model, model('eval').weights, prompts, n_tokens=4, temperature=0
    ... )
    >>> [vocab.decode(row) for row in new]
    ['defg', 'qrst']

  Source: of beams, arXiv 1609.08144 section 7 (equation 14).
  """
  prompts = _check_rows('prompt', prompt)
  _check_at_least_1(
    n_tokens=n_tokens,
    top_k=top_k,
    n_ids=n_ids,
    max_len=max_len,
    n_beams=n_beams,
  )
  if not (np.isfinite(temperature) and temperature >= 0):
    raise ValueError(f'temperature = {temperature} must be a number >= 0')
  if top_p is not None and not 0 < top_p <= 1:
    raise ValueError(f'top_p = {top_p} must be above 0 and at most 1')
  if not 0 <= seed < 1 << 63:
    raise ValueError(f'seed = {seed} must be at least 0 and below 2 ** 63')
  given = dict(
    temperature=temperature not in (0, 1),
    top_k=top_k is not None,
    top_p=top_p is not None,
    seed=seed != 0,
    on_tokens=on_tokens is not None,
  )
  beam_search.check(
    n_beams, length_penalty, [name for name in given if given[name]]
  )
  longest = max(map(len, prompts))
  needed = longest + n_tokens
  if max_len is None:
    max_len = max(_SMALLEST_CAPACITY, 1 << (needed - 1).bit_length())
  if needed > max_len:
    raise ValueError(
      f'a prompt of {longest} tokens and n_tokens = {n_tokens} exceed max_len '
      f'= {max_len}: set max_len = {needed} or more, or ask for fewer tokens'
    )
  if not isinstance(weights, Prepared):
    weights = prepare(model, weights)
  source_length = None
  if sources is not None:
    sources = _check_rows('sources', sources)
    if len(sources) != len(prompts):
      raise ValueError(
        f'{len(sources)} sources do not go with {len(prompts)} prompts'
      )
    _check_padding(sources)
    # Rounded up, as a program is compiled for each.
    longest_source = max(1, *map(len, sources))
    source_length = 1 << (longest_source - 1).bit_length()
  program = _program(
    model,
    config.fingerprint(),
    len(prompts),
    max_len,
    weights.precision,
    source_length,
  )
  for name, rows in dict(prompt=prompts, sources=sources or []).items():
    largest = max((int(p.max()) for p in rows if p.size), default=0)
    if largest >= program.n_ids:
      raise ValueError(
        f'{name} holds token {largest}, but the model has {program.n_ids} ids'
      )
  if program.n_positions:
    _check_positions(program.n_positions, needed, 'a prompt and its new tokens')
    if sources is not None:
      _check_positions(program.n_positions, longest_source, 'a source')
  n_ids = program.n_ids if n_ids is None else n_ids
  request = _Request(
    Sampling(
      jnp.float32(temperature),
      jnp.int32(min(program.n_ids, top_k or program.n_ids)),
      jnp.float32(1.0 if top_p is None else top_p),
      jnp.int32(n_ids),
    ),
    jax.random.PRNGKey(seed),
    jnp.int32(n_tokens),
    _stop_array(stop),
  )
  lengths = np.array([len(p) for p in prompts], np.int32)
  tokens = np.pad(_padded(prompts, max_len), [(0, 0), (1, 0)])
  if sources is not None:
    sources = _padded(sources, program.source_length)
  decoding = program.start(weights.weights, tokens, lengths, request, sources)
  if lengths.min() >= _PIECES[-1]:
    decoding = program.read(weights.weights, decoding)
  write = functools.partial(program.write, weights.weights)
  if n_beams > 1:
    decoding = program.spread(
      weights.weights, decoding, n_beams, jnp.float32(length_penalty)
    )
    decoding = write(decoding, request, max_len)
    return beam_search.trace_back(decoding.search, decoding.tokens, lengths)
  if on_tokens is None:
    return _new_tokens(write(decoding, request, max_len), lengths)
  held_back = max((len(s) for s in stop), default=1) - 1
  return _stream(write, decoding, request, lengths, held_back, on_tokens)


def sample_text(
  model: Callable[..., base.Layer],
  weights: Any,
  vocab: Any,
  prompt: str,
  n_tokens: int,
  temperature: float = 1.0,
  seed: int = 0,
  source: np.ndarray | None = None,
) -> str:
  """Continues a text; `vocab` encodes the prompt and decodes the new tokens.

  The text ends before the first token 0, which ends a document. `source`,
  tokens (m,), is what an encoder-decoder model reads.
  """
  (new,) = generate(
    model,
    weights,
    [vocab.encode(prompt)],
    n_tokens,
    temperature,
    seed=seed,
    stop=[[0]],
    n_ids=vocab.size,
    sources=None if source is None else [source],
  )
  return vocab.decode(new)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Request:
  """What is asked for: sampling, random key, n_tokens, stop (s, w) int32."""

  sampling: Sampling
  rng: jax.Array
  n_tokens: jax.Array
  stop: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Decoding:
  """Where the rows of a batch are.

  Attributes:
    state: The model's.
    sources: Of an encoder-decoder model, int32 (b, m); else None.
    t: Number of tokens fed, the leading 0 included.
    tokens: 0, prompt and new tokens of each row, int32 (b, 1 + max_len).
    lengths: Of the prompts, (b,).
    recent: The last w new tokens, (b, w).
    n_new: Number of new tokens of each row, a stop not counted, (b,).
    done: Whether a row has ended, (b,).
    search: With k beams, where they are; `state`, `sources`, `tokens` and
      `recent` then have b k rows.
  """

  state: Any
  sources: jax.Array | None
  t: jax.Array
  tokens: jax.Array
  lengths: jax.Array
  recent: jax.Array
  n_new: jax.Array
  done: jax.Array
  search: beam_search.Search | None = None

  @property
  def first_inputs(self):
    """What the model is given first, arrays that all begin with its rows."""
    first = self.tokens[:, :1]
    return first if self.sources is None else (self.sources, first)


@dataclasses.dataclass(frozen=True)
class _Program:
  """Compiled for a model, a batch size and a capacity.

  Attributes:
    start: weights, tokens, lengths, request, sources -> the first `_Decoding`.
    read: weights, `_Decoding` -> the same after all of the shortest prompt but
      a few tokens.
    spread: weights, `_Decoding`, k, length penalty -> the same with k beams.
    write: weights, `_Decoding`, request, limit -> the same when every row has
      ended or `limit` tokens are fed. Like `read` it uses the memory of the
      `_Decoding` that it is given again.
    n_ids: Number of the model's token ids.
    n_positions: Number of tokens it has positions for; None is any number.
    source_length: Length of the sources, padding included; None without.
  """

  start: Callable
  read: Callable
  spread: Callable
  write: Callable
  n_ids: int
  n_positions: int | None
  source_length: int | None


@functools.lru_cache(maxsize=16)
def _lay_out(model, configuration, precision):
  """Weights -> weights for decoding; arguments as in `_program`."""
  del configuration
  layer = model(mode='predict')
  return jax.jit(lambda weights: decoding_weights(layer, weights, precision))


@functools.lru_cache(maxsize=16)
def _program(
  model, configuration, batch, max_len, precision, source_length=None
):
  """The programs; `configuration` is what gin holds as the model is made."""
  del configuration
  layer = model(mode='predict', max_len=max_len)
  signature = ShapeDtype((batch, 1), np.int32)
  if layer.n_in == 2 and source_length is None:
    raise ValueError('an encoder-decoder model needs sources')
  if layer.n_in == 1 and source_length is not None:
    raise ValueError('sources are for encoder-decoder models alone')
  if source_length is not None and has_prefix(layer):
    # Its sources are rows of the same caches.
    layer = model(mode='predict', max_len=max_len + source_length)
  n_positions = longest_sequence(layer)
  if source_length is not None:
    source_length = min(source_length, n_positions or source_length)
    signature = ShapeDtype((batch, source_length), np.int32), signature
  rng = jax.random.PRNGKey(0)

  def first_state(weights, inputs):
    # The layer's own weights are not among the outputs, so none are drawn.
    shapes = jax.tree.map(lambda x: ShapeDtype(x.shape, x.dtype), inputs)
    _, state = layer.init(shapes, rng)
    known = None if source_length is None else inputs
    return decoding_state(layer, weights, state, precision, known)

  @jax.jit
  def start(weights, tokens, lengths, request, sources=None):
    inputs = tokens[:, :1] if sources is None else (sources, tokens[:, :1])
    first = _Decoding(
      first_state(weights, inputs),
      sources,
      jnp.int32(0),
      tokens,
      lengths,
      jnp.full((batch, request.stop.shape[1]), _NOT_NEW),
      jnp.zeros(batch, jnp.int32),
      jnp.zeros(batch, bool),
    )
    # Weak types, as those of constants, would make `write` compile twice.
    return jax.tree.map(
      lambda x: jax.lax.convert_element_type(x, x.dtype), first
    )

  def feed(weights, decoding, n):
    """Feeds the next n tokens; also the logits (b, v) after them."""
    x = jax.lax.dynamic_slice_in_dim(decoding.tokens, decoding.t, n, axis=1)
    x = x if decoding.sources is None else (decoding.sources, x)
    logits, state = layer.pure_fn(x, weights, decoding.state, rng)
    fed = dataclasses.replace(decoding, state=state, t=decoding.t + n)
    return logits[:, -1], fed

  @functools.partial(jax.jit, donate_argnums=1)
  def read(weights, decoding):
    for n in (n for n in _PIECES if n <= min(max_len, n_positions or n)):
      decoding = jax.lax.while_loop(
        lambda d, n=n: d.t + n <= jnp.min(d.lengths),
        lambda d, n=n: feed(weights, d, n)[1],
        decoding,
      )
    return decoding

  def row_axes(weights, decoding, n_rows):
    """Those of its state, found with another number of rows."""
    other = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((n_rows, *x.shape[1:]), x.dtype),
      decoding.first_inputs,
    )
    other = jax.eval_shape(first_state, weights, other)
    return beam_search.row_axes(decoding.state, other)

  @functools.partial(jax.jit, static_argnums=2)
  def spread(weights, decoding, k, length_penalty):
    axes = row_axes(weights, decoding, batch * k)
    length = decoding.tokens.shape[1]
    sources, tokens, recent = jax.tree.map(
      lambda x: jnp.repeat(x, k, axis=0),
      (decoding.sources, decoding.tokens, decoding.recent),
    )
    return dataclasses.replace(
      decoding,
      state=beam_search.repeat_rows(decoding.state, axes, batch, k),
      sources=sources,
      tokens=tokens,
      recent=recent,
      search=beam_search.begin(batch, k, length, length_penalty),
    )

  @functools.partial(jax.jit, donate_argnums=1)
  def write(weights, decoding, request, limit):
    if decoding.search is not None:
      axes = row_axes(weights, decoding, batch)

    def step(decoding):
      logits, decoding = feed(weights, decoding, 1)
      if decoding.search is None:
        return _take(decoding, request, logits)
      decoding, beams = _take_beams(decoding, request, logits)
      state = beam_search.follow(decoding.state, axes, beams)
      return dataclasses.replace(decoding, state=state)

    return jax.lax.while_loop(
      lambda d: (d.t < limit) & ~jnp.all(d.done), step, decoding
    )

  logits, _ = jax.eval_shape(
    lambda x: layer.pure_fn(x, *layer.init(signature, rng), rng),
    signature,
  )
  return _Program(
    start, read, spread, write, logits.shape[-1], n_positions, source_length
  )


def _take(decoding, request, logits):
  """Puts the next token in its place: one given, one drawn, or nothing."""
  t, lengths = decoding.t, decoding.lengths
  n_drawn = t - lengths  # With this one; not positive while in the prompt.
  rows = jnp.arange(len(lengths))
  keys = jax.vmap(jax.random.fold_in, (None, 0))(request.rng, rows)
  keys = jax.vmap(jax.random.fold_in)(keys, n_drawn)
  drawn = sample_tokens(logits, keys, request.sampling)
  given = jax.lax.dynamic_index_in_dim(decoding.tokens, t, 1, keepdims=False)
  new = (n_drawn > 0) & ~decoding.done
  token = jnp.where(new, drawn, given)
  recent = jnp.where(new, drawn, _NOT_NEW)[:, None]
  recent = jnp.concatenate([decoding.recent[:, 1:], recent], axis=1)
  stopped = _stopped(recent, request.stop)
  n_new = jnp.where(new, n_drawn - stopped, decoding.n_new)
  return dataclasses.replace(
    decoding,
    tokens=jax.lax.dynamic_update_slice(
      decoding.tokens, token[:, None], (0, t)
    ),
    recent=recent,
    n_new=n_new,
    done=decoding.done
    | (new & ((stopped > 0) | (n_drawn >= request.n_tokens))),
  )


def _take_beams(decoding, request, logits):
  """As `_take` for beams; also which of them each goes on from, (b, k)."""
  t, old = decoding.t, decoding.search
  n_drawn = t - decoding.lengths
  new = (n_drawn > 0) & ~decoding.done
  found = beam_search.extend(
    old.log_p,
    decoding.recent,
    logits,
    request.sampling.n_ids,
    request.stop,
    _stopped,
  )
  drawn = beam_search.choose(found, old.log_p.shape[1])
  best, done = beam_search.compare(
    old, found, drawn, t, n_drawn, request.n_tokens
  )

  def where_new(x, y):
    y = y.reshape(x.shape)
    return jnp.where(new.reshape(-1, *[1] * (x.ndim - 1)), x, y)

  def put(to, column):
    return jax.lax.dynamic_update_slice(to, column.reshape(-1, 1), (0, t))

  given = jax.lax.dynamic_index_in_dim(decoding.tokens, t, 1, keepdims=False)
  stay = jnp.broadcast_to(jnp.arange(old.log_p.shape[1]), old.log_p.shape)
  beams = where_new(drawn.beams, stay)
  search = dataclasses.replace(
    old,
    log_p=where_new(drawn.log_p, old.log_p),
    parents=put(old.parents, beams),
    best=jax.tree.map(where_new, best, old.best),
  )
  recent = where_new(drawn.recent, decoding.recent)
  decoding = dataclasses.replace(
    decoding,
    tokens=put(decoding.tokens, where_new(drawn.tokens, given)),
    recent=recent.reshape(decoding.recent.shape),
    n_new=search.best.n_new,
    done=decoding.done | (new & done),
    search=search,
  )
  return decoding, beams


def _stopped(recent, stop):
  """The length of the stop sequence in which recent (.., w) ends, or 0."""
  fits = (recent[..., None, :] == stop) | (stop == _NEVER)  # (.., s, w)
  lengths = jnp.sum(stop != _NEVER, axis=-1)
  return jnp.max(jnp.all(fits, axis=-1) * lengths, axis=-1)


def _stop_array(stop):
  """Stop sequences as int32 (s, w), their ends aligned.

  Both sizes are rounded up, as a program is compiled for each.
  """
  longest = 1
  for sequence in stop:
    ids = np.asarray(sequence)
    if ids.ndim != 1 or not ids.size or not _are_ids(ids):
      raise ValueError(
        'stop must hold sequences of token ids that are not empty, such as '
        f'[[0], [13, 10]], got {sequence!r}'
      )
    longest = max(longest, len(ids))
  shape = [1 << (n - 1).bit_length() for n in (max(4, len(stop)), longest)]
  array = np.full((shape[0], max(8, shape[1])), _NEVER, np.int32)
  for row, sequence in zip(array, stop, strict=False):
    row[-len(sequence) :] = sequence
  return array


def _stream(write, decoding, request, lengths, held_back, on_tokens):
  """Runs to the end, handing out what no stop sequence can take back."""
  shown = np.zeros(len(lengths), np.int32)
  limit, step = int(lengths.max()) + 1, 1
  while True:
    begin = time.perf_counter()
    decoding = write(decoding, request, limit)
    done = np.asarray(decoding.done)
    seconds = time.perf_counter() - begin
    n = np.asarray(decoding.n_new) - np.where(done, 0, held_back)
    n = np.maximum(n, shown)
    rows = _new_tokens(decoding, lengths)
    on_tokens([row[a:b] for row, a, b in zip(rows, shown, n, strict=True)])
    shown = n
    if done.all():
      return rows
    # The first call compiles, and reads what is left of the prompts.
    if limit > lengths.max() + 1:
      step = max(1, min(2 * step, int(step * _SECONDS_PER_CALLBACK / seconds)))
    limit += step


def _new_tokens(decoding, lengths):
  """The new tokens of each row."""
  tokens, n_new = np.asarray(decoding.tokens), np.asarray(decoding.n_new)
  return [
    row[1 + length : 1 + length + n]
    for row, length, n in zip(tokens, lengths, n_new, strict=True)
  ]


def _check_rows(name, rows):
  rows = [np.asarray(row) for row in rows]
  if not rows:
    raise ValueError(f'{name} has no rows')
  for row in rows:
    if row.ndim != 1 or not _are_ids(row):
      raise ValueError(
        f'{name} must be token ids, not negative, (batch, length) or a '
        f'sequence of arrays (length,), got a row {row!r:.80}'
      )
  return rows


def _check_padding(sources):
  """Raises ValueError where padding is not after the text."""
  for row, source in enumerate(sources):
    (places,) = np.nonzero(source == 0)
    if len(places) and source[places[0] :].any():
      raise ValueError(
        f'sources: row {row} has 0 at position {places[0]}, but other tokens '
        'after it: 0 is padding, which may come after the text alone'
      )


def _padded(rows, length):
  """Rows (l,) with zeros after them: int32 (b, length)."""
  padded = np.zeros((len(rows), length), np.int32)
  for to, row in zip(padded, rows, strict=True):
    to[: len(row)] = row
  return padded


def _are_ids(array):
  if not array.size:
    return True
  return np.issubdtype(array.dtype, np.integer) and array.min() >= 0


def _check_positions(n_positions, length, what):
  if length > n_positions:
    raise ValueError(
      f'{length} positions are needed for {what}, but the model has learned '
      f'LearnedPositions.n_positions = {n_positions}'
    )


def _check_at_least_1(**numbers):
  for name, value in numbers.items():
    if value is not None and value < 1:
      raise ValueError(f'{name} = {value} must be at least 1')
