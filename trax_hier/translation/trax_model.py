"""Models of Trax."""

from collections.abc import Callable
from typing import Any

from trax_hier.config.errors import ConfigError
from trax_hier.config.files import Reference
from trax_hier.config.old_names import CONFIGURABLES, PARAMETERS
from trax_hier.translation.draft import Draft
from trax_hier.translation.source import Source, target
from trax_hier.translation.trax_attention import attention, attentions
from trax_hier.translation.trax_hourglass import hourglass
from trax_hier.translation.trax_sizes import bind_activation, copy_sizes


def model(draft: Draft, source: Source) -> str:
  """Adds the counterpart of the model; returns its name.

  Raises:
    ConfigError: No binding chooses a model, or it has no counterpart.
  """
  train = source.part('train')
  chosen = train.setting('model')
  if chosen is None:
    raise ConfigError('no binding chooses the model, as train.model = @Name')
  scope, name = train.target('model')
  here = CONFIGURABLES.get(name, ())
  if name not in _TRANSLATE:
    known = ', '.join(f'@{name}' for name in sorted(_TRANSLATE))
    raise ConfigError(
      f'{chosen.location}: @{name} of Trax has no counterpart here; these '
      f'have: {known}'
    )
  draft.refer('Model', 'train.model', here[0])
  part = source.part(name, scope=scope)
  _TRANSLATE[name](draft, source, part, here[0])
  return here[0]


def _transformer_lm(draft, source, part, here):
  del source
  copy_sizes(draft, part, here, n_layers=6)
  bind_activation(draft, part, 'Relu')
  draft.refer('Model', f'{here}.positions', 'LearnedPositions')
  draft.copy('Model', part, 'max_len', 'LearnedPositions.n_positions', 2048)


def _transformer(draft, source, part, here):
  """Trax's Transformer: a ScalingTransformer of dense layers."""
  del source
  _encoder_decoder(draft, part, here)
  bind_activation(draft, part, 'Relu')
  for slot, layer in (
    ('encoder_attention', 'EncoderAttention'),
    ('attention', 'SelfAttention'),
    ('cross_attention', 'CrossAttention'),
    ('feed_forward', 'FeedForward'),
    ('logits', 'Dense'),
    ('positions', 'LearnedPositions'),
  ):
    draft.refer('Model', f'{here}.{slot}', layer)
  draft.copy('Model', part, 'max_len', 'LearnedPositions.n_positions', 2048)


def _encoder_decoder(draft, part, here, **more):
  copy_sizes(draft, part, here, n_encoder_layers=6, n_decoder_layers=6, **more)
  shared = PARAMETERS['ConfigurableTransformer.output_vocab_size'][1]
  draft.compare(part, 'output_vocab_size', None, None, shared)


def _configurable_lm(draft, source, part, here):
  copy_sizes(draft, part, here, n_layers=6)
  found = part.target('attention_type', default='CausalAttention')
  attention(draft, source, f'{here}.attention', found)
  _options(draft, source, part, here, ff_dropout=0.1, positions=None)


def _configurable(draft, source, part, here):
  _encoder_decoder(draft, part, here)
  _attentions(draft, source, part, here, 'Attention', 'CausalAttention')
  _cross_attention(draft, part, here)
  _options(draft, source, part, here, ff_dropout=0.1, positions=None)


def _terraformer(draft, source, part, here):
  _encoder_decoder(draft, part, here, n_decoder_attention_layers=2)
  _attentions(draft, source, part, here, 'SelfAttention', 'SelfAttention')
  _options(draft, source, part, here, ff_dropout=None, positions='fixed-base')
  reversible = part.get('reversible_encoder', default=False)
  draft.bind('Model', f'{here}.reversible_encoder', reversible)
  if not part.get('center_layernorm', default=True):
    draft.refer('Model', f'{here}.norm', 'RMSNorm')
  rows = {
    'use_two_swaps_per_encoder_block': True,
    'n_layers_forget': 0,
    'half_before_layer': (None, 0),
    'double_after_layer': (None, 0),
    'pos_start_from_zero_prob': 1.0,
  }
  for parameter, equal in rows.items():
    default = equal[0] if isinstance(equal, tuple) else equal
    reason = PARAMETERS[f'ConfigurableTerraformer.{parameter}'][1]
    draft.compare(part, parameter, equal, default, reason)
  d_model = part.get('d_model', default=512)
  n_heads = part.get('n_heads', default=8)
  for parameter in ('d_attention_key', 'd_attention_value'):
    equal = None, d_model // n_heads
    reason = PARAMETERS[f'ConfigurableTerraformer.{parameter}'][1]
    draft.compare(part, parameter, equal, None, reason)
  if part.get('use_bfloat16', default=False):
    draft.bind('Training', 'train.compute_dtype', 'bfloat16')
    draft.lose(
      part.setting('use_bfloat16'),
      'the layers compute in bfloat16, and the stored weights are float32',
    )


def _attentions(draft, source, part, here, encoder, decoder):
  found = part.target('encoder_attention_type', default=encoder)
  # Its hashed attention has arguments of its own.
  scope = 'encoder' if 'LSH' in found[1] else ''
  slot = f'{here}.encoder_attention'
  attention(draft, source, slot, found, scope, is_causal=False)
  parameter = 'encoder_decoder_attention_type'
  value = part.get(parameter)
  if isinstance(value, list | tuple):
    _cycle(draft, source, part.setting(parameter), here, value)
    return
  found = part.target(parameter, default=decoder)
  attention(draft, source, f'{here}.attention', found)


