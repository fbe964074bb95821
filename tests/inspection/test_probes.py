"""What can be seen of a run: speed, events, probes, profiles, W&B."""

import contextlib
import dataclasses
import functools
import json
import math
import struct
import sys
import time
import types

import jax
import numpy as np
import pytest
import toy_training as toy
from tensorboardX import record_writer
from tensorboardX.proto.event_pb2 import Event, SessionLog

from trax_hier import generation
from trax_hier.compat import tl
from trax_hier.inspection import probes
from trax_hier.layers import Repeat, SparseFF
from trax_hier.training import (
  SGD,
  Adam,
  NotFiniteError,
  loop,
  read_metrics,
  train,
)
from trax_hier.training.build import build
from trax_hier.training.logging.metrics_log import MetricsLog
from trax_hier.training.stopping import Stopped
from trax_hier.training.utilization import mesh_peak_flops, peak_flops


def run(folder, steps=4, **changes):
  arguments = {
    'model': toy.Model,
    'data': toy.Data(),
    'optimizer': functools.partial(Adam, 0.01),
    'eval_every': 2,
    'log_every': 1,
  }
  return train(str(folder), steps=steps, **(arguments | changes))


def events(folder):
  """The events of all files, in the order of their names."""
  found = []
  for file in sorted(folder.glob('events.out.tfevents.*')):
    data = file.read_bytes()
    while data:
      (size,) = struct.unpack_from('Q', data)
      found.append(Event.FromString(data[12 : 12 + size]))
      data = data[16 + size :]
  return found


def shown(folder):
  """{(tag, step): value} as TensorBoard shows it, by the rules of resuming."""
  found = {}
  for event in events(folder):
    if event.session_log.status == SessionLog.START:
      found = {key: x for key, x in found.items() if key[1] < event.step}
    found |= {(v.tag, event.step): v for v in event.summary.value}
  return found


# Utilisation.


@pytest.mark.parametrize(
  'kind, teraflops',
  [
    ('NVIDIA A100-SXM4-80GB', 312),
    ('NVIDIA A100-SXM4-40GB MIG 1g.5gb', None),
    ('NVIDIA H100 80GB HBM3', 989),
    ('NVIDIA H100 PCIe', 756),
    ('NVIDIA H100 NVL', 835),
    ('NVIDIA H200', 989),
    ('NVIDIA GH200 480GB', 989),
    ('NVIDIA B200', 2250),
    ('NVIDIA GB200', 2500),
    ('NVIDIA L4', 121),
    ('NVIDIA L40S', 362),
    ('NVIDIA L40', None),
    ('Tesla T4', 65),
    ('Tesla V100-SXM2-16GB', 125),
    ('TPU v2', 23),
    ('TPU v3', 61.5),
    ('TPU v4', 275),
    ('TPU v4 lite', None),
    ('TPU v5', 459),
    ('TPU v5 lite', 197),
    ('TPU v6 lite', 918),
    ('TPU7x', 1153.5),
    ('cpu', None),
  ],
)
def test_peaks(kind, teraflops):
  expected = teraflops and pytest.approx(teraflops * 1e12)
  assert peak_flops(kind) == expected


@pytest.mark.parametrize('kind, peak', [('NVIDIA L4', 8 * 121e12), ('?', None)])
def test_the_peak_of_a_mesh_is_of_all_its_devices(kind, peak):
  devices = np.full((2, 4), types.SimpleNamespace(device_kind=kind))
  mesh = types.SimpleNamespace(devices=devices, size=8)
  assert mesh_peak_flops(mesh) == peak


def test_utilisation_is_shown_where_the_peak_is_known(
  tmp_path, monkeypatch, capsys
):
  run(tmp_path / 'cpu', 2)
  assert 'MFU' not in capsys.readouterr().out
  assert not any('mfu' in line for line in read_metrics(tmp_path / 'cpu'))
  monkeypatch.setattr(loop, 'peak_of_mesh', lambda mesh: 1e9)
  run(tmp_path / 'known', 3)
  # Logits are the one product of the model: 8 x 6 tokens, 8 wide, 16 ids.
  flops_per_token = 3 * 2 * 8 * 16
  lines = read_metrics(tmp_path / 'known')
  lines = [line for line in lines if line['kind'] == 'train']
  assert lines[-1]['mfu'] > 0
  for line in lines:
    assert line['mfu'] == pytest.approx(
      line['tokens_per_second'] * flops_per_token / 1e9
    )
  out = capsys.readouterr().out
  assert 'tokens/s, MFU ' in out and '%' in out


