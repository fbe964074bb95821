"""Old gin files become files of trax_hier with the same model."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
import toy
from trax.models.research import (
  configurable_transformer,
  hourglass,
  terraformer,
)

import trax_hier.storage.configurables  # noqa: F401  registers all names
from trax_hier import config
from trax_hier.commands.configured_model import (
  abstract_model,
  build_configured,
  called_in_training,
)
from trax_hier.commands.listing_source import parts
from trax_hier.compat import tl
from trax_hier.config import ConfigError, foreign
from trax_hier.config.files import Reference
from trax_hier.config.names import map_leaves
from trax_hier.config.text import write
from trax_hier.training.state import n_parameters
from trax_hier.translation.draft import REQUIRED
from trax_hier.translation.translate import translate
from trax_hier.translation.writing import file_text

OLD = Path(__file__).parent / 'old'
BASE = 'segments_base'
# Published facts, written by us: {old file: (our file, parameters)}
PUBLISHED = {
  'hourglass_bytes': ('hourglass/enwik8', 123_211_008),
  'hourglass_pixels_32': ('hourglass/imagenet32', 111_125_760),
  'hourglass_pixels_lsh': ('hourglass/imagenet64', 135_068_416),
  'hourglass_cifar': ('hourglass/cifar10', 42_824_960),
  'hourglass_articles': ('hourglass/wiki40b', 95_328_512),
  'terraformer_spans': ('terraformer/c4_medium', 858_034_432),
  'sparse_spans': ('scaling/800m_dense', 772_050_176),
  'sparse_words': (None, 377_840_896),
}
# Facts of meliad's option files. A stack is a base file and some of these.
TOKENS = """
NUM_EMBEDDINGS = 32128
language_model.TransformerTaskConfig.dataset_name = 'pg19_tokens_t5'
training_loop.Trainer.num_steps = 500_000
"""
LONG = """
SEGMENT_LENGTH = 4096
language_model.TransformerTaskConfig:
  sequence_length = %SEGMENT_LENGTH
  batch_size = 1
"""
RSQRT = """
training_loop.Trainer.learning_rate_schedule = @lr_rsqrt_decay_std
optimizer_config.lr_rsqrt_decay_std.max_lr = None
"""
TALL = """
NUM_LAYERS = 24
decoder_stack.DecoderStack.recurrent_layer_indices = (9, 19)
"""
FEEDBACK = """
decoder_stack.DecoderStack:
  dstack_window_length = 512
  feedback_recurrence = True
"""
SHORT = """
SEGMENT_LENGTH = 2048
WINDOW_LENGTH = 2048
language_model.TransformerTaskConfig:
  sequence_length = %SEGMENT_LENGTH
  batch_size = 2
"""
MEMORY = """
decoder_stack.DecoderStack:
  memory_factory = @memory_factory.memory_on_tpu_factory
  memory_layer_indices = (-4,)
transformer_layer.TransformerLayer.memory_num_neighbors = 128
memory_factory.memory_on_tpu_factory.database_size = 65536
"""


def size(embed, heads, mlp):
  return f'EMBED_DIM = {embed}\nNUM_HEADS = {heads}\nMLP_DIM = {mlp}\n'


def gate(kind, configuration):
  return f"""
decoder_stack.DecoderStack.recurrent_layer_indices = (-3,)
transformer_layer.TransformerLayer:
  recurrent_num_states = 512
  recurrent_gate_type = '{kind}'
  recurrent_single_gate = {configuration == 'single'}
  recurrent_skip_ffn = {configuration == 'skip'}
