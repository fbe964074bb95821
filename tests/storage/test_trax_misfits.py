"""Messages about arrays of Trax that do not fit our model."""

import re

import numpy as np
import pytest

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import config
from trax_hier.storage.export import batch_shapes
from trax_hier.storage.trax_misfits import changes_that_fit
from trax_hier.storage.trax_order import MisfitError, convert, in_trax_order
from trax_hier.training.state import abstract_init

SIZES = """
MODEL.vocab_size = 20
MODEL.d_model = 16
MODEL.d_ff = 32
MODEL.n_heads = 2
"""
# Bindings of both models.
MODELS = {
  'TransformerLM': 'TransformerLM.positions = @LearnedPositions',
  'ScalingTransformer': """
ScalingTransformer.n_encoder_layers = 2
ScalingTransformer.n_decoder_layers = 2
SparseAttention.n_modules = 4
SparseFF.n_elements_in_block = 8
""",
  'Terraformer': """
Terraformer.n_encoder_layers = 1
Terraformer.n_decoder_layers = 2
SparseAttention.n_modules = 4
SparseFF.n_elements_in_block = 8
""",
  'HourglassLM': """
HourglassLM.hierarchy = '2@3'
HourglassLM.vanilla_layers = (2, 0)
LSHAttention.chunk_len = 2
""",
}
# The arguments in which the model of the file differs, as messages name them.
CASES = [
  ('TransformerLM', 'd_ff = 48'),
  ('TransformerLM', 'n_layers = 9'),
  ('TransformerLM', 'n_layers = 0'),
  (
    'TransformerLM',
    'vocab_size = 30',
    'd_model = 8',
    'd_ff = 48',
    'n_layers = 2',
  ),
  (
    'TransformerLM',
    'positions = @LearnedPositions, LearnedPositions.n_positions = 64',
  ),
  ('TransformerLM', 'positions = @NoPositions'),
  ('ScalingTransformer', 'n_encoder_layers = 4', 'n_decoder_layers = 3'),
  ('ScalingTransformer', 'n_encoder_layers = 1', 'n_decoder_layers = 0'),
  ('ScalingTransformer', 'attention = @SelfAttention'),
  ('ScalingTransformer', 'feed_forward = @FeedForward'),
  ('ScalingTransformer', 'cross_attention = @SparseCrossAttention'),
  ('Terraformer', 'n_decoder_attentions = 1'),
  ('Terraformer', 'recurrence = None'),
  ('HourglassLM', 'n_heads = 4'),
  ('HourglassLM', 'vanilla_layers = (3, 0)'),
  ('HourglassLM', 'vanilla_layers = (2, 2)'),
  ('HourglassLM', "hierarchy = '5@3'"),
  ('HourglassLM', "hierarchy = '2@2'"),
  ('HourglassLM', 'shorten = @LinearShorten'),
  (
    'HourglassLM',
    'shorten = @AttentionShorten, AttentionShorten.pool = @LinearShorten',
  ),
  ('HourglassLM', 'upsample = @RepeatUpsample'),
  (
    'HourglassLM',
    'vanilla_block = @vanilla/DecoderBlock, vanilla/DecoderBlock.attention = '
    '@LSHAttention',
  ),
]


@pytest.fixture(autouse=True)
def clear_config():
  yield
  config.clear()


def abstract(model):
  layer = model(mode='eval')
  batch = batch_shapes(6, 6 if layer.n_in == 2 else None)
  return layer, abstract_init(layer, batch)[0]


def build(name, *bindings):
  config.clear()
  text = f'train.model = @MODEL{SIZES}{MODELS[name]}'.replace('MODEL', name)
  config.parse(bindings=[text, *bindings])
  model = config.value('train.model')
  return model, *abstract(model)


@pytest.mark.parametrize(
  'name, changes',
  [
    pytest.param(n, c, marks=[pytest.mark.slow] * (n != 'TransformerLM'))
    for n, *c in CASES
  ],
)
def test_arguments_that_fit_are_named(name, changes):
  bindings = [
    binding
    for change in changes
    for binding in re.split(', (?=[A-Zv])', f'{name}.{change}')
  ]
  _, layer, shapes = build(name, *bindings)
  arrays = [np.zeros(a.trax_shape) for a in in_trax_order(layer, shapes)]
  model, layer, shapes = build(name)
  with pytest.raises(MisfitError, match='arrays, the file has'):
    convert(arrays, layer, shapes)
  expected = ', '.join(f'{name}.{change}' for change in changes)
  assert (
    changes_that_fit(model, [x.shape for x in arrays], abstract) == expected
  )
