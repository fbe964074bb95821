"""Programs lowered for GPU and TPU, on a machine that has neither.

Lowering traces a program and translates it to StableHLO, without a compiler. It
shows operations that a platform lacks, callbacks to Python, transfers from and
to the host, 64-bit numbers, and states whose memory is not reused.

The programs are those that the layers choose where no CPU is in use. What a
layer leaves to cuDNN needs a GPU, even to be traced.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable

import contract
import jax
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier import models
from trax_hier.commands.describe_zero_batches import ZeroBatches
from trax_hier.generation.programs import (
  Programs,
  Request,
  Sampling,
  weights_converter,
)
from trax_hier.models import (
  BlockRecurrentLM,
  ReversibleLM,
  Terraformer,
)
from trax_hier.training import SGD, Adafactor, Adam
from trax_hier.training.build import build
from trax_hier.training.state import abstract_init, shapes_of

P = functools.partial
PLATFORMS = 'cuda', 'tpu'
ROWS, MAX_LEN = 2, 16
TO_HOST = 'infeed', 'outfeed', 'send', 'recv'
REUSED = r'tf\.aliasing_output|jax\.buffer_donor'


@dataclasses.dataclass(frozen=True)
class Case:
  """A model and how it is trained.

  Attributes:
    model: Factory of the model.
    source_length: Length of the sources; None without.
    length: Tokens of a row.
    decodes: Whether the model has a predict mode.
    training: Further arguments of `build`.
  """

  model: Callable
  source_length: int | None = None
  length: int = contract.LENGTH
  decodes: bool = True
  training: dict = dataclasses.field(default_factory=dict)

  def data(self):
    return ZeroBatches(ROWS, self.length, self.source_length)


_HASHED = dict(toy.SIZES, attention=P(hl.LSHAttention, chunk_len=4))
# What the rows of the contract suite leave out.
OTHERS = {
  'carried memory': Case(
    P(
      BlockRecurrentLM,
      n_layers=2,
      recurrent_layers=(2,),
      attention=contract._SLIDING,
      recurrent_attention=contract._CELL,
      **toy.SIZES,
    ),
    length=12,
    training={'accumulate_steps': 2},
  ),
  'hashed attention': Case(
    P(ReversibleLM, n_layers=2, **_HASHED), length=12, decodes=False
  ),
  'hashed attention, sources': Case(
    P(Terraformer, n_encoder_layers=2, n_decoder_layers=2, **_HASHED),
    source_length=4,
    length=12,
    decodes=False,
  ),
  'micro-batches, chunks of the loss': Case(
    contract.ROWS['transformer'].model,
    training={
      'accumulate_steps': 2,
      'loss_chunk': 5,
      'label_smoothing': 0.1,
      'optimizer': Adafactor,
    },
  ),
  'sgd': Case(
    contract.ROWS['transformer'].model, training={'optimizer': P(SGD, 0.1)}
  ),
}
CASES = {
  name: Case(row.model.with_inputs, source_length=7)
  if hasattr(row.model, 'with_inputs')
  else Case(row.model)
  for name, row in contract.ROWS.items()
} | OTHERS
IN_CI = ('transformer', 'float32'), ('block-recurrent', 'bfloat16')

each_case = pytest.mark.parametrize(
  ('name', 'dtype'),
  [
    pytest.param(*case, marks=[pytest.mark.slow] * (case not in IN_CI))
    for case in ((name, x) for name in CASES for x in ('float32', 'bfloat16'))
  ],
)


@pytest.fixture(autouse=True)
def without_cpu(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')


def check(function, *arguments, name, donated=None):
  """Lowers and checks a program.

  Args:
    function: Jitted function.
    *arguments: Its arguments, or their shapes.
    name: Name of the program, for messages.
    donated: Place of the argument whose memory the program reuses.
  """
  kept = [x for i, x in enumerate(arguments) if i != donated]
  kept = [x for x in jax.tree.leaves(kept) if hasattr(x, 'shape')]
  traced = function.trace(*arguments)
  for platform in PLATFORMS:
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    where = f'{name}, {platform}'
    assert not re.findall('custom_call.*callback', text), where
    assert not [op for op in TO_HOST if f'stablehlo.{op}' in text], where
    assert not re.findall(r'tensor<[\dx]*(?:f64|complex)', text), where
    assert not not_reused(text) - collections.Counter(map(type_of, kept)), where


def not_reused(text):
  """Counts the arguments that keep their memory, by type.

  Arguments that a program does not need are not in its text.
  """
  signature = re.search(r'@main\((.*?)\) -> ', text, re.DOTALL)[1]
  arguments = re.findall(r'%arg\d+: tensor<(.*?)>([^%]*)', signature)
  return collections.Counter(
    kind for kind, more in arguments if not re.search(REUSED, more)
  )


def type_of(x):
  """The type of an array in StableHLO, such as '2x13xi32'."""
  bits = 1 if x.dtype == bool else 8 * x.dtype.itemsize
  kinds = {'float': 'f', 'bfloat': 'bf', 'bool': 'i', 'int': 'i', 'uint': 'ui'}
  return 'x'.join(
    [*map(str, x.shape), kinds[x.dtype.name.rstrip('0123456789')] + str(bits)]
  )


@each_case
def test_training_and_evaluation(name, dtype):
  case = CASES[name]
  data = case.data()
  training = {'optimizer': Adam, 'compute_dtype': dtype, **case.training}
  built = build(P(case.model, dropout=0.1), data, **training)
  batch = shapes_of(data.train_batch(0))
  check(built.step, built.abstract, batch, name='training', donated=0)
  evaluator = built.evaluator
  arguments = built.abstract.weights, evaluator.layer.state, batch
  check(evaluator._step, *arguments, name='evaluation', donated=1)


@each_case
def test_generation(name, dtype):
  case = CASES[name]
  if not case.decodes:
    pytest.skip('the model has no predict mode')
  batch = shapes_of(case.data().train_batch(0))
  weights, _ = abstract_init(case.model(mode='eval'), batch)
  convert = weights_converter(case.model, '', dtype)
  check(convert, weights, name='conversion')
  weights = jax.eval_shape(convert, weights)
  programs = Programs(
    case.model, ROWS, MAX_LEN, dtype, case.source_length, compile_fast=False
  )
  n_ids = programs.n_ids(weights)
  request = Request(
    Sampling(np.float32(1), np.int32(5), np.float32(0.9), np.int32(n_ids)),
    jax.random.PRNGKey(0),
    np.int32(4),
    np.zeros((1, 2), np.int32),
  )
  tokens, lengths = np.zeros((ROWS, 1 + MAX_LEN), np.int32), np.int32([3, 5])
  begin = weights, tokens, lengths, request, batch.get('sources')
  check(programs.start, *begin, name='start')
  decoding = jax.eval_shape(programs.start, *begin)
  check(programs._read, weights, decoding, 4, name='prompt', donated=1)
  goal = request, np.int32(MAX_LEN)
  decode = programs.decode
  check(decode, weights, decoding, *goal, name='sampling', donated=1)
  if name in contract.ROWS and contract.ROWS[name].slow:
    return
  beams = programs.start_beams
  check(beams, weights, decoding, 2, np.float32(0.6), name='first beams')
  decoding = jax.eval_shape(
    lambda *x: beams(*x, 2, np.float32(0.6)), weights, decoding
  )
  check(decode, weights, decoding, *goal, name='beam search', donated=1)


def with_callback(x):
  jax.debug.callback(lambda x: None, x)
  return x


FAULTS = {
  'debug callback': with_callback,
  'pure callback': lambda x: jax.pure_callback(np.sin, x, x),
  'memory is not reused': lambda x: x[:1],
}


@pytest.mark.parametrize('name', FAULTS)
@pytest.mark.filterwarnings('ignore:Some donated buffers')
def test_faults_are_found(name):
  function = jax.jit(FAULTS[name], donate_argnums=0)
  # JAX refuses some callbacks itself.
  with pytest.raises((AssertionError, ValueError), match='cuda'):
    check(function, np.ones(4, np.float32), name=name, donated=0)


def test_every_model_is_a_case():
  factories = {getattr(case.model, 'func', None) for case in CASES.values()}
  assert {getattr(models, name) for name in models.__all__} <= factories
