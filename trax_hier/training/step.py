"""The pure training and evaluation steps, and the loss they share.

The functions made here are pure and not yet compiled; `loop` and `evaluate`
jit them with shardings.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from trax_hier.compat import base
from trax_hier.training.accumulate import accumulate
from trax_hier.training.optimizers import Optimizer
from trax_hier.training.state import TrainState, model_inputs

PyTree = object
Batch = Mapping[str, jax.Array]

# What a training step reports, in the order of its metrics array.
METRICS = ('loss', 'accuracy', 'grad_norm', 'learning_rate')


def sums(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
  """Weighted sums over tokens, in float32 whatever the logits are.

  Args:
    logits: (b, l, v).
    batch: `targets` int32 (b, l) and `weights` float32 (b, l).

  Returns:
    The cross entropy in nats and the number of right guesses, both weighted.
  """
  logits = logits.astype(jnp.float32)
  targets, weights = batch['targets'], batch['weights']
  nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  correct = jnp.argmax(logits, axis=-1) == targets
  return jnp.sum(nats * weights), jnp.sum(correct * weights)


def cast_floats(tree: PyTree, dtype: jnp.dtype) -> PyTree:
  """The tree with its floating arrays in `dtype`; the others as they are."""
  return jax.tree.map(
    lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
    tree,
  )


def apply_model(
  layer: base.Layer,
  weights: PyTree,
  model_state: PyTree,
  batch: Batch,
  rng: jax.Array,
  compute_dtype: jnp.dtype,
) -> tuple[jax.Array, PyTree]:
  """Logits (b, l, v) and new state, computed with weights in `compute_dtype`.

  The new state has the types of the old one, whatever the layers computed in.
  """
  weights = cast_floats(weights, compute_dtype)
  inputs = model_inputs(layer, batch)
  logits, new_state = layer.pure_fn(inputs, weights, model_state, rng)
  return logits, jax.tree.map(
    lambda new, old: jnp.asarray(new, old.dtype), new_state, model_state
  )


def make_train_step(
  layer: base.Layer,
  optimizer: Optimizer,
  lanes: PyTree,
  accumulate_steps: int = 1,
  compute_dtype: jnp.dtype = jnp.float32,
) -> Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]:
  """The function (state, batch) -> (new state, metrics).

  The loss is the mean cross entropy per unit of weight over the whole batch.
  With `accumulate_steps` = n the batch is taken in n equal parts one after
  another, for 1/n of the activations in memory and the same gradient.

  Args:
    layer: the model in train mode.
    optimizer: updates the float32 weights.
    lanes: the layer's `state.lane_axes`.
    accumulate_steps: n above; it must divide the rows of a batch.
    compute_dtype: what the weights are cast to for the forward pass.

  Returns:
    A function of a batch of tokens (b, l). Its metrics are float32
    (n_metrics,), in the order of `METRICS`; the gradient norm is before
    clipping.
  """

  def gradients(weights, model_state, batch, rng):
    def loss_fn(weights):
      logits, new_state = apply_model(
        layer, weights, model_state, batch, rng, compute_dtype
      )
      nats, correct = sums(logits, batch)
      return nats, (jnp.stack([nats, correct]), new_state)

    grads, (values, new_state) = jax.grad(loss_fn, has_aux=True)(weights)
    return grads, values, new_state

  gradients = accumulate(gradients, accumulate_steps, lanes)

  def train_step(state, batch):
    rng = jax.random.fold_in(state.rng, state.step)
    total = jnp.sum(batch['weights'])
    total = jnp.where(total > 0, total, 1.0)  # an empty batch has loss 0
    grads, values, model_state = gradients(
      state.weights, state.model_state, batch, rng
    )
    grads = jax.tree.map(lambda g: g / total, grads)
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
    metrics = jnp.stack([*values / total, optax.tree.norm(grads), rate])
    return new_state, metrics.astype(jnp.float32)

  return train_step


def make_eval_step(
  layer: base.Layer, compute_dtype: jnp.dtype = jnp.float32
) -> Callable[[PyTree, PyTree, Batch], tuple[PyTree, jax.Array]]:
  """The function (weights, model_state, batch) -> (new model_state, sums).

  The sums over the tokens (b, l) of the batch are float32 (3,): nats, right
  guesses, and the weight of both.
  """
  # A layer in eval mode draws nothing, but pure_fn wants a key.
  rng = jax.random.PRNGKey(0)

  def eval_step(weights, model_state, batch):
    logits, model_state = apply_model(
      layer, weights, model_state, batch, rng, compute_dtype
    )
    nats, correct = sums(logits, batch)
    return model_state, jnp.stack([nats, correct, jnp.sum(batch['weights'])])

  return eval_step
