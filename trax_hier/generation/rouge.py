"""ROUGE: how many words of a summary are those of another one.

    score([reference], [prediction])  # {'rouge1': 41.2, 'rouge2': ...}

The numbers are those of the package `rouge-score`, which compares words of the
letters a to z and digits, without their endings. Texts in other scripts score
nothing.

Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from types import ModuleType

TYPES = ('rouge1', 'rouge2', 'rougeL', 'rougeLsum')

# A blank line, or marks with what closes quotes and brackets.
_END = re.compile(r'\n[^\S\n]*\n\s*|[.!?]+[\'")\]\u2019\u201d]*\s+')

# Texts of separate tokens have a space before the dot. They may well end a
# sentence with a single letter, others hardly do but in 'e.g.' and initials.
_ABBREVIATION = re.compile(
  r'(?:^|[^a-z])(?:[a-z]|(?:al|approx|cf|dr|eqs?|figs?|mr|mrs|prof|refs?|resp'
  r'|secs?|vol|vs) ?)\Z',
  re.IGNORECASE,
)
_LONGEST = 8  # characters that _ABBREVIATION looks at


def sentences(text: str) -> Iterator[str]:
  """Yields the sentences of a text, each on one line, by a simple rule.

  A sentence ends at a blank line, or at '.', '!' or '?' before white space. A
  dot after an abbreviation or a single letter does not end it, nor one with no
  letter before it, as in '1. Introduction'. Other line ends are spaces, as
  lines may be wrapped.

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
  """Returns the first sentences of a text, which are a strong baseline.

  Example:
    >>> lead('One. Two. Three.', 1)
    'One.'
  """
  return '\n'.join(itertools.islice(sentences(text), n_sentences))


def import_rouge_score() -> ModuleType:
  """Imports rouge_score.rouge_scorer, which only `score` needs.

  Raises:
    ValueError: if the package is not installed.
  """
  try:
    from rouge_score import rouge_scorer
  except ImportError as error:
    raise ValueError(
      "needs the rouge-score package: pip install 'trax_hier[rouge]'"
    ) from error
  return rouge_scorer


def score(
  references: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Scores texts against references, one to one.

  Args:
    references: n texts, at least one.
    predictions: n texts, which may be empty.

  Returns:
    For each of TYPES the mean F1 in percent: of single words, of pairs of
    words, of the longest common subsequence, and of the same with sentences
    compared one by one. Sentences are those of `sentences`.

  Raises:
    ValueError: if rouge-score is not installed, or if there are not as many
      texts as references, or none.
  """
  if not references:
    raise ValueError('there is no reference to score with')
  scorer = import_rouge_score().RougeScorer(TYPES, use_stemmer=True)
  totals = dict.fromkeys(TYPES, 0.0)
  for texts in zip(references, predictions, strict=True):
    scores = scorer.score(*('\n'.join(sentences(text)) for text in texts))
    for name in TYPES:
      totals[name] += scores[name].fmeasure
  return {name: 100 * total / len(references) for name, total in totals.items()}
