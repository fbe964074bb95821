"""Models and schedules of meliad, by its options."""

import math
import re
from pathlib import Path

import pytest

from trax_hier.config import ConfigError
from trax_hier.config.files import Reference
from trax_hier.config.foreign import origin, read
from trax_hier.config.old_names import MACROS
from trax_hier.training.schedules import multifactor
from trax_hier.translation.translate import translate

BASE = str(Path(__file__).parent / 'old' / 'segments_base.gin')
STEPS = 1, 3, 50, 99, 100, 101, 600, 1000, 1500, 9_999, 10_000, 77_000, 100_000


def translated(*bindings, files=(BASE,)):
  return translate(files, bindings).draft


def said(draft):
  return ' '.join(f'{s.key if s else ""}: {why}' for s, why in draft.lost)


def values_of(draft, section):
  """{binding: value}, without macros."""
  return {
    name: draft.macros[value.name]
    if isinstance(value, Reference) and value.sigil == '%'
    else value
    for name, value in draft.sections[section].items()
  }


def rate_of(draft):
  """Our schedule."""
  values = values_of(draft, 'Optimizer')
  return multifactor(
    **{
      name.rpartition('.')[2]: value
      for name, value in values.items()
      if name.startswith('multifactor.')
    }
  )


# The schedules as published, of a step and the last step.
def rsqrt_std(n, end, max_lr=math.inf):
  return min(1 / math.sqrt(max(n, 100)), max_lr)


def rsqrt(n, end, max_lr=0.05, min_lr=0.001):
  return min(min_lr / math.sqrt(max(n, 100) / end), max_lr)


def cosine(n, end, max_lr=0.01, min_lr=0.001):
  fall = (1 + math.cos(math.pi * min(n, end) / end)) / 2
  return min_lr + fall * (max_lr - min_lr)


def constant(n, end, learning_rate=0.01):
  return learning_rate


SCHEDULES = {
  'lr_constant': constant,
  'lr_cosine_decay': cosine,
  'lr_rsqrt_decay': rsqrt,
  'lr_rsqrt_decay_std': rsqrt_std,
}


@pytest.mark.parametrize(
  'name, arguments, trainer, scale',
  [
    ('lr_constant', dict(learning_rate=0.0025), {}, 1),
    ('lr_constant', {}, dict(warmup_steps=0), 1),
    ('lr_cosine_decay', dict(max_lr=0.02, min_lr=0.005), {}, 1),
    ('lr_cosine_decay', {}, dict(warmup_steps=0), 1),
    ('lr_cosine_decay', dict(spike_steps=9, spike_lr=0.0), {}, 1),
    ('lr_rsqrt_decay', dict(max_lr=0.05, min_lr=0.001), {}, 1),
    ('lr_rsqrt_decay', {}, dict(warmup_steps=100), 1),
    ('lr_rsqrt_decay', {}, dict(warmup_steps=0), 1),
    ('lr_rsqrt_decay', {}, dict(max_scheduled_steps=50_000), 1),
    ('lr_rsqrt_decay', {}, dict(learning_rate_multiplier=0.5), 0.5),
    ('lr_rsqrt_decay_std', {}, {}, 1),
    ('lr_rsqrt_decay_std', dict(max_lr=0.0317), {}, 1),
    (
      'lr_rsqrt_decay',
      {},
      dict(optimizer_factory='@AdamConfig()', learning_rate_multiplier=2.0),
      0.1,
    ),
  ],
)
def test_schedules_are_the_published_ones(name, arguments, trainer, scale):
  draft = translated(
    f'Trainer.learning_rate_schedule = @optimizer_config.{name}',
    *(f'{name}.{key} = {value}' for key, value in arguments.items()),
    *(f'Trainer.{key} = {value}' for key, value in trainer.items()),
  )
  arguments = {k: v for k, v in arguments.items() if 'spike' not in k}
  warmup = trainer.get('warmup_steps', 1000)
  end = trainer.get('max_scheduled_steps', 100_000)
  ours = rate_of(draft)
  for n in STEPS:
    ramp = min(n / warmup, 1) if warmup else 1
    published = SCHEDULES[name](max(n, warmup), end, **arguments)
    expected = scale * ramp * published
    assert float(ours(n)) == pytest.approx(expected, rel=0.001), n
  assert 'the rate' not in said(draft)


