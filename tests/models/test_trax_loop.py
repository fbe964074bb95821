"""Our models in Trax's own training loop."""

import contract
import jax
import numpy as np
import pytest
import toy

from trax_hier.compat import tl
from trax_hier.models import HourglassLM, TransformerLM

MODELS = {
  'transformer': lambda mode: TransformerLM(n_layers=2, mode=mode, **toy.SIZES),
  'hourglass': lambda mode: HourglassLM(
    hierarchy='1@3', mode=mode, **toy.SIZES
  ),
}


OTHERS = ('slide', 'top-down', 'bottom-up', 'retina', 'scaling', 'reversible')
MODELS |= {name: contract.ROWS[name].model for name in OTHERS}


# CI runs one. Models with carried memory or sources are missing: they take more
# inputs than the loop of Trax gives.
@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name != 'transformer'))
    for name in MODELS
  ],
)
def test_two_steps(name, tmp_path):
  from trax import optimizers
  from trax.supervised import training

  def batches():
    while True:
      x = toy.tokens(13, batch=8)
      yield x, x, np.ones_like(x, np.float32)

  task = training.TrainTask(
    batches(),
    tl.WeightedCategoryCrossEntropy(),
    optimizers.Adam(0.01),
    n_steps_per_checkpoint=2,
  )
  evaluation = training.EvalTask(
    batches(), [tl.WeightedCategoryCrossEntropy()], n_eval_batches=1
  )
  model = MODELS[name]
  loop = training.Loop(
    model(mode='train'),
    [task],
    eval_model=model(mode='eval'),
    eval_tasks=[evaluation],
    output_dir=str(tmp_path),
    random_seed=0,
  )
  before = [np.array(w) for w in jax.tree.leaves(loop.model.weights)]
  loop.run(2)
  after = jax.tree.leaves(loop.model.weights)
  assert loop.step == 2
  moved = [
    np.isfinite(b).all() and (a != b).any()
    for a, b in zip(before, after, strict=True)
  ]
  assert all(moved)
