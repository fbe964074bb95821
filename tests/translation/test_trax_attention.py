"""Layers of Trax keep their own arguments beside layers of the same kind."""

import itertools

import pytest

from trax_hier.config.files import Reference
from trax_hier.translation.translate import translate

TERRAFORMER = (
  'train.model = @trax.models.ConfigurableTerraformer',
  'ConfigurableTerraformer.input_vocab_size = 64',
)
HOURGLASS = (
  'train.model = @trax.models.HourglassLM',
  'HourglassLM.vocab_size = 64',
)
# Layers of Trax, each with a value of its own.
ARGUMENTS = (
  'a/MultiplicativeConvCausalAttention.sparsity = 4',
  'a/MultiplicativeConvCausalAttention.share_qk = True',
  'MultiplicativeModularCausalAttention.sparsity = 2',
  'LSHSelfAttention.chunk_len = 32',
  'LSHSelfAttention.n_hashes = 4',
  'b/LSHSelfAttention.n_hashes = 3',
  'PureLSHSelfAttention.chunk_len = 256',
  'SelfAttention.chunk_len = 64',
  'a/SelfAttention.chunk_len = 96',
)
LAYERS = (
  'CausalAttention',
  'a/CausalAttention',
  'MultiplicativeConvCausalAttention',
  'a/MultiplicativeConvCausalAttention',
  'MultiplicativeModularCausalAttention',
  'LSHSelfAttention',
  'b/LSHSelfAttention',
  'PureLSHSelfAttentionWrapper',
  'SelfAttention',
  'a/SelfAttention',
)


def translated(*bindings):
  draft = translate([], [*bindings, *ARGUMENTS]).draft
  bound = [reason for _, reason in draft.lost if 'already' in reason]
  assert not bound
  return draft


def arguments(draft, reference):
  """The layer a reference means, and all arguments that it gets."""
  scope, _, name = reference.name.rpartition('/')
  found = {}
  for within in ('', scope):
    for key in draft.sections['Model']:
      where, _, binding = key.rpartition('/')
      # SparseAttention is a SelfAttention inside.
      if where == within and binding.startswith((f'{name}.', 'SelfAttention.')):
        found[binding] = draft.value(key)
  return name, found


def in_list(layers):
  references = ', '.join(f'@{layer}' for layer in layers)
  parameter = 'ConfigurableTerraformer.encoder_decoder_attention_type'
  draft = translated(*TERRAFORMER, f'{parameter} = [{references}]')
  slots = draft.value('Terraformer.attention')
  bound = [x for rows in draft.sections.values() for x in rows.values()]
  assert draft.macros.keys() == {x.name for x in bound if is_macro(x)}
  return [arguments(draft, reference) for reference in slots]


def is_macro(value):
  return isinstance(value, Reference) and value.sigil == '%'


@pytest.mark.parametrize('layers', [*itertools.permutations(LAYERS, 2), LAYERS])
def test_layers_of_a_list_do_not_share_their_arguments(layers):
  alone = [found for layer in layers for found in in_list([layer])]
  assert in_list(layers) == alone


def in_blocks(vanilla, middle):
  draft = translated(
    *HOURGLASS,
    f'HourglassLM.vanilla_attn_type = @{vanilla}',
    f'HourglassLM.middle_attn_type = @{middle}',
  )
  return [
    (
      *arguments(draft, draft.value(f'{block}/DecoderBlock.attention')),
      draft.value(f'{block}/DecoderBlock.own_positions'),
    )
    for block in ('vanilla', 'middle')
  ]


NONE = Reference('NoPositions', '@', False)


@pytest.mark.parametrize('layers', [*itertools.combinations(LAYERS, 2)])
def test_blocks_of_hourglass_do_not_share_their_arguments(layers):
  alone = [in_blocks(layer, layer)[0] for layer in layers]
  assert in_blocks(*layers) == alone
  assert in_blocks(*layers[::-1]) == alone[::-1]
  for layer, (_, _, positions) in zip(layers, alone, strict=True):
    assert positions == (None if 'LSH' in layer else NONE)


def test_equal_layers_of_a_list_need_no_scopes():
  layer = 'MultiplicativeConvCausalAttention'
  draft = translated(
    *TERRAFORMER,
    'ConfigurableTerraformer.encoder_decoder_attention_type ='
    f' [@CausalAttention, @{layer}, @{layer}]',
  )
  names = [reference.name for reference in draft.value('Terraformer.attention')]
  assert names == ['SelfAttention', 'SparseAttention', 'SparseAttention']
  assert draft.macros['N_MODULES'] == 16