# The log.


def test_events_can_be_read_back_and_a_resumed_run_shows_once(tmp_path):
  edges = np.array([0.0, 0.5, 1.0])
  log = MetricsLog(tmp_path, 0)
  for step in (1, 2, 3):
    log.write('train', step, {'loss': step})
  log.histogram('look', 3, 'gate', np.array([3, 1]), edges)
  log.close()
  first = events(tmp_path)
  assert first[0].file_version == 'brain.Event:2'
  assert abs(first[-1].wall_time - first[0].wall_time) < 60
  # At once, within the same second, after a crash that lost step 3.
  log = MetricsLog(tmp_path, 2)
  log.write('train', 3, {'loss': 30})
  log.text('look', 3, 'sample', 'one *two*\n\nthree')
  log.close()
  found = shown(tmp_path)
  losses = {
    step: v.simple_value
    for (tag, step), v in found.items()
    if tag == 'train/loss'
  }
  assert losses == {1: 1, 2: 2, 3: 30}
  assert ('look/gate', 3) not in found
  (histogram,) = (
    v.histo for e in first for v in e.summary.value if v.tag == 'look/gate'
  )
  assert list(histogram.bucket) == [3, 1]
  assert list(histogram.bucket_limit) == [0.5, 1]
  assert (histogram.min, histogram.max, histogram.num) == (0, 1, 4)
  assert histogram.sum == 3 * 0.25 + 0.75
  text = found['look/sample/text_summary', 3]
  assert text.metadata.plugin_data.plugin_name == 'text'
  # Indented: to Markdown code, of which it makes nothing.
  (shown_text,) = text.tensor.string_val
  assert shown_text.decode() == '    one *two*\n    \n    three'


def test_a_full_disk_is_an_error_at_once(tmp_path, monkeypatch):
  monkeypatch.setattr(
    record_writer,
    'open_file',
    lambda path: open('/dev/full', 'wb'),  # noqa: SIM115
  )
  with pytest.raises(OSError, match='No space left'):
    MetricsLog(tmp_path, 0)


def test_a_disk_that_fills_up_is_an_error_in_the_run(tmp_path, monkeypatch):
  class Full:
    """A file on a disk that is full from the second flush on."""

    def __init__(self, path):
      self._file = open(path, 'wb')  # noqa: SIM115
      self._full = False

    def write(self, data):
      self._file.write(data)

    def flush(self):
      if self._full:
        raise OSError(28, 'No space left on device')
      self._full = True

    def close(self):
      self._file.close()

  monkeypatch.setattr(record_writer, 'open_file', Full)
  with pytest.raises(OSError, match='No space left'):
    run(tmp_path, 4)
  assert len(read_metrics(tmp_path)) == 3  # two steps and an evaluation


def test_a_host_that_does_not_speak_writes_nothing(tmp_path):
  log = MetricsLog(tmp_path, 0, speaks=False, wandb='never imported')
  log.write('train', 1, {'loss': 1})
  log.text('look', 1, 'sample', 'x')
  log.histogram('look', 1, 'gate', np.ones(1), np.ones(2))
  log.flush()
  log.close()
  assert not list(tmp_path.iterdir())


# Looks.


def Decodes(mode='train', max_len=None, sparse=False):
  """A model that can be sampled from; with something to observe if sparse."""
  return tl.Serial(
    tl.ShiftRight(mode=mode),
    tl.Embedding(toy.VOCAB, 8),
    Repeat(lambda: SparseFF(12, 3, mode=mode), 2) if sparse else [],
    tl.Dense(toy.VOCAB),
  )


@pytest.fixture
def quick(monkeypatch):
  """Has runs do no more than they must: steps and evaluations are stubs."""
  scores = dict(loss=1.0, bits_per_byte=1.0, accuracy=0.0, tokens=1.0)

  def quick_build(*arguments):
    return dataclasses.replace(
      build(*arguments),
      step=lambda state, batch: (state, np.ones(4)),
      evaluator=lambda weights: scores,
    )

  monkeypatch.setattr(loop, 'build', quick_build)


