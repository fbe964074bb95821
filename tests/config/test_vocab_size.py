"""A model's vocab_size that no binding gives is that of the data."""

import gin
import pytest

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import config
from trax_hier.data import TextFiles
from trax_hier.layers.base.sharing import leaf_layers
from trax_hier.training import Adam
from trax_hier.training.build import build

MODEL = """
train.model = @TransformerLM
TransformerLM.n_layers = 0
TransformerLM.d_model = 8
TransformerLM.n_heads = 2
"""
SCOPED = 'train.model = @small/TransformerLM'


@pytest.fixture(autouse=True)
def no_bindings():
  config.clear()
  yield
  config.clear()


def n_ids():
  """The number of ids of the model, and its bindings of vocabulary sizes."""
  layers = leaf_layers(config.value('train.model')(mode='eval')).values()
  (n,) = {x._vocab_size for x in layers if hasattr(x, '_vocab_size')}
  lines = config.operative_text().splitlines()
  return n, [x for x in lines if 'vocab' in x.lower() and x[0] != '#']


@pytest.mark.parametrize(
  'bindings, lines',
  [
    ([], ['TransformerLM.vocab_size = 300']),
    (['TransformerLM.vocab_size = None'], ['TransformerLM.vocab_size = 300']),
    (
      ['TransformerLM.vocab_size = %VOCAB_SIZE', 'VOCAB_SIZE = None'],
      ['VOCAB_SIZE = 300', 'TransformerLM.vocab_size = %VOCAB_SIZE'],
    ),
    (
      ['TransformerLM.vocab_size = %A', 'A = %B', 'B = None', 'B = None'],
      ['TransformerLM.vocab_size = %A'],
    ),
    ([SCOPED], ['small/TransformerLM.vocab_size = 300']),
    (
      [SCOPED, 'TransformerLM.vocab_size = None'],
      ['small/TransformerLM.vocab_size = 300'],
    ),
  ],
)
def test_a_size_that_is_left_open(bindings, lines):
  config.parse([], [MODEL, *bindings])
  # A second data set, without another parse, replaces the size.
  config.set_vocab_size('train.model', 20)
  assert n_ids()[0] == 20
  config.set_vocab_size('train.model', 300)
  assert n_ids() == (300, lines)
  config.check_used(['train'])


@pytest.mark.parametrize(
  'bindings',
  [
    ['TransformerLM.vocab_size = 256'],
    ['TransformerLM.vocab_size = %V', 'V = 256'],
    [SCOPED, 'small/TransformerLM.vocab_size = 256'],
    [SCOPED, 'TransformerLM.vocab_size = 256'],
  ],
)
def test_a_size_that_is_given_stays(bindings):
  config.parse([], [MODEL, *bindings])
  config.set_vocab_size('train.model', 300)
  assert n_ids()[0] == 256


def test_without_data_it_must_be_given():
  config.parse([], [MODEL, 'TransformerLM.vocab_size = None'])
  with pytest.raises(TypeError) as caught:
    config.value('train.model')(mode='eval')
  message = config.explain(caught.value)
  assert 'TransformerLM.vocab_size must be given a value' in message


def test_only_models_leave_it_open():
  with pytest.raises(
    config.ConfigError, match=r'SpanCorruption.vocab_size tak'
  ):
    config.parse([], ['SpanCorruption.vocab_size = None'])
  with pytest.raises(config.ConfigError, match=r'TransformerLM.d_model takes'):
    config.parse([], ['TransformerLM.d_model = None'])
  config.set_vocab_size('train.model', 300)  # There is no model.
  config.parse([], ['train.model = @my_model'])
  config.set_vocab_size('train.model', 300)
  assert config.value('train.model') is not None


@gin.configurable(module='test_vocab_size')
def my_model(mode: str):
  """A model without a vocabulary."""


def test_build_takes_the_size_from_the_data(tmp_path):
  (tmp_path / 'text').write_bytes(b'a text ' * 40)
  data = TextFiles(str(tmp_path / 'text'), 2, 16)
  config.parse([], [MODEL])
  built = build(config.value('train.model'), data, Adam)
  assert built.abstract.weights and n_ids()[0] == 256
  config.clear()
  config.parse([], [MODEL, 'TransformerLM.vocab_size = 100'])
  with pytest.raises(ValueError, match='the data needs'):
    build(config.value('train.model'), data, Adam)
