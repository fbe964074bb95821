"""Optimizers and losses of Trax, and its trainer's own record of a run."""

import pytest

from trax_hier.translation.translate import translate

OLD = 'train.model = @trax.models.TransformerLM', 'TransformerLM.vocab_size = 9'
ADAM = 'train.optimizer = @trax.optimizers.Adam'
SMOOTHING = 'WeightedCategoryCrossEntropy.label_smoothing = 0.1'


@pytest.mark.parametrize(
  'old, new',
  [
    ('Adafactor', 'Adafactor'),
    ('Adam', 'Adam'),
    ('Momentum', 'SGD'),
    ('RMSProp', 'Adam'),
    ('SGD', 'SGD'),
    ('SM3', 'Adafactor'),
  ],
)
def test_gradients_are_clipped_as_in_trax(old, new):
  optimizer = f'train.optimizer = @trax.optimizers.{old}'
  clip = f'{old}.clip_grad_norm = 0.5'
  found = translate([], [*OLD, optimizer, clip])
  assert found.draft.sections['Optimizer'][f'{new}.clip_norm'] == 0.5
  assert not found.unknown and not found.unused
  found = translate([], [*OLD, optimizer])
  assert f'{new}.clip_norm' not in found.draft.sections['Optimizer']


def test_a_record_of_trax_has_no_unknown_settings():
  record = """
debug_pipeline.debug = False
debug_pipeline.method = 'pow'
EvalTask.export_prefix = None
LayerNorm.epsilon = 1e-06
num_devices.value = None
train.callbacks = None
TrainTask.loss_name = None
WeightedCategoryCrossEntropy.cutoff = 0.0
WeightedCategoryCrossEntropy.label_smoothing = None
"""
  found = translate([], [*OLD, ADAM, record])
  assert (found.unknown, found.unused, found.draft.lost) == ([], {}, [])
  assert len(found.draft.harmless) == len(record.split('\n')) - 2


LOSS = 'train.loss_fn = @trax.layers.WeightedCategoryCrossEntropy()'


@pytest.mark.parametrize(
  'bindings, smoothing, said',
  [
    ([LOSS, SMOOTHING], 0.1, ''),
    ([SMOOTHING], None, 'Trax does not use it'),
    ([LOSS, 'WeightedCategoryCrossEntropy.cutoff = 0.2'], None, 'no cutoff'),
  ],
)
def test_arguments_of_the_loss(bindings, smoothing, said):
  draft = translate([], [*OLD, ADAM, *bindings]).draft
  found = draft.sections['Training'].get('train.label_smoothing')
  assert found == smoothing
  assert said in ' '.join(reason for _, reason in draft.lost)
  assert len(draft.lost) == bool(said)
