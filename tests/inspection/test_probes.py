"""Probes: samples and statistics of a model in training."""

import functools
import math
import types

import jax
import numpy as np
import pytest
import toy_training
from event_files import shown

from trax_hier import generation
from trax_hier.compat import tl
from trax_hier.inspection import probes
from trax_hier.layers import Repeat, SparseFF
from trax_hier.training import SGD
from trax_hier.training.build import build


def Decoder(mode='train', max_len=None, sparse=False):
  """A decoder to sample from; with `sparse`, its layers emit observations."""
  return tl.Serial(
    tl.ShiftRight(mode=mode),
    tl.Embedding(toy_training.VOCAB, 8),
    Repeat(lambda: SparseFF(12, 3, mode=mode), 2) if sparse else [],
    tl.Dense(toy_training.VOCAB),
  )


def built_and_weights(model):
  built = build(model, toy_training.Data(), SGD)
  return built, built.init(jax.random.PRNGKey(0)).weights


class Log:
  """A log that records the arguments of its methods."""

  def __init__(self):
    self.texts, self.histograms, self.values = [], [], []

  def text(self, *args):
    self.texts.append(args)

  def histogram(self, *args):
    self.histograms.append(args)

  def write(self, *args):
    self.values.append(args)


def test_probes_compile_once_and_keep_the_last_sample(monkeypatch):
  monkeypatch.setattr(probes, '_NEW_TOKENS', 10)
  model = functools.partial(Decoder, sparse=True)
  built, weights = built_and_weights(model)
  probe, log, said = probes.Probes(), Log(), []
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: (
      compiled.append(name)
      if name == '/jax/core/compile/backend_compile_duration'
      else None
    )
  )
  probe(built, 2, weights, log, said.append)
  other = jax.tree.map(lambda x: x + 0.1, weights)
  n_compiled = len(compiled)
  assert n_compiled
  probe(built, 4, other, log, said.append)
  assert len(compiled) == n_compiled and said == []

  (_, first, _, text), (_, second, name, other_text) = log.texts
  assert (first, second, name) == (2, 4, 'sample') and text != other_text
  batch = toy_training.Data().eval_batches('valid')[0]
  prompt = toy_training.Vocab().decode(batch['inputs'][0])
  assert other_text.startswith(
    f'sample, after held-out text in brackets:\n[{prompt}]'
  )
  assert len(other_text.split(']')[1].strip()) == 10

  names = [f'blocks.{i}.SparseFF/chosen' for i in range(2)]
  assert [x[:3] for x in log.histograms] == [
    ('probe', step, name) for step in (2, 4) for name in names
  ]
  for *_, counts, edges in log.histograms:
    assert counts.sum() == 12 and (edges[0], edges[-1]) == (0, 3)
  assert [x[:2] for x in log.values] == [('probe', 2), ('probe', 4)]
  assert log.values[0][2].keys() == {
    f'{name}/{key}' for name in names for key in ('entropy', 'never_chosen')
  }

  # The sample at the end of the run is the last one; no new one is generated.
  monkeypatch.setattr(generation, 'sample_text', None)
  assert probe.sample(4, model, built.data, other) == other_text


def test_a_model_without_observations_compiles_nothing():
  built, weights = built_and_weights(toy_training.Model)
  batch = built.evaluator.batch(0)
  observations = probes.Observations(built, weights, batch)
  assert observations._run is None and observations(weights) == {}


def test_a_failing_probe_prints_once_and_training_continues(
  tmp_path, monkeypatch, capsys
):
  calls = []

  def sample_text(*_, **settings):
    calls.append(1)
    raise ValueError('cannot decode\nmore')

  monkeypatch.setattr(generation, 'sample_text', sample_text)
  monkeypatch.setattr(probes, 'Observations', lambda *_: 1 / 0)
  probe = probes.Probes()
  result = toy_training.run(tmp_path, 4, probe=probe)
  out = capsys.readouterr().out
  assert result.step == 4 and len(calls) == 1
  assert out.count('no sample: cannot decode\n') == 1
  assert out.count('no histograms: ZeroDivisionError: ') == 1
  closing = probe.sample(4, result.model, result.data, result.weights)
  assert closing == 'no sample: cannot decode'
  assert not any(tag.startswith('probe') for tag, _ in shown(tmp_path))


