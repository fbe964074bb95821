"""Words of texts in any script, for ROUGE."""

import unicodedata
from collections.abc import Callable, Iterator

# Scripts that put no spaces between words: first and last code point.
_UNSPACED = (
  (0x0E00, 0x0EFF),  # Thai, Lao
  (0x1000, 0x109F),  # Burmese
  (0x1780, 0x17FF),  # Khmer
  (0x1950, 0x19DF),  # Tai Le, New Tai Lue
  (0x1A20, 0x1AAF),  # Tai Tham
  (0x2E80, 0x312F),  # radicals, kana, bopomofo
  (0x31A0, 0x31FF),  # more bopomofo and kana
  (0x3400, 0x4DBF),  # Han
  (0x4E00, 0x9FFF),  # Han
  (0xA000, 0xA4CF),  # Yi
  (0xA980, 0xA9DF),  # Javanese
  (0xAA60, 0xAADF),  # Burmese, Tai Viet
  (0xF900, 0xFAFF),  # Han
  (0x1B000, 0x1B16F),  # kana
  (0x20000, 0x3FFFF),  # Han
)


def words(text: str) -> Iterator[str]:
  """Yields the words of a text: runs of letters, their marks, and digits.

  In scripts without spaces, such as Chinese, Japanese and Thai, each letter
  with its marks is a word. Case and compatibility forms, such as full-width
  letters, are not told apart.

  Example:
    >>> list(words('Größe 3 cm, 東京タワー, हिन्दी'))
    ['größe', '3', 'cm', '東', '京', 'タ', 'ワ', 'ー', 'हिन्दी']
  """
  word, is_single = '', False
  for char in unicodedata.normalize('NFKC', text).lower():
    kind = unicodedata.category(char)
    if kind == 'Cf':  # Such as a soft hyphen within a word.
      continue
    if kind[0] == 'M' and word:
      word += char
      continue
    single = kind[0] == 'L' and _is_unspaced(char)
    if word and (is_single or single or kind[0] not in 'LN'):
      yield word
      word = ''
    if kind[0] in 'LN':
      word, is_single = word + char, single
  if word:
    yield word


def _is_unspaced(char):
  code = ord(char)
  return any(first <= code <= last for first, last in _UNSPACED)


def is_latin(text: str) -> bool:
  """Returns whether at most a fifth of the words are in other scripts.

  Numbers and single Greek letters, which are symbols in texts of any script,
  do not count. A text without other words is Latin.

  Example:
    >>> is_latin('The λ-phage of Größe 3'), is_latin('GPT 模型')
    (True, False)
  """
  n_latin = n_other = 0
  for word in words(text):
    if any(map(_is_latin_letter, word)):
      n_latin += 1
    elif any(map(str.isalpha, word)) and not _is_greek_symbol(word):
      n_other += 1
  return 4 * n_other <= n_latin


def _is_latin_letter(char):
  return char.isalpha() and (char < '\u0250' or '\u1e00' <= char < '\u1f00')


def _is_greek_symbol(word):
  return len(word) == 1 and '\u0370' <= word < '\u0400'


class Words:
  """Tokenizer for `rouge_score` of texts in any script."""

  def __init__(self, tokenize: Callable[[str], list[str]]):
    """Takes the function that tokenizes words of the letters a to z."""
    self._tokenize = tokenize

  def tokenize(self, text: str) -> list[str]:
    """Returns the words of a text; stems of those of the letters a to z."""
    return [
      token
      for word in words(text)
      for token in (self._tokenize(word) if word.isascii() else [word])
    ]
