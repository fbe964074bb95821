"""The loss: label smoothing, and chunks of the length."""

import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
import toy_training
from test_mesh import on_devices

from trax_hier import layers as hl
from trax_hier.compat import ShapeDtype, base, tl
from trax_hier.models import (
  BlockRecurrentLM,
  ScalingTransformer,
  TransformerLM,
)
from trax_hier.training.build import build
from trax_hier.training.loss import (
  Loss,
  _sum_over_chunks,
  row_scores,
  weighted_sums,
)
from trax_hier.training.optimizers import SGD

P = functools.partial
# With carried memory.
RECURRENT = P(
  BlockRecurrentLM,
  n_layers=2,
  recurrent_layers=(2,),
  attention=P(hl.SlidingAttention, window=5),
  recurrent_attention=P(hl.BlockRecurrentCell, window=5, n_states=3),
  **toy.SIZES,
)
MULTIPLICATIVE = P(
  TransformerLM,
  n_layers=1,
  logits=P(hl.MultiplicativeDense, n_modules=17),
  **toy.SIZES,
)
WITH_SOURCES = P(
  ScalingTransformer,
  n_encoder_layers=1,
  n_decoder_layers=1,
  attention=hl.SelfAttention,
  feed_forward=hl.FeedForward,
  **toy.SIZES,
)


class Tokens(toy_training.Data):
  """Rows of 10 tokens, some of weight 0; with sources, if asked."""

  vocab = type('Vocab', (), {'size': toy.VOCAB})

  def __init__(self, sources=False):
    super().__init__(rows=4, length=10)
    self._sources = {'sources': np.full((4, 7), 3, np.int32)} if sources else {}

  def _batch(self, seed, scored):
    batch = super()._batch(seed, scored)
    batch['weights'][0, 7:] = 0
    batch['weights'][1] *= 0.5
    batch['start_of_sequence'] = np.array([True, False, True, False])
    return batch | self._sources


def train(model, data, **options):
  """The metrics and weights of two steps, and the evaluation after them."""
  built = build(model, data, P(SGD, 0.5), **options)
  state, metrics = built.init(jax.random.PRNGKey(0)), []
  for step in range(2):
    state, values = built.step(state, data.train_batch(step))
    metrics.append(np.asarray(values))
  weights = jax.device_get(state.weights)
  return metrics, weights, built.evaluator(state.weights)


def gap(a, b):
  return max(
    float(np.abs(x - y).max())
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


@pytest.mark.parametrize(
  'model, chunk, options',
  [
    # 10 positions are three chunks of 4, 4 and 2, or one.
    (MULTIPLICATIVE, 4, {}),
    (RECURRENT, 4, dict(accumulate_steps=2)),
    pytest.param(MULTIPLICATIVE, 99, {}, marks=pytest.mark.slow),
    pytest.param(MULTIPLICATIVE, 1, {}, marks=pytest.mark.slow),
    pytest.param(RECURRENT, 5, {}, marks=pytest.mark.slow),
    pytest.param(WITH_SOURCES, 4, {}, marks=pytest.mark.slow),
    pytest.param(
      RECURRENT, 4, dict(label_smoothing=0.1), marks=pytest.mark.slow
    ),
    *[
      pytest.param(contract.ROWS[name].model, 4, {}, marks=pytest.mark.slow)
      for name in (
        'hourglass',
        'top-down',
        'bottom-up',
        'retina',
        'reversible',
      )
    ],
  ],
)
def test_chunks_change_nothing(model, chunk, options):
  data = Tokens(sources=model is WITH_SOURCES)
  whole = train(model, data, **options)
  parts = train(model, data, **options, loss_chunk=chunk)
  assert gap(parts[0], whole[0]) < 2e-6
  assert gap(parts[1], whole[1]) < 1e-6
  assert gap(parts[2], whole[2]) < 1e-6


def test_among_equal_logits_the_first_one_is_the_prediction():
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.integers(0, 3, (4, 50, 5)), jnp.bfloat16)
  targets = jnp.asarray(rng.integers(0, 5, (4, 50)))
  weights = jnp.ones(targets.shape)
  expected = jnp.sum(jnp.argmax(logits, axis=-1) == targets)
  _, correct = weighted_sums(logits, {'targets': targets, 'weights': weights})
  assert correct == expected
  assert row_scores(logits, targets, weights)[:, 2].sum() == expected


@pytest.mark.slow
def test_chunks_change_nothing_on_a_mesh():
  found = on_devices('run_chunked_loss.py', n=4)
  assert found['gap'] < 2e-6


@pytest.mark.parametrize('chunk', [None, 3])
def test_label_smoothing_equals_trax(chunk):
  """The loss; the metrics keep the plain cross entropy."""
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(4, 10, 16)), jnp.float32)
  head = hl.Head(tl.Fn('Logits', lambda x: x))
  batch = toy_training.Data(rows=4, length=10).train_batch(0)
  batch['weights'][0, 7:] = 0
  plain, correct = weighted_sums(logits, batch)

  def apply():
    return head.pure_fn(logits, ((),), ((),), toy.KEY)

  head.init(ShapeDtype(logits.shape))
  loss = Loss(label_smoothing=0.1, chunk=chunk)
  objective, values, _ = loss.training_sums(head, apply, batch)
  theirs = tl.WeightedCategoryCrossEntropy(label_smoothing=0.1)
  expected = theirs((logits, batch['targets'], batch['weights']))
  expected *= np.sum(batch['weights'])
  np.testing.assert_allclose(objective, expected, rtol=1e-6)
  np.testing.assert_allclose(values, [plain, correct], rtol=1e-6)
  assert abs(objective - plain) > 0.1


