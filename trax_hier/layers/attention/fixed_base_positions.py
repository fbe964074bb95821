"""Fixed-base positions: the digits of a position in several bases."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from trax_hier.compat import base
from trax_hier.config import configurable
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.base.checks import check_positive
from trax_hier.layers.base.documents import ReadsDocuments

_LARGEST = 2**31 - 1  # Positions are int32.
_INITIAL = 1e-4  # Weights are uniform up to this size at initialization.


@configurable(module='trax_hier.layers')
class FixedBasePositions(NoPositions):
  """Digits of positions in several bases, weighted and added to embeddings.

  Each base and digit has a learned vector of width d / n_digits, which the
  digit multiplies. The products are summed over the bases, concatenated over
  the digits, and added to embeddings (b, l, d). The first row gets a learned
  vector, too. Any length up to the power `n_digits` of the smallest base.

  In 'train' mode, rows of the batch start at a random position, so that all
  digits are trained. As digits are large factors, so are the gradients of the
  vectors: at first they may be most of the norm that a clipped gradient keeps.

  Args:
    bases: The bases, integers above 1.
    n_digits: Number of digits, lowest first; divides the width of the model.
    random_starts: Share of the rows of a training batch that start at a random
      position instead of 0.
    dropout: Share of the rows of a training batch that get no digits.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> (layer,) = FixedBasePositions().embed('eval')
    >>> print(tree(layer, (2, 12, 16)))
    layer    parameters   in            out
    Digits           80   (2, 12, 16)   (2, 12, 16)

  Source: the published code of Terraformer (arXiv 2111.12763), where these are
  the default positions ('fixed-base').
  """

  def __init__(
    self,
    bases: tuple[int, ...] = (11, 13, 14, 15),
    n_digits: int = 8,
    random_starts: float = 0.5,
    dropout: float = 0.01,
  ):
    name = 'FixedBasePositions'
    check_positive(name, n_digits=n_digits)
    if not bases or min(bases) < 2:
      raise ValueError(f'{name}.bases = {bases} must be integers above 1')
    for argument, share in dict(
      random_starts=random_starts, dropout=dropout
    ).items():
      if not 0 <= share <= 1:
        raise ValueError(
          f'{name}.{argument} = {share} must be at least 0 and at most 1'
        )
    self._bases = tuple(bases)
    self._n_digits = n_digits
    self._random_starts = random_starts
    self._dropout = dropout

  def embed(self, mode: str, stride: int = 1) -> list[base.Layer]:
    """Returns a layer that adds digits, with own weights, to (b, l, d)."""
    random_starts = float(self._random_starts) if mode == 'train' else 0
    dropout = float(self._dropout) if mode == 'train' else 0
    return [
      _Digits(
        self._bases,
        self._n_digits,
        stride,
        random_starts,
        dropout,
        mode == 'predict',
      )
    ]


class _Digits(ReadsDocuments):
  """Adds the digits of positions to x (b, l, d)."""

  def __init__(
    self,
    bases: Sequence[int],
    n_digits: int,
    stride: int,
    random_starts: float,
    dropout: float,
    counts: bool,
  ):
    super().__init__()
    self._bases = bases
    self._n_digits = n_digits
    self._stride = stride
    self._random_starts = random_starts
    self._dropout = dropout
    self._counts = counts

  @property
  def n_positions(self) -> int:
    """Maximum sequence length in tokens."""
    return min(min(self._bases) ** self._n_digits, _LARGEST)

  def init_weights_and_state(self, input_signature):
    d_model = input_signature.shape[-1]
    if d_model % self._n_digits:
      raise ValueError(
        f'FixedBasePositions.n_digits = {self._n_digits} must divide d_model = '
        f'{d_model}'
      )
    shape = len(self._bases), self._n_digits, d_model // self._n_digits
    rng, first_rng = jax.random.split(self.rng)

    def initial(rng, shape):
      return jax.random.uniform(
        rng, shape, jnp.float32, minval=-_INITIAL, maxval=_INITIAL
      )

    self.weights = initial(rng, shape), initial(first_rng, (d_model,))
    if self._counts:
      self.state = jnp.zeros((), jnp.int32)

  def forward(self, x):
    vectors, first = self.weights
    n_rows, length, _ = x.shape
    span = length * self._stride
    if span > self.n_positions:
      raise ValueError(
        f'a sequence of {span} tokens exceeds the {self.n_positions} positions '
        f'that have FixedBasePositions.n_digits = {self._n_digits} in base '
        f'{min(self._bases)}'
      )
    start_rng, drop_rng = jax.random.split(self.rng)
    rows = jnp.arange(length)
    if self._counts:
      rows += self.state
      self.state += length
    if self.documents is not None:
      rows = self.documents.of_rows(length)
    is_first = rows[..., None] == 0
    positions = self._stride * rows
    if self._random_starts:
      shift_rng, row_rng = jax.random.split(start_rng)
      starts = jax.random.randint(
        shift_rng, (n_rows, 1), 0, self.n_positions - span + 1
      )
      moves = jax.random.bernoulli(row_rng, self._random_starts, (n_rows, 1))
      positions = positions + moves * starts
    added = _weighted_digits(positions, vectors, self._bases)
    if self._dropout:
      keeps = jax.random.bernoulli(drop_rng, 1 - self._dropout, (n_rows, 1, 1))
      added = added * keeps.astype(added.dtype)
    return x + added + jnp.where(is_first, first, 0)


def _weighted_digits(positions, vectors, bases):
  """Sums over bases: positions (.., l), vectors (n, digits, w) -> (.., l, d).

  Concatenates over the digits, so d = digits * w.
  """
  _, n_digits, width = vectors.shape
  total = 0
  for i, number in enumerate(bases):
    digits, rest = [], positions
    for _ in range(n_digits):
      digits.append(rest % number)
      rest = rest // number
    digits = jnp.stack(digits, -1).astype(vectors.dtype)  # (.., l, digits)
    total += digits[..., None] * vectors[i]  # (.., l, digits, w)
  return total.reshape(*positions.shape, n_digits * width)
