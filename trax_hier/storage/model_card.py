"""The README.md of an exported model."""

import dataclasses
from collections.abc import Mapping

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
class Facts:
  """The contents of a model card.

  Attributes:
    config: Gin text of the run.
    n_parameters: Number of parameters.
    dtype: Type of the weights in the file.
    step: Number of training steps; None if unknown.
    data: Description of the training data.
    metrics: Held-out metrics at this step; may be empty.
  """

  config: str
  n_parameters: int
  dtype: str
  step: int | None
  data: str
  metrics: Mapping[str, float]


def model_card(facts: Facts) -> str:
  """Returns the model card as Markdown."""
  lines = facts.config.strip().splitlines()
  return _TEMPLATE.format(
    model=_model(lines),
    n_parameters=facts.n_parameters,
    dtype=facts.dtype,
    steps='unknown' if facts.step is None else f'{facts.step:,} steps',
    data=facts.data.replace('|', '\\|').replace('\n', ' '),
    metrics=_metrics(facts),
    config='\n'.join(lines),
  )


def _model(lines):
  """The value of `train.model`; the last binding wins."""
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