@pytest.mark.parametrize(
  'look_every, steps',
  [(None, [2, 4, 5]), (0, []), (3, [3, 5]), (5, [5])],
)
def test_when_there_are_looks(tmp_path, quick, look_every, steps):
  seen = []

  def look(built, step, weights, log, say):
    assert jax.tree.structure(weights) == jax.tree.structure(
      built.abstract.weights
    )
    log.write('look', step, {'x': step})
    seen.append(step)

  run(tmp_path, 5, look=look, look_every=look_every, checkpoint_every=5)
  assert seen == steps
  lines = read_metrics(tmp_path)
  assert [x['step'] for x in lines if x['kind'] == 'look'] == steps


def test_a_look_comes_when_all_is_saved_and_takes_no_time(tmp_path, quick):
  def look(built, step, weights, log, say):
    assert (tmp_path / 'checkpoints').is_dir()
    found = shown(tmp_path)
    assert ('train/loss', step) in found and ('valid/loss', step) in found
    time.sleep(1)

  run(tmp_path, 3, look=look, look_every=2)
  lines = [x for x in read_metrics(tmp_path) if x['kind'] == 'train']
  # It would be less if that second were in it: a step has 48 tokens.
  assert lines[-1]['step'] == 3 and lines[-1]['tokens_per_second'] > 48


def test_one_that_is_told_to_stop_does_not_look(tmp_path, quick, monkeypatch):
  listening = contextlib.nullcontext(lambda step: step == 2)
  monkeypatch.setattr(loop, 'listening', lambda: listening)
  with pytest.raises(Stopped):
    run(tmp_path, 4, look=pytest.fail, look_every=2, eval_every=4)


SGD_01 = functools.partial(SGD, 0.1)


@pytest.mark.parametrize('value', [-1, 2.5, True])
def test_look_every_is_checked(tmp_path, value):
  with pytest.raises(ValueError, match=r'train\.look_every must be None'):
    run(tmp_path, look_every=value)


def built_and_weights(model):
  built = build(model, toy.Data(), SGD_01)
  return built, built.init(jax.random.PRNGKey(0)).weights


class Log:
  """Keeps what it is given."""

  def __init__(self):
    self.texts, self.histograms, self.values = [], [], []

  def text(self, *args):
    self.texts.append(args)

  def histogram(self, *args):
    self.histograms.append(args)

  def write(self, *args):
    self.values.append(args)


def test_looks_compile_once_and_the_last_sample_is_kept(monkeypatch):
  monkeypatch.setattr(probes, '_TOKENS', 10)
  model = functools.partial(Decodes, sparse=True)
  built, weights = built_and_weights(model)
  look, log, said = probes.Probes(), Log(), []
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: (
      compiled.append(name)
      if name == '/jax/core/compile/backend_compile_duration'
      else None
    )
  )
  look(built, 2, weights, log, said.append)
  other = jax.tree.map(lambda x: x + 0.1, weights)
  n_compiled = len(compiled)
  assert n_compiled
  look(built, 4, other, log, said.append)
  assert len(compiled) == n_compiled and said == []

  (_, first, _, text), (_, second, name, other_text) = log.texts
  assert (first, second, name) == (2, 4, 'sample') and text != other_text
  batch = toy.Data().eval_batches('valid')[0]
  prompt = toy.Vocab().decode(batch['inputs'][0])
  assert other_text.startswith(
    f'sample, after held-out text in brackets:\n[{prompt}]'
  )
  assert len(other_text.split(']')[1].strip()) == 10

  names = [f'blocks.{i}.SparseFF/chosen' for i in range(2)]
  assert [x[:3] for x in log.histograms] == [
    ('look', step, name) for step in (2, 4) for name in names
  ]
  for *_, counts, edges in log.histograms:
    assert counts.sum() == 12 and (edges[0], edges[-1]) == (0, 3)
  assert [x[:2] for x in log.values] == [('look', 2), ('look', 4)]
  assert log.values[0][2].keys() == {
    f'{name}/{key}' for name in names for key in ('entropy', 'never_chosen')
  }

  # The closing sample: that of the last look, drawn no second time.
  monkeypatch.setattr(generation, 'sample_text', None)
  assert look.sample(4, model, built.data, other) == other_text


