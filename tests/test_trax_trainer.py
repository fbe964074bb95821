"""Trax's own trainer: its models and ours, from gin files in Trax's style."""

import re
import sys

import gin
import jax
import numpy as np
import pytest
import toy
from messages import messages

import trax_hier
from trax_hier import cli, config, trax_trainer
from trax_hier.compat import signature

DATA = """
import trax.data
import trax.models
import trax.optimizers
import trax.supervised.trainer_lib

vocab_size = 9
simple_sequence_copy_inputs.vocab_size = %vocab_size
simple_sequence_copy_inputs.batch_size = 2
simple_sequence_copy_inputs.train_length = 8
simple_sequence_copy_inputs.eval_min_length = 4
simple_sequence_copy_inputs.eval_max_length = 8
simple_sequence_copy_inputs.pad_to_multiple = 8

multifactor.constant = 0.05
multifactor.factors = 'constant * linear_warmup * rsqrt_decay'
multifactor.warmup_steps = 2

train.inputs = @trax.data.simple_sequence_copy_inputs
train.optimizer = @trax.optimizers.Adam
train.eval_frequency = 2
train.eval_steps = 1
train.steps = 2
"""

# The last lines of a file that includes the data.
OFFICIAL = {
  'TransformerLM': """
    train.model = @trax.models.TransformerLM
    TransformerLM.n_layers = 1
    TransformerLM.max_len = 8
  """,
  'HourglassLM': """
    train.model = @trax.models.HourglassLM
    HourglassLM.hierarchy = '1@2'
    HourglassLM.vanilla_layers = (1, 1)
    HourglassLM.vanilla_attn_type = @trax.layers.SelfAttention
    SelfAttention.chunk_len = 4
    SelfAttention.n_chunks_before = 1
  """,
  'ConfigurableTerraformer': """
    train.model = @trax.models.ConfigurableTerraformer
    ConfigurableTerraformer.n_encoder_layers = 1
    ConfigurableTerraformer.n_decoder_layers = 1
    ConfigurableTerraformer.d_attention_key = 8
    ConfigurableTerraformer.d_attention_value = 8
    ConfigurableTerraformer.encoder_attention_type = @LSHSelfAttention
    ConfigurableTerraformer.encoder_decoder_attention_type = @LSHSelfAttention
    ConfigurableTerraformer.pos_type = 'fixed-base'
    LSHSelfAttention.chunk_len = 4
    LSHSelfAttention.n_hashes = 1
    LSHSelfAttention.n_buckets = 2
  """,
}
OURS = {
  'TransformerLM': 'n_layers = 1',
  'HourglassLM': "hierarchy = '1@3'",
  'TopDownLM': 'scales = (1, 2)\nn_layers = (1, 1)',
  'BottomUpLM': 'scales = (1, 2)\nn_layers = (1, 1)\nn_post = 1',
  'RetinaLM': 'scales = (1, 2)\nn_layers = 1\nwindow = 2',
  'BlockRecurrentLM': 'n_layers = 1\nrecurrent_layers = (1,)\ncarry = False',
  'ScalingTransformerLM': 'n_layers = 1',
  'ReversibleLM': 'n_layers = 1',
  'ScalingTransformer': 'n_encoder_layers = 1\nn_decoder_layers = 1\n'
  'attention = @trax_hier.layers.SelfAttention\nfeed_forward = @FeedForward',
  'Terraformer': 'n_encoder_layers = 1\nn_decoder_layers = 1',
}
WITH_SOURCES = 'ScalingTransformer', 'Terraformer'


def sizes(model, vocab_size='vocab_size'):
  return f"""
    {model}.{vocab_size} = %vocab_size
    {model}.d_model = 16
    {model}.d_ff = 32
    {model}.n_heads = 2
  """


def official(name):
  is_terraformer = name == 'ConfigurableTerraformer'
  vocab_size = 'input_vocab_size' if is_terraformer else 'vocab_size'
  return OFFICIAL[name] + sizes(name, vocab_size)


def ours(name):
  full = f'trax_hier.models.{name}'
  lines = [f'{full}.{line}' for line in OURS[name].splitlines()]
  if name in WITH_SOURCES:
    lines += ['train.model = @KeepTargets', f'KeepTargets.model = @{full}']
  else:
    lines.append(f'train.model = @{full}')
  return '\n'.join(['import trax_hier.models', *lines]) + sizes(full)


@pytest.fixture(autouse=True)
def clear():
  config.clear()
  yield
  config.clear()
  gin.config._IMPORTS.clear()


@pytest.fixture
def train(tmp_path, capsys, monkeypatch):
  """Trains from files in another folder; returns the exit code and output."""
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'data.gin').write_text(DATA)
  monkeypatch.chdir(tmp_path)
  config_file = tmp_path / 'configs' / 'model.gin'

  def train(text='', *flags, out='out'):
    config_file.write_text(f"include 'data.gin'\n{text}")
    paths = f'--config_file={config_file}', f'--output_dir={tmp_path / out}'
    # What is logged is also printed.
    code = trax_trainer.main([*paths, '--log_level=-1', *flags])
    config.clear()
    output = capsys.readouterr()
    return code, messages(output.err) if code else output.out

  return train


def steps(output):
  """The steps whose evaluation was printed, with their losses."""
  found = re.findall(r'Step +(\d+): eval +loss \| +([\d.]+)', output)
  return [(int(step), float(loss)) for step, loss in found]


def cases(kind, names, quick):
  for name in names:
    slow = () if name in quick else [pytest.mark.slow]
    yield pytest.param(kind, name, id=f'{kind.__name__} {name}', marks=slow)


