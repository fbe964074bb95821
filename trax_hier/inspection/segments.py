"""Where the dynamic levels of a model start segments of a text.

    starts = segment_starts(model, weights, tokens)
    print(marked(text, starts[0][0]))

Letters: b batch, l length, m segments.
"""

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import ShapeDtype, base
from trax_hier.compat.layer_hooks import intercept
from trax_hier.layers.hierarchy.dynamic_stack import DynamicStack
from trax_hier.layers.hierarchy.segments import starts, take

PyTree = object


def segment_starts(
  model: base.Layer, weights: PyTree, tokens: np.ndarray
) -> list[np.ndarray]:
  """Where segments start, for each dynamic level, outermost first.

  Levels inside a fixed one, whose segments are not of tokens, are left out.

  Args:
    model: Model in 'eval' mode, tokens -> logits.
    weights: Its weights.
    tokens: int32 (b, l).

  Returns:
    Bool (b, l) for each level, True at position t if the vector that reads the
    tokens before t starts a segment.

  Example:
    >>> from trax_hier.layers import DynamicStack, WordRule
    >>> from trax_hier.models import HourglassLM
    >>> import functools
    >>> words = functools.partial(DynamicStack, boundaries=WordRule)
    >>> sizes = dict(d_model=8, d_ff=8, n_heads=2, hierarchy='1@~2')
    >>> model = HourglassLM(128, **sizes, dynamic=words, mode='eval')
    >>> text = 'to be or not to be'
    >>> tokens = np.array([[*text.encode()]], np.int32)
    >>> weights, _ = model.init(ShapeDtype(tokens.shape, tokens.dtype))
    >>> (starts,) = segment_starts(model, weights, tokens)
    >>> print(marked(text, starts[0]))
    |to |be |or |not |to |be
  """
  stacks = _stacks(model)
  places = {stack.sublayers[1]: i for i, stack in enumerate(stacks)}

  @jax.jit
  def run(weights, tokens):
    found = {}

    def keep(pure_fn, layer, x, *args):
      if layer in places:
        found[places[layer]] = x[1]
      return pure_fn(layer, x, *args)

    signature = ShapeDtype(tokens.shape, tokens.dtype)
    _, state = model.init(signature, jax.random.PRNGKey(0))
    with intercept(keep):
      model.pure_fn(tokens, weights, state, jax.random.PRNGKey(0))
    betas = [found[i] for i in range(len(places))]
    return _at_tokens(stacks, betas, tokens.shape)

  return [np.asarray(x) for x in run(weights, tokens)]


def marked(text: str, starts: np.ndarray, mark: str = '|') -> str:
  """A text with a mark where segments start.

  Args:
    text: Text of l bytes.
    starts: Bool (l,), from `segment_starts`.
    mark: The mark.

  Example:
    >>> print(marked('to be', np.array([1, 0, 0, 1, 0], bool)))
    |to |be
  """
  units = [bytes([byte]) for byte in text.encode()]
  parts = zip(units, np.asarray(starts).tolist(), strict=True)
  joined = b''.join(mark.encode() * start + unit for unit, start in parts)
  return joined.decode(errors='replace')


def _stacks(layer):
  own = [layer] if isinstance(layer, DynamicStack) else []
  return own + [x for sub in layer.sublayers or () for x in _stacks(sub)]


def _at_tokens(stacks, levels, shape):
  """Boundaries (b, m) of segments of segments, as those of tokens (b, l)."""
  b, length = shape
  first = jnp.broadcast_to(jnp.arange(length), shape)
  found = []
  for stack, beta in zip(stacks, levels, strict=True):
    if beta.shape[1] != first.shape[1]:
      break  # There is a fixed level between the two.
    m = stack.n_segments(beta.shape[1])
    first = take(first, starts(beta, m))
    is_valid = jnp.arange(m) < jnp.sum(beta > 0.5, axis=1, keepdims=True)
    at = jnp.where(is_valid, first, length)
    none = jnp.zeros((b, length), bool)
    rows = jnp.arange(b)[:, None]
    found.append(none.at[rows, at].set(True, mode='drop'))
  return found
