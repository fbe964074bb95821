"""Gates of recurrent states: how old states and candidates become new states.

To add a gate, subclass `Gate` here and export it from `trax_hier.layers`.
`configurations` places gates in a recurrent layer.

Letters: b batch, s states, d d_model, f d_ff.
"""

import jax
import jax.numpy as jnp

from trax_hier.compat import base
from trax_hier.config import configurable
from trax_hier.layers.base.dense import Linear
from trax_hier.layers.base.observe import observe_gate


class Gate(base.Layer):
  """A gate: s, z, h -> new states, all (b, s, d) except h.

  s are the old states, z the candidates. h (b, s, f) is the input of the
  projection whose output is z, for gates that depend on it.

  Args:
    bias: Initial bias towards the old states; each gate defines its use.
    paper_candidate: Whether z gets the learned bias b_z (and, in some gates, a
      tanh) of the paper; the published code has neither.
  """

  def __init__(self, bias: float, paper_candidate: bool):
    super().__init__(n_in=3, n_out=1)
    self._bias = bias
    self._paper_candidate = paper_candidate

  @property
  def paper_candidate(self) -> bool:
    """Whether z is the paper's candidate."""
    return self._paper_candidate


@configurable(module='trax_hier.layers')
class FixedGate(Gate):
  """Mixes old and new states by learned constants: s, z, h -> (b, s, d).

  s' = g s + (1 - g) (z + b_z) with g = sigmoid(b_g): an exponential moving
  average in each channel. s and z are (b, s, d); h (b, s, f) has no effect.

  Args:
    bias: Initial mean of b_g; its standard deviation is 0.1. 0, as published,
      halves a state in every block. With 1 or more, a model learns sooner to
      recall distant tokens (benchmarks/block_recurrent.py --parts=recall).
    paper_candidate: Whether there is a learned b_z, as in the paper; the
      published code has none.

  Example: states of 1 and candidates of 0, with b_g 0 and 2 by channel.
    >>> gate, bias = FixedGate(), jnp.array([0.0, 2.0])
    >>> s, z, h = jnp.ones((1, 1, 2)), jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 4))
    >>> print(gate((s, z, h), weights=(bias,)).round(2))
    [[[0.5  0.88]]]

  Source: Block-Recurrent Transformers (arXiv 2203.07852).
  """

  def __init__(self, bias: float = 0.0, paper_candidate: bool = False):
    super().__init__(bias, paper_candidate)

  def init_weights_and_state(self, input_signature):
    d = input_signature[0].shape[-1]
    g, z = jax.random.split(self.rng)
    self.weights = (self._bias + small_normal(g, d),)
    if self._paper_candidate:
      self.weights += (small_normal(z, d),)

  def forward(self, inputs):
    s, z, _ = inputs
    bias, *candidate_bias = self.weights
    g = jax.nn.sigmoid(bias)
    observe_gate('keep', g)
    return g * s + (1 - g) * sum(candidate_bias, start=z)


@configurable(module='trax_hier.layers')
class LSTMGate(Gate):
  """Mixes old and new states as an LSTM does: s, z, h -> (b, s, d).

  s' = sigmoid(h W_f + b_f + bias) s + sigmoid(h W_i + b_i - bias) z, with s and
  z (b, s, d) and h (b, s, f).

  Args:
    bias: Constant bias of the forget gate and, negated, of the input gate.
      Initially, about sigmoid(bias) of a state is kept in every block.
    paper_candidate: Whether z becomes tanh(z + b_z) with a learned b_z, as in
      the paper; the published code uses z.

  Example: states of 1 and candidates of 0, with W and b 0.
    >>> weights = jnp.zeros((4, 2)), jnp.zeros(2)
    >>> s, z, h = jnp.ones((1, 1, 2)), jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 4))
    >>> gate = LSTMGate(bias=2.0)
    >>> print(gate((s, z, h), weights=(weights, weights)).round(2))
    [[[0.88 0.88]]]

  Source: Block-Recurrent Transformers (arXiv 2203.07852).
  """

  def __init__(self, bias: float = 1.0, paper_candidate: bool = False):
    super().__init__(bias, paper_candidate)

  def init_weights_and_state(self, input_signature):
    s, _, h = input_signature
    d = s.shape[-1]

    def affine(rng):
      kernel_rng, bias_rng = jax.random.split(rng)
      kernel, _ = Linear(d, variance=0.1).init(h, kernel_rng)
      return kernel, small_normal(bias_rng, d)

    f, i, z = jax.random.split(self.rng, 3)
    self.weights = affine(f), affine(i)
    if self._paper_candidate:
      self.weights += (small_normal(z, d),)

  def forward(self, inputs):
    s, z, h = inputs
    (w_f, b_f), (w_i, b_i), *candidate_bias = self.weights
    if candidate_bias:
      z = jnp.tanh(z + candidate_bias[0])
    forget = jax.nn.sigmoid(jnp.dot(h, w_f) + b_f + self._bias)
    enter = jax.nn.sigmoid(jnp.dot(h, w_i) + b_i - self._bias)
    observe_gate('forget', forget)
    observe_gate('input', enter)
    return forget * s + enter * z


def small_normal(rng, *shape):
  """Initial values of gates and states: normal, standard deviation 0.1."""
  return 0.1 * jax.random.normal(rng, shape, jnp.float32)
