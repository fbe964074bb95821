"""A sequence at several scales: each coarse row represents a block of tokens.

Block m of scale S covers tokens m S .. m S + S - 1. Scales are (1, S_1, ..,
S_K), each a multiple of the scale before. A layer measures lengths in rows of
its input; `ratio` rows make one row of the next scale.

`Coarse` runs a layer on blocks. Layers that read its output call `n_complete`
to find the blocks that a token may read; only this ensures causality. Hourglass
(see `ShortenedStack`) delays the inputs of its blocks by k - 1 instead, so its
first block is token 0 alone and block j ends at token j k. Here blocks begin at
multiples of S, and their outputs are delayed. In both cases a token reads a
block as soon as the block is complete.

Letters: b batch, l length, d d_model, m blocks.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from trax_hier.compat import ShapeDtype, base, tl
from trax_hier.layers.attention.cache import write_rows
from trax_hier.layers.base.documents import ReadsDocuments
from trax_hier.layers.hierarchy.groups import as_tuple, run_complete_groups


def n_complete(t, scale):
  """Number of blocks of `scale` tokens that end at or before token t.

  By this rule all multi-scale layers are causal: token t may read block m if
  and only if m < n_complete(t, scale), that is, (m + 1) scale - 1 <= t.

  Example:
    >>> [n_complete(t, scale=4) for t in range(9)]
    [0, 0, 0, 1, 1, 1, 1, 2, 2]
  """
  return (t + 1) // scale


def check_scales(name: str, scales: Sequence[int]) -> None:
  """Raises ValueError unless scales start at 1 and each divides the next."""
  legal = (
    isinstance(scales, (tuple, list))
    and scales[:1] in ((1,), [1])
    and all(isinstance(scale, int) for scale in scales)
    and all(a < b and b % a == 0 for a, b in itertools.pairwise(scales))
  )
  if not legal:
    raise ValueError(
      f'{name}.scales = {scales} must begin with 1, and each further scale '
      'must be a larger multiple of the scale before, as in (1, 4, 16)'
    )


class Coarse(base.Layer):
  """Runs a causal layer on blocks of `ratio` rows: (b, l, d) -> (b, m, d).

  In 'train' and 'eval' modes, m is ceil(l / ratio); if `ratio` does not divide
  l, the last block is padded, and no token may read it.

  In predict mode, `layer` runs once per block, when the block is complete. A
  call with l rows, after t rows of earlier calls, returns ceil(l / ratio) rows.
  The first are blocks n_complete(t - 1) .. n_complete(t + l - 1) - 1; any
  others are undefined.

  Args:
    ratio: Number of rows in a block.
    layer: (b, m ratio, d) -> one or several outputs (b, m, d).
    mode: 'train', 'eval' or 'predict'.
    strides: For each output of `layer`, the number of blocks per row; more than
      1 for outputs of a nested `Coarse`.

  Raises:
    ValueError: at `init`, if an output of `layer` has a different shape.

  Example:
    >>> from trax_hier.layers import AverageShorten
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = Coarse(4, AverageShorten(4), 'eval')
    >>> print(tree(layer, (2, 14, 8)))
    layer                 parameters   in           out
    Coarse(4)                      -   (2, 14, 8)   (2, 4, 8)
      AverageShorten(4)            -   (2, 16, 8)   (2, 4, 8)
  """

  keeps_documents_apart = True

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
    self._sublayers = (layer, ReadsDocuments(name='Memory'))
    self._weights = (None, None)
    self._state = (None, None)

  @property
  def shorten_factor(self) -> int:
    """The factor by which the layer's outputs are shorter."""
    return self._ratio

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
          f'a layer that pools {self._ratio} rows into one must map '
          f'{tuple(x.shape)} to {(b, n_rows, d)}, not to {tuple(y.shape)}: it '
          f'needs a shortening, such as @AverageShorten({self._ratio})'
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
    first, end = (n_complete(i - 1, ratio) for i in (t, t + length))
    n = length // ratio
    outputs, state, tail = run_complete_groups(
      layer,
      self.weights[0],
      state,
      self.rng,
      tail,
      x,
      start=first * ratio - t + ratio - 1,
      more=end > first + n,
    )
    self.state = state, (t + length, tail)
    rows = [
      self._join(chunks, first, n, stride)
      for chunks, stride in zip(
        zip(*outputs, strict=True), self._strides, strict=True
      )
    ]
    return tuple(rows) if len(rows) > 1 else rows[0]

  def _join(self, chunks, first, n, stride):
    """Appends the row of the additional block, if any, to the first n rows."""
    if len(chunks) == 1:
      return chunks[0]
    rows, more = chunks
    n_rows = -(-(n + 1) // stride)
    rows = jnp.pad(rows, [(0, 0), (0, more.shape[1]), (0, 0)])
    n_valid = (first + n) // stride - first // stride
    return write_rows(rows, more, n_valid)[:, :n_rows]


class Latest(ReadsDocuments):
  """Gives each token the latest complete block: x, rows -> (b, l, d).

  x (b, l, d) is the finer sequence, of which only the length is used; rows
  (b, m, d) are the output of a `Coarse` on it. Tokens before the end of the
  first block, of their document if a row holds several, get a learned vector.

  Args:
    scale: Number of rows of x in a block.
    mode: 'train', 'eval' or 'predict'.

  Example:
    >>> from trax_hier.compat import signature
    >>> x, rows = jnp.zeros((1, 7, 1)), jnp.array([[[10], [20], [30]]])
    >>> layer = Latest(scale=2, mode='eval')
    >>> _ = layer.init(signature((x, rows)))
    >>> print(layer((x, rows), weights=jnp.zeros(1))[0, :, 0])
    [ 0 10 10 20 20 30 30]
  """

  def __init__(self, scale: int, mode: str):
    super().__init__(n_in=2, n_out=1, name=f'Latest({scale})')
    self._scale = scale
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    _, rows = input_signature
    b, _, d = rows.shape
    # Of the size of a normalized row: standardizing a vector near zero would
    # multiply its gradient by a thousand.
    self.weights = jax.random.normal(self.rng, (d,), jnp.float32)
    if self._mode == 'predict':
      self.state = jnp.zeros((), jnp.int32), jnp.zeros((b, 1, d), rows.dtype)

  def forward(self, inputs):
    x, rows = inputs
    length = x.shape[1]
    latest = jnp.broadcast_to(
      self.weights.astype(rows.dtype), (rows.shape[0], 1, rows.shape[2])
    )
    documents = self.documents
    t, kept = self.state if self._mode == 'predict' else (0, None)
    before = n_complete(t - 1, self._scale)
    if kept is not None:
      latest = jnp.where(before > 0, kept.astype(rows.dtype), latest)
    # Row 0 is for tokens before the end of the first new block.
    rows = jnp.concatenate([latest, rows], axis=1)
    index = n_complete(t + jnp.arange(length), self._scale) - before
    y = jnp.take(rows, index, axis=1)
    if documents is not None:
      in_first = documents.of_rows(length) < self._scale - 1
      y = jnp.where(in_first[..., None], latest, y)
    if kept is not None:
      self.state = t + length, y[:, -1:].astype(kept.dtype)
    return y


def Pyramid(
  scales: Sequence[int],
  shorten: Callable[[int], base.Layer],
  level: Callable[[int], base.Layer],
  mode: str,
) -> base.Layer:
  """Builds each scale from the scale before it: x -> rows of each scale.

  rows_0 = level_0(x); rows_j = level_j(shorten_j(rows_{j-1}))

  x (b, l, d) -> (b, l / S, d) for each scale S, finest first.

  Args:
    scales: (1, S_1, ..).
    shorten: j -> the shortening from scale j - 1 to scale j.
    level: j -> the layer applied to the rows of scale j.
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
