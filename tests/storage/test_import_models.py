"""`import_trax` for each of Trax's models that has a counterpart."""

import functools

import jax
import numpy as np
import pytest
import toy
from messages import messages

import trax_hier
from trax_hier import cli, config
from trax_hier.compat import tl
from trax_hier.storage import import_trax
from trax_hier.storage.runs import open_run

# After trax_hier.compat, which patches trax for current JAX and makes these
# imports fast.
from trax.layers.research import resampling  # isort: skip
from trax.models import transformer  # isort: skip
from trax.models.research import (  # isort: skip
  configurable_transformer,
  hourglass,
  terraformer,
)

P = functools.partial
VOCAB, D, F, MAX_LEN, N, R, S, U = 20, 16, 32, 24, 8, 5, 4, 4
CHUNK = 6
SIZES = dict(d_model=D, d_ff=F, n_heads=2, dropout=0.0, mode='eval')
SPARSE = dict(ff_sparsity=(N, R), loss_sparsity=S, loss_sparsity_type='mult')
CONV = P(tl.MultiplicativeConvCausalAttention, sparsity=S, length_kernel_size=3)
PAIR = dict(n_encoder_layers=1, n_decoder_layers=2)

GIN = f"""
D = {D}
VOCAB = {VOCAB}
train.model = @MODEL
MODEL.vocab_size = %VOCAB
MODEL.d_model = %D
MODEL.d_ff = {F}
MODEL.n_heads = 2
"""
LEARNED = f"""
MODEL.positions = @LearnedPositions
LearnedPositions.n_positions = {MAX_LEN}
"""
DENSE = """
MODEL.attention = @SelfAttention
MODEL.feed_forward = @FeedForward
FeedForward.activation = @Relu
"""
SPARSE_GIN = f"""
MODEL.attention = @SparseAttention
SparseAttention.n_modules = {S}
MODEL.feed_forward = @SparseFF
SparseFF.n_elements_in_block = {N}
SparseFF.d_lowrank = {R}
MODEL.logits = @MultiplicativeDense
MultiplicativeDense.n_modules = {S}
"""
PAIR_GIN = """
MODEL.n_encoder_layers = 1
MODEL.n_decoder_layers = 2
"""


def transformer_lm():
  return transformer.TransformerLM(VOCAB, n_layers=2, max_len=MAX_LEN, **SIZES)


def encoder_decoder():
  return transformer.Transformer(VOCAB, max_len=MAX_LEN, **PAIR, **SIZES)


def configurable_lm():
  return configurable_transformer.ConfigurableTransformerLM(
    VOCAB,
    n_layers=2,
    max_len=MAX_LEN,
    attention_type=CONV,
    **SPARSE,
    **SIZES,
  )


def configurable_pair():
  return configurable_transformer.ConfigurableTransformer(
    VOCAB,
    max_len=MAX_LEN,
    encoder_decoder_attention_type=CONV,
    **PAIR,
    **SPARSE,
    **SIZES,
  )


def reversible():
  return terraformer.ConfigurableTerraformer(
    VOCAB,
    max_len=MAX_LEN,
    encoder_attention_type=tl.Attention,
    encoder_decoder_attention_type=CONV,
    n_decoder_attention_layers=2,
    pos_type=None,
    reversible_encoder=True,
    use_two_swaps_per_encoder_block=True,
    ff_use_sru=(1, U),
    **PAIR,
    **SPARSE,
    **SIZES,
  )


def not_reversible():
  return terraformer.ConfigurableTerraformer(
    VOCAB,
    max_len=MAX_LEN,
    encoder_attention_type=tl.Attention,
    encoder_decoder_attention_type=[tl.CausalAttention, CONV],
    center_layernorm=False,
    **PAIR,
    **SIZES,
  )


def hashed():
  # Two chunks attend to each other, so the random hashes have no effect.
  attention = P(
    tl.PureLSHSelfAttentionWrapper,
    pure_lsh_implementation=P(tl.PureLSHSelfAttention, chunk_len=CHUNK),
    num_weights=2,
    rotary_position_emb=True,
  )
  return hourglass.HourglassLM(
    VOCAB,
    vanilla_layers=(1, 0),
    hierarchy='1@3',
    vanilla_attn_type=attention,
    attention_downsampling_fn=resampling.LinearPooling,
    **SIZES,
  )


# Trax's model; ours, and its bindings.
MODELS = {
  'TransformerLM': (
    transformer_lm,
    'TransformerLM',
    f'{LEARNED} MODEL.n_layers = 2\nFeedForward.activation = @Relu',
  ),
  'Transformer': (
    encoder_decoder,
    'ScalingTransformer',
    LEARNED + DENSE + PAIR_GIN,
  ),
  'ConfigurableTransformerLM': (
    configurable_lm,
    'ScalingTransformerLM',
    f'{LEARNED}{SPARSE_GIN}MODEL.n_layers = 2',
  ),
  'ConfigurableTransformer': (
    configurable_pair,
    'ScalingTransformer',
    LEARNED + SPARSE_GIN + PAIR_GIN,
  ),
  'ConfigurableTerraformer': (
    reversible,
    'Terraformer',
    f'{LEARNED}{SPARSE_GIN}{PAIR_GIN}SRUBranch.d_sru = {U}',
  ),
  'ConfigurableTerraformer, not reversible': (
    not_reversible,
    'Terraformer',
    f"""
Terraformer.attention = (@SelfAttention, @SparseAttention)
SparseAttention.n_modules = {S}
Terraformer.feed_forward = @FeedForward
FeedForward.activation = @Relu
Terraformer.n_decoder_attentions = 2
Terraformer.recurrence = None
Terraformer.positions = @FixedBasePositions
Terraformer.reversible_encoder = False
Terraformer.norm = @RMSNorm
{PAIR_GIN}""",
  ),
  'hashed HourglassLM': (
    hashed,
    'HourglassLM',
    f"""
HourglassLM.vanilla_layers = (1, 0)
HourglassLM.hierarchy = '1@3'
HourglassLM.vanilla_block = @vanilla/DecoderBlock
vanilla/DecoderBlock.attention = @LSHAttention
LSHAttention.chunk_len = {CHUNK}
LSHAttention.n_hashes = 1
AttentionShorten.pool = @LinearShorten
""",
  ),
}
WITH_UNUSED = 'ConfigurableTerraformer, not reversible'
# The others have a parity test in tests/models.
QUICK = 'TransformerLM', 'Transformer'


