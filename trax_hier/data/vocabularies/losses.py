"""Finds out what of a text a vocabulary does not restore."""

from trax_hier.data.vocabularies.vocab import Vocab

# What a vocabulary may lose, and texts that show it.
_PROBES = {
  'upper case': 'Ab CDe',
  'accents': 'na\u00efve e\u0301',
  'spaces': '  a   b. ',
  'punctuation': '!"#$%&\'()*+,-./:;<=>?@[\\]^_`{|}~',
  'line ends and tabs': 'a\n\nb\tc\r\nd\n',
  'the character \u2581': 'a\u2581 b\u2581',
  'rare characters': '\u4e16\u754c \U0001f600 \ufb01 \u2460 \x01\x7f \ufffd',
}


def loss_of(vocab: Vocab) -> str:
  """Returns what of some texts decoding does not restore, or ''.

  A text that the vocabulary refuses to encode is not lost in silence.

  Example:
    >>> from trax_hier.data import ByteVocab
    >>> loss_of(ByteVocab())
    ''
  """
  return ', '.join(
    name for name, text in _PROBES.items() if not _is_restored(vocab, text)
  )


def _is_restored(vocab, text):
  try:
    ids = vocab.encode(text)
  except ValueError:
    return True
  return vocab.decode(ids) == text


def probe_texts() -> list[str]:
  """Returns the texts that `loss_of` tries."""
  return list(_PROBES.values())
