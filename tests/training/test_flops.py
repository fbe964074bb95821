"""FLOPs counted in traces, compared with FLOPs counted by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest

from trax_hier.compat import tl
from trax_hier.layers import NoPositions
from trax_hier.models import TransformerLM
from trax_hier.training.flops import flops, forward_flops
from trax_hier.training.state import abstract_init, token_shapes


def shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


A, W = shape(3, 8), shape(8, 8)
ONE = 2 * 3 * 8 * 8


def times(x, w):
  return x @ w


def thrice(x, w):
  return times(times(times(x, w), w), w)


def scanned(x, w):
  return jax.lax.scan(lambda x, _: (thrice(x, w), None), x, length=5)[0]


def repeated(x, w):
  return jax.lax.fori_loop(0, 7, lambda _, x: times(x, w), x)


def while_positive(x, w):
  return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: times(x, w), x)


def branching(x, w):
  branches = [times, thrice, lambda x, w: x]
  return jax.lax.switch(jnp.int32(x.sum()), branches, x, w)


def attention(q, k, v):
  scores = jax.nn.softmax(jnp.einsum('bqhd,bkhd->bhqk', q, k))
  return jnp.einsum('bhqk,bkhd->bqhd', scores, v)


def convolve(x, kernel, groups=1, stride=1):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride,),
    'SAME',
    dimension_numbers=('NWC', 'WIO', 'NWC'),
    feature_group_count=groups,
  )


@jax.custom_vjp
def with_own_gradient(x, w):
  return times(x, w)


with_own_gradient.defvjp(
  lambda x, w: (times(x, w), (x, w)), lambda xw, g: (thrice(g, xw[1]), xw[1])
)


@jax.custom_jvp
def with_own_tangent(x, w):
  return times(x, w)


with_own_tangent.defjvp(lambda xw, t: (times(*xw), thrice(*xw)))


@pytest.mark.parametrize(
  'fn, args, n',
  [
    (lambda x, w: jnp.exp(x) + w.sum(), (A, W), 0),
    (times, (A, W), ONE),
    (jax.vmap(times, in_axes=(0, None)), (shape(5, 3, 8), W), 5 * ONE),
    (lambda x, y: x @ y.T, (shape(3, 8), shape(4, 8)), 2 * 3 * 4 * 8),
    (scanned, (A, W), 5 * 3 * ONE),
    (repeated, (A, W), 7 * ONE),
    (while_positive, (A, W), ONE),
    (branching, (A, W), 3 * ONE),
    (jax.jit(thrice), (A, W), 3 * ONE),
    (jax.checkpoint(thrice), (A, W), 3 * ONE),
    (with_own_gradient, (A, W), ONE),
    (with_own_tangent, (A, W), ONE),
    (attention, (shape(2, 5, 3, 4),) * 3, 2 * 2 * (2 * 3 * 5 * 5 * 4)),
    (convolve, (shape(2, 10, 6), shape(3, 6, 4)), 2 * 2 * 10 * 4 * 3 * 6),
    (
      functools.partial(convolve, groups=2, stride=2),
      (shape(2, 10, 6), shape(3, 3, 4)),
      2 * 2 * 5 * 4 * 3 * 3,
    ),
  ],
)
def test_flops_of_a_function(fn, args, n):
  assert flops(fn, *args) == n


def test_a_gradient_costs_twice_the_forward_pass():
  loss = lambda x, w: jnp.sum(times(x, w) ** 2)  # noqa: E731
  assert flops(jax.grad(loss, argnums=(0, 1)), A, W) == 3 * ONE


def of_model(layer, batch):
  return forward_flops(layer, *abstract_init(layer, batch), batch)


def test_flops_of_dense_layers():
  layer = tl.Serial(tl.Embedding(7, 16), tl.Dense(32), tl.Dense(5))
  assert of_model(layer, token_shapes((2, 3))) == 2 * 6 * (16 * 32 + 32 * 5)


@pytest.mark.parametrize('remat', [False, True])
def test_flops_of_a_transformer_in_closed_form(remat):
  b, l, d, f, v, n = 3, 12, 16, 40, 17, 4
  layer = TransformerLM(
    v,
    d_model=d,
    d_ff=f,
    n_heads=2,
    n_layers=n,
    positions=NoPositions,
    remat=remat,
  )
  # Attention computes all l * l scores, although half are masked.
  block = 4 * d * d + 2 * l * d + 2 * d * f
  batch = token_shapes((b, l))
  weights, model_state = abstract_init(layer, batch)
  forward = forward_flops(layer, weights, model_state, batch)
  assert forward == 2 * b * l * (n * block + d * v)
  # No tracer is left in a layer.
  left = [(x.weights, x.state, x.rng) for x in (layer, *layer.sublayers)]
  assert not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(left))