def test_label_smoothing_changes_the_gradient_but_not_the_evaluation():
  model, data = toy_training.Model, toy_training.Data()
  (plain, _), weights, _ = train(model, data)
  (smooth, _), smoothed, _ = train(model, data, label_smoothing=0.2)
  assert smooth[0] == pytest.approx(plain[0], rel=1e-6)
  assert abs(smooth[2] - plain[2]) > 1e-3
  assert gap(weights, smoothed) > 1e-3
  first, second = (
    build(model, data, P(SGD, 0.5), label_smoothing=x).evaluator(weights)
    for x in (0.0, 0.2)
  )
  assert first == second


@pytest.mark.parametrize('chunk', [None, 4])
def test_sequence_accuracy(chunk):
  """Of 3 scored rows, one is all correct: trax counts rows without scores."""
  targets = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 2, 1], [0, 0, 0, 0]])
  weights = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0.0]])
  guesses = np.array([[1, 2, 3, 4], [1, 2, 2, 4], [4, 3, 2, 2], [3, 3, 3, 3]])
  weights[1, 2], weights[2, 3] = 0, 0.5
  logits = jax.nn.one_hot(guesses, 5)
  scores = row_scores(logits, targets, weights)
  assert scores[:, 3].tolist() == [0, 0, 1, 0]
  batch = {'targets': targets, 'weights': weights}
  sums, _ = Loss().evaluation_sums(None, lambda: (logits, ()), batch)
  assert sums[3:].tolist() == [2, 3]
  # trax gives 1 for a row without scores.
  theirs = tl.MaskedSequenceAccuracy()((logits, targets, weights))
  assert float(theirs) == (2 + 1) / 4


def _next(x):
  return 9 * jax.nn.one_hot((x + 1) % 16, 16)


def test_the_evaluation_has_the_sequence_accuracy():
  model = lambda mode: tl.Serial(  # noqa: E731
    tl.ShiftRight(mode=mode), tl.Fn('Guess', _next), hl.Head(tl.Dense(16))
  )
  data = toy_training.Data(rows=4, length=2)
  data.eval_batches = lambda split: [data.train_batch(0)]
  built = build(model, data, SGD)
  weights = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype) + (np.eye(16) if x.ndim > 1 else 0),
    built.abstract.weights,
  )
  values = built.evaluator(weights)
  # The first token is predicted from 0, so 1 is expected.
  firsts = data.train_batch(0)['targets'][:, 0]
  assert values['sequence_accuracy'] == np.mean(firsts == 1)
  assert values['accuracy'] == 0.5 + 0.5 * np.mean(firsts == 1)


def test_bfloat16_gradients_are_added_up_in_float32():
  x = jnp.ones((1, 1000))

  def total(weight):
    add = lambda x: jnp.sum(x * weight, axis=1)  # noqa: E731
    return _sum_over_chunks(add, (x,), 1)[0].astype(jnp.float32)

  # In bfloat16, 256 + 1 = 256.
  assert jax.grad(total)(jnp.bfloat16(1)) == 1000


def test_bfloat16_in_chunks():
  data, options = Tokens(), dict(compute_dtype='bfloat16')
  whole = train(MULTIPLICATIVE, data, **options)[0]
  parts = train(MULTIPLICATIVE, data, **options, loss_chunk=3)[0]
  np.testing.assert_allclose(parts, whole, rtol=1e-3)


def test_chunks_save_memory():
  """Logits are (4, 10, 8000); of 5 chunks, one is kept at a time."""
  model = P(TransformerLM, **(toy.SIZES | dict(n_layers=1, vocab_size=8000)))

  def temporary(chunk):
    built = build(model, Tokens(), P(SGD, 0.5), loss_chunk=chunk)
    step = built.step.lower(built.abstract, Tokens().train_batch(0)).compile()
    return step.memory_analysis().temp_size_in_bytes

  logits = 4 * 10 * 8000 * 4
  assert temporary(None) - temporary(2) > 1.5 * logits


def test_models_that_cannot_be_chunked_are_refused():
  def refused(model):
    with pytest.raises(ValueError, match=r'^train\.loss_chunk needs ') as error:
      build(model, Tokens(), P(SGD, 0.5), loss_chunk=4)
    return str(error.value)

  plain = lambda mode: tl.Serial(tl.Embedding(17, 8), tl.Dense(17))  # noqa: E731
  assert 'but train.model ends in Dense_17' in refused(plain)
  convolution = P(hl.SparseDense, n_modules=1)
  model = P(TransformerLM, n_layers=1, logits=convolution, **toy.SIZES)
  assert 'use @Dense, @MultiplicativeDense or @TiedLogits' in refused(model)

  class Mixing(base.Layer):
    def forward(self, x):
      return jnp.cumsum(x, axis=1)

  headed = lambda mode: tl.Serial(  # noqa: E731
    tl.Embedding(17, 8), hl.Head(Mixing(), tl.Dense(17))
  )
  assert 'contain a Mixing' in refused(headed)
  Mixing.is_positionwise = True  # A false promise, but the user's own.
  build(headed, Tokens(), P(SGD, 0.5), loss_chunk=4)


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(label_smoothing=1), r'train\.label_smoothing must be at least 0'),
    (dict(label_smoothing=-0.1), r'train\.label_smoothing must be at least 0'),
    (dict(loss_chunk=0), r'train\.loss_chunk must be None'),
    (dict(loss_chunk=True), r'train\.loss_chunk must be None'),
  ],
)
def test_errors_name_the_binding(options, message):
  with pytest.raises(ValueError, match=message):
    build(toy_training.Model, toy_training.Data(), SGD, **options)
