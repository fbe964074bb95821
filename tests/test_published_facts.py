"""Settings of the gin files against those of the published files.

The tables state facts of google/trax (trax/supervised/configs), of meliad
(transformer/configs) and of the papers. A file may add settings; those that
differ on purpose are named in its header and in README.
"""

import copy

import pytest

import trax_hier.data
import trax_hier.models
import trax_hier.training.loop  # noqa: F401  registers train
from trax_hier import config

ADAM = {'Adam.b1': 0.9, 'Adam.b2': 0.98, 'Adam.eps': 1e-9}
NO_DECAY = {'Adam.weight_decay_rate': None, 'Adam.clip_norm': None}
ADAFACTOR = {
  'Adafactor.momentum': None,
  'Adafactor.clipping_threshold': None,  # The default, 1.
  'Adafactor.multiply_by_parameter_scale': None,  # The default, True.
}
C4 = {
  **ADAFACTOR,
  'Adafactor.decay_rate': None,  # The default, 0.8.
  'Adafactor.weight_decay_rate': 1e-5,
  'Adafactor.weight_decay_n_steps': 100_000,
  'PaddedDocuments.batch_size': 32,
  'PaddedDocuments.length': 512,
  'SpanCorruption.source_length': 512,
  'SpanCorruption.target_length': 256,
  'SpanCorruption.noise_density': None,  # The default, 0.15.
  'SpanCorruption.mean_noise_span_length': None,  # The default, 3.
  'train.steps': 524_288,
  'train.eval_every': 1000,
  'train.compute_dtype': None,  # The default, float32.
}
SCALING_800M = {
  'ScalingTransformer.d_model': 1024,
  'ScalingTransformer.n_heads': 16,
  'ScalingTransformer.n_encoder_layers': 24,
  'ScalingTransformer.n_decoder_layers': 24,
  'ScalingTransformer.dropout': 0.1,
}
IMAGES = {**ADAM, **NO_DECAY, 'ImageBytes.batch_size': 64}
PG19 = {
  'Adafactor.momentum': 0.9,
  'Adafactor.weight_decay_rate': None,
  'Adafactor.min_dim_size_to_factor': None,  # The default, 128.
  'DocumentLanes.batch_size': 32,
  'DocumentLanes.length': 4096,
  'BlockRecurrentCell.window': 512,
  'BlockRecurrentCell.n_states': 512,
  'BlockRecurrentLM.dropout': 0.05,
  'train.compute_dtype': 'bfloat16',
  'train.eval_every': 1000,
  'train.eval_batches': 400,
}

