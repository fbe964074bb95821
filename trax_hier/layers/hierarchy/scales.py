"""One sequence at several scales: a coarse vector stands for a block of tokens.

Block m of scale S covers tokens m S .. m S + S - 1. Scales are (1, S_1, ..,
S_K), each a multiple of the one before; a layer that works at one of them
counts in its own rows, of which `ratio` make one of the next.

`Coarse` runs a layer on blocks; what uses its rows asks `n_complete` which of
them a token may see, and nothing else decides about causality. Hourglass (see
`ShortenedStack`) delays the inputs of its blocks by k - 1, so that its first
block is token 0 alone, and block j ends at token j k. Here blocks lie on the
tokens' own grid, and what is delayed are their outputs. Either way a token sees
a block as soon as it is complete.

Letters: b batch, l length, d d_model, m blocks.
"""

import itertools
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from trax_hier.compat import ShapeDtype, base, tl
from trax_hier.config import configurable
from trax_hier.layers.attention.cache import append
from trax_hier.layers.base.dense import Dense
from trax_hier.layers.base.groups import as_tuple, run_groups
from trax_hier.layers.base.normalization import Standardise


def n_complete(t, scale):
  """Number of blocks of `scale` tokens that have ended at token t.

  The causal rule of all multi-scale layers: token t may see block m if and only
  if m < n_complete(t, scale), that is, (m + 1) scale - 1 <= t.

  Example:
    >>> [n_complete(t, scale=4) for t in range(9)]
    [0, 0, 0, 1, 1, 1, 1, 2, 2]
  """
  return (t + 1) // scale


def check_scales(name: str, scales: Sequence[int]) -> None:
  """Raises ValueError unless `scales` are legal."""
  legal = (
    isinstance(scales, (tuple, list))
    and scales[:1] in ((1,), [1])
    and all(isinstance(scale, int) for scale in scales)
    and all(a < b and b % a == 0 for a, b in itertools.pairwise(scales))
  )
  if not legal:
    raise ValueError(
      f'{name}.scales = {scales} must begin with 1, and each further scale be '
      'a larger multiple of the one before, as in (1, 4, 16)'
    )


