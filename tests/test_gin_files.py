"""Every gin file parses, has the parameter count of its header, and trains."""

import re
import subprocess
import sys
from pathlib import Path

import gin
import pytest

import trax_hier.data
import trax_hier.models
import trax_hier.training.loop  # noqa: F401  registers train
from trax_hier import config
from trax_hier.layers import SparseFF, longest_sequence
from trax_hier.layers.base.sharing import leaf_layers
from trax_hier.training.state import abstract_init, n_parameters, token_shapes

GIN = Path(config.packaged_gin_dir())
CONFIGURATIONS = sorted(
  str(path.relative_to(GIN))
  for path in GIN.rglob('*.gin')
  if path.parent.name != 'base' and not path.name.startswith(('smoke', 'tiny'))
)


def is_variant(name):
  """Whether other files cover all layers of this file."""
  infixes = (
    '/table1/',
    '_subwords',
    '_dual',
    '_single',
    '/tall_',
    '/large_',
    '/xl_',
    '/states_',
    '/window_',
    '/medium_150m',
    '_factor_dropout_',
  )
  return any(infix in name for infix in infixes)


WITHOUT_DATA = (
  'mix/dynamic_block_recurrent.gin',
  'dynamic/text.gin',
  'quickstart.gin',
  'scaling/text.gin',
  'terraformer/copy.gin',
  'multiscale/text.gin',
  'mix/hourglass_block_recurrent.gin',
  'mix/hourglass_block_recurrent_sparse.gin',
  'mix/hourglass_sparse.gin',
)
WITH_VOCAB = (
  'terraformer/arxiv.gin',
  'terraformer/pairs.gin',
  'terraformer/pairs_spans.gin',
  'terraformer/scientific_papers.gin',
  'terraformer/wmt_ende.gin',
)
SCALING = {
  '800m_dense': 772_050_176,
  '800m_ff': 787_778_816,
  '800m_qkv': 876_773_120,
  '800m_ff_qkv': 909_803_264,
  '800m_ff_qkv_loss': 885_231_360,
  '800m_ff_qkv_loss_cross': 837_727_488,
}
# Parameters in the published code: encoder block, decoder block, the rest.
SCALING_COLUMNS = {
  '800m_dense': (12_596_224, 16_796_672, 66_620_672),
  '800m_ff': (12_923_904, 17_124_352, 66_620_672),
  '800m_qkv': (16_792_576, 16_963_776, 66_620_672),
  '800m_ff_qkv': (17_480_704, 17_651_904, 66_620_672),
  '800m_ff_qkv_loss': (17_480_704, 17_651_904, 42_048_768),
  '800m_ff_qkv_loss_cross': (17_480_704, 15_672_576, 42_048_768),
}
SCALING_17B = (
  '17b_dense',
  '17b_ff',
  '17b_qkv',
  '17b_ff_qkv',
  '17b_ff_qkv_loss',
)
TABLE_1 = {
  '6at1': 21,
  '2at1_1at3_2at1': 24,
  '2at1_4at4_2at1': 34,
  '8at1': 28,
  '2at1_4at3_2at1': 34,
  '2at1_8at4_2at1': 48,
  '2at1_1at2_4at4_1at2_2at1': 48,
  '2at1_8at3_2at1': 48,
  '10at1': 34,
  '3at1_8at4_3at1': 55,
  '12at1': 41,
  '4at1_8at4_4at1': 62,
  '2at1_16at3_2at1': 75,
  '14at1': 48,
  '5at1_8at2_5at1': 69,
}
PUBLISHED_CODE = {
  'enwik8': 123_211_008,
  'enwik8_paper': 138_616_576,
  'imagenet32': 111_125_760,
  'imagenet64': 135_068_416,
  'cifar10': 42_824_960,
  'wiki40b': 95_328_512,
}
# Parameters in the published code, and of the biases of our hashed attention.
TERRAFORMER_WITH_HASHES = {
  'scientific_papers': (276_510_976, 24 * 3 * 1024),
  'wmt_ende': (73_785_364, 18 * 3 * 512),
  'copy': (2_963_968, 6 * 3 * 256),
}
LM1B = 377_840_896
# Parameters without embeddings, from the published code except the last two.
# 'slide_26l' has 26 layers of 4 d^2 + 2 d f + 2 d + 33 h, and a norm.
# 'feedback_lstm_single' adds, to 11 layers of 'lstm_single', queries for states
# (d^2), a second output projection (d^2) and h scales.
BLOCK_RECURRENT = {
  'xl_512': 151_023_712,
  'xl_1024': 151_023_712,
  'xl_2048': 151_023_712,
  'memorizing_64k': 151_023_712 + 8,  # One gate in each head.
  'slide_12l': 151_023_712,
  'slide_13l': 163_608_936,
  'fixed_skip': 160_462_968,
  'medium_150m': 160_462_968,
  'window_128': 160_462_968,
  'window_256': 160_462_968,
  # Each state has an initial value and a position.
  'states_128': 160_462_968 - 384 * 2048,
  'states_256': 160_462_968 - 256 * 2048,
  'states_1024': 160_462_968 + 512 * 2048,
  'states_2048': 160_462_968 + 1536 * 2048,
  'fixed_dual': 168_853_624,
  'fixed_single': 170_948_728,
  'lstm_skip': 164_658_296,
  'lstm_dual': 181_438_584,
  'lstm_single': 179_338_360,
  'feedback_fixed_skip': 183_531_728,
  'tall_1300m': 1_279_384_032,
  'tall_650m': 639_698_400,
  'slide_26l': 26 * 50_336_272 + 2048,
  'feedback_lstm_single': 179_338_360 + 11 * (2 * 1024**2 + 8),
}
BLOCK_RECURRENT_MILLIONS = {
  'small_37m': 40.4,
  'small_75m': 80.2,
  'medium_300m': 319.8,
  'large_600m': 639.7,
  'large_1200m': 1277.2,
}


