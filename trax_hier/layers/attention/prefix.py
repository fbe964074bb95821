"""Causal layers over a prefix, such as an encoder's output, and new rows.

The prefix is padded, and its mask is False at padding. Padding comes first (see
`AlignRight`), so there is no gap between the prefix and the new rows, and new
rows have the same position in the whole batch.
"""

import dataclasses

import jax
import jax.numpy as jnp

from trax_hier.compat import ShapeDtype, base, tl
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.conditional import apply_if


def CloseGaps() -> base.Layer:
  """Moves padding to the end: tokens (b, m) int32 -> same; 0 is padding.

  Example:
    >>> print(CloseGaps()(jnp.array([[5, 0, 7, 0], [1, 2, 0, 3]])))
    [[5 7 0 0]
     [1 2 3 0]]
  """

  def close(tokens):
    order = jnp.argsort(tokens == 0, axis=1, stable=True)
    return jnp.take_along_axis(tokens, order, axis=1)

  return tl.Fn('CloseGaps', close)


def AlignRight() -> base.Layer:
  """Moves padding to the front: x, mask -> x, mask.

  x (b, m, d); mask (b, m) bool is True up to the end of each sequence.

  Example:
    >>> x = jnp.array([[[5], [7], [0], [0]]])
    >>> x, mask = AlignRight()((x, x[..., 0] > 0))
    >>> print(x[..., 0], mask)
    [[0 0 5 7]] [[False False  True  True]]
  """

  return tl.Fn(
    'AlignRight',
    lambda x, mask: (roll_rows(x, mask, 1), mask[:, ::-1]),
    n_out=2,
  )


def roll_rows(x: jax.Array, mask: jax.Array, direction: int) -> jax.Array:
  """Rolls the rows of x (b, m, d) by the number of rows masked by mask (b, m).

  Direction 1 rolls to the right, which moves masked rows from the end to the
  front; -1 rolls to the left.
  """
  n_masked = jnp.sum(~mask, axis=1, keepdims=True)
  source = (jnp.arange(mask.shape[1]) - direction * n_masked) % mask.shape[1]
  return jnp.take_along_axis(x, source[..., None], axis=1)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Prefill:
  """State of `Prefixed` in programs that know whether the prefix was read.

  Otherwise the state is an array, and the program of every call contains a
  conditional prefill.

  Attributes:
    done: Whether the prefix was read; if not, the next call only reads it.
  """

  done: bool


