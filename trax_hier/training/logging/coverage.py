"""Coverage: the share of a held-out split that an evaluation reads."""

from collections.abc import Mapping


def coverage(evaluation: Mapping[str, float]) -> float:
  """The coverage of an evaluation, in (0, 1], from its metrics.

  Logs of earlier versions lack it: these always read whole splits.
  """
  return evaluation.get('coverage', 1.0)


def describe_coverage(share: float) -> str:
  """Describes a coverage for people to read.

  Example:
    >>> describe_coverage(1.0), describe_coverage(10 / 11_394)
    ('the whole split', '0.0878% of the split')
  """
  return 'the whole split' if share == 1 else f'{100 * share:.3g}% of the split'