@pytest.fixture(autouse=True)
def _clear():
  config.clear()
  yield
  config.clear()


def count_parameters(length):
  """Counts the parameters of the model that the parsed gin files configure."""
  model = gin.query_parameter('trax_hier.training.train.model')
  layer = model.scoped_configurable_fn(mode='train')
  length = min(length, longest_sequence(layer) or length)
  batch = token_shapes((1, length))
  has_memory = getattr(layer, 'takes_start_of_sequence', False)
  if layer.n_in == 2 and not has_memory:
    batch['sources'] = batch['inputs']
  return n_parameters(abstract_init(layer, batch)[0])


def required(name):
  """Bindings that a configuration leaves to the user."""
  names = [] if name in WITHOUT_DATA else ['DATA']
  if name.endswith('_subwords.gin') or name in WITH_VOCAB:
    names.append('VOCAB')
  if name == 'terraformer/arxiv.gin':
    names.append('INIT')
  sizes = []
  if name.endswith('_subwords.gin'):
    sizes = ['VOCAB_SIZE = 30000']
  elif name in ('text.gin', 'block_recurrent/books.gin'):
    sizes = ['VOCAB_SIZE = 256']
  return [*sizes, *(f"{name} = 'elsewhere'" for name in names)]


# Variants differ from other files only in sizes, so CI omits them.
@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * is_variant(name))
    for name in CONFIGURATIONS
  ],
)
def test_stated_parameters(name):
  config.parse([name], required(name))
  stated = re.search(r'# Parameters: ([0-9,]+)', (GIN / name).read_text())
  assert count_parameters(12288) == int(stated[1].replace(',', ''))


def test_published_counts_equal_those_of_the_paper_and_its_code():
  for name, count in PUBLISHED_CODE.items():
    text = (GIN / 'hourglass' / f'{name}.gin').read_text()
    assert f'# Parameters: {count:,}\n' in text
  for name, millions in TABLE_1.items():
    text = (GIN / 'hourglass/table1' / f'{name}.gin').read_text()
    stated = re.search(r'# Parameters: ([0-9,]+)', text)[1].replace(',', '')
    assert round(int(stated) / 1e6) == millions, name
  rows = {path.stem for path in (GIN / 'hourglass/table1').glob('*.gin')}
  assert rows == set(TABLE_1)


