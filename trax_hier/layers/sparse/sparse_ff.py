"""SparseFF: a feed-forward part in which one unit of every block is active.

A small controller looks at the input and chooses a unit in each of the d_ff / N
blocks of N units. Training computes all units, so that the choice can be
learned; decoding reads the chosen rows of the weights and no others.

Source: Sparse is Enough in Scaling Transformers (arXiv 2111.12763), section 3.1
and its published code.

Letters: t tokens, d d_model, f d_ff, N units in a block, B = f / N blocks,
r d_lowrank.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import base
from trax_hier.config import configurable
from trax_hier.layers.base.build import check_mode
from trax_hier.layers.base.dense import Rows
from trax_hier.layers.base.observe import observe_choices

_TINY = 1e-6  # Keeps the noise finite, as the published code does.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choices:
  """The state of a `SparseFF` that is to choose the same units again.

  In 'train' mode a layer whose state is `Choices(None)` leaves its choices in
  its new state; one whose state holds choices takes them in place of its own.
  A reversible backward pass needs that: rounding in what it reconstructs would
  otherwise turn a choice, and with it the gradient. The usual state is (), in
  which nothing is kept.

  Attributes:
    units: Index of the active unit in its block, (t, B), in as few bytes as N
      needs; or None.
  """

  units: jax.Array | None


def remember_choices(layer: base.Layer, state: Any) -> Any:
  """The state of a layer with `Choices(None)` for every `SparseFF` in it."""
  if isinstance(layer, SparseFF):
    return Choices(None)
  if isinstance(state, dict) or not layer.sublayers:
    return state  # A dictionary is Trax's mark of a layer that ran before.
  parts = zip(layer.sublayers, state, strict=True)
  return tuple(remember_choices(sub, part) for sub, part in parts)


def with_choices(layer: base.Layer, state: Any, other: Any) -> Any:
  """The state of a layer, but for every `SparseFF` in it that of `other`."""
  if isinstance(layer, SparseFF):
    return other
  if isinstance(state, dict) or not layer.sublayers:
    return state
  parts = zip(layer.sublayers, state, other, strict=True)
  return tuple(with_choices(*part) for part in parts)


@configurable(module='trax_hier.layers')
class SparseFF(base.Layer):
  """Feed-forward part with one unit in N active: (.., d) -> (.., d).

  y = (relu(x W1) * mask) W2 + b2

  The mask has a one for the best unit of each block by the controller's logits
  x C1 C2 + b. In training, noise of the Gumbel distribution is added to choose,
  the gradient is that of the softmax within blocks ("straight-through"), and
  some calls use the softmax itself as the mask.

  Weights: C1 (d, r), C2 (r, f), b (f,), W1 (d, f), W2 (f, d), b2 (d,). Unit y
  of block x has number x * N + y everywhere. There is no bias in the hidden
  layer, unlike in the paper's formula and like in its published code.

  In predict mode, a call of N / 2 tokens at most reads only the rows of the
  chosen units: W1 and W2 are then best given as `Rows` (see
  `decoding_weights`). A call with more tokens, such as a prompt, computes all
  units with a mask; its memory is linear in t * f.

  Args:
    d_ff: Number of hidden units.
    n_elements_in_block: N, of which one is active; divides d_ff.
    d_lowrank: Width of the controller; None is d_ff / N, as in the published
      code and its checkpoints (the paper's text says d_model / N).
    temperature: What the noise is multiplied by.
    quant_prob: Probability that a training call, the whole batch of it, uses
      the choices; else it uses the softmax.
    multiply_by_controller_output: Whether a chosen unit is multiplied by its
      probability.
    kernel_scaling: Whether W2 is drawn larger by sqrt(N), which keeps the
      variance of the output.
    chunk_size: Number of tokens of each row of the batch to compute at a time
      in 'train' and 'eval' modes, and again in the backward pass: memory is
      then linear in b * chunk_size * f. None is all.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(SparseFF(d_ff=64, n_elements_in_block=16), (2, 12, 8)))
    layer      parameters   in           out
    SparseFF        1,384   (2, 12, 8)   (2, 12, 8)
  """

  def __init__(
    self,
    d_ff: int = 2048,
    n_elements_in_block: int = 32,
    d_lowrank: int | None = None,
    temperature: float = 0.1,
    quant_prob: float = 0.3,
    multiply_by_controller_output: bool = False,
    kernel_scaling: bool = False,
    chunk_size: int | None = None,
    mode: str = 'train',
  ):
    super().__init__()
    check_mode(mode)
    if d_ff < 1:
      raise ValueError(f'SparseFF.d_ff = {d_ff} must be positive')
    if n_elements_in_block < 1 or d_ff % n_elements_in_block:
      raise ValueError(
        f'SparseFF.n_elements_in_block = {n_elements_in_block} must divide '
        f'd_ff = {d_ff}'
      )
    if not 0 <= quant_prob <= 1:
      raise ValueError(
        f'SparseFF.quant_prob = {quant_prob} must be at least 0 and at most 1'
      )
    if not temperature >= 0:
      raise ValueError(
        f'SparseFF.temperature = {temperature} must be at least 0'
      )
    for name, value in dict(d_lowrank=d_lowrank, chunk_size=chunk_size).items():
      if value is not None and value < 1:
        raise ValueError(f'SparseFF.{name} = {value} must be positive, or None')
    self._n_units = n_elements_in_block
    self._n_blocks = d_ff // n_elements_in_block
    self._d_lowrank = d_lowrank or self._n_blocks
    self._temperature = temperature
    self._quant_prob = quant_prob
    self._multiply = multiply_by_controller_output
    self._kernel_scaling = kernel_scaling
    self._chunk_size = None if mode == 'predict' else chunk_size
    self._mode = mode

  def init_weights_and_state(self, input_signature):
    d = input_signature.shape[-1]
    r, f = self._d_lowrank, self._n_blocks * self._n_units
    rngs = jax.random.split(self.rng, 6)
    glorot = jax.nn.initializers.glorot_uniform()
    normal = jax.nn.initializers.normal(1e-6)
    scale = self._n_units**0.5 if self._kernel_scaling else 1.0
    self.weights = (
      glorot(rngs[0], (d, r)),
      glorot(rngs[1], (r, f)),
      normal(rngs[2], (f,)),
      glorot(rngs[3], (d, f)),
      glorot(rngs[4], (f, d)) * scale,
      normal(rngs[5], (d,)),
    )

  def decoding_weights(self, weights: tuple, precision: str) -> tuple:
    """Weights whose W1 and W2 are `Rows`; those of the controller stay."""
    *controller, w1, w2, b2 = weights
    return *controller, Rows.of(w1.T, precision), Rows.of(w2, precision), b2

  def forward(self, x):
    tokens = x.reshape(-1, x.shape[-1])
    # With more tokens, gathers would read more than half of all rows: that is
    # no faster than products with all of them.
    if self._mode == 'predict' and 2 * len(tokens) <= self._n_units + 1:
      return self._gathered(tokens).reshape(x.shape)
    choice_rng, select_rng = jax.random.split(self.rng)
    select = jax.random.uniform(select_rng) < self._quant_prob
    known = self.state.units if isinstance(self.state, Choices) else None
    if self._chunk_size is None or x.shape[-2] <= self._chunk_size:
      y, units = self._masked(tokens, known, choice_rng, select)
    else:
      y, units = self._in_chunks(x, known, choice_rng, select)
    observe_choices('chosen', units, self._n_units)
    if isinstance(self.state, Choices):
      self.state = Choices(units)
    return y.reshape(x.shape)

  def _in_chunks(self, x, known, rng, select):
    """As `_masked` for all tokens of x, some of each row at a time."""
    length, size = x.shape[-2], self._chunk_size

    # Rows stay whole, as devices may have some of them each.
    def cut(tokens):
      rows = tokens.reshape(-1, length, tokens.shape[-1])
      rows = jnp.pad(rows, [(0, 0), (0, -length % size), (0, 0)])
      chunks = rows.reshape(len(rows), -1, size, rows.shape[-1])
      return chunks.swapaxes(0, 1).reshape(chunks.shape[1], -1, rows.shape[-1])

    def join(chunks):
      n, _, width = chunks.shape
      rows = chunks.reshape(n, -1, size, width).swapaxes(0, 1)
      rows = rows.reshape(len(rows), n * size, width)
      return rows[:, :length].reshape(-1, width)

    @jax.checkpoint
    def compute(chunk):
      tokens, known, i = chunk
      return self._masked(tokens, known, jax.random.fold_in(rng, i), select)

    tokens, known = jax.tree.map(cut, (x, known))
    outputs = jax.lax.map(compute, (tokens, known, jnp.arange(len(tokens))))
    return jax.tree.map(join, outputs)

  def _masked(self, tokens, known, rng, select):
    """All units and a mask: (t, d) -> (t, d) and the choices (t, B)."""
    *_, w1, w2, b2 = self.weights
    logits = self._logits(tokens)
    if self._mode == 'train':
      log_probabilities = jax.nn.log_softmax(logits)
      noisy = log_probabilities + self._temperature * _gumbel(rng, logits.shape)
      units = self._index(noisy) if known is None else known
      mask = jnp.exp(log_probabilities)
      hard = jax.nn.one_hot(units, self._n_units)
      hard += mask - jax.lax.stop_gradient(mask)
      factor = jnp.where(select, hard, mask)
      after = jnp.where(select, jax.lax.stop_gradient(mask), 1)
    else:
      units = self._index(logits)
      factor = jax.nn.one_hot(units, self._n_units)
      after = jax.nn.softmax(logits)
    if isinstance(w1, Rows):
      w1, w2 = w1.matrix(tokens.dtype).T, w2.matrix(tokens.dtype)

    def by_unit(mask):
      return mask.reshape(len(tokens), -1).astype(tokens.dtype)

    # Before the ReLU, so that a unit that is masked out has no gradient.
    hidden = jax.nn.relu((tokens @ w1) * by_unit(factor))
    if self._multiply:
      hidden *= by_unit(after)
    return hidden @ w2 + b2, units

  def _gathered(self, tokens):
    """The chosen units alone: (t, d) -> (t, d)."""
    *_, w1, w2, b2 = self.weights
    logits = self._logits(tokens)
    units = jnp.argmax(logits, axis=-1)
    rows = jnp.arange(self._n_blocks) * self._n_units + units
    if not isinstance(w1, Rows):
      w1, w2 = Rows(w1.T), Rows(w2)
    wide = tokens.astype(jnp.float32)
    hidden = jax.nn.relu(jnp.einsum('td,tkd->tk', wide, w1.take(rows)))
    if self._multiply:
      probabilities = jax.nn.softmax(logits)
      hidden *= jnp.take_along_axis(probabilities, units[..., None], -1)[..., 0]
    y = jnp.einsum('tk,tkd->td', hidden, w2.take(rows))
    return y.astype(tokens.dtype) + b2

  def _logits(self, tokens):
    """The controller's, (t, B, N) in float32."""
    c1, c2, b, *_ = self.weights
    low = tokens @ c1
    logits = jnp.dot(low, c2, preferred_element_type=jnp.float32) + b
    return logits.reshape(-1, self._n_blocks, self._n_units)

  def _index(self, logits):
    dtype = np.min_scalar_type(self._n_units - 1)
    return jnp.argmax(logits, axis=-1).astype(dtype)


def _gumbel(rng, shape):
  u = jax.random.uniform(rng, shape, jnp.float32, _TINY, 1 - _TINY)
  return -jnp.log(-jnp.log(u))
