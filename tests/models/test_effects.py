"""Arguments without effect are told by name: in Python, and bound in gin."""

import functools

import pytest

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import config, models
from trax_hier import layers as hl
from trax_hier.config import names
from trax_hier.layers.base.build import accepts

P = functools.partial
SIZES = dict(vocab_size=16, d_model=16, n_heads=2)
SRU = P(hl.DecoderBlock, feed_forward=hl.SRUBranch)
HASHING = P(hl.DecoderBlock, attention=hl.LSHAttention)
RECURRENT = P(models.BlockRecurrentLM, n_layers=2, recurrent_layers=(2,))
IDLE = {
  'TransformerLM.d_ff = 32': P(models.TransformerLM, block=SRU, d_ff=32),
  'DecoderBlock.d_ff = 32': P(
    hl.DecoderBlock, feed_forward=hl.SRUBranch, d_ff=32
  ),
  'TransformerLM.n_heads = 2': P(
    models.TransformerLM,
    block=P(hl.DecoderBlock, attention=hl.SRUBranch),
    positions=hl.LearnedPositions,
  ),
  'TransformerLM.positions = @RotaryPositions': P(
    models.TransformerLM, block=HASHING, positions=hl.RotaryPositions
  ),
  'DecoderBlock.d_head = 4': P(
    models.TransformerLM, block=P(HASHING, d_head=4)
  ),
  # One of two blocks takes it.
  'BlockRecurrentLM.d_head = 4': P(
    RECURRENT, attention=hl.LSHAttention, carry=False, d_head=4
  ),
  'TransformerLM.positions = @T5Positions': P(
    models.TransformerLM,
    block=P(hl.DecoderBlock, own_positions=hl.NoPositions),
    positions=hl.T5Positions,
  ),
  'TopDownLM.inject = @Sum': P(
    models.TopDownLM, scales=(1,), n_layers=(1,), inject=hl.Sum
  ),
  'BlockRecurrentLM.attention = @SRUBranch': P(
    RECURRENT, feedback=hl.FeedbackStack, attention=hl.SRUBranch
  ),
  'BlockRecurrentLM.recurrent_attention = @SRUBranch': P(
    models.BlockRecurrentLM,
    recurrent_layers=(),
    recurrent_attention=hl.SRUBranch,
  ),
}
USED = {
  'no layers': P(models.RetinaLM, window=16, n_layers=0, d_ff=32),
  'the default': P(models.TransformerLM, block=SRU, d_ff=2048),
  'one of two blocks': P(
    models.HourglassLM, vanilla_block=SRU, hierarchy='1@2', d_ff=32
  ),
  'the capacity that sampling sets': P(RECURRENT, max_len=32),
  'positions of embeddings': P(
    models.TransformerLM, block=HASHING, positions=hl.LearnedPositions
  ),
  'no positions': P(
    models.TransformerLM, block=HASHING, positions=hl.NoPositions
  ),
  'of the states': P(hl.BlockRecurrentCell, configuration='dual', d_ff=32),
  'pool': P(models.RetinaLM, window=16, pool=hl.LinearShorten),
  'a block of the user': P(
    models.TransformerLM,
    block=lambda d_model, d_ff: hl.FeedForward(d_model, d_ff),
  ),
}
GIN = {
  'TransformerLM.d_ff = 32': (
    'TransformerLM',
    'DecoderBlock.feed_forward = @SRUBranch',
  ),
  'DecoderBlock.d_head = 4': (
    'TransformerLM',
    'DecoderBlock.attention = @LSHAttention',
  ),
  'BlockRecurrentLM.max_len = 32': ('BlockRecurrentLM', ''),
  'BlockRecurrentLM.attention = @SRUBranch': (
    'BlockRecurrentLM',
    'BlockRecurrentLM.feedback = @FeedbackStack',
  ),
  'LSHAttention.causal = False': (
    'Terraformer',
    'Terraformer.attention = @LSHAttention',
  ),
}


@pytest.fixture(autouse=True)
def no_bindings():
  config.clear()
  yield
  config.clear()


def make(model):
  given = {n: v for n, v in SIZES.items() if accepts(model, n)}
  return model(**given)


@pytest.mark.parametrize('name', IDLE)
def test_an_argument_without_effect_is_refused(name):
  with pytest.raises(ValueError, match=f'^{name} has no effect: '):
    make(IDLE[name])


