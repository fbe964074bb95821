"""The entry points of generation: `prepare`, `generate` and `sample_text`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier import config
from trax_hier.compat import base
from trax_hier.generation import arguments, beam_search, programs
from trax_hier.generation.sampling import Sampling
from trax_hier.generation.stop_sequences import stop_array
from trax_hier.generation.streaming import (
  Callback,
  check_finite,
  new_tokens,
  stream,
)


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A model's weights converted for decoding; made by `prepare`."""

  weights: Any
  precision: str

  def __repr__(self) -> str:
    """One line, without the weights."""
    n = sum(w.size for w in jax.tree.leaves(self.weights))
    return f'<{type(self).__name__}: {n:,} parameters, {self.precision}>'


def prepare(
  model: Callable[..., base.Layer], weights: Any, precision: str = 'float32'
) -> Prepared:
  """Converts weights for decoding, once for many calls of `generate`.

  Args:
    model: Factory of the model.
    weights: Weights of the model.
    precision: 'float32', 'bfloat16' (weights, caches and compute; for
      accelerators: CPUs upcast everything again every few tokens) or 'int8'
      (kernels of dense layers, with a scale for each output channel, and the
      rows of `SparseFF`; embedding tables and the rest of sparse layers stay
      as they are).

  Raises:
    ValueError: precision is none of these.

  Example:
    >>> from trax_hier.layers import Dense
    >>> weights = jnp.ones((8, 4)), jnp.zeros(4)
    >>> prepared = prepare(lambda mode: Dense(4), weights, 'int8')
    >>> [w.dtype.name for w in jax.tree.leaves(prepared.weights)]
    ['int8', 'float32', 'float32']
  """
  convert = programs.weights_converter(model, config.fingerprint(), precision)
  return Prepared(convert(jax.tree.map(_on_its_device, weights)), precision)


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
  compile_fast: bool = False,
) -> list[np.ndarray]:
  """Continues prompts with tokens sampled from the model.

  The tokens of a row do not depend on the other prompts. Its random numbers
  depend on its place in the batch.

  With n_beams = k above 1, beam search replaces sampling. It looks for the
  continuation of each row with the highest score,
  log p / ((5 + length) / 6) ** length_penalty, where length counts all new
  tokens, the stop sequence included. At each step, the k beams are extended by
  one token. Among the 2 k most likely candidates, those that end in a stop
  sequence are finished. The k most likely candidates that end in none are the
  next beams. The search ends when no beam can exceed the best finished score,
  or after n_tokens, when the beams count as finished too.

  Args:
    model: Factory of the model, called with `mode` and `max_len`. Programs are
      kept per factory: calls with the same one do not compile again.
    weights: Weights of the model, or the result of `prepare`.
    prompt: Tokens int32 (b, l), or a sequence of arrays (l,), which may differ
      in length and be empty. Tokens beyond the shortest prompt are read one by
      one, while that prompt is continued.
    n_tokens: Maximum number of new tokens of each row.
    temperature: Divisor of the logits; 0 takes the most likely token.
    top_k: Number of most likely tokens to sample from; None means all.
    top_p: Samples from the fewest most likely tokens whose probabilities, after
      temperature and top_k, add up to at least this; None means all.
    seed: Seed of sampling.
    stop: Sequences of tokens; a row ends as soon as its new tokens end in one.
    n_ids: Only ids below this are generated; None means all ids of the model.
    max_len: Capacity in tokens, prompt included; None means as many as needed,
      rounded up to a power of two.
    on_tokens: Called several times a second with the new tokens of each row
      since the last call, a list of arrays int32 (n,).
    sources: Inputs of the encoder of an encoder-decoder model, one for each
      prompt: tokens int32 (b, m), or a sequence of arrays (m,), which may
      differ in length. 0 is padding, allowed only at the end.
    n_beams: Number of beams of each row. Beam search allows no temperature
      other than 0 or 1, and no top_k, top_p, seed or on_tokens: tokens are
      known only at the end of the search.
    length_penalty: Exponent that favors long continuations in beam search; with
      0, the score is the log probability.
    compile_fast: Whether to compile programs in less time that decode more
      slowly, as for a single short text. Only CPUs make a difference.

  Returns:
    The new tokens of each row, int32 (n,) with n at most n_tokens, without the
    stop sequence that ended the row.

  Raises:
    ValueError: An argument is out of its range, a prompt and its new tokens
      exceed max_len or the positions of the model, or the caches exceed the
      memory.
    FloatingPointError: The logits of a row are infinite or not a number.

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

  Source: arXiv 1609.08144 section 7 (equation 14) for beam search.
  """
  prompts = arguments.token_rows('prompt', prompt)
  arguments.check_at_least_1(
    n_tokens=n_tokens,
    top_k=top_k,
    n_ids=n_ids,
    max_len=max_len,
    n_beams=n_beams,
  )
  arguments.check_sampling(temperature, top_p, seed)
  arguments.check_beams(
    n_beams,
    length_penalty,
    temperature=temperature not in (0, 1),
    top_k=top_k is not None,
    top_p=top_p is not None,
    seed=seed != 0,
    on_tokens=on_tokens is not None,
  )
  lengths = np.array([len(p) for p in prompts], np.int32)
  max_len = arguments.capacity(int(lengths.max()), n_tokens, max_len)
  if not isinstance(weights, Prepared):
    weights = prepare(model, weights)
  source_length = None
  if sources is not None:
    sources = arguments.source_rows(sources, len(prompts))
    source_length = arguments.next_power_of_two(max(1, *map(len, sources)))
  key = len(prompts), max_len, weights.precision, source_length, compile_fast
  program = programs.programs_of(model, config.fingerprint(), *key)
  all_ids = program.n_ids(weights.weights)
  arguments.check_fits(all_ids, program.n_positions, prompts, n_tokens, sources)
  program.check_memory(n_beams)
  if sources is not None:
    sources = _padded(sources, program.source_length)
  sampling = Sampling(
    np.float32(temperature),
    np.int32(min(all_ids, top_k or all_ids)),
    np.float32(1.0 if top_p is None else top_p),
    np.int32(all_ids if n_ids is None else n_ids),
  )
  request = programs.Request(
    sampling, jax.random.PRNGKey(seed), np.int32(n_tokens), stop_array(stop)
  )
  tokens = np.pad(_padded(prompts, max_len), [(0, 0), (1, 0)])
  decoding = program.start(weights.weights, tokens, lengths, request, sources)
  decoding = program.prefill(weights.weights, decoding)
  decode = functools.partial(program.decode, weights.weights)
  if on_tokens is not None:
    held_back = max((len(s) for s in stop), default=1) - 1
    return stream(decode, decoding, request, lengths, held_back, on_tokens)
  if n_beams > 1:
    penalty = jnp.float32(length_penalty)
    decoding = program.start_beams(weights.weights, decoding, n_beams, penalty)
  decoding = decode(decoding, request, max_len)
  check_finite(decoding)
  if n_beams > 1:
    return beam_search.trace_back(decoding.search, decoding.tokens, lengths)
  return new_tokens(decoding, lengths)