FACTS = {
  'hourglass/enwik8.gin': {
    **ADAM,
    **NO_DECAY,
    'Enwik8.batch_size': 8,
    'Enwik8.length': 2048,
    'HourglassLM.vanilla_layers': (5, 5),
    'HourglassLM.hierarchy': '24@3',
    'HourglassLM.d_model': 512,
    'HourglassLM.dropout': 0.2,
    'train.steps': 263_000,
    'train.eval_every': 2000,
  },
  'hourglass/imagenet32.gin': {
    **IMAGES,
    'train.eval_every': 1000,
    'train.eval_batches': 512,
  },
  'hourglass/imagenet64.gin': {
    **IMAGES,
    'LSHAttention.chunk_len': 256,
    'LSHAttention.n_hashes': 2,
    'train.steps': 300_000,
    'train.eval_every': 1000,
    'train.eval_batches': 512,
  },
  'hourglass/cifar10.gin': {
    **ADAM,
    **NO_DECAY,
    'train.steps': 100_000,
    'train.eval_every': 2000,
    'train.eval_batches': 625,
  },
  'hourglass/wiki40b.gin': {
    **ADAM,
    **NO_DECAY,
    'HourglassLM.vocab_size': 32_000,
    'PaddedDocuments.length': 2048,
    'train.steps': 125_000,
    'train.eval_every': 2500,
  },
  'hourglass/shorten_factor_dropout.gin': {
    'HourglassLM.vanilla_layers': (2, 2),
    'HourglassLM.shorten_factor_dropout': (2, 3),
  },
  'hourglass/shorten_factor_dropout_4at1_12atk.gin': {
    'HourglassLM.vanilla_layers': (4, 4),
    'HourglassLM.hierarchy': '12@3',
    'HourglassLM.shorten_factor_dropout': (2, 3),
  },
  'hourglass/shorten_factor_dropout_5at1_10atk.gin': {
    'HourglassLM.vanilla_layers': (5, 5),
    'HourglassLM.hierarchy': '10@3',
    'HourglassLM.shorten_factor_dropout': (2, 3),
  },
  'scaling/800m_dense.gin': {
    **C4,
    **SCALING_800M,
    'ScalingTransformer.d_ff': 4096,
  },
  'scaling/800m_ff_qkv_loss.gin': {
    **C4,
    **SCALING_800M,
    'ScalingTransformer.d_ff': 6144,
    'SparseFF.n_elements_in_block': 64,
    'SparseAttention.n_modules': 16,
    'MultiplicativeDense.n_modules': 4,
  },
  'scaling/17b_ff_qkv_loss.gin': {
    'ScalingTransformer.d_model': 9216,
    'ScalingTransformer.d_ff': 65_536,
    'ScalingTransformer.n_heads': 96,
    'SparseFF.n_elements_in_block': 256,
    'SparseFF.d_lowrank': 32,
    'MultiplicativeDense.n_modules': 8,
  },
  'scaling/lm1b.gin': {
    **ADAFACTOR,
    'Adafactor.weight_decay_rate': 1e-4,
    'Adafactor.weight_decay_n_steps': 100_000,
    'ScalingTransformerLM.d_model': 1024,
    'ScalingTransformerLM.d_ff': 4096,
    'ScalingTransformerLM.n_heads': 16,
    'ScalingTransformerLM.n_layers': 24,
    'ScalingTransformerLM.vocab_size': 32_000,
    'LearnedPositions.n_positions': 2048,
    'SparseFF.n_elements_in_block': 64,
    'PaddedDocuments.length': 512,
    'train.steps': 1_000_000,
    'train.eval_every': 1000,
  },
  'terraformer/c4_medium.gin': {
    **C4,
    'Terraformer.d_ff': 6144,
    'Terraformer.n_encoder_layers': 24,
    'Terraformer.n_decoder_layers': 24,
    'LearnedPositions.n_positions': 32_768,
    'MultiplicativeDense.n_modules': 4,
    'SparseFF.n_elements_in_block': 64,
    'SparseFF.chunk_size': 512,
    'SRUBranch.d_sru': None,  # The default, 32.
  },
  'terraformer/17b.gin': {
    'Terraformer.d_model': 9216,
    'Terraformer.d_ff': 65_536,
    'Terraformer.n_heads': 96,
    'MultiplicativeDense.n_modules': 8,
    'SRUBranch.d_sru': 64,
    'train.compute_dtype': 'bfloat16',
  },
  'terraformer/arxiv.gin': {
    **ADAFACTOR,
    'Adafactor.decay_rate': 0.9,
    'Adafactor.weight_decay_rate': 1e-5,
    'Adafactor.weight_decay_n_steps': 0,
    'TextPairs.batch_size': 4,
    'TextPairs.source_length': 15_360,
    'TextPairs.target_length': 1024,
    'Terraformer.dropout': 0.2,
    'train.compute_dtype': None,
    'train.eval_every': 500,
    'train.eval_batches': 10,
  },
  'terraformer/scientific_papers.gin': {
    **ADAFACTOR,
    'Adafactor.decay_rate': 0.9,
    'Adafactor.weight_decay_rate': 1e-5,
    'Adafactor.weight_decay_n_steps': None,
    'TextPairs.batch_size': 32,
    'TextPairs.source_length': 15_360,
    'TextPairs.target_length': 1024,
    'Terraformer.d_model': 1024,
    'Terraformer.d_ff': 4096,
    'Terraformer.n_heads': 8,
    'Terraformer.n_encoder_layers': 8,
    'Terraformer.n_decoder_layers': 8,
    'Terraformer.dropout': 0.2,
    'Terraformer.reversible_encoder': False,
    'LSHAttention.chunk_len': 128,
    'LSHAttention.n_hashes': 2,
    'train.steps': 1_000_000,
    'train.eval_every': 500,
    'train.eval_batches': 10,
  },
  'terraformer/wmt_ende.gin': {
    **ADAM,
    'Adam.weight_decay_rate': 1e-5,
    'TextPairs.batch_size': 64,
    'Terraformer.vocab_size': 33_300,
    'Terraformer.d_model': 512,
    'Terraformer.d_ff': 2048,
    'Terraformer.n_heads': 8,
    'Terraformer.n_encoder_layers': 6,
    'Terraformer.n_decoder_layers': 6,
    'Terraformer.n_decoder_attentions': None,  # The default, 2.
    'Terraformer.dropout': 0.1,
    'Terraformer.reversible_encoder': False,
    'LSHAttention.chunk_len': 256,
    'LSHAttention.n_hashes': 2,
    'train.steps': 1_000_000,
    'train.eval_every': 1000,
    'train.eval_batches': 10,
  },
  'terraformer/copy.gin': {
    'Adam.b1': 0.9,
    'Adam.b2': 0.999,
    'Adam.eps': 1e-5,
    'Adam.weight_decay_rate': 1e-5,
    'Synthetic.batch_size': 128,
    'Synthetic.length': 64,
    'Terraformer.d_model': 256,
    'Terraformer.d_ff': 512,
    'Terraformer.n_heads': 4,
    'Terraformer.n_encoder_layers': 3,
    'Terraformer.n_decoder_layers': 3,
    'Terraformer.n_decoder_attentions': 1,
    'Terraformer.dropout': 0.05,
    'LSHAttention.chunk_len': 16,
    'train.steps': 30_000,
    'train.eval_every': 100,
    'train.eval_batches': 10,
  },
  'block_recurrent/fixed_skip.gin': PG19,
  'block_recurrent/medium_150m.gin': PG19,
  **{
    f'block_recurrent/states_{n}.gin': {
      **PG19,
      'BlockRecurrentCell.n_states': n,
    }
    for n in (128, 256, 1024, 2048)
  },
  **{
    f'block_recurrent/window_{n}.gin': {
      **PG19,
      'BlockRecurrentCell.window': n,
      'SlidingAttention.window': n,
    }
    for n in (128, 256)
  },
}