@pytest.mark.parametrize(
  'bindings, reason',
  [
    (['lr_rsqrt_decay.max_lr = 0.005'], 'max_lr = 0.005 .* until step 4,000'),
    (
      ['lr_rsqrt_decay.min_lr = 0.01'],
      'Trainer.learning_rate_schedule: max_lr = 0.05 .* until step 4,000',
    ),
    (['Trainer.warmup_steps = 10'], 'from step 10, in meliad from step 100'),
    (['lr_linear_decay.max_lr = 0.5'], '@lr_linear_decay has no counterpart'),
    (['lr_exponential_decay.max_lr = 0.5'], 'a cosine with the same ends'),
    (
      ['lr_cosine_decay.spike_steps = 9', 'lr_cosine_decay.spike_lr = 0.4'],
      'no spike',
    ),
    (
      ['lr_cosine_decay.max_lr = 0.02', 'Trainer.warmup_steps = 30_000'],
      'the cosine falls from step 0',
    ),
    (
      ['lr_cosine_decay.max_lr = 0.02', 'Trainer.max_scheduled_steps = 9000'],
      'constant after step 9,000',
    ),
  ],
)
def test_what_a_schedule_loses_is_said(bindings, reason):
  name = bindings[0].partition('.')[0]
  name = 'lr_rsqrt_decay' if name == 'Trainer' else name
  schedule = f'Trainer.learning_rate_schedule = @optimizer_config.{name}'
  assert re.search(reason, said(translated(schedule, *bindings)))


def test_other_optimizers_are_said():
  draft = translated('Trainer.optimizer_factory = @ShampooConfig()')
  assert '@ShampooConfig has no counterpart' in said(draft)


def recurrent(layers=(-3,), states=512, **stack):
  return [
    f'DecoderStack.recurrent_layer_indices = {layers}',
    f'TransformerLayer.recurrent_num_states = {states}',
    *(f'DecoderStack.{key} = {value}' for key, value in stack.items()),
  ]


@pytest.mark.parametrize(
  'window, length, depth, wanted, feedback, ours, lost',
  [
    # Only windows of the stack feed states back, by default.
    (512, 4096, 0, None, False, 512, ''),
    (512, 4096, 0, True, False, 512, ''),
    (512, 4096, 512, None, True, 512, ''),
    (512, 4096, 512, True, True, 512, ''),
    (512, 4096, 512, False, False, 512, ''),
    # They take the place of longer windows of the layers.
    (512, 4096, 256, None, True, 256, ''),
    (512, 4096, 256, False, False, 256, ''),
    (512, 4096, 1024, False, False, 512, ''),
    (512, 4096, 1024, True, True, 512, 'after each window of 512'),
    (512, 512, 4096, True, True, 512, ''),
  ],
)
def test_feedback(window, length, depth, wanted, feedback, ours, lost):
  stack = {} if wanted is None else dict(feedback_recurrence=wanted)
  draft = translated(
    f'WINDOW_LENGTH = {window}',
    f'SEGMENT_LENGTH = {length}',
    *recurrent(dstack_window_length=depth, **stack),
  )
  values = values_of(draft, 'Model')
  assert ('BlockRecurrentLM.feedback' in values) == feedback
  here = 'FeedbackStack' if feedback else 'BlockRecurrentCell'
  assert values[f'{here}.window'] == ours
  assert values.get('SlidingAttention.window', ours) == ours
  assert (lost in said(draft)) if lost else len(draft.lost) == 1


def test_feedback_of_several_layers_is_said():
  draft = translated(*recurrent((3, -3), dstack_window_length=512))
  assert 'one recurrent layer have feedback' in said(draft)
  values = values_of(draft, 'Model')
  assert values['BlockRecurrentLM.recurrent_layers'] == (4, 10)
  assert 'BlockRecurrentLM.feedback' not in values


@pytest.mark.parametrize(
  'kind, index', [('recurrent', 12), ('recurrent', -13), ('memory', 19)]
)
def test_layers_out_of_range_are_refused_with_their_place(kind, index):
  binding = f'DecoderStack.{kind}_layer_indices = (9, {index})'
  with pytest.raises(ConfigError, match='the indices are -12 to 11') as e:
    translated(binding)
  assert f'there is no layer {index}' in str(e.value)
  assert str(e.value).startswith('--config=')