def test_a_sample_that_is_not_finite_is_tried_again(monkeypatch):
  def sample_text(*_, **settings):
    if len(log.texts) == 0:
      raise FloatingPointError('logits')
    return 'text'

  monkeypatch.setattr(generation, 'sample_text', sample_text)
  built, weights = built_and_weights(toy_training.Model)
  probe, log = probes.Probes(), Log()
  probe(built, 1, weights, log, pytest.fail)
  probe(built, 2, weights, log, pytest.fail)
  (*_, first), (*_, second) = log.texts
  assert first == 'no sample: logits' and 'text' in second


def test_an_error_in_writing_the_log_is_raised(monkeypatch):
  class FullLog(Log):
    def text(self, *_):
      raise OSError(28, 'No space left on device')

  monkeypatch.setattr(generation, 'sample_text', lambda *_, **settings: 'x')
  built, weights = built_and_weights(toy_training.Model)
  with pytest.raises(OSError, match='No space'):
    probes.Probes()(built, 1, weights, FullLog(), print)


def test_the_sample_of_an_encoder_decoder_shows_the_source(monkeypatch):
  asked = []

  def sample_text(model, weights, vocab, prompt, *_, source, **settings):
    asked.append((prompt, source.tolist()))
    return 'target'

  monkeypatch.setattr(generation, 'sample_text', sample_text)
  monkeypatch.setattr(probes, '_SOURCE_CHARACTERS', 2)
  batch = {'sources': np.array([[3, 1, 2, 0, 0]])}
  assert probes.sample(None, toy_training.Vocab(), None, batch) == (
    'sample, for a held-out source in brackets:\n[db…]target\n'
  )
  assert asked == [('', [3, 1, 2])]


def test_the_held_out_text_is_one_document(monkeypatch):
  asked = []

  def sample_text(model, weights, vocab, prompt, *_, **settings):
    asked.append(prompt.tolist())
    return '!'

  monkeypatch.setattr(generation, 'sample_text', sample_text)
  batch = {
    'inputs': np.array([[3, 1, 2, 0, 2, 2, 3, 0]]),
    'weights': np.array([[1, 1, 1, 0, 1, 1, 1, 0]]),
    'documents': np.array([[1, 1, 1, 1, 2, 2, 1, 0]]),
  }
  probes.sample(None, toy_training.Vocab(), None, batch)
  assert asked == [[3, 1, 2]]


def test_images_have_no_sample(monkeypatch):
  monkeypatch.setattr(generation, 'sample_text', None)
  data = types.SimpleNamespace(unit='dim')
  assert probes.Probes().sample(1, None, data, None) == ''


@pytest.mark.parametrize(
  'counts, entropy, never_chosen',
  [
    ([[5, 5], [3, 3]], 1, 0),
    ([[8, 0], [0, 9]], 0, 0.5),
    ([[4, 0], [2, 2]], 0.5, 0.25),
    ([[4], [4]], 0, 0),
    (
      [[6, 2, 0, 0]],
      (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(4),
      0.5,
    ),
  ],
)
def test_summary_of_choices(counts, entropy, never_chosen):
  bins, edges, values = probes._summary(np.array(counts))
  assert values == {
    'entropy': pytest.approx(entropy),
    'never_chosen': pytest.approx(never_chosen),
  }
  assert bins.sum() == np.size(counts) and len(edges) == len(bins) + 1
  assert edges[-1] == len(counts[0])


def test_summary_of_gates():
  counts = np.zeros(probes.N_BINS, int)
  counts[[0, -1]] = 3, 1
  bins, edges, values = probes._summary(counts)
  assert (bins == counts).all() and (edges[0], edges[-1]) == (0, 1)
  low, high = 0.5 / probes.N_BINS, 1 - 0.5 / probes.N_BINS
  assert values == {'mean': pytest.approx((3 * low + high) / 4)}
