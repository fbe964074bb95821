"""With jax_enable_x64, types and results are those without it."""

import functools
import shutil

import contract
import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import pytest
import toy
import toy_training

import trax_hier
from trax_hier import cli, config
from trax_hier import layers as hl
from trax_hier.compat import base, tl
from trax_hier.generation import generate
from trax_hier.training import SGD, Adafactor, Adam, multifactor, state, train
from trax_hier.training.step import apply_model, make_eval_step, make_train_step

_QUICK = ('hourglass', 'block-recurrent feedback', 'terraformer')
_ROWS = [
  name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow)
  for name in contract.ROWS
]


@pytest.fixture(autouse=True)
def set_back():
  yield
  jax.config.update('jax_enable_x64', False)


def _in_64_bits(function):
  """The results of a function without and with jax_enable_x64."""
  narrow = function()
  jax.config.update('jax_enable_x64', True)
  assert jnp.zeros(()).dtype == np.float64
  return narrow, function()


def _types(tree):
  return jax.tree.map(lambda x: x.dtype.name, tree)


def _abstract(function, *arguments):
  """Shapes of the results, which no array of 64-bit numbers may lead to.

  Scalars may have 64 bits: they cost nothing, and rounding hides them.
  """
  jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
  wide = [
    (equation.primitive.name, out.aval)
    for equation in jaxprs.equations(jaxpr.jaxpr)
    for out in equation.outvars
    if out.aval.dtype in (np.float64, np.complex128) and out.aval.ndim
  ]
  assert not wide
  return shapes


@pytest.mark.parametrize('name', _ROWS)
def test_models_compute_in_32_bits(name):
  row, x = contract.ROWS[name], toy.tokens(contract.LENGTH)

  def start(mode, batch):
    layer = row.model(mode=mode, dropout=0.1)
    return layer, *state.abstract_init(layer, batch)

  def gradients(weights, model_state, rng):
    def loss(weights):
      logits, new_state = layer.pure_fn(x, weights, model_state, rng)
      return jnp.sum(logits), (logits, new_state)

    return jax.grad(loss, has_aux=True)(weights)

  jax.config.update('jax_enable_x64', True)
  layer, weights, model_state = start('eval', state.token_shapes(x.shape))
  assert set(jax.tree.leaves(_types(weights))) == {'float32'}
  logits, after = _abstract(layer.pure_fn, x, weights, model_state, toy.KEY)
  assert (logits.dtype, _types(after)) == (np.float32, _types(model_state))
  layer, _, model_state = start('train', state.token_shapes(x.shape))
  grads, (logits, after) = _abstract(gradients, weights, model_state, toy.KEY)
  assert (logits.dtype, _types(after)) == (np.float32, _types(model_state))
  assert _types(grads) == _types(weights)
  layer, _, model_state = start('predict', state.token_shapes((2, 1)))
  for new in x[:, :5], x[:, :1]:
    logits, after = _abstract(layer.pure_fn, new, weights, model_state, toy.KEY)
    assert (logits.dtype, _types(after)) == (np.float32, _types(model_state))


@pytest.mark.parametrize(
  'optimizer',
  [
    Adam(multifactor(), weight_decay=0.1, clip_norm=1.0),
    Adafactor(momentum=0.9),
    SGD(momentum=0.9),
  ],
)
def test_steps_keep_the_types_of_their_state(optimizer):
  layer = toy_training.Model(dropout=0.1, memory=True)
  batch = state.shapes_of(toy_training.Data().train_batch(0))

  def types():
    start = jax.eval_shape(
      lambda: state.init_train_state(layer, optimizer, batch, toy.KEY)
    )
    state.store_shapes(layer, start.weights, start.model_state)
    lanes = state.lane_axes(layer, batch, start.model_state)
    step = make_train_step(layer, optimizer, lanes, accumulate_steps=2)
    after, metrics = _abstract(step, start, batch)
    assert _types(after) == _types(start)
    _, sums = _abstract(
      make_eval_step(layer), start.weights, start.model_state, batch
    )
    return _types([start, metrics, sums])

  narrow, wide = _in_64_bits(types)
  assert wide == narrow


def test_a_layer_of_trax_returns_the_dtype_of_its_input():
  jax.config.update('jax_enable_x64', True)
  layer = hl.LSHAttention(8, 2, chunk_len=4, dropout=0.1)
  x = toy.normal(2, 8, 8)
  weights, model_state = toy.shapes(layer, x)
  y, _ = jax.eval_shape(layer.pure_fn, x, weights, model_state, toy.KEY)
  assert y.dtype == np.float32


class Plain(base.Layer):
  """A user's layer, whose weights and state have JAX's default types."""

  def init_weights_and_state(self, signature):
    self.weights = jnp.ones(signature.shape[-1])
    self.state = jnp.zeros((), int)

  def forward(self, x):
    self.state = self.state + 1
    return x * self.weights


def test_layers_of_users_have_the_same_types():
  def types():
    layer = tl.Serial(tl.Embedding(9, 4), Plain())
    batch = state.token_shapes((2, 3))
    weights, model_state = state.abstract_init(layer, batch)
    step = jax.eval_shape(
      lambda *x: apply_model(layer, *x, toy.KEY, jnp.float32),
      weights,
      model_state,
      {name: jnp.zeros(x.shape, x.dtype) for name, x in batch.items()},
    )
    return _types([weights, model_state, step])

  narrow, wide = _in_64_bits(types)
  assert wide == narrow


def test_a_run_continues_exports_and_samples_the_same(tiny_run, tmp_path):
  """Its checkpoint was written without jax_enable_x64."""

  def continue_run():
    folder = tmp_path / str(jax.config.jax_enable_x64)
    shutil.copytree(tiny_run.folder, folder / 'run')
    config.clear()
    config.parse([str(folder / 'run/config.gin')], ['train.steps = 6'])
    result = train(output_dir=str(folder / 'run'))
    cli.main(['export', f'--run={folder}/run', f'--output={folder}/export'])
    loaded = trax_hier.load(folder / 'export')
    prompts = [loaded.vocab.encode(text) for text in ('7 is', '')]
    sample = functools.partial(
      generate, loaded.model, loaded.weights, prompts, n_tokens=12
    )
    sampled = sample(temperature=0), sample(seed=3, top_p=0.9, stop=[[32]])
    config.clear()
    return sampled, _types(loaded.weights), result.evaluation

  (narrow, types, scores), others = _in_64_bits(continue_run)
  toy.close((narrow, scores), (others[0], others[2]))
  assert others[1] == types


def test_beams_are_the_same():
  layer = toy_training.Model('eval')
  shapes, _ = toy.shapes(layer, toy.tokens(4))
  weights = toy.random_like(shapes, scale=1.0)

  def search():
    def model(mode, max_len=None):
      return toy_training.Model(mode)

    prompts = [[3], [4, 5]]
    return list(
      generate(model, weights, prompts, 5, n_beams=3, stop=[[4], [1, 2]])
    )

  narrow, wide = _in_64_bits(search)
  jax.tree.map(np.testing.assert_array_equal, wide, narrow)
