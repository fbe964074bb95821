"""The README.md of an exported model."""

import dataclasses
from collections.abc import Mapping

_TEMPLATE = """\
# {model}

A sequence model of [trax_hier], exported. The licence of the weights is for
you, who trained them, to state here.

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

`model.safetensors` has one tensor for each array of each block, by the way
through the layers; `config.gin` makes the model, `config.json` has what else
loading needs. The data are not needed.

## Configuration

```
{config}
```

[trax_hier]: the Python package that `import trax_hier` finds
"""


@dataclasses.dataclass(frozen=True)
class Facts:
  """What the card of a model says.

  Attributes:
    config: gin text of the run.
    n_parameters: how many numbers the weights are.
    dtype: of the weights in the file.
    step: how many steps it was trained for; None if that is not known.
    data: what it was trained on, in words.
    metrics: held-out metrics at this step; may be empty.
  """

  config: str
  n_parameters: int
  dtype: str
  step: int | None
  data: str
  metrics: Mapping[str, float]


def model_card(facts: Facts) -> str:
  """Returns the text of a model's card, Markdown."""
  lines = facts.config.strip().splitlines()
  return _TEMPLATE.format(
    model=_model(lines),
    n_parameters=facts.n_parameters,
    dtype=facts.dtype,
    steps='not known' if facts.step is None else f'{facts.step:,} steps',
    data=facts.data.replace('|', '\\|').replace('\n', ' '),
    metrics=_metrics(facts),
    config='\n'.join(lines),
  )


def _model(lines):
  """What `train.model` is bound to; the last binding counts."""
  values = [line for line in lines if line.startswith('train.model ')]
  return values[-1].partition('@')[2].strip() if values else 'model'


def _metrics(facts):
  if not facts.metrics:
    return ''
  rows = [
    f'| {name.replace("_", " ")} | {value:,.4f} |'
    for name, value in facts.metrics.items()
    if name != 'tokens'
  ]
  head = [f'| held out, at step {facts.step:,} | |', '|---|---|']
  return '\n'.join(['', *head, *rows, ''])
