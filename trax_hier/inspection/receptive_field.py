"""The receptive field of a model's predictions, measured token by token.

    distances = receptive_field(model(mode='eval'), weights, tokens)
    plt.imshow(distances > 0)

Rows are predictions and columns are tokens. The distances of a causal model are
zero on and above the diagonal; with a short receptive field, they are also zero
far below it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import base
from trax_hier.training.state import init_layer, token_shapes
from trax_hier.training.step import apply_model

PyTree = object


def receptive_field(
  layer: base.Layer, weights: PyTree, tokens: np.ndarray
) -> np.ndarray:
  """Measures how much each prediction changes when one token is replaced.

  One program computes all sequences, one at a time, so a prediction that does
  not depend on the token is bitwise equal and its distance is exactly 0.

  Args:
    layer: A model without sources, in mode 'eval', run from its initial state.
    weights: Weights of the model.
    tokens: int32 (l,). Each token in turn is replaced by another one, not 0.

  Returns:
    float32 (l, l). Entry [t, u] is the root mean square, over the vocabulary,
    of the change in the logits that predict token t when token u changes.

  Raises:
    ValueError: tokens has another shape, or the vocabulary has under 3 ids.

  Example: a model that depends only on the previous token.
    >>> from trax_hier.compat import tl
    >>> following = tl.Fn('Next', lambda x: jax.nn.one_hot(x + 1, 8))
    >>> model = tl.Serial(tl.ShiftRight(mode='eval'), following)
    >>> print(receptive_field(model, model.weights, np.array([1, 2, 3])) > 0)
    [[False False False]
     [ True False False]
     [False  True False]]
  """
  tokens = np.asarray(tokens, np.int32)
  if tokens.ndim != 1 or not len(tokens):
    raise ValueError(f'tokens must be an array (length,), got {tokens.shape}')
  like, rng = token_shapes((1, len(tokens))), jax.random.PRNGKey(0)

  @jax.jit
  def distances(weights, tokens):
    _, state = init_layer(layer, like, rng)

    def logits(row):
      batch = {
        'inputs': row[None],
        'start_of_sequence': jnp.zeros(1, bool),
      }
      return apply_model(layer, weights, state, batch, rng, jnp.float32)[0][0]

    def changed(u):
      n_ids = jax.eval_shape(logits, tokens).shape[-1]
      if n_ids < 3:
        raise ValueError(f'the vocabulary has {n_ids} ids: it needs 3 or more')
      return tokens.at[u].set(1 + tokens[u] % (n_ids - 1))

    # The last row is the unchanged sequence.
    last = len(tokens)
    rows = jax.lax.map(
      lambda u: logits(jnp.where(u < last, changed(u % last), tokens)),
      jnp.arange(last + 1),
    )
    return jnp.sqrt(jnp.mean((rows[:-1] - rows[-1]) ** 2, axis=-1)).T

  return np.asarray(distances(weights, tokens))
