"""Contract tests: properties that every model in `contract.ROWS` must have."""

import gc
import json

import contract
import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import pytest
import toy
from contract import LENGTH

from trax_hier import generation
from trax_hier.generation import programs
from trax_hier.layers.base.documents import document_multiple, mixing_layer
from trax_hier.training.packing import multiple_of_documents

GOLDEN = json.loads(contract.GOLDEN.read_text())
PACKED = 24  # Tokens in a row of documents: a multiple of all factors.
MANY_LENGTHS = [[4] + [1] * 9, [3, 4, 5, 1], [7, 2, 1, 3]]


@pytest.fixture(
  scope='module',
  params=[
    pytest.param(
      name,
      marks=[pytest.mark.slow] * row.slow,
    )
    for name, row in contract.ROWS.items()
  ],
)
def name(request):
  return request.param


@pytest.fixture
def model(name):
  return contract.subject(name)


def test_abstract_evaluation(model):
  out = jax.eval_shape(model.eval, model.shapes, model.tokens)
  assert (out.shape, out.dtype) == ((2, LENGTH, toy.VOCAB), jnp.float32)


def test_weight_tree_equals_the_golden_file(model, name):
  assert contract.record(model.shapes) == GOLDEN[name]


def test_every_logit_depends_on_all_tokens_before_it_and_no_others(model):
  for t in range(LENGTH):
    changed = model.tokens.copy()
    changed[:, t] = (changed[:, t] + 1) % toy.VOCAB
    moved = model.eval(model.weights, changed) != model.logits
    moved = np.asarray(moved.any(axis=-1))
    assert not moved[:, : t + 1].any(), f'earlier logits depend on token {t}'
    assert moved[:, t + 1 :].all(), f'token {t} has no effect'


