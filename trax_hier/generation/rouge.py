"""ROUGE: overlap of a summary with a reference summary.

    score([reference], [prediction])  # {'rouge1': 41.2, 'rouge2': ...}

The package `rouge-score` computes the numbers. Its own tokenizer compares stems
of words of the letters a to z and digits, and ignores all else. It is kept for
references in Latin letters, so that their scores compare with published ones.
References in other scripts are compared by `words`.

Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from types import ModuleType

from trax_hier.generation.words import Words, is_latin

TYPES = ('rouge1', 'rouge2', 'rougeL', 'rougeLsum')

# A blank line; punctuation with closing quotes and brackets before white space;
# or punctuation of other scripts, which white space need not follow: CJK,
# Arabic and Urdu, Devanagari, Armenian, Ethiopic, Burmese, Khmer, Tibetan.
_CLOSING = '\'")\\]\u2019\u201d\u300d\u300f\uff09\u3011\u300b'
_OTHER_ENDS = (
  '\u3002\uff01\uff1f\uff61\u061f\u06d4\u0964\u0965\u0589\u1362\u1367\u104b'
  '\u17d4\u17d5\u0f0d\u0f0e'
)
_END = re.compile(
  rf'\n[^\S\n]*\n\s*|[.!?]+[{_CLOSING}]*\s+'
  rf'|(?:[{_OTHER_ENDS}]|\uff0e(?!\d))+[{_CLOSING}]*\s*'
)

# Tokenized texts have a space before the dot, and may end a sentence with a
# single letter. In other texts a single letter belongs to 'e.g.' or initials.
_ABBREVIATION = re.compile(
  r'(?:^|[^a-z])(?:[a-z]|(?:al|approx|cf|dr|eqs?|figs?|mr|mrs|prof|refs?|resp'
  r'|secs?|vol|vs) ?)\Z',
  re.IGNORECASE,
)
_LONGEST = 8  # Characters of the longest match of _ABBREVIATION.


def sentences(text: str) -> Iterator[str]:
  """Yields the sentences of a text, each on one line, by a simple rule.

  A sentence ends at a blank line, at '.', '!' or '?' before white space, or at
  an end of sentence of another script, such as '。', '؟' or '।'. It
  does not end at a dot after an abbreviation, after a single letter, or before
  the first letter of the sentence, as in '1. Introduction'. Other line ends
  count as spaces, since lines may be wrapped.

  Example:
    >>> list(sentences('See e.g. Fig. 2 there. Is it so? It is.'))
    ['See e.g. Fig. 2 there.', 'Is it so?', 'It is.']
  """
  begin = 0
  for end in _END.finditer(text):
    before = text[max(begin, end.start() - _LONGEST) : end.start()]
    if end[0][0] == '.' and _ABBREVIATION.search(before):
      continue
    sentence = text[begin : end.end()]
    if any(map(str.isalpha, sentence)):
      yield ' '.join(sentence.split())
      begin = end.end()
  if rest := ' '.join(text[begin:].split()):
    yield rest


def lead(text: str, n_sentences: int) -> str:
  """The first sentences of a text: lead-n, a strong baseline for summaries.

  Example:
    >>> lead('One. Two. Three.', 1)
    'One.'
  """
  return '\n'.join(itertools.islice(sentences(text), n_sentences))


def n_other_scripts(references: Sequence[str]) -> int:
  """Returns the number of references that are not in Latin letters."""
  return sum(not is_latin(reference) for reference in references)


def import_rouge_score() -> ModuleType:
  """Imports rouge_score.rouge_scorer, which only `score` needs.

  Raises:
    ValueError: The package is not installed.
  """
  try:
    from rouge_score import rouge_scorer
  except ImportError as error:
    raise ValueError(
      "ROUGE needs the rouge-score package: pip install 'trax_hier[rouge]'"
    ) from error
  return rouge_scorer


def score(
  references: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Scores each text against its reference.

  Args:
    references: n texts, n > 0.
    predictions: n texts, which may be empty.

  Returns:
    The mean F1 in percent for each of TYPES: single words, pairs of words, the
    longest common subsequence, and the longest common subsequence of sentences,
    which `sentences` splits.

  Raises:
    ValueError: rouge-score is not installed, n is 0, or the numbers of texts
      differ.
  """
  if not references:
    raise ValueError('there is no reference to score against')
  from rouge_score.tokenizers import DefaultTokenizer

  latin = DefaultTokenizer(use_stemmer=True)
  scorers = {
    are_latin: import_rouge_score().RougeScorer(TYPES, tokenizer=tokenizer)
    for are_latin, tokenizer in (
      (True, latin),
      (False, Words(latin.tokenize)),
    )
  }
  totals = dict.fromkeys(TYPES, 0.0)
  for texts in zip(references, predictions, strict=True):
    # Letters with diacritics alone are no words to the tokenizer for Latin.
    are_latin = is_latin(texts[0]) and bool(latin.tokenize(texts[0]))
    scorer = scorers[are_latin]
    scores = scorer.score(*('\n'.join(sentences(text)) for text in texts))
    for name in TYPES:
      totals[name] += scores[name].fmeasure
  return {name: 100 * total / len(references) for name, total in totals.items()}
