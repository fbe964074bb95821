"""Held-out metrics of each source of a mixture."""

import jax
import numpy as np
import pytest
import toy_training

from trax_hier.data import Mixture
from trax_hier.training.evaluate import Evaluator
from trax_hier.training.initialization import Initialization
from trax_hier.training.mesh import make_mesh
from trax_hier.training.state import init_layer


def test_each_source_has_its_metrics():
  few, many = toy_training.Data(n_eval=1), toy_training.Data(n_eval=3)
  sources = [few, many]
  # Other tokens, so that the losses differ.
  batches = [
    batch | {'targets': batch['targets'] * 0 + 3}
    for batch in many.eval_batches('valid')
  ]
  many.eval_batches = lambda split: batches
  layer = toy_training.Model('eval')
  weights, _ = Initialization(lambda rng: init_layer(layer, batches[0], rng))(
    jax.random.PRNGKey(0)
  )

  def evaluate(data, n_batches=None):
    held_out = data.eval_batches('valid')
    evaluator = Evaluator(
      toy_training.Model('eval'),
      held_out,
      'byte',
      make_mesh(),
      n_batches=n_batches,
    )
    return evaluator(weights)

  mixed = evaluate(Mixture(sources))
  alone = [evaluate(source) for source in sources]
  for i, values in enumerate(alone, 1):
    assert mixed[f'loss/{i}'] == pytest.approx(values['loss'])
    bits = values['bits_per_byte']
    assert mixed[f'bits_per_byte/{i}'] == pytest.approx(bits)
    assert not any('/' in name for name in values)
  tokens = np.array([values['tokens'] for values in alone])
  losses = np.array([values['loss'] for values in alone])
  assert mixed['loss'] == pytest.approx((losses * tokens).sum() / tokens.sum())
  assert abs(losses[0] - losses[1]) > 1e-3
  # Of the first batches alone.
  assert 'loss/1' not in evaluate(Mixture(sources), n_batches=1)