def documents_of(multiple):
  """Two rows of two documents of tokens: rows, numbers, and begin of each."""
  ends = np.array([-(-5 // multiple) * multiple, PACKED])
  numbers = np.repeat([1, 2], np.diff(ends, prepend=0))
  rows = toy.tokens(PACKED, seed=2)
  return rows, np.broadcast_to(numbers, rows.shape), ends[0]


def test_documents_that_share_a_row_are_computed_as_if_alone(model):
  if model.model.n_in > 1 or mixing_layer(model.model):
    # Training refuses the model with these data.
    with pytest.raises(ValueError, match='does not keep apart in'):
      multiple_of_documents(model.model, {'documents': None})
    return
  rows, numbers, second = documents_of(document_multiple(model.model))
  packed = model.eval_documents(model.weights, rows, numbers)
  # By causality, logits do not depend on what follows a document in a row.
  alone = model.eval(model.weights, rows)
  np.testing.assert_allclose(packed[:, :second], alone[:, :second], 0, 1e-4)
  alone = model.eval(model.weights, np.roll(rows, -second, axis=1))
  np.testing.assert_allclose(
    packed[:, second:], alone[:, : PACKED - second], 0, 1e-4
  )
  rows[:, :second] = (rows[:, :second] + 1) % toy.VOCAB
  moved = model.eval_documents(model.weights, rows, numbers)
  np.testing.assert_array_equal(packed[:, second:], moved[:, second:])
  assert (packed[:, 1:second] != moved[:, 1:second]).any()


def is_bias(g, w):
  """Whether g has the shape of a bias of the kernel w."""
  n = g.ndim - 1
  return w.ndim > g.ndim and g.shape == w.shape[:n] + w.shape[-1:]


def test_every_weight_gets_a_gradient(model):
  gradients, _ = model.train_and_gradients(model.weights, toy.KEY)
  leaves = jax.tree.leaves(gradients)
  norms = [np.linalg.norm(g) for g in leaves]
  # The gradient of an idle bias is rounding errors: compare it with its kernel.
  idle = [
    norm == 0 or (is_bias(g, w) and norm < 0.01 * size)
    for g, norm, w, size in zip(
      leaves, norms, [leaves[-1], *leaves], [norms[-1], *norms], strict=False
    )
  ]
  assert sum(idle) == model.row.idle
  for g in (g for g, unused in zip(leaves, idle, strict=True) if not unused):
    # Every row (a block of a stack, or a feature) has a gradient, except in
    # tables of tokens and positions, some of which are not in x.
    rows = np.any(g, axis=tuple(range(1, g.ndim)))
    table_sizes = toy.VOCAB, contract.N_POSITIONS, contract.N_POSITIONS // 2
    assert rows.all() or len(g) in table_sizes


def test_no_small_weight_dominates_the_first_gradient(model):
  def start():
    layer = model.row.model(mode='train', dropout=0.0)
    return layer.init(toy.signature(model.tokens), toy.KEY)[0]

  gradients, _ = model.train_and_gradients(jax.jit(start)(), toy.KEY)
  leaves = jax.tree.leaves(gradients)
  squares = [np.sum(np.square(g)) for g in leaves]
  n_weights = sum(g.size for g in leaves)
  small = [
    square
    for g, square in zip(leaves, squares, strict=True)
    if g.size < n_weights / 50
  ]
  # Clipping by the norm would cut the gradients of all other weights.
  assert (max(small) >= 0.5 * sum(squares)) == model.row.dominated


def test_training_without_dropout_is_evaluation(model):
  logits = [
    model.train_and_gradients(model.weights, jax.random.PRNGKey(seed))[1]
    for seed in range(8 if model.row.noisy else 1)
  ]
  gaps = [np.abs(y - model.logits).max() for y in logits]
  assert min(gaps) < 1e-5
  if model.row.noisy:
    assert max(gaps) > 1e-2


def test_dropout_is_sampled_from_the_seed(model):
  train = jax.jit(model.train(0.2))
  first, again, other = (
    train(model.weights, jax.random.PRNGKey(seed)) for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).mean() > 0.9


def test_decoding_is_evaluation(model):
  splits = [[1] * LENGTH, [5] + [1] * 8, [1, 5, 1, 5, 1]]
  if model.row.thorough:
    splits += MANY_LENGTHS
  for lengths in splits:
    assert sum(lengths) == LENGTH
    np.testing.assert_allclose(
      model.decode(lengths), model.logits, 1e-5, 1e-5, err_msg=str(lengths)
    )


def test_greedy_generation_is_the_argmax_of_evaluation(model, monkeypatch):
  # Prompts end inside groups and are read in chunks of 5, 2 and 1 tokens.
  monkeypatch.setattr(programs, '_CHUNKS', (5, 2))
  monkeypatch.setattr(programs, '_LONG_PROMPT_BYTES', 0)
  prompts = [model.tokens[0, :9], model.tokens[1, :8]]
  new = generation.generate(
    model.row.model, model.weights, prompts, 4, temperature=0, max_len=LENGTH
  )
  rows = [np.concatenate(parts) for parts in zip(prompts, new, strict=True)]
  # Models are causal, so one evaluation gives the logits of all steps.
  whole = np.stack([np.pad(row, (0, LENGTH - len(row))) for row in rows])
  logits = model.eval(model.weights, whole)
  for y, prompt, tokens in zip(logits, prompts, new, strict=True):
    best = np.asarray(y).argmax(-1)[len(prompt) : len(prompt) + 4]
    np.testing.assert_array_equal(tokens, best)


def test_any_length(model):
  for length in (1, 5):
    y = model.eval(model.weights, model.tokens[:, :length])
    np.testing.assert_allclose(y, model.logits[:, :length], 1e-5, 1e-5)


def test_padding_does_not_change_the_logits(model):
  padded = np.pad(model.tokens, [(0, 0), (0, 24 - LENGTH)])
  y = model.eval(model.weights, padded)
  np.testing.assert_allclose(y[:, :LENGTH], model.logits, 1e-5, 1e-5)


def test_bfloat16(model):
  narrow = jax.tree.map(lambda w: w.astype(jnp.bfloat16), model.weights)
  # The float32 model with the same rounded weights is the closest reference.
  rounded = jax.tree.map(lambda w: w.astype(jnp.float32), narrow)
  y = model.eval(narrow, model.tokens)
  assert y.dtype == jnp.float32
  gap = y - model.eval(rounded, model.tokens)
  assert np.linalg.norm(gap) < 0.03 * np.linalg.norm(y)


def test_bfloat16_stays_bfloat16(model):
  narrow = jax.tree.map(lambda w: w.astype(jnp.bfloat16), model.weights)
  jaxpr = jax.make_jaxpr(model.eval)(narrow, model.tokens)
  products = [
    e for e in jaxprs.equations(jaxpr.jaxpr) if 'dot' in e.primitive.name
  ]
  assert len(products) > 5
  for product in products:
    assert {x.aval.dtype.name for x in product.invars} == {'bfloat16'}, product


def test_batches_of_one_shape_compile_once(model):
  model.eval(model.weights, model.tokens)
  before = model.n_compiled
  for seed in range(3):
    model.eval(model.weights, toy.tokens(LENGTH, seed=seed))
  assert model.n_compiled == before


@pytest.mark.parametrize(
  'name', ['transformer', 'hourglass factor dropout'], indirect=True
)
def test_nothing_leaks(model):
  layer = model.row.model(mode='train', dropout=0.1)
  toy.shapes(layer, model.tokens)
  # The check collects garbage at every call of a JAX function, which is slow
  # if there is much.
  gc.collect()
  gc.freeze()
  try:
    with jax.checking_leaks():
      jax.eval_shape(
        layer.pure_fn, model.tokens, model.shapes, model.state, toy.KEY
      )
  finally:
    gc.unfreeze()