def without_embeddings(name):
  """The count in the header; checks that the embeddings are the rest."""
  text = (GIN / 'block_recurrent' / f'{name}.gin').read_text()
  total, count = (
    int(re.search(rf'# {label}: ([0-9,]+)\n', text)[1].replace(',', ''))
    for label in ('Parameters', 'Without embeddings')
  )
  d_model = int((re.search(r'D_MODEL = ([0-9]+)', text) or [0, 1024])[1])
  assert total - count == 32_128 * d_model
  return count


def test_counts_of_block_recurrent_models_equal_the_published_code():
  for name, count in BLOCK_RECURRENT.items():
    assert without_embeddings(name) == count, name
  for name, millions in BLOCK_RECURRENT_MILLIONS.items():
    assert round(without_embeddings(name) / 1e6, 1) == millions, name
  names = {path.stem for path in (GIN / 'block_recurrent').glob('*.gin')}
  assert names == {*BLOCK_RECURRENT, *BLOCK_RECURRENT_MILLIONS, 'books'}


def test_counts_of_scaling_transformers_equal_the_published_code():
  for name, count in {**SCALING, 'lm1b': LM1B}.items():
    text = (GIN / 'scaling' / f'{name}.gin').read_text()
    assert f'# Parameters: {count:,}\n' in text
  names = {path.stem for path in (GIN / 'scaling').glob('*.gin')}
  assert names == {*SCALING, *SCALING_17B, 'lm1b', 'text'}


@pytest.mark.parametrize('name', SCALING_COLUMNS)
def test_counts_of_scaling_blocks_equal_the_published_code(name):
  def count(n_encoder_layers, n_decoder_layers):
    config.clear()
    config.parse(
      [f'scaling/{name}.gin'],
      [
        "DATA = 'elsewhere'",
        f'ScalingTransformer.n_encoder_layers = {n_encoder_layers}',
        f'ScalingTransformer.n_decoder_layers = {n_decoder_layers}',
      ],
    )
    return count_parameters(8)

  encoder, decoder, rest = SCALING_COLUMNS[name]
  assert count(0, 0) == rest
  assert count(1, 0) == rest + encoder
  assert count(0, 1) == rest + decoder


def test_counts_of_terraformer_equal_the_published_code():
  for name in 'c4_medium', 'arxiv':
    text = (GIN / 'terraformer' / f'{name}.gin').read_text()
    assert '# Parameters: 858,034,432\n' in text
  for name, (count, biases) in TERRAFORMER_WITH_HASHES.items():
    text = (GIN / 'terraformer' / f'{name}.gin').read_text()
    assert f'# Parameters: {count + biases:,}\n' in text
  names = {path.stem for path in (GIN / 'terraformer').glob('*.gin')}
  others = 'c4_medium', 'arxiv', '17b', 'pairs', 'pairs_spans'
  assert names == {*others, *TERRAFORMER_WITH_HASHES}


@pytest.mark.parametrize(
  'layers, count',
  [
    ((1, 1), 17_552_512 + 13_694_464),
    ((2, 1), 2 * 17_552_512 + 13_694_464),
    ((1, 2), 17_552_512 + 2 * 13_694_464),
  ],
)
def test_counts_of_terraformers_blocks(layers, count):
  bindings = [
    f'Terraformer.n_{stack}_layers = {n}'
    for stack, n in zip(('encoder', 'decoder'), layers, strict=True)
  ]
  config.parse(
    ['terraformer/c4_medium.gin'], [*required('c4_medium'), *bindings]
  )
  assert count_parameters(8) == 108_107_008 + count