class Prefixed(base.Layer):
  """Runs `layer` on the prefix that `first` computes, followed by new rows.

  inputs, x.. (b, l, d) -> y.. (b, l, d)

  `first`: inputs -> p.. (b, m, d) and mask (b, m) bool. `layer`: rows.., mask
  -> rows.., mask; causal, and ignores rows where the mask is False. It runs on
  the rows of p and x concatenated; y are its outputs at the rows of x.

  In predict mode, the first call runs `first` and prefills `layer` with p, a
  chunk at a time; later calls run only the new rows and ignore `inputs`.
  Decoding programs prefill before the first call: see `decoding_state`.

  Args:
    first: A layer in 'train' or 'eval' mode; a call gets a whole sequence.
    layer: A layer with as many outputs as inputs.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity of `layer` in predict mode, for rows of p and new rows.

  Example:
    >>> from trax_hier.layers import SelfAttention
    >>> from trax_hier.inspection.layer_tree import tree
    >>> first = tl.Branch(tl.Embedding(50, 8), tl.Fn('Mask', lambda x: x != 0))
    >>> layer = tl.Serial(  # rows, mask
    ...   tl.Select([0, 1, 1]), SelfAttention(8, n_heads=2, masked=True)
    ... )
    >>> layer = Prefixed(first, layer, 'eval', max_len=64)
    >>> print(tree(layer, (2, 5), (2, 12, 8)).text(1))
    layer                 parameters   in                   out
    Prefixed                     688   (2, 5) (2, 12, 8)    (2, 12, 8)
      Embedding_50_8             400   (2, 5)               (2, 5, 8)
      SelfAttention ...          288   (2, 17, 8) (2, 17)   (2, 17, 8)
  """

  _CHUNK = 256  # The longest chunk in which `generate` reads prompts, too.

  def __init__(
    self, first: base.Layer, layer: base.Layer, mode: str, max_len: int
  ):
    check_arguments('', mode=mode)
    n = layer.n_in - 1  # `Prefixed` makes the mask of `layer` itself.
    super().__init__(n_in=1 + n, n_out=n)
    self._mode = mode
    self._max_len = max_len
    self._sublayers = (first, layer, base.Layer(name='Memory'))
    self._weights = (None,) * 3
    self._state = (None,) * 3

  def init_weights_and_state(self, input_signature):
    first, layer, _ = self.sublayers
    inputs, *rows = input_signature
    first_rng, rng = jax.random.split(self.rng)
    first_weights, first_state = first.init(inputs, first_rng, use_cache=True)
    *_, mask = first.output_signature(inputs)
    length = mask.shape[1]
    if self._mode == 'predict':
      if length >= self._max_len:
        raise ValueError(
          f'sources of {length} tokens leave no room in max_len = '
          f'{self._max_len}, the capacity for sources and new tokens'
        )
      length = 0
    length += rows[0].shape[1]
    signature = tuple(
      ShapeDtype((x.shape[0], length, *x.shape[2:]), x.dtype)
      for x in (*rows, mask)
    )
    weights, state = layer.init(signature, rng, use_cache=True)
    self.weights = first_weights, weights, ()
    done = jnp.zeros((), bool) if self._mode == 'predict' else ()
    self.state = first_state, state, done

  def forward(self, x):
    inputs, *rows = x
    layer, state = self.sublayers[1], self.state[1]
    weights = self.weights[1]
    first_rng, rng = jax.random.split(self.rng)
    mask = jnp.ones(rows[0].shape[:2], bool)
    if self._mode != 'predict':
      prefix = self._prefix(inputs, first_rng)  # p.., mask
      length = prefix[-1].shape[1]
      joined = tuple(
        jnp.concatenate([p.astype(x.dtype), x], axis=1)
        for p, x in zip(prefix, [*rows, mask], strict=True)
      )
      y, state = layer.pure_fn(joined, weights, state, rng)
      self.state = self.state[0], state, ()
      return _outputs([x[:, length:] for x in y[:-1]])
    done = self.state[2]
    if isinstance(done, Prefill):
      if not done.done:
        state = self._prefill(inputs, rows, state)
        self.state = self.state[0], state, Prefill(True)
        return _outputs(rows)
    else:
      state = apply_if(
        ~done, lambda state: self._prefill(inputs, rows, state), state
      )
      done = jnp.ones((), bool)
    y, state = layer.pure_fn((*rows, mask), weights, state, rng)
    self.state = self.state[0], state, done
    return _outputs(y[:-1])

  def _prefix(self, inputs, rng):
    weights, state = self.weights[0], self.state[0]
    return self.sublayers[0].pure_fn(inputs, weights, state, rng)[0]

  def _prefill(self, inputs, rows, state):
    """Returns the state of `layer` after the prefix, in the dtype of `rows`."""
    *prefix, mask = self._prefix(inputs, self.rng)
    prefix = *(p.astype(rows[0].dtype) for p in prefix), mask
    length = mask.shape[1]
    chunk = min(self._CHUNK, length)

    def read(state, start, n):
      x = tuple(
        jax.lax.dynamic_slice_in_dim(p, start, n, axis=1) for p in prefix
      )
      _, new = self.sublayers[1].pure_fn(x, self.weights[1], state, self.rng)
      # The state's dtype may be wider than the compute dtype.
      return jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)

    rest = length % chunk
    state = read(state, 0, rest) if rest else state
    starts = jnp.arange(rest, length, chunk)
    return jax.lax.scan(
      lambda state, start: (read(state, start, chunk), None), state, starts
    )[0]


def _outputs(arrays):
  """The outputs in the form that layers return: a tuple or a single array."""
  return tuple(arrays) if len(arrays) > 1 else arrays[0]


def has_prefix(layer: base.Layer) -> bool:
  """Whether a model has a `Prefixed`, which caches the rows of its sources.

  Example:
    >>> from trax_hier.models import ScalingTransformer, Terraformer
    >>> has_prefix(Terraformer(vocab_size=256))
    True
    >>> has_prefix(ScalingTransformer(vocab_size=256))
    False
  """
  return isinstance(layer, Prefixed) or any(map(has_prefix, layer.sublayers))
