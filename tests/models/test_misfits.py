"""Any part in any slot: the model works, or one message names the slot."""

import itertools
import random

import jax
import numpy as np
import pytest

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import config
from trax_hier.config import names
from trax_hier.config.types import parameter_hints, takes_reference
from trax_hier.training.build import check_logits
from trax_hier.training.state import abstract_init, token_shapes

OURS = 'trax_hier.layers.', 'trax_hier.models.'
SEQ2SEQ = 'ScalingTransformer', 'Terraformer'
# Sizes of a model.
SIZES = {
  'TransformerLM': ['n_layers = 2'],
  'HourglassLM': ["hierarchy = '1@2'"],
  'TopDownLM': ['scales = (1, 4)', 'n_layers = (1, 1)'],
  'BottomUpLM': ['scales = (1, 4)', 'n_layers = (1, 1)'],
  'RetinaLM': ['n_layers = 2', 'window = 16'],
  'BlockRecurrentLM': ['n_layers = 2', 'recurrent_layers = (2,)'],
  'ScalingTransformerLM': ['n_layers = 2'],
  'ReversibleLM': ['n_layers = 2'],
  'ScalingTransformer': ['n_encoder_layers = 1', 'n_decoder_layers = 1'],
  'Terraformer': ['n_encoder_layers = 1', 'n_decoder_layers = 1'],
}
# A model that has the layer, and the bindings that put it there.
HOSTS = {
  'SelfAttention': ('TransformerLM', []),
  'FeedForward': ('TransformerLM', []),
  'DecoderBlock': ('TransformerLM', []),
  'EncoderBlock': ('ScalingTransformer', []),
  'EncoderDecoderBlock': ('ScalingTransformer', []),
  'CrossAttention': ('ScalingTransformer', []),
  'AttentionShorten': ('HourglassLM', []),
  'AttentionUpsample': ('HourglassLM', []),
  'AttentionAggregation': ('BottomUpLM', []),
  'BlockRecurrentCell': ('BlockRecurrentLM', []),
  'DynamicStack': ('HourglassLM', ["HourglassLM.hierarchy = '1@~2'"]),
  'BoundaryPredictor': (
    'HourglassLM',
    [
      "HourglassLM.hierarchy = '1@~2'",
      'DynamicStack.boundaries = @BoundaryPredictor',
    ],
  ),
  'RetinaAttention': (
    'TransformerLM',
    ['DecoderBlock.attention = @RetinaAttention'],
  ),
  'SparseAttention': (
    'TransformerLM',
    ['DecoderBlock.attention = @SparseAttention'],
  ),
  'SparseCrossAttention': (
    'ScalingTransformer',
    ['ScalingTransformer.cross_attention = @SparseCrossAttention'],
  ),
  'FeedbackStack': (
    'BlockRecurrentLM',
    ['BlockRecurrentLM.feedback = @FeedbackStack'],
  ),
}
# Slots that the only caller of their owner sets.
SET_BY = {
  'EncoderBlock.attention': 'ScalingTransformer.encoder_attention',
  'EncoderBlock.feed_forward': 'ScalingTransformer.feed_forward',
  'EncoderDecoderBlock.attention': 'ScalingTransformer.attention',
  'EncoderDecoderBlock.feed_forward': 'ScalingTransformer.feed_forward',
  'EncoderDecoderBlock.cross_attention': 'ScalingTransformer.cross_attention',
  'BlockRecurrentCell.norm': 'BlockRecurrentLM.norm',
  'FeedbackStack.block': 'BlockRecurrentLM.block',
  'FeedbackStack.feed_forward': 'BlockRecurrentLM.feed_forward',
  'FeedbackStack.norm': 'BlockRecurrentLM.norm',
}
SMALL = [
  'SparseFF.n_elements_in_block = 4',
  'SparseAttention.n_modules = 4',
  'SparseDense.n_modules = 4',
  'SparseQKV.n_modules = 4',
  'SparseCrossAttention.n_modules = 4',
  'MultiplicativeDense.n_modules = 1',
  'SlidingAttention.window = 4',
  'BlockRecurrentCell.window = 4',
  'BlockRecurrentCell.n_states = 4',
  'FeedbackStack.window = 4',
  'FeedbackStack.n_states = 4',
  'LSHAttention.chunk_len = 4',
  'RetinaAttention.window = 16',
]


def registered():
  return {
    selector: found.wrapped
    for selector, found in names.registry().items()
    if selector.startswith(OURS)
  }


def slots():
  return [
    (selector.rsplit('.')[-1], name)
    for selector, wrapped in registered().items()
    for name, hint in parameter_hints(wrapped).items()
    if takes_reference(hint) and name != 'kernel_initializer'
    # Python only: the block of `Repeat` has no dimensions.
    if not selector.endswith('.Repeat')
  ]


CASES = list(itertools.product(slots(), registered()))
QUICK = random.Random(0).sample(CASES, 24)


@pytest.fixture(autouse=True)
def no_bindings():
  config.clear()
  yield
  config.clear()


def train_abstractly(model, bindings):
  sizes = ['vocab_size = 16', 'd_model = 16', 'd_ff = 32', 'n_heads = 2']
  sizes += ['max_len = 32', *SIZES[model]]
  config.parse([], [*(f'{model}.{x}' for x in sizes), *SMALL, *bindings])
  layer = names.registry()[f'trax_hier.models.{model}'].wrapper(mode='train')
  batch = token_shapes((2, 16))
  if model in SEQ2SEQ:
    batch['sources'] = jax.ShapeDtypeStruct((2, 16), np.int32)
  abstract_init(layer, batch)
  check_logits(layer, batch, 16)


