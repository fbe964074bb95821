"""The training step and the evaluation step, as pure functions.

`build` and `evaluate` jit them with shardings.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from trax_hier.compat import base
from trax_hier.layers.base.auxiliary import reported_names, sum_reported
from trax_hier.layers.base.documents import Documents, set_documents
from trax_hier.layers.base.dtypes import cast_floats
from trax_hier.training.accumulate import accumulate
from trax_hier.training.cpu_products import speed_up_products
from trax_hier.training.loss import Loss
from trax_hier.training.optimizers import Optimizer, global_norm
from trax_hier.training.state import Batch, TrainState, model_inputs

PyTree = object

# Names of the metrics of a training step, in the order of its metrics array;
# those that layers report follow: see `metric_names`.
METRICS = ('loss', 'accuracy', 'grad_norm', 'learning_rate')


def metric_names(layer: base.Layer, model_state: PyTree) -> tuple[str, ...]:
  """Names of the metrics of a training step of a model.

  Example:
    >>> from trax_hier.layers import Dense
    >>> metric_names(Dense(8), ())
    ('loss', 'accuracy', 'grad_norm', 'learning_rate')
  """
  return METRICS + reported_names(layer, model_state)


def apply_model(
  layer: base.Layer,
  weights: PyTree,
  model_state: PyTree,
  batch: Batch,
  rng: jax.Array,
  compute_dtype: jnp.dtype,
) -> tuple[jax.Array, PyTree]:
  """Applies a model with its weights cast to `compute_dtype`.

  Returns the logits (b, l, v), or what a hook made of them, and the new state,
  cast to the old state's types.
  """
  weights = cast_floats(weights, compute_dtype)
  inputs = model_inputs(layer, batch)
  state = model_state
  if 'documents' in batch:
    documents = Documents.from_ids(batch['documents'])
    state = set_documents(layer, state, documents)
  logits, new_state = layer.pure_fn(inputs, weights, state, rng)
  if 'documents' in batch:
    new_state = set_documents(layer, new_state, ())
  return logits, jax.tree.map(
    lambda new, old: jnp.asarray(new, old.dtype), new_state, model_state
  )


def make_train_step(
  layer: base.Layer,
  optimizer: Optimizer,
  lanes: PyTree,
  accumulate_steps: int = 1,
  compute_dtype: jnp.dtype = jnp.float32,
  loss: Loss | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]:
  """Makes the training step, (state, batch) -> (new state, metrics).

  The loss is the mean cross entropy of the batch, weighted by token. With
  `accumulate_steps` = n the batch is processed in n sequential micro-batches:
  the gradient is the same, with 1/n of the activations in memory.

  The gradient is that of this loss plus the auxiliary losses of layers, which
  are metrics of their own. With micro-batches, what layers report is the mean
  over the micro-batches, weighted by token; this may differ from the value of
  the whole batch.

  Args:
    layer: Model in train mode.
    optimizer: Optimizer of the float32 weights.
    lanes: Axes of rows in the model state, from `state.lane_axes`.
    accumulate_steps: Number of micro-batches; it must divide the rows.
    compute_dtype: Type of weights in the forward pass.
    loss: How the loss is computed; None means the defaults. With label
      smoothing, the gradient is that of the smoothed loss, but the metrics have
      the plain cross entropy, like those of the held-out set.

  Returns:
    A function of a batch of tokens (b, l). Its metrics are float32
    (n_metrics,), in the order of `metric_names`; the gradient norm is taken
    before clipping.
  """

  loss = loss or Loss()

  def gradients(weights, model_state, batch, rng):
    def loss_fn(weights):
      apply = functools.partial(
        apply_model, layer, weights, model_state, batch, rng, compute_dtype
      )
      objective, values, new_state = loss.training_sums(layer, apply, batch)
      added, reported = sum_reported(layer, new_state)
      if reported.size:
        share = jnp.sum(batch['weights'])
        objective += share * added
        values = jnp.concatenate([values, share * reported])
      return objective, (values, new_state)

    grads, (values, new_state) = jax.grad(loss_fn, has_aux=True)(weights)
    return grads, values, new_state

  gradients = speed_up_products(accumulate(gradients, accumulate_steps, lanes))

  def train_step(state, batch):
    rng = jax.random.fold_in(state.rng, state.step)
    total = jnp.sum(batch['weights'])
    # The loss of a batch without scored tokens is 0.
    total = jnp.where(total > 0, total, 1.0)
    batch = {**batch, 'weights': batch['weights'] / total}
    grads, values, model_state = gradients(
      state.weights, state.model_state, batch, rng
    )
    updates, opt_state = optimizer.transform.update(
      grads, state.opt_state, state.weights
    )
    new_state = TrainState(
      step=state.step + 1,
      weights=optax.apply_updates(state.weights, updates),
      model_state=model_state,
      opt_state=opt_state,
      rng=state.rng,
    )
    rate = optimizer.learning_rate(state.step + 1)
    loss, accuracy, *reported = values
    metrics = [loss, accuracy, global_norm(grads), rate, *reported]
    metrics = jnp.stack(metrics)
    return new_state, metrics.astype(jnp.float32)

  return train_step


def make_eval_step(
  layer: base.Layer,
  compute_dtype: jnp.dtype = jnp.float32,
  loss: Loss | None = None,
) -> Callable[[PyTree, PyTree, Batch], tuple[PyTree, jax.Array]]:
  """Makes the evaluation step, (weights, model_state, batch) -> (state, sums).

  The sums over the tokens (b, l) of the batch are float32 (5,), as in
  `Loss.evaluation_sums`, then the metrics that layers report, (n_metrics,),
  times the token weights.
  """
  # `pure_fn` requires a key, which layers in eval mode do not use.
  rng = jax.random.PRNGKey(0)
  loss = loss or Loss()

  def eval_step(weights, model_state, batch):
    apply = functools.partial(
      apply_model, layer, weights, model_state, batch, rng, compute_dtype
    )
    sums, model_state = loss.evaluation_sums(layer, apply, batch)
    _, reported = sum_reported(layer, model_state)
    tokens = jnp.sum(batch['weights'])
    return model_state, jnp.concatenate([sums, tokens * reported])

  return eval_step