def sample_text(
  model: Callable[..., base.Layer],
  weights: Any,
  vocab: Any,
  prompt: str | np.ndarray,
  n_tokens: int,
  temperature: float = 1.0,
  seed: int = 0,
  source: np.ndarray | None = None,
  compile_fast: bool = False,
) -> str:
  """Continues a text; returns only the new text.

  Args:
    model: Factory of the model.
    weights: Weights of the model, or the result of `prepare`.
    vocab: Vocabulary that encodes the prompt and decodes the new tokens.
    prompt: The text, or its ids, (l,), which end after a whole character.
    n_tokens: Maximum number of new tokens. The text ends before the first
      token 0, which ends a document.
    temperature: Divisor of the logits; 0 takes the most likely token.
    seed: Seed of sampling.
    source: Input of an encoder-decoder model, tokens (m,).
    compile_fast: As for `generate`.
  """
  ids = vocab.encode(prompt) if isinstance(prompt, str) else prompt
  (new,) = generate(
    model,
    weights,
    [ids],
    n_tokens,
    temperature,
    seed=seed,
    stop=[[0]],
    n_ids=vocab.size,
    sources=None if source is None else [source],
    compile_fast=compile_fast,
  )
  # Some subwords begin with a space only after others.
  return vocab.decode(np.append(ids, new))[len(vocab.decode(ids)) :]


def _on_its_device(x):
  """An array on one device without the mesh, such as that of a training run.

  A mesh would be part of the programs, which a process that loads the weights
  from a file would compile again.
  """
  if not isinstance(x, jax.Array) or len(x.sharding.device_set) > 1:
    return x
  (device,) = x.sharding.device_set
  return jax.device_put(x, jax.sharding.SingleDeviceSharding(device))


def _padded(rows, length):
  """Rows (l,) padded with zeros at the end: int32 (b, length)."""
  padded = np.zeros((len(rows), length), np.int32)
  for to, row in zip(padded, rows, strict=True):
    to[: len(row)] = row
  return padded
