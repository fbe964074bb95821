"""Bindings of the new file: none is lost unsaid; macros keep their names."""

import pytest

from trax_hier.translation import draft as drafts
from trax_hier.translation.draft import REQUIRED, Draft
from trax_hier.translation.translate import translate


@pytest.mark.parametrize('name', ['LSHAttention.chunk_len', 'Adam.n_modules'])
def test_a_second_value_of_a_binding_is_said(name):
  draft = Draft()
  draft.bind('Model', name, 2)
  draft.bind('Model', name, 2)
  assert not draft.lost
  draft.bind('Model', name, 16)
  ((_, said),) = draft.lost
  assert name in said and '16 is lost' in said
  assert draft.value(name) == 2
  assert set(draft.macros.values()) <= {2}


def test_a_second_reference_is_said():
  draft = Draft()
  for layer in ('SelfAttention', 'SelfAttention', 'LSHAttention'):
    draft.refer('Model', 'TransformerLM.attention', layer)
  assert draft.value('TransformerLM.attention').name == 'SelfAttention'
  assert '@LSHAttention is lost' in str(draft.lost)


def test_our_names_replace_translated_ones():
  found = translate(
    [],
    [*OLD, 'train.eval_frequency = 7', 'train.eval_every = 5'],
    lambda name, parameter: parameter == 'eval_every',
  )
  assert found.draft.sections['Training']['train.eval_every'] == 5
  assert 'replaces the translated 7' in str(found.draft.lost)


OLD = 'train.model = @trax.models.TransformerLM', 'TransformerLM.vocab_size = 9'
RESERVED = sorted(drafts._RESERVED)


@pytest.mark.parametrize('old', [*RESERVED, *map(str.lower, RESERVED), 'a/n'])
def test_old_macros_do_not_become_ours(old):
  found = translate([], [*OLD, f'{old} = 7', f'train.eval_frequency = %{old}'])
  draft = found.draft
  macro = draft.sections['Training']['train.eval_every'].name
  assert draft.macros[macro] == 7
  assert macro not in RESERVED
  if old not in RESERVED:
    assert macro == old.replace('/', '_')
  assert draft.macros['DATA'] == REQUIRED
  assert draft.macros['VOCAB_SIZE'] == 9
