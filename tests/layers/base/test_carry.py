"""Layers under `carry`: segments give the outputs of one call, or an error."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import base, tl
from trax_hier.layers.base import carry
from trax_hier.layers.base.build import accepts, build
from trax_hier.layers.base.carry import check_carries

DIMENSIONS = dict(
  d_model=8,
  d_out=8,
  d_ff=16,
  n_heads=2,
  n_modules=2,
  window=4,
  n_states=2,
  n_layers=2,
  recurrent_layer=1,
  scales=(1, 2),
  chunk_len=4,
  memory=6,
  n_neighbors=2,
  segment=4,
  carry=True,
)


def maps_rows(name):
  """Whether a factory makes layers that map x (b, l, d) to one (b, l, d)."""
  try:
    layer = build(
      getattr(hl, name), **DIMENSIONS | dict(carry=False, mode='eval')
    )
    if not isinstance(layer, base.Layer):
      return False  # A position scheme.
    weights, state = toy.shapes(layer, toy.normal(1, 8, 8))
    x = jax.ShapeDtypeStruct((1, 8, 8), jnp.float32)
    y, _ = jax.eval_shape(layer.pure_fn, x, weights, state, toy.KEY)
  except (LookupError, TypeError, ValueError, base.LayerError):
    return False
  return getattr(y, 'shape', None) == (1, 8, 8)


OTHERS = (
  *('RMSNorm', 'LayerNorm', 'Gelu', 'Relu', 'Dense', 'NoProjection'),
  *('MultiplicativeDense', 'ModularConv', 'SparseDense'),
)
FACTORIES = [
  *OTHERS,
  *(
    name
    for name, factory in vars(hl).items()
    if name in hl.__all__ and callable(factory) and accepts(factory, 'd_model')
  ),
]
SOME = {'SelfAttention', 'SparseAttention', 'SRUBranch', 'DecoderBlock'}


def test_the_table_has_the_layers_of_blocks():
  assert {name for name in FACTORIES if maps_rows(name)} > SOME


@pytest.mark.parametrize(
  'name',
  [
    # tests/models/test_block_recurrent.py covers the slow ones.
    pytest.param(name, marks=pytest.mark.slow)
    if name in ('FeedbackStack', 'BlockRecurrentCell')
    else name
    for name in FACTORIES
  ],
)
def test_layers_carry_or_are_position_wise_or_refuse(name, monkeypatch):
  if not maps_rows(name):
    pytest.skip('not a layer from rows to rows')
  factory = getattr(hl, name)
  monkeypatch.setattr(carry, '_SEGMENT', 8)
  try:
    fault = carry._fault.__wrapped__(
      factory, tuple((DIMENSIONS | dict(mode='eval')).items())
    )
  except ValueError as error:
    assert name in str(error) and 'cannot carry' in str(error)
    assert accepts(factory, 'carry')
    return
  assert not fault


class Total(base.Layer):
  def forward(self, x):
    return jnp.cumsum(x, axis=1)


class Counts(base.Layer):
  def forward(self, x):
    return x + jnp.arange(x.shape[1])[:, None]


class Later(base.Layer):
  """Mixes positions after training, but not at first."""

  def init_weights_and_state(self, input_signature):
    self.weights = jnp.zeros(())

  def forward(self, x):
    return x + self.weights * jnp.roll(x, 1, axis=1)


class Running(base.Layer):
  """Carries, but outside of a `Memory`, so that no lane is ever reset."""

  def init_weights_and_state(self, input_signature):
    self.state = jnp.zeros((input_signature.shape[0], input_signature.shape[2]))

  def forward(self, x):
    y = self.state[:, None] + jnp.cumsum(x, axis=1)
    self.state = y[:, -1]
    return y


class RunningMemory(Running, hl.Memory):
  """Carries as it should, without saying so."""


REFUSED = {
  'sum': lambda: Total(),
  'counter': lambda: Counts(),
  'idle at first': lambda: Later(),
  'state of its own': lambda: Running(),
  'centered': lambda d_model: tl.Fn('C', lambda x: x - x.mean(1)[:, None]),
  'only long calls': lambda: tl.Fn('L', lambda x: x.reshape(1, 5, -1)),
}
ACCEPTED = {
  'scale': lambda d_model: tl.Fn('Scale', lambda x: 2 * x),
  'memory': lambda: RunningMemory(),
  'dense': lambda d_model: tl.Serial(tl.Dense(d_model), tl.Relu()),
  'declares': lambda carry: Total(),
  'partial': functools.partial(lambda d_model, by: tl.Dense(d_model), by=3),
}


@pytest.mark.parametrize('name', REFUSED)
def test_other_layers_must_agree_in_segments(name):
  with pytest.raises(ValueError, match=r'^A.part makes a layer that .*Sliding'):
    check_carries('A.part', REFUSED[name], d_model=4, carry=True, mode='train')


@pytest.mark.parametrize('name', REFUSED)
def test_without_carry_nothing_is_checked(name):
  for carrying, mode in ((False, 'train'), (True, 'predict')):
    check_carries('A.b', REFUSED[name], d_model=4, carry=carrying, mode=mode)


@pytest.mark.parametrize('name', ACCEPTED)
def test_layers_that_agree_are_accepted(name):
  check_carries('A.part', ACCEPTED[name], d_model=4, carry=True, mode='train')


def test_the_trial_sees_no_dropout():
  def noisy(mode):
    return tl.Dropout(0.5, mode=mode)

  check_carries('A.part', noisy, d_model=4, carry=True, mode='train')


def test_the_trial_runs_inside_a_trace():
  def trace(x):
    check_carries('A.b', ACCEPTED['scale'], d_model=4, carry=True, mode='eval')
    return x

  np.testing.assert_array_equal(jax.jit(trace)(jnp.ones(2)), jnp.ones(2))