"""


M150, M300 = size(1024, 8, 4096), size(1024, 16, 8192)
SKIP = gate('bias', 'skip')
# {our file: (parameters, options)}
STACKS = {
  'fixed_skip': (193_362_040, M150, LONG, SKIP, RSQRT),
  'fixed_single': (203_847_800, M150, LONG, gate('bias', 'single'), RSQRT),
  'lstm_dual': (214_337_656, M150, LONG, gate('lstm', 'dual'), RSQRT),
  'feedback_fixed_skip': (216_430_800, M150, LONG, SKIP, FEEDBACK, RSQRT),
  'tall_650m': (672_597_472, M300, LONG, SKIP, TALL),
  'slide_13l': (196_508_008, M150, LONG, 'NUM_LAYERS = 13', RSQRT),
  'xl_2048': (183_922_784, M150, SHORT, RSQRT),
  'memorizing_64k': (183_922_792, M150, MEMORY, RSQRT),
}
SLOW = {
  'both_cross',
  'both_sru',
  'feedback_fixed_skip',
  'fixed_single',
  'hourglass_articles',
  'hourglass_cifar',
  'hourglass_pixels_32',
  'lm_sru',
  'lstm_dual',
  'memorizing_64k',
  'tall_650m',
  'terraformer_list',
}


def each_of(names):
  """Runs a test for each name; those of SLOW are slow."""
  return pytest.mark.parametrize(
    'name',
    [
      pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
      for name in names
    ],
  )


@pytest.fixture(autouse=True)
def clear_config():
  config.clear()
  yield
  config.clear()


def is_ours(name, parameter):
  return parameter in [a.name for a in parts()[name].arguments]


def old_file(name):
  return str(OLD / f'{name}.gin')


def new_text(*files, bindings=()):
  """The translation of some files, and its text."""
  found = translate(files, bindings, is_ours)
  return found, file_text(found, files, 'new.gin')


def values_of(files, bindings, batch):
  """Parses our files and builds the model: the model, and values in gin."""
  config.clear()
  config.parse(files, bindings)
  built = build_configured(batch)
  built.model(mode='train')
  config.check_used(called_in_training(True))
  return built, config.parameters(config.operative_text(with_idle=True))


def build_new(found, text):
  """Builds the model of a translation: its parameters, and values in gin."""
  macros = found.draft.macros.items()
  given = [f"{name} = 'x'" for name, value in macros if value == REQUIRED]
  built, values = values_of([], [text, *given], (1, *found.draft.lengths))
  _, weights, *_ = abstract_model(built)
  return n_parameters(weights), values


def of_model(values):
  """The values of the model and its layers; without those of the training."""
  kinds = 'trax_hier.models', 'trax_hier.layers'
  modules = {name: part.module for name, part in parts().items()}
  return {
    name: value
    for name, value in values.items()
    if modules.get(name.rpartition('.')[0].rpartition('/')[2]) in kinds
  }


def same_model(ours, found, values):
  """Asserts that a translation has the model of one of our files.

  Returns the values of our file.
  """
  batch = 1, *found.draft.lengths
  _, expected = values_of([ours], ["DATA = 'x'"], batch)
  old, new = of_model(expected), of_model(values)
  both = old.keys() & new.keys()
  assert {k: old[k] for k in both} == {k: new[k] for k in both}
  # One binds what is a default in the other, which then is not recorded.
  named = {name.rpartition('.')[0] for name in both}
  assert {name.rpartition('.')[0] for name in old.keys() ^ new.keys()} <= named
  return expected


@each_of(PUBLISHED)
def test_published_files_of_trax(name):
  ours, n = PUBLISHED[name]
  found, text = new_text(old_file(name))
  count, values = build_new(found, text)
  assert count == n
  assert not found.unknown
  if ours is not None:
    expected = same_model(f'{ours}.gin', found, values)
    for key in ('Adam.b2', 'Adam.eps', 'multifactor.constant'):
      assert values.get(key) == expected.get(key)


@each_of(STACKS)
def test_stacks_of_meliad(name, tmp_path):
  n, *options = STACKS[name]
  files = [old_file(BASE)]
  for i, option in enumerate((TOKENS, *options)):
    file = tmp_path / f'option_{i}.gin'
    file.write_text(option)
    files.append(str(file))
  found, text = new_text(*files)
  count, values = build_new(found, text)
  assert count == n
  ours = same_model(f'block_recurrent/{name}.gin', found, values)
  (_, reason), *others = found.draft.lost
  assert 'dropout follows the attention' in reason
  assert (others, found.unknown) == ([], [])
  for key in ours.keys() & values.keys():
    if key.startswith(('multifactor.', 'Adafactor.')):
      assert values[key] == ours[key], key


SIZES = dict(
  input_vocab_size=17,
  d_model=16,
  d_ff=32,
  n_heads=2,
  max_len=32,
  n_encoder_layers=2,
  n_decoder_layers=2,
)
TERRAFORMER = SIZES | dict(reversible_encoder=True, pos_type=None)
LM = {k: v for k, v in SIZES.items() if 'coder' not in k and 'input' not in k}
LM |= dict(vocab_size=17, n_layers=2)
HOURGLASS_LM = dict(
  vocab_size=17,
  d_model=16,
  d_ff=32,
  n_heads=2,
  vanilla_layers=(1, 1),
  hierarchy='1@2',
)
SPARSE = Reference('MultiplicativeConvCausalAttention', '@', False)
DENSE = Reference('CausalAttention', '@', False)
ENCODER = Reference('Attention', '@', False)
# Options of Trax's configurable models that change the weights.
OPTIONS = {
  'lm_dense': LM,
  'lm_sparse': LM | dict(ff_sparsity=(4, 2), attention_type=SPARSE),
  'lm_sru': LM | dict(ff_use_sru=(2, 4), pos_type='no'),
  'lm_text': LM | dict(ff_sparsity='4 3 0.2 0.5', loss_sparsity=1),
  'both_dense': SIZES,
  'both_cross': SIZES | dict(enc_dec_attention_sparsity=4, ff_sparsity=8),
  'both_sru': SIZES | dict(ff_use_sru=1, ff_sparsity=[4, 2]),
  'terraformer': TERRAFORMER
  | dict(
    encoder_attention_type=ENCODER,
    encoder_decoder_attention_type=SPARSE,
    ff_sparsity=4,
    ff_use_sru=(1, 4),
    n_decoder_attention_layers=1,
  ),
  'terraformer_list': TERRAFORMER
  | dict(
    encoder_attention_type=ENCODER,
    encoder_decoder_attention_type=[DENSE, SPARSE],
  ),
  'terraformer_ends': TERRAFORMER
  | dict(
    encoder_attention_type=ENCODER,
    encoder_decoder_attention_type=DENSE,
    reversible_encoder=False,
    pos_type='fixed-base',
  ),
  'hourglass_vanilla': HOURGLASS_LM | dict(vanilla_attn_type=DENSE),
  'hourglass_middle': HOURGLASS_LM | dict(middle_attn_type=DENSE),
}


def model_of_trax(name):
  if name.startswith('hourglass'):
    return hourglass.HourglassLM
  if name.startswith('lm'):
    return configurable_transformer.ConfigurableTransformerLM
  if name.startswith('both'):
    return configurable_transformer.ConfigurableTransformer
  return terraformer.ConfigurableTerraformer


def layer_of_trax(reference):
  layer = getattr(tl, reference.name)
  is_sparse = reference == SPARSE
  return functools.partial(layer, sparsity=4) if is_sparse else layer


@each_of(OPTIONS)
def test_options_of_trax_give_as_many_parameters(name):
  factory, options = model_of_trax(name), OPTIONS[name]
  layers = map_leaves(options, Reference, layer_of_trax)
  tokens = np.ones((1, 8), np.int32)
  batch = tokens if name.startswith(('lm', 'hour')) else (tokens, tokens)
  weights, _ = toy.shapes(factory(**layers), batch)
  expected = sum(x.size for x in jax.tree.leaves(weights))
  old = [
    f'train.model = @trax.models.{factory.__name__}',
    f'{SPARSE.name}.sparsity = 4',
    *(f'{factory.__name__}.{k} = {write(v)}' for k, v in options.items()),
  ]
  found, text = new_text(bindings=old)
  assert build_new(found, text)[0] == expected


HOURGLASS, PIXELS = 'hourglass_bytes', 'hourglass_pixels_lsh'
SPANS, WORDS, TERRA = 'sparse_spans', 'sparse_words', 'terraformer_spans'


@pytest.mark.parametrize(
  'file, bindings, lines',
  [
    (
      HOURGLASS,
      ["HourglassLM.hierarchy = '1@2  4@4 1@2'"],
      ["HourglassLM.hierarchy = '1@2 4@4 1@2'"],
    ),
    (
      HOURGLASS,
      [
        'HourglassLM.downsampling_fn = @AveragePooling',
        'HourglassLM.upsampling_fn = @trax.models.NoUpsampling',
        'HourglassLM.ff_activation = @trax.layers.Relu',
      ],
      [
        'HourglassLM.shorten = @AverageShorten',
        'HourglassLM.upsample = @ZeroUpsample',
        'FeedForward.activation = @Relu',
      ],
    ),
    (
      TERRA,
      ['ConfigurableTerraformer.center_layernorm = False'],
      ['Terraformer.norm = @RMSNorm', 'Terraformer.reversible_encoder = True'],
    ),
    # Layers of one kind do not share their arguments.
    (
      HOURGLASS,
      [
        'HourglassLM.middle_attn_type = @trax.layers.SelfAttention',
        'layers.SelfAttention.chunk_len = 64',
      ],
      [
        'middle/DecoderBlock.attention = @middle/SelfAttention',
        'middle/SelfAttention.window = %WINDOW',
      ],
    ),
    (
      PIXELS,
      [
        'HourglassLM.middle_attn_type = @m/PureLSHSelfAttentionWrapper',
        'm/PureLSHSelfAttentionWrapper.pure_lsh_implementation ='
        ' @m/PureLSHSelfAttention',
        'm/PureLSHSelfAttention.chunk_len = 128',
      ],
      [
        'vanilla/LSHAttention.chunk_len = 256',
        'middle/LSHAttention.chunk_len = 128',
      ],
    ),
    (
      SPANS,
      ['ConfigurableTransformer.ff_sparsity = (64, 4)'],
      ['N_ELEMENTS = 64', 'SparseFF.d_lowrank = 4'],
    ),
    (
      SPANS,
      [
        'ConfigurableTransformer.loss_sparsity = 8',
        'ConfigurableTransformer.ff_use_sru = (2, 16)',
      ],
      ['LOSS_MODULES = 8', 'SRUBranch.n_layers = 2', 'SRUBranch.d_sru = 16'],
    ),
    # Trax's defaults, where those here differ.
    (
      WORDS,
      ['train.optimizer = @trax.optimizers.Adam'],
      ['Adam.eps = 1e-05', 'Adam.weight_decay_rate = 1e-05'],
    ),
    (
      WORDS,
      [],
      [
        'Adafactor.weight_decay_rate = 0.0001',
        'Adafactor.weight_decay_n_steps = 100000',
        'Adafactor.min_dim_size_to_factor = 1',
      ],
    ),
    (
      WORDS,
      ['train.n_weights_shards = 8', "train.compute_dtype = 'bfloat16'"],
      [
        "train.mesh = {'data': -1, 'fsdp': 8}",
        "train.compute_dtype = 'bfloat16'",
      ],
    ),
    (
      WORDS,
      [
        'train.lr_schedule_fn = @warmup_and_rsqrt_decay',
        'warmup_and_rsqrt_decay.n_warmup_steps = 10',
        'warmup_and_rsqrt_decay.max_value = 0.5',
      ],
      [
        'multifactor.constant = 0.5',
        'multifactor.warmup_steps = 10',
      ],
    ),
    # Macros of one number stay macros.
    (
      'hourglass_cifar',
      [],
      ['n_steps = 100000', 'train.steps = %n_steps'],
    ),
    (
      BASE,
      ['NUM_LAYERS = 7', 'SEGMENT_LENGTH = 1024'],
      ['N_LAYERS = 7', 'LENGTH = 1024', 'DocumentLanes.length = %LENGTH'],
    ),
  ],
)
def test_bindings(file, bindings, lines):
  _, text = new_text(old_file(file), bindings=bindings)
  assert set(lines) <= set(text.splitlines())


@pytest.mark.parametrize(
  'file, binding, reason',
  [
    (HOURGLASS, 'HourglassLM.ff_activation = @Swish', '@Gelu is used'),
    (HOURGLASS, 'HourglassLM.dropout_shared_axes = (0, 1)', 'not shared'),
    (HOURGLASS, 'train.checkpoint_lowest = "loss"', 'lowest loss'),
    (SPANS, 'ConfigurableTransformer.output_vocab_size = 9', 'share the voc'),
    (SPANS, 'ConfigurableTransformer.pos_type = "sin-cos"', 'learned ones'),
    (SPANS, 'ConfigurableTransformer.ff_dropout = 0.3', 'inside the feed-forw'),
    (
      TERRA,
      'ConfigurableTerraformer.n_layers_forget = 2',
      'no forgetting layers',
    ),
    (BASE, 'RELATIVE_POSITION_TYPE = "alibi"', '@T5Positions are used'),
    (BASE, 'transformer_base.TransformerBase.normalize_keys = False', 'normal'),
  ],
)
def test_what_is_lost_is_said_with_its_place(file, binding, reason):
  found, text = new_text(old_file(file), bindings=[binding])
  said = [why for _, why in found.draft.lost]
  assert any(reason in why for why in said), said
  comments = ' '.join(text.partition('# Not translated')[2].split())
  assert reason.split()[0] in comments


def test_default_of_trax_without_counterpart_is_said():
  found, _ = new_text(
    old_file(HOURGLASS),
    bindings=[
      'HourglassLM.vanilla_attn_type = @PureLSHSelfAttentionWrapper',
      'batcher.buckets = ([2048], [8])',
    ],
  )
  said = ' '.join(reason for _, reason in found.draft.lost)
  assert 'num_weights = 3 is the old default' in said


def test_unknown_and_unused_settings_are_counted():
  found, text = new_text(
    old_file(HOURGLASS),
    bindings=['a/Foo.bar = @Baz()', 'ReformerLM.d_model = 3', 'train.odd = 1'],
  )
  assert [setting.key for setting in found.unknown] == ['Foo.bar', 'train.odd']
  assert found.unused == {'ReformerLM': 1, 'batcher': 2, 'data_streams': 2}
  assert "#     --config='a/Foo.bar = @Baz()'" in text.splitlines()
  assert 'unknown: 2' in text
  assert 'ReformerLM (1)' in text


def test_a_translation_is_not_translated_again(tmp_path):
  file = tmp_path / 'new.gin'
  file.write_text(new_text(old_file(HOURGLASS))[1])
  with pytest.raises(ConfigError, match='already a configuration of trax_hier'):
    translate([str(file)], (), is_ours)


@pytest.mark.parametrize(
  'bindings, message',
  [
    (['batcher.buckets = 5'], 'batcher.buckets, or .* value that Trax'),
    (['HourglassLM.d_model = %nothing'], 'there is no macro %nothing'),
    (['x = %y', 'y = %x', 'HourglassLM.d_ff = %x'], 'refers to itself'),
    (["train.model = 'HourglassLM'"], 'a reference such as @Name'),
    (['train.model = @trax.models.ReformerLM'], 'no counterpart here'),
    (['HourglassLM.vocab_size = %gin.REQUIRED'], 'must be given a value'),
  ],
)
def test_faults_name_their_place(bindings, message):
  with pytest.raises(ConfigError, match=message) as e:
    translate([old_file(HOURGLASS)], bindings)
  assert str(e.value).startswith(('--config=', str(OLD), 'tests/'))


ODD = 'None', '-1', "'x'", '(1, 2)', '[]', '@Foo', '{}', '@a/Foo()', '%here'


@pytest.mark.parametrize('name', [WORDS, BASE])
def test_odd_values_are_translated_or_refused_by_name(name):
  file = old_file(name)
  for i, setting in enumerate(foreign.read([file]).settings):
    scope = f'{setting.scope}/' if setting.scope else ''
    parameter = f'.{setting.parameter}' if setting.parameter else ''
    odd = f'{scope}{setting.selector}{parameter} = {ODD[i % len(ODD)]}'
    try:
      new_text(file, bindings=[odd])
    except ConfigError as error:
      assert str(error)