@pytest.mark.parametrize(
  'kind, name',
  [
    *cases(official, OFFICIAL, []),
    *cases(ours, OURS, ['ScalingTransformer']),
  ],
)
def test_trains_and_evaluates(train, tmp_path, kind, name):
  code, output = train(kind(name), '--config=train.steps = 1')
  assert code == 0, output
  assert output.endswith('Finished training.\n')
  ((step, loss),) = steps(output)
  assert step == 1 and 0 < loss < 9
  written = {path.name for path in (tmp_path / 'out').iterdir()}
  assert {'config.gin', 'model.pkl.gz', 'train', 'eval'} <= written
  _, weights = written_model(tmp_path / 'out', np.ones((2, 8), np.int32))
  assert all(np.isfinite(w).all() for w in jax.tree.leaves(weights))
  assert 'tensorflow' not in sys.modules


# Our model of the same function as the official TransformerLM.
SAME_MODEL = """
train.model = @TransformerLM
TransformerLM.vocab_size = 9
TransformerLM.n_layers = 1
TransformerLM.d_model = 16
TransformerLM.d_ff = 32
TransformerLM.n_heads = 2
TransformerLM.positions = @LearnedPositions
LearnedPositions.n_positions = 8
FeedForward.activation = @Relu
"""


@pytest.mark.parametrize(
  'use_loop', [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_resumes_and_is_imported(train, tmp_path, use_loop):
  """Also with Trax's older `Trainer`, which saves the graph of the model."""
  text = f'{official("TransformerLM")}\ntrain.use_loop = {use_loop}'
  code, output = train(text)
  assert code == 0, output
  assert [step for step, _ in steps(output)] == [1, 2]
  assert (tmp_path / 'out' / 'forward.dot').exists() != use_loop
  code, output = train(text, '--config=train.steps = 6')
  assert code == 0, output
  assert [step for step, _ in steps(output)] == [4, 6]
  code, output = train(text, '--config=train.steps = 6')
  # `Trainer` evaluates what has been trained.
  assert code == 0 and {step for step, _ in steps(output)} <= {6}

  (tmp_path / 'same.gin').write_text(SAME_MODEL)
  flags = ['--weights=out/model.pkl.gz', '--config_file=same.gin']
  flags += ['--output=imported', '--vocab=ids']
  assert cli.main(['import_trax', *flags]) == 0
  loaded = trax_hier.load('imported')
  x = np.arange(1, 9, dtype=np.int32)[None]
  found = logits(loaded.model(mode='eval'), loaded.weights, x)
  config.clear()
  expected = logits(*written_model(tmp_path / 'out', x), x)
  np.testing.assert_allclose(found, expected, 1e-5, 1e-5)


def written_model(folder, x):
  """The model of a training and its weights, as the notebooks of Trax do."""
  gin.parse_config_file(str(folder / 'config.gin'))
  model = gin.query_parameter('train.model').scoped_configurable_fn(mode='eval')
  model.init_from_file(
    f'{folder}/model.pkl.gz',
    weights_only=True,
    input_signature=signature(x if model.n_in == 1 else (x,) * model.n_in),
  )
  return model, model.weights


def logits(model, weights, x):
  _, state = toy.shapes(model, x)
  key = jax.random.PRNGKey(0)
  return jax.jit(model.pure_fn)(x, weights, toy.zeros_like(state), key)[0]


CARRY = """
trax_hier.models.BlockRecurrentLM.carry = True
BlockRecurrentCell.window = 4
SlidingAttention.window = 4
"""
FAULTS = [
  ('NoSuchLM.d_model = 3', [], "No configurable matching 'NoSuchLM"),
  ('', ['--config=TransformerLM.no_such = 3'], "parameter named 'no_such'"),
  ('', ['--config=train.model = TransformerLM'], "parse token 'TransformerLM"),
  ("include 'none.gin'", [], 'Unable to open file: none.gin'),
  ('import no_such_module', [], "No module named 'no_such_module'"),
  (
    'train.model = %unknown',
    [],
    "unknown must be given a value, as in --config='unknown = ...'",
  ),
  ('', [], 'train.model must be given a value'),
  ('', ['--no_such_flag'], "Unknown command line flag 'no_such_flag'"),
  ('', ['quickstart.gin'], "unexpected argument 'quickstart.gin'"),
  ('', ['--use_tpu=maybe'], 'flag --use_tpu=maybe'),
  (
    ours('ScalingTransformer'),
    ['--config=train.model = @trax_hier.models.ScalingTransformer'],
    'train.model = @KeepTargets and KeepTargets.model',
  ),
  (
    f'{ours("BlockRecurrentLM")}\n{CARRY}',
    [],
    'BlockRecurrentLM.carry = False',
  ),
  (
    f'{ours("TransformerLM")}\ntrain.model = @KeepTargets\n'
    'KeepTargets.model = @trax_hier.models.TransformerLM',
    [],
    'a language model needs no KeepTargets',
  ),
]


@pytest.mark.parametrize('text, flags, message', FAULTS)
def test_faults_are_one_message_before_training(train, text, flags, message):
  code, output = train(text, *flags)
  print(output)
  assert code == 2, output
  assert output.count('trax-trainer: ') == 1
  assert message in output


def test_flags_without_effect_are_named(train):
  code, output = train('', '--tf_xla=False', '--jax_xla_backend=tpu_driver')
  assert code == 2
  assert '--jax_xla_backend, --tf_xla: without effect here\n' in output


def test_help_lists_the_flags(capsys):
  assert trax_trainer.main(['--help']) == 0
  printed = capsys.readouterr().out
  for name in ('config_file', 'config', 'output_dir', 'model', 'log_level'):
    assert f'--{name}:' in printed
