"""The README.md of an exported model."""

import dataclasses
import math
from collections.abc import Mapping

from trax_hier.training.logging.coverage import coverage, describe_coverage

_TEMPLATE = """\
# {model}

A sequence model, exported by [trax_hier]. You trained the weights: state their
license here.

| | |
|---|---|
| model | `{model}` |
| parameters | {n_parameters:,}, {dtype} |
| trained for | {steps} |
| data | {data} |
{metrics}
## Use

```python
import trax_hier

exported = trax_hier.load('.')  # this folder
print(exported.sample('The ', n_tokens=100))

layer = exported.model(mode='eval')  # a Trax layer, for exported.weights
```

`model.safetensors` has one tensor per array and block, named by its path
through the layers. `config.gin` configures the model; `config.json` holds the
step, the lengths and the vocabulary. The training data are not needed.

## Configuration

```
{config}
```

[trax_hier]: the Python package imported by `import trax_hier`
"""


@dataclasses.dataclass(frozen=True)
class CardFields:
  """The facts that a model card states.

  Attributes:
    config: Gin text of the run.
    n_parameters: Number of parameters.
    dtype: Type of the weights in the file.
    step: Number of training steps; None if unknown.
    data: Description of the training data.
    metrics: Held-out metrics at `step`; may be empty.
  """

  config: str
  n_parameters: int
  dtype: str
  step: int | None
  data: str
  metrics: Mapping[str, float]


def model_card(fields: CardFields) -> str:
  """Returns the model card as Markdown."""
  lines = fields.config.strip().splitlines()
  return _TEMPLATE.format(
    model=_model(lines),
    n_parameters=fields.n_parameters,
    dtype=fields.dtype,
    steps='unknown' if fields.step is None else f'{fields.step:,} steps',
    data=fields.data.replace('|', '\\|').replace('\n', ' '),
    metrics=_metrics(fields),
    config='\n'.join(lines),
  )


def _model(lines):
  """The value of `train.model`; the last binding wins."""
  values = [line for line in lines if line.startswith('train.model ')]
  return values[-1].partition('@')[2].strip() if values else 'model'


def _number(value):
  return f'{value:,.4f}' if math.isfinite(value) else 'not finite'


def _metrics(fields):
  if not fields.metrics:
    return ''
  rows = [
    f'| {name.replace("_", " ")} | {_number(value)} |'
    for name, value in fields.metrics.items()
    if name not in ('tokens', 'coverage')
  ]
  share = describe_coverage(coverage(fields.metrics))
  head = [f'| held out ({share}), at step {fields.step:,} | |', '|---|---|']
  return '\n'.join(['', *head, *rows, ''])
