"""TextStream: incremental decoding of tokens to text."""

from collections.abc import Callable, Iterable


class TextStream:
  """Decodes a stream of tokens; its outputs concatenate to the whole text.

  A character that is split between two chunks of tokens is returned with the
  chunk that completes it.

  Example:
    >>> from trax_hier.data import ByteVocab
    >>> stream = TextStream(ByteVocab().decode)
    >>> [stream.push([token]) for token in 'né'.encode()]
    ['n', '', 'é']
  """

  # Each byte of an incomplete character, at most three, decodes to this.
  _INCOMPLETE = '\ufffd'
  _MAX_INCOMPLETE = 3

  def __init__(
    self, decode: Callable[[list[int]], str], context: Iterable[int] = ()
  ):
    """Begins a stream after the tokens `context`, whose text is not returned.

    Args:
      decode: Function from ids to text, such as a vocabulary's `decode`.
      context: Ids before the stream, (l,); some subwords decode to a leading
        space only after other tokens.
    """
    self._decode = decode
    self._ids = list(context)
    self._n_returned = len(decode(self._ids))

  def push(self, ids: Iterable[int]) -> str:
    """Returns the text of (l,) more ids, as far as characters are complete."""
    self._ids.extend(ids)
    text = self._decode(self._ids)
    complete = text.rstrip(self._INCOMPLETE)
    end = max(len(complete), len(text) - self._MAX_INCOMPLETE, self._n_returned)
    new = text[self._n_returned : end]
    self._n_returned = end
    if end == len(text):
      self._drop_all_but(list(ids))
    return new

  def flush(self) -> str:
    """Returns the rest of the text, including incomplete characters."""
    return self._decode(self._ids)[self._n_returned :]

  def _drop_all_but(self, ids):
    """Drops tokens before `ids`, so that the cost of a push does not grow."""
    text = self._decode(ids)
    # At least one word is kept: a subword at the start loses its leading space.
    if text.strip():
      self._ids, self._n_returned = ids, len(text)
