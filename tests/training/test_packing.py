"""Training on rows that hold several documents."""

import functools

import jax
import numpy as np
import pytest
import toy
import toy_training

from trax_hier import layers as hl
from trax_hier.data import FromArrays, Mixture, SpanCorruption
from trax_hier.models import BlockRecurrentLM, HourglassLM, ReversibleLM
from trax_hier.training.build import build
from trax_hier.training.optimizers import SGD
from trax_hier.training.packing import check_documents

P = functools.partial
LENGTH = 24
# In rows of their own, or in two rows, where they fill multiples of 4 tokens.
SIZES = 3, 9, 6, 11, 2, 1


def documents():
  rng = np.random.default_rng(0)
  return [rng.integers(1, toy.VOCAB, n) for n in SIZES]


def data(packed, batch_size, multiple_of=4):
  texts = documents()
  return FromArrays(
    texts,
    batch_size,
    LENGTH,
    valid=texts[:3],
    vocab_size=toy.VOCAB,
    packed=packed,
    multiple_of=multiple_of if packed else 1,
  )


def hourglass(**kwargs):
  sizes = dict(toy.SIZES, hierarchy='1@2 2@4 1@2', remat=True, max_len=LENGTH)
  return P(HourglassLM, **{**sizes, **kwargs})


MODELS = {
  'hourglass': hourglass(),
  'recurrence, convolutions, reversible': P(
    ReversibleLM,
    n_layers=2,
    attention=P(hl.SparseAttention, n_modules=4),
    feed_forward=P(hl.SRUBranch, d_sru=4),
    positions=P(hl.LearnedPositions, LENGTH),
    **{n: toy.SIZES[n] for n in ('vocab_size', 'd_model', 'dropout')},
    max_len=LENGTH,
  ),
}


def step(model, data, **kwargs):
  """Weights and metrics after a step on all documents."""
  built = build(model, data, P(SGD, learning_rate=1.0), **kwargs)
  state = built.init(jax.random.PRNGKey(0))
  state, metrics = built.step(state, built.train_rows(0))
  assert built.evaluator(state.weights)['tokens'] == sum(SIZES[:3])
  return jax.tree.leaves(state.weights), metrics, built.evaluator(state.weights)


@pytest.mark.parametrize('model', MODELS)
def test_a_step_is_that_of_documents_in_rows_of_their_own(model):
  packed = data(packed=True, batch_size=2)
  assert packed.rows_per_epoch == 2
  weights, metrics, scores = step(
    MODELS[model], packed, accumulate_steps=2, loss_chunk=5
  )
  apart = step(MODELS[model], data(packed=False, batch_size=len(SIZES)))
  for a, b in zip(weights, apart[0], strict=True):
    np.testing.assert_allclose(a, b, 0, 2e-5)
  np.testing.assert_allclose(metrics, apart[1], 1e-4)
  assert scores['loss'] == pytest.approx(apart[2]['loss'], rel=1e-5)


@pytest.mark.parametrize(
  ('model', 'multiple_of', 'message'),
  [
    (
      hourglass(),
      2,
      r'a document begins at token \d+ of row 0, .* a multiple of 4 tokens',
    ),
    (hourglass(hierarchy='1@5'), 4, 'a multiple of 5 tokens .* row, 24, must'),
    (
      hourglass(
        shortened_block=P(hl.DecoderBlock, attention=hl.SlidingAttention)
      ),
      4,
      'not keep apart in .*SlidingAttention / PastRows: .*packed = False',
    ),
    (
      P(BlockRecurrentLM, n_layers=1, recurrent_layers=(), **toy.SIZES),
      4,
      'not keep apart in .*Lanes',
    ),
    (toy_training.Model, 1, 'not keep apart in Model / ShiftRight'),
  ],
)
def test_misfits_are_found_before_anything_compiles(
  model, multiple_of, message, monkeypatch
):
  monkeypatch.setattr(jax.stages.Traced, 'lower', pytest.fail)
  with pytest.raises(ValueError, match=message):
    build(model, data(True, 2, multiple_of), P(SGD, learning_rate=1.0))


def test_every_batch_is_checked():
  ids = np.array([[1, 1, 1, 1, 2, 2], [1, 1, 2, 2, 2, 2]])
  check_documents({'documents': ids}, 2, 'train_batch(7)')
  with pytest.raises(ValueError, match=r'train_batch\(7\).*token 2 of row 1'):
    check_documents({'documents': ids}, 4, 'train_batch(7)')


def test_mixtures_and_corruption():
  packed, plain = data(True, 2), data(False, 2)
  mixture = Mixture((packed, packed), (1, 2))
  assert mixture.train_batch(0)['documents'].max() > 1
  with pytest.raises(ValueError, match='documents 2x24'):
    Mixture((packed, plain))
  with pytest.raises(ValueError, match='packed = False'):
    SpanCorruption(packed, 24, 24, 40)
