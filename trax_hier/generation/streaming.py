"""Streaming: hands new tokens to a callback during decoding."""

import time
from collections.abc import Callable

import numpy as np

from trax_hier.generation.continuations import Continuations
from trax_hier.generation.programs import Decoding, Request

Callback = Callable[[list[np.ndarray]], None]

_SECONDS_PER_CALLBACK = 0.1


def stream(
  decode: Callable[[Decoding, Request, int], Decoding],
  decoding: Decoding,
  request: Request,
  lengths: np.ndarray,
  held_back: int,
  on_tokens: Callback,
) -> list[np.ndarray]:
  """Decodes until all rows end; returns the new tokens of each row.

  Args:
    decode: `Programs.decode` with its weights.
    decoding: State after prefill.
    request: Settings of the call.
    lengths: Lengths of the prompts, (b,).
    held_back: Number of tokens that a stop sequence can still remove. A row
      holds back this many of its last tokens until it ends.
    on_tokens: Called with the tokens of each row since the last call.

  Raises:
    FloatingPointError: as `check_finite`.
  """
  shown = np.zeros(len(lengths), np.int32)
  limit, step = int(lengths.max()) + 1, 1
  while True:
    begin = time.perf_counter()
    decoding = decode(decoding, request, limit)
    check_finite(decoding)
    done = np.asarray(decoding.done)
    seconds = time.perf_counter() - begin
    n = np.asarray(decoding.n_new) - np.where(done, 0, held_back)
    n = np.maximum(n, shown)
    rows = new_tokens(decoding, lengths)
    on_tokens([row[a:b] for row, a, b in zip(rows, shown, n, strict=True)])
    shown = n
    if done.all():
      return rows
    # The first call compiles, and reads the rest of the prompts.
    if limit > lengths.max() + 1:
      step = max(1, min(2 * step, int(step * _SECONDS_PER_CALLBACK / seconds)))
    limit += step


def check_finite(decoding: Decoding) -> None:
  """Checks the logits of the new tokens.

  Raises:
    FloatingPointError: The logits of a row are infinite or not a number.
  """
  bad = np.flatnonzero(~np.asarray(decoding.is_finite))
  if len(bad):
    raise FloatingPointError(
      f'the logits of the model are not finite in {len(bad)} of '
      f'{len(decoding.is_finite)} rows; the first is row {bad[0]}'
    )


def new_tokens(decoding: Decoding, lengths: np.ndarray) -> list[np.ndarray]:
  """The new tokens of each row, int32 (n,), after prompts of these lengths."""
  tokens, n_new = np.asarray(decoding.tokens), np.asarray(decoding.n_new)
  return Continuations(
    row[1 + length : 1 + length + n]
    for row, length, n in zip(tokens, lengths, n_new, strict=True)
  )