def check(case):
  (owner, slot), part = case
  model, bindings = HOSTS.get(owner, (owner, []))
  binding = SET_BY.get(f'{owner}.{slot}', f'{owner}.{slot}')
  try:
    train_abstractly(model, [*bindings, f'{binding} = @{part}'])
  except ValueError as error:
    message = config.explain(error)
    assert binding in message, message
    assert '\n' not in message


def test_every_slot_has_a_host():
  assert {owner for owner, _ in slots()} <= {*HOSTS, *SIZES}


@pytest.mark.parametrize('case', QUICK, ids=str)
def test_a_part_works_or_is_refused_by_name(case):
  check(case)


@pytest.mark.slow
def test_all_parts_in_all_slots_work_or_are_refused_by_name():
  for case in CASES:
    config.clear()
    check(case)


@pytest.mark.parametrize(
  ('model', 'binding', 'reason'),
  [
    ('TransformerLM', 'TransformerLM.positions = @SelfAttention', 'position'),
    ('TransformerLM', 'TransformerLM.logits = @DenseQKV', '3 outputs'),
    ('TransformerLM', 'TransformerLM.logits = @SparseFF', 'not to'),
    ('TransformerLM', 'TransformerLM.block = @EncoderBlock', '2 inputs'),
    ('TransformerLM', 'DecoderBlock.attention = @EncoderAttention', '2 inputs'),
    ('TransformerLM', 'DecoderBlock.attention = @DecoderBlock', 'itself'),
    # The default that closes the circle is not to blame.
    ('TransformerLM', 'SelfAttention.qkv = @DecoderBlock', 'itself, by Dec'),
    ('TransformerLM', 'DecoderBlock.norm = @TransformerLM', 'is a model'),
    ('TransformerLM', 'DecoderBlock.attention = ()', 'at least one part'),
    ('HourglassLM', 'DecoderBlock.attention = @HourglassLM', 'is a model'),
    (
      'ScalingTransformer',
      'ScalingTransformer.cross_attention = @FixedGate',
      'cannot broadcast',
    ),
    # In the encoder they would attend to padding.
    (
      'ScalingTransformer',
      'ScalingTransformer.feed_forward = @SelfAttention',
      'padding',
    ),
    ('Terraformer', 'Terraformer.feed_forward = @RetinaAttention', 'padding'),
    ('HourglassLM', 'HourglassLM.shorten = @SelfAttention', 'not to'),
    ('BlockRecurrentLM', 'BlockRecurrentLM.feedback = @DecoderBlock', 'no arg'),
    ('ReversibleLM', 'ReversibleLM.positions = @RelativePositions', 'share'),
    ('BottomUpLM', 'BottomUpLM.aggregate = @ConcatDense', 'no argument'),
    ('TopDownLM', 'TopDownLM.block = @HourglassLM', 'is a model'),
    ('TopDownLM', 'TopDownLM.logits = @DenseQKV', '3 outputs'),
    ('RetinaLM', 'RetinaLM.block = @FeedForward', "no argument 'attention'"),
    ('RetinaLM', 'RetinaLM.logits = @FeedForward', 'FeedForward.d_model has'),
    ('Terraformer', 'Terraformer.norm = @Dense', 'Dense.d_out'),
    ('Terraformer', 'Terraformer.positions = @RelativePositions', 'share'),
    (
      'TransformerLM',
      'DecoderBlock.own_positions = @RelativePositions',
      'legal are @NoPositions',
    ),
    (
      'TransformerLM',
      'DecoderBlock.own_positions = @FixedBasePositions',
      'legal are @NoPositions',
    ),
    (
      'ScalingTransformer',
      'ScalingTransformer.recurrence = @SlidingAttention',
      'padding',
    ),
    ('TransformerLM', 'DecoderBlock.recurrence = @DenseQKV', 'DenseQKV'),
    ('TopDownLM', 'TopDownLM.coarse_block = @EncoderBlock', '2 inputs'),
    (
      'TopDownLM',
      'TopDownLM.inject = @ConcatAggregation',
      'scales has no v',
    ),
  ],
)
def test_misfit(model, binding, reason):
  with pytest.raises(ValueError, match=reason) as caught:
    train_abstractly(model, [binding])
  assert config.explain(caught.value).startswith(binding)


@pytest.mark.parametrize(
  ('model', 'binding', 'reason'),
  [
    (
      'TopDownLM',
      'TopDownLM.shorten = (@AverageShorten, @LinearShorten)',
      'a tuple of 1, one for each scale but the first',
    ),
    ('BottomUpLM', 'BottomUpLM.shorten = (@LinearUpsample,)', '2 inputs'),
    ('BottomUpLM', 'BottomUpLM.dropout = (0.1, 0.2, 0.3)', 'a tuple of 2'),
    ('BottomUpLM', 'BottomUpLM.dropout = (0.1, 1.0)', '.*below 1'),
    (
      'TransformerLM',
      'DecoderBlock.attention = (@SelfAttention, @EncoderAttention)',
      '2 inputs',
    ),
    (
      'HourglassLM',
      'DecoderBlock.attention = (@SelfAttention, @SparseAttention)',
      'must divide the number of blocks, 1',
    ),
    (
      'Terraformer',
      'Terraformer.attention = (@SelfAttention, @SparseAttention)',
      'must divide the number of blocks, 1',
    ),
  ],
)
def test_misfit_of_one_of_several(model, binding, reason):
  with pytest.raises(ValueError, match=reason) as caught:
    train_abstractly(model, [binding])
  slot = binding.partition(' = ')[0]
  assert config.explain(caught.value).startswith(f'{slot} ')