@pytest.fixture(autouse=True)
def clear_config():
  yield
  config.clear()


def ids(*shape, seed):
  rng = np.random.default_rng(seed)
  return rng.integers(1, VOCAB, shape).astype(np.int32)


def inputs_of(layer):
  tokens = ids(2, 2 * CHUNK, seed=1)
  return tokens if layer.n_in == 1 else (ids(2, 7, seed=2), tokens)


@functools.cache
def saved_model(name):
  """Trax's model with random weights."""
  model = MODELS[name][0]()
  weights, state = toy.shapes(model, inputs_of(model))
  model.weights, model.state = toy.random_like(weights), toy.zeros_like(state)
  return model


@pytest.fixture
def import_model(tmp_path, capsys):
  """Imports a model by the command; returns code, output, notes, folder."""

  def run(name, *flags):
    model, (_, ours, bindings) = saved_model(name), MODELS[name]
    signature = toy.signature(inputs_of(model))
    model.save_to_file(
      str(tmp_path / 'model.pkl.gz'), input_signature=signature
    )
    (tmp_path / 'model.gin').write_text((GIN + bindings).replace('MODEL', ours))
    folder = tmp_path / 'imported'
    code = cli.main(
      [
        'import_trax',
        f'--weights={tmp_path / "model.pkl.gz"}',
        f'--config_file={tmp_path / "model.gin"}',
        f'--output={folder}',
        *flags,
      ]
    )
    output = capsys.readouterr()
    return code, output.out, messages(output.err), folder

  return run


def test_ids_without_text(import_model):
  code, output, notes, folder = import_model('TransformerLM', '--vocab=ids')
  assert code == 0 and output.endswith(' parameters\n')
  assert 'n_heads = 2, activation = Relu' in notes
  loaded = trax_hier.load(folder)
  assert (loaded.unit, loaded.vocab.size) == ('token', VOCAB)
  assert loaded.vocab.decode(loaded.vocab.encode('3 17')) == '3 17'
  with pytest.raises(ValueError, match="'20' is not a token id"):
    loaded.vocab.encode('3 20')
  assert open_run(folder).data.unit == 'token'


# Flags; what the message says. Last, the files fit, but not the vocabulary.
@pytest.mark.parametrize(
  'flags, message',
  [
    (['--vocab=ids', '--unit=dim'], "'dim' is for tokens that are bytes"),
    (['--vocab=none.model'], "vocab = 'none.model'"),
    (['--unit=dim'], 'vocab_size = 20, as its weights in the file, but'),
    ([], 'or ids if the text of ids is not known'),
    (['--vocab=ids', '--config=VOCAB = 21'], 'TransformerLM.vocab_size = 20'),
    (['--vocab=ids', '--config=D = 8'], 'TransformerLM.d_model = 16'),
  ],
)
def test_flags_that_do_not_fit(import_model, flags, message):
  code, output, error, folder = import_model('TransformerLM', *flags)
  assert (code, output, error.count('\n')) == (2, '', 1)
  assert message in error and not folder.exists()


def test_positions_of_older_files(tmp_path, monkeypatch):
  arrays = [
    np.asarray(x) for x in jax.tree.leaves(saved_model('TransformerLM').weights)
  ]
  older = [x[None] if x.shape == (MAX_LEN, D) else x for x in arrays]
  assert [x.ndim for x in older].count(3) == 1
  bindings = GIN + MODELS['TransformerLM'][2]
  config.parse(bindings=[bindings.replace('MODEL', 'TransformerLM')])
  imported = []
  for file in (arrays, older):
    monkeypatch.setattr(
      import_trax, 'read_trax_weights', lambda _, file=file: file
    )
    exportable = import_trax.import_file('x', 'ids', say=lambda line: None)
    imported.append(jax.tree.leaves(exportable.weights))
  for x, y in zip(*imported, strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
    for name in MODELS
  ],
)
def test_logits_equal_those_of_trax(import_model, name):
  code, _, notes, folder = import_model(name, '--vocab=ids')
  assert code == 0, notes
  assert ('have no effect in Trax' in notes) == (name == WITH_UNUSED)
  official = saved_model(name)
  inputs = inputs_of(official)
  expected, _ = toy.run(official, inputs, official.weights, official.state)
  # Models of sources also return the tokens.
  expected = expected[0] if isinstance(expected, tuple | list) else expected

  loaded = trax_hier.load(folder)
  model = loaded.model(mode='eval')
  _, state = toy.shapes(model, inputs)
  logits, _ = toy.run(model, inputs, loaded.weights, toy.zeros_like(state))
  scale = np.max(np.abs(expected))
  np.testing.assert_allclose(logits, expected, 0, 1e-5 * scale)
