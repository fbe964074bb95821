"""Boundaries of segments by rules on bytes: tokens (b, l) -> bool (b, l).

Token ids are bytes; 0 precedes the text. Tokens are shifted right, so the token
at a position is the last one that this position knows: a rule that fires at a
byte starts a segment at the position that has just read it.

`token_marks` collects the marks of all rules of a model, (b, l, 2 + r) bool:
whether a position is valid rather than padding, whether it has just read white
space, and the marks of r rules, those of outer levels first.

To add a rule, subclass `TokenRule` here, and export it from `trax_hier.layers`.

Letters: b batch, l length, r rules.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.base.checks import check_positive
from trax_hier.layers.hierarchy.segments import since


class TokenRule(base.Layer):
  """A rule on tokens: int32 (b, l) -> bool (b, l), causal.

  Args:
    mode: 'train', 'eval' or 'predict'.
  """

  takes_tokens = True

  def __init__(self, mode: str = 'train'):
    super().__init__()
    self._mode = mode

  def start(self, b: int) -> tuple[jax.Array, ...]:
    """What `mark` needs to know before the first token, arrays (b,) int32."""
    raise NotImplementedError

  def mark(
    self, tokens: jax.Array, before: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Marks tokens (b, l); also returns what to know before the next ones."""
    raise NotImplementedError

  def init_weights_and_state(self, input_signature):
    if self._mode == 'predict':
      self.state = self.start(input_signature.shape[0])

  def forward(self, tokens):
    is_predict = self._mode == 'predict'
    before = self.state if is_predict else self.start(tokens.shape[0])
    marks, after = self.mark(tokens, before)
    if is_predict:
      self.state = after
    return marks


@configurable(module='trax_hier.layers')
class ByteRule(TokenRule):
  """Fires after the first byte, and where a run of space-like bytes starts.

  Tokens (b, l) -> bool (b, l). A byte is space-like unless it is an ASCII
  letter, a digit or a continuation byte of UTF-8.

  Args:
    mode: 'train', 'eval' or 'predict'.

  Example: marks below the byte that is read last.
    >>> text = 'one two, three'
    >>> tokens = jnp.array([[0, *text.encode()]])
    >>> marks = ByteRule()(tokens)[0, 1:]
    >>> print(text, ''.join('.^'[m] for m in marks.astype(int)), sep='/')
    one two, three/^..^...^......

  Source: SpaceByte (arXiv 2404.14408), section 2.
  """

  def start(self, b: int) -> tuple[jax.Array, ...]:
    """Number of tokens before, and whether the last was space-like."""
    return jnp.zeros(b, jnp.int32), jnp.ones(b, jnp.int32)

  def mark(
    self, tokens: jax.Array, before: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Marks tokens (b, l)."""
    t, last = before
    x = tokens
    is_word = _is_letter(x) | _is_digit(x) | ((x >= 0x80) & (x < 0xC0))
    spaces = (~is_word).astype(jnp.int32)
    were = jnp.concatenate([last[:, None], spaces[:, :-1]], axis=1)
    is_second = t[:, None] + jnp.arange(x.shape[1]) == 1
    marks = is_second | ((spaces == 1) & (were == 0))
    return marks, (t + x.shape[1], spaces[:, -1])


@configurable(module='trax_hier.layers')
class WordRule(TokenRule):
  """Fires at the end of every n-th word, and at numbers and punctuation.

  Tokens (b, l) -> bool (b, l). It fires

  * at the white space that ends every n-th word, a run of anything else;
  * at the start of a group of up to 3 digits, or of up to 3 ASCII punctuation
    marks;
  * at the start of a run of line ends, unless it follows a punctuation mark,
    whose group it joins.

  Words are counted from the last boundary of the other two kinds. A boundary
  for 2 n words is one for n words, and none is inside a character of UTF-8.

  Args:
    n_words: n.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: n_words is not positive.

  Example: marks below the byte that is read last.
    >>> text = 'to be, or 1000 not'
    >>> tokens = jnp.array([[0, *text.encode()]])
    >>> for n in 1, 2:
    ...   marks = WordRule(n)(tokens)[0, 1:]
    ...   print(text, ''.join('.^'[m] for m in marks.astype(int)), sep='/')
    to be, or 1000 not/..^..^^..^^..^^...
    to be, or 1000 not/.....^...^^..^....

  Source: AU-Net (arXiv 2506.14761), and its published code.
  """

  def __init__(self, n_words: int = 1, mode: str = 'train'):
    super().__init__(mode)
    check_positive('WordRule', n_words=n_words)
    self._n = n_words

  def start(self, b: int) -> tuple[jax.Array, ...]:
    """What is known before the first token, arrays (b,) int32.

    The last token; how far the next position is from the last one that is no
    digit, and from the last one that is no punctuation mark; the number of
    words since the last boundary at a number, mark or line end.
    """
    zero, one = jnp.zeros(b, jnp.int32), jnp.ones(b, jnp.int32)
    return zero, one, one, zero

  def mark(
    self, tokens: jax.Array, before: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Marks tokens (b, l)."""
    last, digits_before, marks_before, words_before = before
    x = tokens
    was = jnp.concatenate([last[:, None], x[:, :-1]], axis=1)
    digit, mark, line = _is_digit(x), _is_punctuation(x), _is_line_end(x)
    digits = since(~digit, digits_before)
    marks = since(~mark, marks_before)
    joins = _is_line_end(was) | _is_punctuation(was)
    other = (
      (digit & (digits % 3 == 1)) | (mark & (marks % 3 == 1)) | (line & ~joins)
    )
    ends = is_white_space(x) & ~line & (was != 0) & ~is_white_space(was)
    words = words_before[:, None] + jnp.cumsum(ends, axis=1, dtype=jnp.int32)
    since_other = words - jax.lax.cummax(jnp.where(other, words, 0), axis=1)
    fires = other | (ends & (since_other % self._n == 0))
    after = x[:, -1], digits[:, -1] + 1, marks[:, -1] + 1, since_other[:, -1]
    return fires, after


def token_marks(rules: Sequence[TokenRule]) -> base.Layer:
  """Marks of tokens by r rules: int32 (b, l) -> bool (b, l, 2 + r).

  Example:
    >>> tokens = jnp.array([[0, *b'a b']])
    >>> print(token_marks([WordRule()])(tokens).astype(int)[0])
    [[1 0 0]
     [1 0 0]
     [1 1 1]
     [1 0 0]]
  """
  columns = (
    tl.Fn('Valid', lambda tokens: jnp.ones(tokens.shape, bool)),
    tl.Fn('Space', is_white_space),
    *rules,
  )
  column = tl.Fn('Column', lambda marks: marks[..., None])
  return tl.Serial(
    tl.Branch(*(tl.Serial(layer, column) for layer in columns)),
    tl.Concatenate(n_items=len(columns)),
  )


def is_white_space(tokens: jax.Array) -> jax.Array:
  """Whether bytes (b, l) are ASCII white space: bool (b, l)."""
  return (tokens == 32) | ((tokens >= 9) & (tokens <= 13))


def _is_line_end(x):
  return (x == 10) | (x == 13)


def _is_digit(x):
  return (x >= 48) & (x <= 57)


def _is_letter(x):
  return ((x >= 65) & (x <= 90)) | ((x >= 97) & (x <= 122))


def _is_punctuation(x):
  return (x > 32) & (x < 127) & ~_is_digit(x) & ~_is_letter(x)