def test_nothing_is_compiled_where_nothing_can_be_observed():
  built, weights = built_and_weights(toy.Model)
  batch = built.data.eval_batches('valid')[0]
  observations = probes.Observations(built, weights, batch)
  assert observations._run is None and observations(weights) == {}


def test_a_look_that_fails_says_so_once_and_the_run_goes_on(
  tmp_path, monkeypatch, capsys
):
  calls = []

  def sample_text(*_):
    calls.append(1)
    raise ValueError('cannot decode\nmore')

  monkeypatch.setattr(generation, 'sample_text', sample_text)
  monkeypatch.setattr(probes, 'Observations', lambda *_: 1 / 0)
  look = probes.Probes()
  result = run(tmp_path, 4, look=look)
  out = capsys.readouterr().out
  assert result.step == 4 and len(calls) == 1
  assert out.count('no sample: cannot decode\n') == 1
  assert out.count('no histograms: ZeroDivisionError: ') == 1
  closing = look.sample(4, result.model, result.data, result.weights)
  assert closing == 'no sample: cannot decode'
  assert not any(tag.startswith('look') for tag, _ in shown(tmp_path))


def test_a_log_that_fails_in_a_look_is_an_error(monkeypatch):
  class FullLog(Log):
    def text(self, *_):
      raise OSError(28, 'No space left on device')

  monkeypatch.setattr(generation, 'sample_text', lambda *_: 'x')
  built, weights = built_and_weights(toy.Model)
  with pytest.raises(OSError, match='No space'):
    probes.Probes()(built, 1, weights, FullLog(), print)


def test_a_sample_for_a_source(monkeypatch):
  asked = []

  def sample_text(model, weights, vocab, prompt, n, temperature, seed, source):
    asked.append((prompt, source.tolist()))
    return 'target'

  monkeypatch.setattr(generation, 'sample_text', sample_text)
  monkeypatch.setattr(probes, '_SHOWN', 2)
  batch = {'sources': np.array([[3, 1, 2, 0, 0]])}
  assert probes.sample(None, toy.Vocab(), None, batch) == (
    'sample, for a held-out source in brackets:\n[db…]target\n'
  )
  assert asked == [('', [3, 1, 2])]


def test_of_pictures_there_is_no_sample(monkeypatch):
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
def test_numbers_of_choices(counts, entropy, never_chosen):
  bins, edges, values = probes._summary(np.array(counts))
  assert values == {
    'entropy': pytest.approx(entropy),
    'never_chosen': pytest.approx(never_chosen),
  }
  assert bins.sum() == np.size(counts) and len(edges) == len(bins) + 1
  assert edges[-1] == len(counts[0])


def test_numbers_of_gates():
  counts = np.zeros(probes.N_PARTS, int)
  counts[[0, -1]] = 3, 1
  bins, edges, values = probes._summary(counts)
  assert (bins == counts).all() and (edges[0], edges[-1]) == (0, 1)
  low, high = 0.5 / probes.N_PARTS, 1 - 0.5 / probes.N_PARTS
  assert values == {'mean': pytest.approx((3 * low + high) / 4)}


# Profiles.


@pytest.mark.parametrize(
  'value', [5, (1,), (0, 3), (2, 0), (1, 2.5), 'x', [1, True]]
)
def test_profile_steps_are_checked(tmp_path, value):
  with pytest.raises(ValueError, match=r'train\.profile_steps must be None'):
    run(tmp_path, profile_steps=value)


def profiles(folder):
  return list(folder.glob('profile/plugins/profile/*/*.xplane.pb'))


def test_a_profile_also_of_a_run_that_fails(tmp_path, capsys):
  explode = lambda n: np.float32(0.1) + (n >= 3) * np.float32(np.inf)  # noqa: E731
  with pytest.raises(NotFiniteError):
    run(
      tmp_path,
      9,
      optimizer=functools.partial(SGD, explode),
      profile_steps=(2, 5),
      eval_every=9,
    )
  assert profiles(tmp_path)
  assert (
    f'profile of steps 2 to 4: {tmp_path}/profile' in capsys.readouterr().out
  )
  # It is not on any more.
  jax.profiler.start_trace(str(tmp_path / 'other'))
  jax.profiler.stop_trace()


