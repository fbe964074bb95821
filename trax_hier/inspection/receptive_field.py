"""Which tokens a model's predictions depend on, measured token by token.

    moved = reach(model(mode='eval'), weights, tokens)
    plt.imshow(moved > 0)

A row is a prediction, a column a token: what is causal has nothing on the
diagonal and above it, and what cannot see far has nothing far from it.
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
  """How far each prediction moves when one token is another one.

  Rows are computed one at a time by one program, so that what does not depend
  on a token is the same bit by bit, and its distance is exactly 0.

  Args:
    layer: a model of tokens alone, in mode 'eval', in its first state.
    weights: its weights.
    tokens: int32 (l,). Each in turn is changed for another one, not 0.

  Returns:
    float32 (l, l): at [t, u] the root mean square, over the vocabulary, of what
    token u changes in the logits that predict token t.

  Raises:
    ValueError: tokens of another shape, or a vocabulary of less than three.

  Example: a model that looks at the token before alone.
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
    raise ValueError(f'tokens: want an array (length,), got {tokens.shape}')
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
        raise ValueError(f'the vocabulary has {n_ids} ids: want 3 or more')
      return tokens.at[u].set(1 + tokens[u] % (n_ids - 1))

    # The sequence as it is goes through the same program as the others.
    last = len(tokens)
    rows = jax.lax.map(
      lambda u: logits(jnp.where(u < last, changed(u % last), tokens)),
      jnp.arange(last + 1),
    )
    return jnp.sqrt(jnp.mean((rows[:-1] - rows[-1]) ** 2, axis=-1)).T

  return np.asarray(distances(weights, tokens))