def test_counts_of_multiscale_models_in_closed_form():
  d, f, n_scales = 768, 3072, 3
  block = 4 * d**2 + 2 * d * f + 9 * d + f
  injections = (n_scales - 1) * (2 * d**2 + d + d)
  counts = {
    'vanilla_14': 14 * block,
    'retina_14': 14 * block,
    'top_down_12_10_8': 30 * block + injections,
    'top_down_10_12_8': 30 * block + injections,
    'bottom_up_12_10_8': 30 * block + n_scales * d,
    'bottom_up_10_12_8': 30 * block + n_scales * d,
  }
  for name, count in counts.items():
    for suffix, v in ('', 256), ('_subwords', 30_000):
      text = (GIN / 'multiscale' / f'{name}{suffix}.gin').read_text()
      assert f'# Parameters: {count + 2 * v * d + v + 2 * d:,}\n' in text, name
  names = {path.stem for path in (GIN / 'multiscale').glob('*.gin')}
  assert names == {'text', *counts, *(f'{name}_subwords' for name in counts)}


@pytest.mark.parametrize(
  'bindings, expected',
  [
    (
      [
        'ScalingTransformerLM.feed_forward = @wide/SparseFF',
        'wide/SparseFF.n_elements_in_block = 16',
      ],
      dict(n_elements=16),
    ),
    (
      [
        'ScalingTransformerLM.logits = @out/MultiplicativeDense',
        'out/MultiplicativeDense.n_modules = 2',
      ],
      dict(n_loss_modules=2),
    ),
    (
      [
        'ScalingTransformerLM.positions = @few/LearnedPositions',
        'few/LearnedPositions.n_positions = 64',
      ],
      dict(n_positions=64),
    ),
  ],
)
def test_scoped_factories_receive_the_models_dimensions(bindings, expected):
  config.parse(['scaling/text.gin'], bindings)
  sizes = dict(n_elements=32, n_loss_modules=4, n_positions=2048) | expected
  d, f, v = 128, 1024, 256
  r, s = f // sizes['n_elements'], 8
  m, loss = d // s, sizes['n_loss_modules']
  qkv = d * s + d * m + d + 2 * (9 * m * m + m) + 3 * m * m + m
  block = qkv + 2 * d * f + d + d * r + r * f + f + 4 * d
  rest = v * d + sizes['n_positions'] * d + 2 * d
  rest += loss * d + d * v // loss + v
  assert count_parameters(32) == 4 * block + rest
  # Factories receive the mode of the model, too: decoding adds no noise.
  model = gin.query_parameter('trax_hier.training.train.model')
  layer = model.scoped_configurable_fn(mode='predict')
  leaves = leaf_layers(layer).values()
  found = [leaf for leaf in leaves if isinstance(leaf, SparseFF)]
  assert found and {leaf._mode for leaf in found} == {'predict'}


@pytest.mark.parametrize(
  'name',
  [
    # Only models that reset carried memory may set it.
    'DecoderBlock.carry',
    # Only some models pass a mask.
    'SelfAttention.masked',
    'SparseAttention.masked',
    'LSHAttention.masked',
    'SRUBranch.masked',
  ],
)
def test_arguments_that_only_models_set_cannot_be_bound(name):
  with pytest.raises(config.ConfigError, match=name.split('.')[1]):
    config.parse(['quickstart.gin'], [f'{name} = True'])


def test_tiny_keeps_the_data_and_the_training():
  found = []
  for files in ['text.gin'], ['text.gin', 'tiny.gin']:
    config.clear()
    config.parse(files, ["DATA = 'my.txt'"])
    found.append({b.name: repr(b.value) for b in config.resolved()})
  plain, tiny = found
  changed = {name for name in plain if tiny[name] != plain[name]}
  assert changed == {'D_MODEL', 'D_FF', 'N_HEADS'}


def train(name, folder):
  command = [sys.executable, '-m', 'trax_hier.trainer']
  smoke = 'smoke.gin'
  sources = name.startswith(('scaling', 'terraformer'))
  if sources and name not in ('scaling/text.gin', 'scaling/lm1b.gin'):
    smoke = 'smoke_sources.gin'
  command += [f'--config_file={name}', f'--config_file={smoke}']
  result = subprocess.run(
    [*command, f'--output_dir={folder}'],
    capture_output=True,
    text=True,
    cwd=folder.parent,
  )
  assert result.returncode == 0, result.stderr
  assert 'held-out at step 2:' in result.stdout
  assert (folder / 'config.gin').exists()
  return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGURATIONS)
def test_every_configuration_trains_two_steps(name, tmp_path):
  train(name, tmp_path / 'run')
