"""ROUGE: overlap of a summary with a reference summary.

    score([reference], [prediction])  # {'rouge1': 41.2, 'rouge2': ...}

The package `rouge-score` computes the numbers. It compares stems of words of
the letters a to z and digits, so texts in other scripts score 0.

Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from types import ModuleType

TYPES = ('rouge1', 'rouge2', 'rougeL', 'rougeLsum')

# A blank line, or punctuation with closing quotes and brackets.
_END = re.compile(r'\n[^\S\n]*\n\s*|[.!?]+[\'")\]\u2019\u201d]*\s+')

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

  A sentence ends at a blank line, or at '.', '!' or '?' before white space. It
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
  scorer = import_rouge_score().RougeScorer(TYPES, use_stemmer=True)
  totals = dict.fromkeys(TYPES, 0.0)
  for texts in zip(references, predictions, strict=True):
    scores = scorer.score(*('\n'.join(sentences(text)) for text in texts))
    for name in TYPES:
      totals[name] += scores[name].fmeasure
  return {name: 100 * total / len(references) for name, total in totals.items()}