class Coarse(base.Layer):
  """Runs a causal layer on blocks of `ratio` rows: (b, l, d) -> (b, m, d).

  In 'train' and 'eval' modes there are ceil(l / ratio) rows; if `ratio` does
  not divide l, the last block is padded, and no token may see it.

  In predict mode `layer` runs once per block, when the block is complete. A
  call returns the new rows, ceil(l / ratio) of them, but only those from
  n_complete(t - 1) up to n_complete(t + l - 1) mean anything, t rows having
  come in earlier calls.

  Args:
    ratio: Number of rows in a block.
    layer: (b, m ratio, d) -> (b, m, d), or several such outputs.
    mode: 'train', 'eval' or 'predict'.
    strides: For each output of `layer`, the number of blocks that one of its
      rows covers. More than 1 where it has a `Coarse` inside.

  Raises:
    ValueError: at `init`, if `layer` gives other numbers of rows.

  Example:
    >>> from trax_hier.layers import AverageShorten
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = Coarse(4, AverageShorten(4), 'eval')
    >>> print(tree(layer, (2, 14, 8)))
    layer                 parameters   in           out
    Coarse(4)                      -   (2, 14, 8)   (2, 4, 8)
      AverageShorten(4)            -   (2, 16, 8)   (2, 4, 8)
  """

  def __init__(
    self,
    ratio: int,
    layer: base.Layer,
    mode: str,
    strides: Sequence[int] = (1,),
  ):
    super().__init__(n_out=len(strides), name=f'Coarse({ratio})')
    self._ratio = ratio
    self._mode = mode
    self._strides = strides
    self._sublayers = (layer, base.Layer(name='Memory'))
    self._weights = (None, None)
    self._state = (None, None)

  def init_weights_and_state(self, input_signature):
    layer, _ = self.sublayers
    b, l, d = input_signature.shape
    l = self._ratio if self._mode == 'predict' else l + -l % self._ratio
    x = ShapeDtype((b, l, d), input_signature.dtype)
    weights, state = layer.init(x, use_cache=True)
    outputs = as_tuple(layer.output_signature(x))
    for y, stride in zip(outputs, self._strides, strict=True):
      n_rows = -(-l // (self._ratio * stride))
      if y.shape != (b, n_rows, d):
        raise ValueError(
          f'a layer that makes one row of {self._ratio} must turn '
          f'{tuple(x.shape)} into {(b, n_rows, d)}, not {tuple(y.shape)}: is '
          f'there an @AverageShorten({self._ratio}) or the like in it?'
        )
    memory = ()
    if self._mode == 'predict':
      tail = jnp.zeros((b, self._ratio - 1, d), input_signature.dtype)
      memory = jnp.zeros((), jnp.int32), tail
    self.weights = weights, ()
    self.state = state, memory

  def forward(self, x):
    if self._mode == 'predict':
      return self._decode(x)
    layer, _ = self.sublayers
    state, memory = self.state
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % self._ratio), (0, 0)])
    y, state = layer.pure_fn(
      x, self.weights[0], state, self.rng, use_cache=True
    )
    self.state = state, memory
    return y

  def _decode(self, x):
    layer, _ = self.sublayers
    state, (t, tail) = self.state
    ratio, length = self._ratio, x.shape[1]
    inputs = jnp.concatenate([tail.astype(x.dtype), x], axis=1)
    first, end = (n_complete(i - 1, ratio) for i in (t, t + length))
    n = length // ratio

    def run(group, state):
      outputs, state = layer.pure_fn(group, self.weights[0], state, self.rng)
      return as_tuple(outputs), state

    outputs, state = run_groups(
      run,
      state,
      inputs,
      first * ratio - t + ratio - 1,
      ratio,
      length,
      end > first + n,
    )
    # The state may be wider than the dtype of compute.
    tail = inputs[:, length:].astype(tail.dtype)
    self.state = state, (t + length, tail)
    rows = [
      self._join(parts, first, n, stride)
      for parts, stride in zip(
        zip(*outputs, strict=True), self._strides, strict=True
      )
    ]
    return tuple(rows) if len(rows) > 1 else rows[0]

  def _join(self, parts, first, n, stride):
    """The rows of n blocks, then those of one more where the first ones end."""
    if len(parts) == 1:
      return parts[0]
    rows, more = parts
    n_rows = -(-(n + 1) // stride)
    rows = jnp.pad(rows, [(0, 0), (0, more.shape[1]), (0, 0)])
    n_valid = (first + n) // stride - first // stride
    return append(rows, more, n_valid)[:, :n_rows]


class Latest(base.Layer):
  """The newest block that each token may see: x, rows -> (b, l, d).

  x (b, l, d) is the finer sequence, of which only the length counts, rows
  (b, m, d) are those of a `Coarse` on it. Before the first block is complete,
  tokens see a learned vector.

  Args:
    scale: Number of rows of x in a block.
    mode: 'train', 'eval' or 'predict'.

  Example:
    >>> from trax_hier.compat import signature
    >>> x, rows = jnp.zeros((1, 7, 1)), jnp.array([[[10], [20], [30]]])
    >>> layer = Latest(scale=2, mode='eval')
    >>> _ = layer.init(signature((x, rows)))
    >>> print(layer((x, rows))[0, :, 0])
    [ 0 10 10 20 20 30 30]
  """

  def __init__(self, scale: int, mode: str):
    super().__init__(n_in=2, n_out=1, name=f'Latest({scale})')
    self._scale = scale
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    _, rows = input_signature
    b, _, d = rows.shape
    self.weights = jnp.zeros(d, jnp.float32)
    if self._mode == 'predict':
      self.state = jnp.zeros((), jnp.int32), jnp.zeros((b, 1, d), rows.dtype)

  def forward(self, inputs):
    x, rows = inputs
    length = x.shape[1]
    newest = jnp.broadcast_to(
      self.weights.astype(rows.dtype), (rows.shape[0], 1, rows.shape[2])
    )
    t, kept = self.state if self._mode == 'predict' else (0, None)
    before = n_complete(t - 1, self._scale)
    if kept is not None:
      newest = jnp.where(before > 0, kept.astype(rows.dtype), newest)
    # Row 0 is what was newest before this call.
    rows = jnp.concatenate([newest, rows], axis=1)
    index = n_complete(t + jnp.arange(length), self._scale) - before
    y = jnp.take(rows, index, axis=1)
    if kept is not None:
      self.state = t + length, y[:, -1:].astype(kept.dtype)
    return y


def Pyramid(
  scales: Sequence[int],
  shorten: Callable[[int], base.Layer],
  level: Callable[[int], base.Layer],
  mode: str,
) -> base.Layer:
  """Work at each scale on the outputs of the one below: x -> rows of each.

  rows_0 = level_0(x); rows_j = level_j(shorten_j(rows_{j-1}))

  x (b, l, d) -> (b, l / S, d) for each scale S, finest first.

  Args:
    scales: (1, S_1, ..).
    shorten: j -> the layer from scale j - 1 to scale j.
    level: j -> the layer at scale j.
    mode: 'train', 'eval' or 'predict'.

  Example:
    >>> from trax_hier.layers import AverageShorten, FeedForward
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = Pyramid(
    ...   (1, 4, 12),
    ...   shorten=lambda j: AverageShorten((None, 4, 3)[j]),
    ...   level=lambda j: FeedForward(8, 16),
    ...   mode='eval',
    ... )
    >>> tree(layer, (2, 24, 8)).outputs
    ((2, 24, 8), (2, 6, 8), (2, 2, 8))
  """

  def from_scale(j):
    if j == len(scales) - 1:
      return level(j)
    coarser = Coarse(
      scales[j + 1] // scales[j],
      tl.Serial(shorten(j + 1), from_scale(j + 1)),
      mode,
      strides=[scale // scales[j + 1] for scale in scales[j + 1 :]],
    )
    return tl.Serial(level(j), tl.Branch(None, coarser))

  return from_scale(0)


# Rows of different scales come from stacks of different depth, or from none at
# all: as they are, the larger ones drown the others, and models learn slowly. A
# projection has no use for weights of a normalization before it.


@configurable(module='trax_hier.layers')
def ConcatDense(n_inputs: int, d_model: int):
  """A projection of all inputs, concatenated: n times (b, l, d) -> (b, l, d).

  Each is standardised first.

  Args:
    n_inputs: n.
    d_model: Width of inputs and output.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(ConcatDense(2, d_model=8), (2, 12, 8), (2, 12, 8)))
    layer           parameters   in                      out
    ConcatDense            136   (2, 12, 8) (2, 12, 8)   (2, 12, 8)
      Concatenate            -   (2, 12, 8) (2, 12, 8)   (2, 12, 16)
      Dense_8              136   (2, 12, 16)             (2, 12, 8)
  """
  return tl.Serial(
    tl.Parallel(*[Standardise() for _ in range(n_inputs)]),
    tl.Concatenate(n_items=n_inputs),
    Dense(d_model),
  )


@configurable(module='trax_hier.layers')
def Sum(n_inputs: int):
  """The sum of all inputs, each standardised: n times (b, l, d) -> (b, l, d).

  Example:
    >>> x = jnp.array([[[1.0, 1.0, 5.0, 5.0]]])
    >>> print(Sum(2)((x, 100 * x)).round())
    [[[-2. -2.  2.  2.]]]
  """
  return tl.Serial(
    tl.Parallel(*[Standardise() for _ in range(n_inputs)]),
    *[tl.Add() for _ in range(n_inputs - 1)],
  )