@pytest.mark.parametrize('name', USED)
def test_an_argument_with_an_effect_is_not(name):
  make(USED[name])


def bind(*statements, model, file=()):
  sizes = [f'{model}.{name} = {value}' for name, value in SIZES.items()]
  config.parse(file, [*sizes, *filter(None, statements)])
  names.registry()[f'trax_hier.models.{model}'].wrapper()


@pytest.mark.parametrize('binding', GIN)
def test_a_binding_without_effect_is_refused(binding):
  model, other = GIN[binding]
  bind(binding, other, model=model)
  with pytest.raises(
    config.ConfigError, match='the binding has no effect'
  ) as e:
    config.check_used()
  assert str(e.value).startswith(f"--config='{binding}': ")


def test_an_override_of_a_file_makes_a_note_of_it(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'a.gin').write_text('F = 32\nTransformerLM.d_ff = %F')
  bind(
    'DecoderBlock.feed_forward = @SRUBranch',
    model='TransformerLM',
    file=['a.gin'],
  )
  (note,) = config.check_used()
  assert note.startswith('a.gin:2: TransformerLM.d_ff = %F: DecoderBlock.att')
  # The text repeats the run, without the note.
  assert 'd_ff' not in config.operative_text()


def test_parts_of_fixed_levels_in_a_file_make_notes(tmp_path, monkeypatch):
  """A dynamic level has slots of its own, though these are the defaults."""
  monkeypatch.chdir(tmp_path)
  bindings = (
    'HourglassLM.shorten = @AttentionShorten',
    'AttentionShorten.pool = @AverageShorten',
  )
  (tmp_path / 'a.gin').write_text('\n'.join(bindings))
  dynamic = (
    "HourglassLM.hierarchy = '1@~3'",
    'DynamicStack.boundaries = @FixedBoundaries',
  )
  bind(*dynamic, model='HourglassLM', file=['a.gin'])
  notes = config.check_used()
  assert len(notes) == 2
  for i, (note, binding) in enumerate(zip(notes, bindings, strict=True)):
    assert note.startswith(f'a.gin:{i + 1}: {binding}: ')
  # In one file or option with it, they are faults.
  config.clear()
  bind(*dynamic, *bindings, model='HourglassLM')
  with pytest.raises(config.ConfigError, match='no effect'):
    config.check_used()


@pytest.mark.parametrize(
  'model, binding, hint',
  [
    (
      'BlockRecurrentLM',
      'DecoderBlock.attention = @SelfAttention',
      'BlockRecurrentLM.attention or BlockRecurrentLM.recurrent_attention',
    ),
    (
      'ScalingTransformer',
      'EncoderBlock.attention = @LSHAttention',
      'ScalingTransformer.encoder_attention',
    ),
    ('RetinaLM', 'RetinaAttention.pool = @LinearShorten', 'RetinaLM.pool'),
    ('RetinaLM', 'RetinaAttention.window = 16', 'RetinaLM.window'),
  ],
)
def test_the_binding_of_the_model_is_named(model, binding, hint):
  bind(binding, model=model)
  with pytest.raises(config.ConfigError, match=rf'\(bind {hint} instead\)'):
    config.check_used()


@pytest.mark.parametrize('scope', ['midle', 'Middle', 'outter'])
def test_a_scope_gets_a_suggestion(scope):
  bind(
    "HourglassLM.hierarchy = '1@2'",
    'HourglassLM.vanilla_block = @outer/DecoderBlock',
    'HourglassLM.shortened_block = @middle/DecoderBlock',
    f'{scope}/SelfAttention.window = 4',
    model='HourglassLM',
  )
  meant = 'outer' if scope[0] == 'o' else 'middle'
  with pytest.raises(config.ConfigError, match=f"you mean '{meant}'"):
    config.check_used()


@pytest.mark.parametrize(
  'model, slot, part',
  [
    (models.TransformerLM, 'block', P(hl.DecoderBlock, n_heads=4)),
    (models.Terraformer, 'attention', P(hl.LSHAttention, causal=False)),
  ],
)
def test_a_partial_that_its_slot_would_override_is_refused(model, slot, part):
  name = next(iter(part.keywords))
  with pytest.raises(ValueError, match=f'sets {name} = .*its slot sets {name}'):
    model(**SIZES, **{slot: part})


def test_an_encoder_takes_attention_that_can_be_causal():
  models.ScalingTransformer(**SIZES, encoder_attention=hl.LSHAttention)
