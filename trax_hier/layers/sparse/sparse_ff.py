"""SparseFF: a feed-forward layer in which one unit of every block is active.

A small controller chooses, from the input, one unit in each of the d_ff / N
blocks of N units. Training computes all units, so that the choice can be
learned; decoding reads only the chosen rows of the weights.

Source: Sparse is Enough in Scaling Transformers (arXiv 2111.12763), section 3.1
and its published code.

Letters: t tokens, d d_model, f d_ff, N units in a block, B = f / N blocks,
r d_lowrank.
"""

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.config import configurable
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.choices import Choices, ReplaysChoices
from trax_hier.layers.base.dense import Rows
from trax_hier.layers.base.observe import observe_choices
from trax_hier.layers.base.products import wide_einsum

_TINY = 1e-6  # Keeps the noise finite, as the published code does.


@configurable(module='trax_hier.layers')
class SparseFF(ReplaysChoices):
  """Feed-forward layer with one in N hidden units active: (.., d) -> (.., d).

  y = (relu(x W1) * mask) W2 + b2

  The mask is 1 for the unit of each block with the largest controller logit
  x C1 C2 + b, and 0 for the others. In training, Gumbel noise is added to the
  logits, the gradient is the gradient of the softmax over each block
  ("straight-through"), and some calls use the softmax itself as the mask.

  Weights: C1 (d, r), C2 (r, f), b (f,), W1 (d, f), W2 (f, d), b2 (d,). Unit y
  of block x has index x * N + y in all of them. The hidden layer has no bias,
  as in the published code and unlike the paper's formula.

  In predict mode, a call with at most (N + 1) / 2 tokens reads only the rows of
  the chosen units; `decoding_weights` stores W1 and W2 as `Rows` for it. A call
  with more tokens, such as a prompt, computes all units with a mask; its memory
  is linear in t * f.

  Args:
    d_ff: Number of hidden units.
    n_elements_in_block: Number of units in a block, N; divides d_ff.
    d_lowrank: Width of the controller; None means d_ff / N, as in the published
      code and its checkpoints (the paper's text says d_model / N).
    temperature: Factor of the noise.
    quant_prob: Probability that a training call uses the choices as the mask of
      its whole batch; otherwise it uses the softmax.
    multiply_by_controller_output: Whether to multiply a chosen unit by its
      probability.
    kernel_scaling: Whether to initialize W2 larger by sqrt(N), which preserves
      the variance of the output.
    chunk_size: Number of tokens of each sequence computed at a time in 'train'
      and 'eval' modes, and recomputed in the backward pass, with memory linear
      in b * chunk_size * f; None means all.
    mode: 'train', 'eval' or 'predict'.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(SparseFF(d_ff=64, n_elements_in_block=16), (2, 12, 8)))
    layer      parameters   in           out
    SparseFF        1,384   (2, 12, 8)   (2, 12, 8)
  """

  is_positionwise = True

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
    check_arguments(
      'SparseFF',
      d_ff=d_ff,
      n_elements_in_block=n_elements_in_block,
      d_lowrank=d_lowrank,
      temperature=temperature,
      quant_prob=quant_prob,
      chunk_size=chunk_size,
      mode=mode,
    )
    self._n_units = n_elements_in_block
    self._n_blocks = d_ff // n_elements_in_block
    self._d_lowrank = d_lowrank or self._n_blocks
    self._temperature = temperature
    self._quant_prob = quant_prob
    self._multiply = multiply_by_controller_output
    self._kernel_scaling = kernel_scaling
    self._chunk_size = None if mode == 'predict' else chunk_size
    self._mode = mode

  @property
  def n_elements_in_block(self) -> int:
    """The number of units in a block."""
    return self._n_units

  def init_weights_and_state(self, input_signature):
    d = input_signature.shape[-1]
    r, f = self._d_lowrank, self._n_blocks * self._n_units
    rngs = jax.random.split(self.rng, 6)
    glorot = jax.nn.initializers.glorot_uniform(dtype=jnp.float32)
    normal = jax.nn.initializers.normal(1e-6, jnp.float32)
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
    """Returns the weights with W1 and W2 as `Rows`, the others unchanged."""
    *controller, w1, w2, b2 = weights
    return *controller, Rows.of(w1.T, precision), Rows.of(w2, precision), b2

  def forward(self, x):
    tokens = x.reshape(-1, x.shape[-1])
    # With more tokens, gathers would read more than half of all rows, which is
    # no faster than products with all rows.
    if self._mode == 'predict' and 2 * len(tokens) <= self._n_units + 1:
      return self._gathered(tokens).reshape(x.shape)
    choice_rng, select_rng = jax.random.split(self.rng)
    select = jax.random.uniform(select_rng, (), jnp.float32) < self._quant_prob
    recorded = self.state.indices if isinstance(self.state, Choices) else None
    if self._chunk_size is None or x.shape[-2] <= self._chunk_size:
      y, units = self._masked(tokens, recorded, choice_rng, select)
    else:
      y, units = self._in_chunks(x, recorded, choice_rng, select)
    observe_choices('chosen', units, self._n_units)
    if isinstance(self.state, Choices):
      self.state = Choices(units)
    return y.reshape(x.shape)

  def _in_chunks(self, x, recorded, rng, select):
    """`_masked` for all tokens of x, a chunk of each sequence at a time."""
    length, size = x.shape[-2], self._chunk_size

    # Every chunk has tokens of all rows: devices may each hold some rows.
    def split(tokens):
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
      tokens, recorded, i = chunk
      rng_i = jax.random.fold_in(rng, i)
      return self._masked(tokens, recorded, rng_i, select)

    tokens, recorded = jax.tree.map(split, (x, recorded))
    outputs = jax.lax.map(compute, (tokens, recorded, jnp.arange(len(tokens))))
    return jax.tree.map(join, outputs)

  def _masked(self, tokens, recorded, rng, select):
    """Computes all units: (t, d) -> outputs (t, d) and choices (t, B)."""
    *_, w1, w2, b2 = self.weights
    logits = self._logits(tokens)
    if self._mode == 'train':
      noisy = logits + self._temperature * _gumbel(rng, logits.shape)
      units = recorded
      if recorded is None:
        units = self._compact(_argmax_of_computed(noisy))
      mask = jax.nn.softmax(logits)
      fixed = jax.lax.stop_gradient(mask)
      hard = jax.nn.one_hot(units, self._n_units, dtype=logits.dtype)
      factor = jnp.where(select, hard, fixed) + (mask - fixed)
      multiplier = jnp.where(select, fixed, 1)
    else:
      units = self._compact(jnp.argmax(logits, axis=-1))
      factor = jax.nn.one_hot(units, self._n_units, dtype=logits.dtype)
      multiplier = jax.nn.softmax(logits)
    if isinstance(w1, Rows):
      w1, w2 = w1.matrix(tokens.dtype).T, w2.matrix(tokens.dtype)

    def by_unit(mask):
      return mask.reshape(len(tokens), -1).astype(tokens.dtype)

    # Masking before the ReLU leaves masked units without a gradient.
    hidden = jax.nn.relu((tokens @ w1) * by_unit(factor))
    if self._multiply:
      hidden *= by_unit(multiplier)
    return hidden @ w2 + b2, units

  def _gathered(self, tokens):
    """Computes only the chosen units: (t, d) -> (t, d)."""
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
    """The controller's logits, float32 (t, B, N)."""
    c1, c2, b, *_ = self.weights
    low = tokens @ c1
    logits = wide_einsum('tr,rf->tf', low, c2) + b
    return logits.reshape(-1, self._n_blocks, self._n_units)

  def _compact(self, units):
    """Units of blocks in the smallest dtype for N."""
    return units.astype(np.min_scalar_type(self._n_units - 1))


def _argmax_of_computed(x):
  """`argmax` of the last axis of an expression.

  XLA for CPU would compute the expression inside `argmax`, one element at a
  time, which takes three times as long for the noise.
  """
  n = x.shape[-1]
  is_best = x == jnp.max(x, axis=-1, keepdims=True)
  return jnp.min(jnp.where(is_best, jnp.arange(n), n - 1), axis=-1)


def _gumbel(rng, shape):
  u = jax.random.uniform(rng, shape, jnp.float32, _TINY, 1 - _TINY)
  return -jnp.log(-jnp.log(u))
