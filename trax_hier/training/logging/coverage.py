"""What an evaluation reads: its share of a held-out split, and its sources."""

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


def describe_sources(values: Mapping[str, float], name: str) -> str:
  """Describes a metric of each source of a mixture; '' without a mixture.

  Args:
    values: Metrics of an evaluation.
    name: Name of the metric.

  Example:
    >>> describe_sources({'loss': 2.0, 'loss/1': 2.5, 'loss/2': 1.5}, 'loss')
    ' (source 1 2.5000, source 2 1.5000)'
  """
  parts = [
    f'source {key.removeprefix(f"{name}/")} {value:.4f}'
    for key, value in values.items()
    if key.startswith(f'{name}/')
  ]
  return f' ({", ".join(parts)})' if parts else ''