# Learning rates by step.
RATES = {
  'hourglass/enwik8.gin': {
    1: 1.025e-7,
    4000: 4.1e-4,
    179_000: 2.05e-4,
    263_000: 6.46678e-5,
  },
  'hourglass/imagenet32.gin': {
    1: 6.177077e-8,
    8000: 4.941662e-4,
    400_000: 6.988631e-5,
    470_000: 0.0,
  },
  'hourglass/imagenet64.gin': {8000: 3.493856e-4, 300_000: 5.705443e-5},
  'hourglass/cifar10.gin': {1: 2e-7, 5000: 1e-3, 55_000: 5e-4},
  'hourglass/wiki40b.gin': {1: 1e-7, 10_000: 1e-3, 72_500: 5e-4},
  'scaling/800m_dense.gin': {1: 0.01, 10_000: 0.01, 524_288: 1.381068e-3},
  'scaling/lm1b.gin': {1: 1e-6, 1000: 1e-3, 10_000: 0.01, 1_000_000: 1e-3},
  'terraformer/c4_medium.gin': {
    1: 0.01,
    1000: 0.01,
    40_000: 0.005,
    524_288: 1.381068e-3,
  },
  'terraformer/arxiv.gin': {1: 1e-6, 1000: 1e-3, 10_000: 0.01, 40_000: 0.005},
  'terraformer/scientific_papers.gin': {1: 1e-6, 40_000: 0.005},
  'terraformer/wmt_ende.gin': {
    1: 1.229837e-7,
    8000: 9.838699e-4,
    32_000: 4.919350e-4,
  },
  'terraformer/copy.gin': {4000: 7.905694e-4, 16_000: 3.952847e-4},
  'block_recurrent/fixed_skip.gin': {
    1000: 3.162278e-2,
    4000: 1.581139e-2,
    500_000: 1.414214e-3,
  },
  'block_recurrent/medium_150m.gin': {
    1000: 9.999911e-3,
    250_000: 5.5e-3,
    500_000: 1e-3,
  },
}


@pytest.fixture
def parse():
  """Parses a file of the package; the paths of its data exist nowhere."""

  def run(name):
    config.clear()
    required = 'DATA', 'VOCAB', 'INIT'
    config.parse([name], [f"{x} = 'elsewhere'" for x in required])

  yield run
  config.clear()


@pytest.mark.parametrize('name', FACTS)
def test_settings_equal_the_published_ones(parse, name):
  parse(name)
  expected = FACTS[name]
  bound = {b.name: b.value for b in config.resolved()}
  # A copy has the value of a macro.
  found = {key: copy.deepcopy(bound.get(key)) for key in expected}
  assert found == expected


@pytest.mark.parametrize('name', RATES)
def test_learning_rates_equal_the_published_ones(parse, name):
  parse(name)
  schedule = config.value('train.optimizer')().learning_rate
  for step, rate in RATES[name].items():
    found = float(schedule(step))
    assert found == pytest.approx(rate, rel=2e-5, abs=1e-12), step