def test_a_profile_ends_before_the_run(tmp_path, quick, capsys):
  run(tmp_path, 5, profile_steps=(2, 1), eval_every=4)
  assert profiles(tmp_path)
  before, _, after = capsys.readouterr().out.partition(
    'profile of steps 2 to 2'
  )
  assert 'held-out' not in before and 'held-out' in after
  # Steps that a run does not come by are left out.
  run(tmp_path, 6, profile_steps=(2, 4), eval_every=4)
  assert len(profiles(tmp_path)) == 1


# W&B.


class FakeWandb(types.ModuleType):
  """Knows runs by their ids."""

  class Error(Exception):
    pass

  def __init__(self):
    super().__init__('wandb')
    self.inits, self.runs, self.fails = [], {}, False

  def init(self, **arguments):
    if self.fails:
      raise self.Error('no API key')
    self.inits.append(arguments)
    id_ = arguments['id'] or f'run{len(self.inits)}'
    logged = self.runs.setdefault(id_, [])
    return types.SimpleNamespace(
      id=id_,
      log=lambda values, step: logged.append((step, values)),
      finish=lambda: logged.append('finished'),
    )

  def Histogram(self, np_histogram):
    return ('histogram', np_histogram)

  def Html(self, text):
    return ('html', text)


@pytest.fixture
def wandb(monkeypatch):
  module = FakeWandb()
  monkeypatch.setitem(sys.modules, 'wandb', module)
  return module


def test_wandb_gets_the_metrics_and_resumes_as_one_run(tmp_path, wandb):
  run(tmp_path / 'mine', 2, wandb='project')
  run(tmp_path / 'mine', 4, wandb='project')
  first, second = wandb.inits
  assert first['project'] == 'project' and first['name'] == 'mine'
  assert first['id'] is None and second['id'] == 'run1'
  assert first['resume'] == 'allow'
  ((id_, logged),) = wandb.runs.items()
  assert id_ == 'run1' and logged.count('finished') == 2
  values = [x for x in logged if x != 'finished']
  steps = [step for step, value in values if 'train/loss' in value]
  assert steps == [1, 2, 3, 4]
  assert [step for step, value in values if 'valid/loss' in value] == [2, 4]


def test_wandb_gets_texts_and_histograms(tmp_path, wandb):
  log = MetricsLog(tmp_path, 0, wandb='project')
  counts, edges = np.array([1]), np.array([0.0, 1.0])
  log.text('look', 3, 'sample', '<b> & c')
  log.histogram('look', 3, 'gate', counts, edges)
  log.close()
  assert wandb.runs['run1'] == [
    (3, {'look/sample': ('html', '<pre>&lt;b&gt; &amp; c</pre>')}),
    (3, {'look/gate': ('histogram', (counts, edges))}),
    'finished',
  ]


def test_wandb_that_is_not_there_is_an_early_error(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)  # As if not installed.
  monkeypatch.setattr(loop, 'build', None)
  with pytest.raises(ValueError, match=r"pip install 'trax_hier\[wandb\]'"):
    run(tmp_path, wandb='project')
  with pytest.raises(
    ValueError, match=r'train\.wandb must be None or the name'
  ):
    run(tmp_path, wandb='')


def test_wandb_that_refuses_leaves_the_log_closed(tmp_path, wandb):
  wandb.fails = True
  with pytest.raises(OSError, match=r"train\.wandb = 'project': no API key"):
    MetricsLog(tmp_path, 0, wandb='project')


def test_what_is_seen_may_change_when_a_run_resumes():
  names = {'look_every', 'profile_steps', 'wandb'}
  assert {f'train.{name}' for name in names} <= loop._FREE


def test_lines_are_json(tmp_path):
  with open(tmp_path / 'metrics.jsonl', 'w') as file:
    json.dump({'kind': 'train', 'step': 1, 'loss': 2}, file)
  MetricsLog(tmp_path, 1).close()
  assert read_metrics(tmp_path) == [{'kind': 'train', 'step': 1, 'loss': 2}]