@pytest.mark.parametrize(
  'parameter, value, is_lost',
  [
    ('num_heads', 8, False),
    ('num_heads', 2, True),
    ('key_size', 128, False),
    ('key_size', 64, True),
    ('value_size', 64, True),
    ('cross_batch_memory', True, True),
  ],
)
def test_heads_of_a_memory(parameter, value, is_lost):
  factory = 'memory_factory.memory_on_tpu_factory'
  draft = translated(
    f'DecoderStack.memory_factory = @{factory}',
    'DecoderStack.memory_layer_indices = (-4,)',
    'TransformerLayer.memory_num_neighbors = 32',
    f'{factory}.{parameter} = {value}',
  )
  assert (f'memory_on_tpu_factory.{parameter}: ' in said(draft)) == is_lost
  assert values_of(draft, 'Model')['BlockRecurrentLM.recurrent_layers'] == (9,)


@pytest.mark.parametrize(
  'binding, needed',
  [
    ('recurrent_layer_indices = (-3,)', 'recurrent_num_states must'),
    (
      'memory_layer_indices = (-3,)\nDecoderStack.memory_factory = '
      '@memory_on_tpu_factory',
      'memory_num_neighbors must',
    ),
  ],
)
def test_special_layers_need_their_sizes(binding, needed):
  with pytest.raises(ConfigError, match=needed) as e:
    translated(f'DecoderStack.{binding}')
  assert str(e.value).startswith('--config=')


# Parameters of the published base file that change nothing here.
NO_EFFECT = """
TransformerLayer.max_unrolled_windows = -1
TransformerLayer.dtype = %DTYPE
MemTransformerBase.pre_attn_dropout = True
MemTransformerBase.post_attn_dropout = False
MemTransformerBase.pre_ffn_dropout = False
MemTransformerBase.post_ffn_dropout = True
MemTransformerBase.attn_mlp_factory = @transformer_attn/nn_components.MLP
DecoderStack.use_absolute_positions = False
"""


def test_the_published_base_has_no_unknown_settings():
  found = translate([BASE], [NO_EFFECT])
  assert not found.unknown
  ((setting, reason),) = found.draft.lost
  assert setting.parameter == 'pre_attn_dropout'
  assert 'follows the attention' in reason


@pytest.mark.parametrize(
  'binding, reason',
  [
    ("TransformerLayer.dtype = 'float32'", 'compute in bfloat16'),
    ('MemTransformerBase.post_ffn_dropout = False', 'follows the feed-forward'),
    ('TransformerLayer.memory_combine_with_local = "ADD"', 'a gate'),
    ('TransformerTaskConfig.sequential_chunks = False', 'in order'),
  ],
)
def test_settings_of_layers_that_differ_are_said(binding, reason):
  assert reason in said(translated(binding))


def test_harmless_parameters_are_those_of_one_configurable():
  found = translate([BASE], ['DecoderStack.learning_rate = 3'])
  assert [s.key for s in found.unknown] == ['DecoderStack.learning_rate']


def test_stacks_without_base_say_what_is_assumed(tmp_path):
  file = tmp_path / 'bias_skip.gin'
  file.write_text('\n'.join(['WINDOW_LENGTH = 256', *recurrent()]))
  assumed = said(translated(files=[str(file)]))
  for text in (
    "RELATIVE_POSITION_TYPE = 't5'",
    'USE_LONG_XL_ARCHITECTURE = True',
    'ATTN_DROPOUT_RATE = 0.05',
    "DTYPE = 'bfloat16'",
    'NUM_HEADS = 8',
    'batch_size = 1',
    'num_steps = 100_000',
    'learning_rate_schedule = @lr_cosine_decay',
  ):
    assert text in assumed
  assert 'WINDOW_LENGTH' not in assumed
  assert 'assumed' not in said(translated(*recurrent()))


@pytest.mark.parametrize(
  'binding',
  [
    *(f'{macro} = 1' for macro in MACROS),
    'lr_rsqrt_decay.max_lr = 0.1',
    'MemTransformerBase.normalize_keys = True',
  ],
)
def test_one_binding_shows_that_a_file_is_of_meliad(binding):
  assert origin(read([], [binding])) == 'meliad'