def _cycle(draft, source, setting, here, references):
  """A list of attention layers, which the decoder's layers take in turn."""
  if not all(isinstance(x, Reference) for x in references):
    raise ConfigError(f'{setting.location}: {setting.key} takes references')
  found = [target(reference) for reference in references]
  attentions(draft, source, f'{here}.attention', found)


def _cross_attention(draft, part, here):
  value = part.get('enc_dec_attention_sparsity', default=0)
  query, result = value if isinstance(value, tuple) else (value, 'noop')
  if not query:
    draft.refer('Model', f'{here}.cross_attention', 'CrossAttention')
    return
  draft.refer('Model', f'{here}.cross_attention', 'SparseCrossAttention')
  draft.bind('Model', 'SparseCrossAttention.n_modules', query)
  if result != 'noop':
    setting = part.setting('enc_dec_attention_sparsity')
    draft.lose(setting, 'there is no projection after sparse cross-attention')


def _options(draft, source, part, here, ff_dropout, positions):
  """The options that all configurable Transformers have."""
  _feed_forward(draft, source, part, here, ff_dropout)
  _loss(draft, part, here)
  _positions(draft, part, here, positions)


def _feed_forward(draft, source, part, here, ff_dropout):
  sparsity = part.get('ff_sparsity', default=0)
  setting = part.setting('ff_sparsity')
  if isinstance(sparsity, str):
    sparsity = [float(x) if '.' in x else int(x) for x in sparsity.split()]
  values = list(sparsity) if isinstance(sparsity, list | tuple) else [sparsity]
  kind = part.get('ff_sparsity_type', default='1inN')
  chunk = part.get('ff_chunk_size', default=0)
  if values[0] and kind == '1inN':
    draft.refer('Model', f'{here}.feed_forward', 'SparseFF')
    draft.bind('Model', 'SparseFF.n_elements_in_block', values[0], setting)
    for name, value in zip(_SPARSE_FF, values[1:], strict=False):
      draft.bind('Model', f'SparseFF.{name}', value)
    if chunk:
      draft.copy('Model', part, 'ff_chunk_size', 'SparseFF.chunk_size', 0)
    # Sparse layers have ReLU, and one rate of dropout.
    for name in ('ff_activation', 'ff_dropout'):
      if part.setting(name):
        draft.harmless.append(part.setting(name))
    sparse = source.part('SparseFF')
    for name in ('multiply_by_controller_output', 'kernel_scaling'):
      if sparse.get(name, default=False):
        draft.bind('Model', f'SparseFF.{name}', True)
  else:
    draft.refer('Model', f'{here}.feed_forward', 'FeedForward')
    if values[0]:
      reason = PARAMETERS['ConfigurableTransformer.ff_sparsity_type'][1]
      draft.lose(part.setting('ff_sparsity_type'), f'{reason}; dense is used')
    dropout = part.get('dropout', default=0.1)
    inner = part.get('ff_dropout', default=ff_dropout)
    if inner not in (None, dropout):
      text = 'the rate inside the feed-forward layers is DROPOUT, too'
      draft.compare(part, 'ff_dropout', dropout, ff_dropout, text)
    bind_activation(draft, part, 'Relu')
  sru = part.get('ff_use_sru', default=0)
  n_layers, d_sru = sru if isinstance(sru, list | tuple) else (sru, 32)
  if n_layers:
    draft.refer('Model', f'{here}.recurrence', 'SRUBranch')
    draft.bind('Model', 'SRUBranch.n_layers', n_layers)
    draft.bind('Model', 'SRUBranch.d_sru', d_sru)
  elif here == 'Terraformer':
    draft.bind('Model', f'{here}.recurrence', None)


_SPARSE_FF = 'd_lowrank', 'temperature', 'quant_prob'


def _loss(draft, part, here):
  sparsity = part.get('loss_sparsity', default=0)
  kind = part.get('loss_sparsity_type', default='mult')
  if sparsity and kind == 'mult':
    draft.refer('Model', f'{here}.logits', 'MultiplicativeDense')
    draft.copy(
      'Model', part, 'loss_sparsity', 'MultiplicativeDense.n_modules', 0
    )
  else:
    draft.refer('Model', f'{here}.logits', 'Dense')
    if sparsity and kind not in (None, 'None'):
      text = "of loss layers, 'mult' has a counterpart; a dense one is used"
      draft.lose(part.setting('loss_sparsity_type'), text)
  reason = PARAMETERS['ConfigurableTransformer.loss_sparsity_prob'][1]
  draft.compare(part, 'loss_sparsity_prob', (None, 1.0), None, reason)


def _positions(draft, part, here, default):
  kind = part.get('pos_type', 'axial_pos_shape', default=default)
  max_len = part.setting('max_len')
  if kind == 'no':
    draft.refer('Model', f'{here}.positions', 'NoPositions')
    return
  if kind == 'fixed-base':
    draft.refer('Model', f'{here}.positions', 'FixedBasePositions')
    return
  if kind:
    text = f'positions {kind!r} have no counterpart; learned ones are used'
    draft.lose(part.setting('pos_type', 'axial_pos_shape'), text)
  draft.refer('Model', f'{here}.positions', 'LearnedPositions')
  value = part.get('max_len', default=2048)
  draft.bind('Model', 'LearnedPositions.n_positions', value, max_len)


_TRANSLATE: dict[str, Callable[..., Any]] = {
  'ConfigurableTerraformer': _terraformer,
  'ConfigurableTransformer': _configurable,
  'ConfigurableTransformerLM': _configurable_lm,
  'HourglassLM': hourglass,
  'Reformer2': _terraformer,
  'Transformer': _transformer,
  'TransformerLM': _transformer_lm,
}
