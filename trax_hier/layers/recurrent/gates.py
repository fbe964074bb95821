"""Gates of recurrent states, and the three places to put them.

Letters: b batch, s states, d d_model, f d_ff, h heads.
"""

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.base.dense import Linear
from trax_hier.layers.base.observe import observe_gate


@configurable(module='trax_hier.layers')
class FixedGate(base.Layer):
  """Mixes old and new states by constants: s, z, h -> (b, s, d).

  Old states s and candidates z (b, s, d); h (b, s, f) has no effect.

  s' = g s + (1 - g) (z + b_z) with g = sigmoid(b_g): an exponential moving
  average in each channel.

  Args:
    bias: Mean of b_g at first (its deviation is 0.1). 0, as published, halves a
      state in every block. 1 or more learns sooner to recall what lies further
      back, in the toy of benchmarks/block_recurrent.py, part recall.
    paper_candidate: Whether there is a learned b_z, as the paper writes; the
      published code has none.

  Example: what is left of states of 1 when b_g is 0, and when it is 2.
    >>> gate, bias = FixedGate(), jnp.array([0.0, 2.0])
    >>> s, z, h = jnp.ones((1, 1, 2)), jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 4))
    >>> print(gate((s, z, h), weights=(bias,)).round(2))
    [[[0.5  0.88]]]

  Source: Block-Recurrent Transformers (arXiv 2203.07852).
  """

  def __init__(self, bias: float = 0.0, paper_candidate: bool = False):
    super().__init__(n_in=3, n_out=1)
    self._bias = bias
    self._paper_candidate = paper_candidate

  @property
  def paper_candidate(self) -> bool:
    """Whether z is the paper's."""
    return self._paper_candidate

  def init_weights_and_state(self, input_signature):
    d = input_signature[0].shape[-1]
    g, z = jax.random.split(self.rng)
    self.weights = (self._bias + small(g, d),)
    if self._paper_candidate:
      self.weights += (small(z, d),)

  def forward(self, inputs):
    s, z, _ = inputs
    bias, *candidate_bias = self.weights
    g = jax.nn.sigmoid(bias)
    observe_gate('keep', g)
    return g * s + (1 - g) * sum(candidate_bias, start=z)


@configurable(module='trax_hier.layers')
class LSTMGate(base.Layer):
  """Mixes old and new states as an LSTM: s, z, h -> (b, s, d).

  Old states s and candidates z (b, s, d); h (b, s, f) decides.

  s' = sigmoid(h W_f + b_f + bias) s + sigmoid(h W_i + b_i - bias) z

  Args:
    bias: Of the forget gate and, negated, of the input gate: at first a state
      keeps sigmoid(bias) of itself in every block.
    paper_candidate: Whether z is tanh(z + b_z) with a learned b_z, as the paper
      writes; the published code takes z as it is.

  Example: what is left of states of 1 when W and b are 0.
    >>> weights = jnp.zeros((4, 2)), jnp.zeros(2)
    >>> s, z, h = jnp.ones((1, 1, 2)), jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 4))
    >>> gate = LSTMGate(bias=2.0)
    >>> print(gate((s, z, h), weights=(weights, weights)).round(2))
    [[[0.88 0.88]]]

  Source: Block-Recurrent Transformers (arXiv 2203.07852).
  """

  def __init__(self, bias: float = 1.0, paper_candidate: bool = False):
    super().__init__(n_in=3, n_out=1)
    self._bias = bias
    self._paper_candidate = paper_candidate

  @property
  def paper_candidate(self) -> bool:
    """Whether z is the paper's."""
    return self._paper_candidate

  def init_weights_and_state(self, input_signature):
    s, _, h = input_signature
    d = s.shape[-1]

    def affine(rng):
      kernel_rng, bias_rng = jax.random.split(rng)
      kernel, _ = Linear(d, variance=0.1).init(h, kernel_rng)
      return kernel, small(bias_rng, d)

    f, i, z = jax.random.split(self.rng, 3)
    self.weights = affine(f), affine(i)
    if self._paper_candidate:
      self.weights += (small(z, d),)

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


def small(rng, *shape):
  """Numbers with which gates and states begin: deviation 0.1."""
  return 0.1 * jax.random.normal(rng, shape, jnp.float32)


# Configurations of the cell: s (b, s, d), o (b, s, 2 h d_head) -> (b, s, d)
# ------------------------------------------------------------------------------
def _skip(d_model, d_ff, gate, norm):
  """The states skip the feed-forward part."""
  del d_ff, norm
  return _gated([], [Linear(d_model)], gate())


def _dual(d_model, d_ff, gate, norm):
  """A gate after the attention and a gate after the feed-forward part."""
  return tl.Serial(
    _skip(d_model, d_ff, gate, norm),
    tl.Select([0, 0]),  # u, u
    _gated([norm(), Linear(d_ff), tl.Relu()], [Linear(d_model)], gate()),
  )


def _single(d_model, d_ff, gate, norm):
  """One gate, after attention and feed-forward part."""
  del norm
  gate = gate()
  # Where the published code has a tanh, whatever the gate.
  tanh = [] if gate.paper_candidate else [tl.Tanh()]
  return _gated([Linear(d_ff), tl.Relu()], [Linear(d_model), *tanh], gate)


def _gated(hidden, candidate, gate):
  """s, x -> gate(s, candidate(h), h) with h = hidden(x)."""
  return tl.Serial(  # s, x
    tl.Parallel(None, tl.Serial(*hidden)),
    tl.Select([0, 1, 1]),  # s, h, h
    tl.Parallel(None, tl.Serial(*candidate), None),
    gate,
  )


CONFIGURATIONS = {'skip': _skip, 'dual': _dual, 'single': _single}
