"""Models and data of meliad: BlockRecurrentLM and its segments of documents."""

from typing import Any

from trax_hier.config.errors import ConfigError
from trax_hier.config.files import Reference
from trax_hier.translation.draft import Draft
from trax_hier.translation.meliad_attention import (
  MODEL,
  add_memory,
  add_recurrence,
  add_window,
)
from trax_hier.translation.source import Source

_POSITIONS = {
  None: 'NoPositions',
  't5': 'T5Positions',
  'rotary': 'RotaryPositions',
}
# Values of meliad's base files, for stacks that leave them out.
_BASE = {
  'NUM_LAYERS': 12,
  'NUM_HEADS': 8,
  'HEAD_DIM': 128,
  'EMBED_DIM': 1024,
  'MLP_DIM': 4096,
  'NUM_EMBEDDINGS': 256,
  'SEGMENT_LENGTH': 512,
  'WINDOW_LENGTH': 512,
  'USE_LONG_XL_ARCHITECTURE': True,
  'RELATIVE_POSITION_TYPE': 't5',
  'DROPOUT_RATE': 0.05,
  'ATTN_DROPOUT_RATE': 0.05,
  'DTYPE': 'bfloat16',
}
# Parameters of layers that BlockRecurrentLM fixes: the value that it has.
_FIXED = {
  'TransformerBase': {
    'normalize_keys': (True, 'queries and keys are normalized'),
    'pre_ffn_dropout': (False, 'there is no dropout before the feed-forward'),
  },
  'TransformerLayer': {
    'compute_importance': (False, 'there are no importance scores'),
    'recurrent_always_clear_state': (
      False,
      'BlockRecurrentLM.carry = False clears states and keys',
    ),
    'use_causal_mask': (True, 'attention is causal'),
    'use_importance': (False, 'there are no importance scores'),
    'output_embedding_size': (None, 'the width is the same in all layers'),
    'memory_reset_on_new_doc': (True, 'documents begin with an empty memory'),
    'memory_combine_with_local': (
      'TRAINABLE_WEIGHTED_MEAN',
      'a gate of each head weighs memory and window',
    ),
    'cross_attention_kv': (None, 'there is no other cross-attention'),
  },
  'DecoderStack': {
    'use_absolute_positions': (False, 'there are no absolute positions'),
    'use_final_layernorm': (True, 'the last layer is normalized'),
    'embedding_stddev': (1.0, 'embeddings begin with variance 1'),
    'final_mlp_factory': (None, 'there is no final feed-forward layer'),
    'disable_position_encoding_for_memory_layers': (
      False,
      'all layers have positions',
    ),
  },
  'TransformerTaskConfig': {
    'sequential_chunks': (True, 'rows read their documents in order'),
  },
  'TransformerStack': {
    'side_layer_factory': (None, 'there are no side layers'),
    'side_layer_indices': ((), 'there are no side layers'),
  },
}


class _Parts:
  """The configurables of a meliad model, of the old and the new versions."""

  def __init__(self, source: Source):
    self.source = source
    self.stack = source.part('DecoderStack', 'TransformerStack')
    scope, name = source.part('DecoderStack').target(
      'stack_factory', default='TransformerStack'
    )
    if name != 'TransformerStack':
      setting = source.part('DecoderStack').setting('stack_factory')
      raise ConfigError(
        f'{setting.location}: @{name} of meliad has no counterpart here'
      )
    self.inner = source.part('TransformerStack', 'DecoderStack', scope=scope)
    scope, _ = self.inner.target('layer_factory', default='TransformerLayer')
    self.layer = source.part('TransformerLayer', scope=scope)
    self.task = source.part('TransformerTaskConfig')
    # {macro: value} of sizes that no file gives.
    self.assumed = {}

  def role(self, part, names: tuple[str, ...], macro: str) -> tuple[Any, Any]:
    """The value of a size and its binding, which may be of a macro alone.

    Stacks may hold the macros without the base file that uses them.
    """
    setting = part.setting(*names)
    if setting is not None:
      return self.source.value(setting), setting
    own = self.source.macros.get(macro)
    if own is not None:
      use = Reference(macro, '%', True)
      return self.source.value(own), own._replace(value=use)
    self.assumed[macro] = _BASE[macro]
    return _BASE[macro], None


def model(draft: Draft, source: Source) -> str:
  """Adds the model and the data; returns the name of the model."""
  parts = _Parts(source)
  draft.refer('Model', 'train.model', MODEL)
  d_model, n_heads = _sizes(draft, parts)
  d_head = _check_heads(draft, parts, d_model, n_heads)
  window = add_window(draft, parts)
  add_recurrence(draft, parts, window)
  add_memory(draft, parts, window, {'num_heads': n_heads, 'head_size': d_head})
  _positions(draft, parts)
  _norm(draft, source)
  _dropout(draft, parts)
  _data(draft, parts)
  for name, rows in _FIXED.items():
    aliases = {'TransformerBase': ('MemTransformerBase',)}.get(name, ())
    part = source.part(name, *aliases)
    if name == 'TransformerLayer':
      part = parts.layer
    for parameter, (equal, text) in rows.items():
      value = part.get(parameter, default=equal)
      if isinstance(value, list | tuple) and not value:
        value = ()
      if value != equal:
        draft.lose(part.setting(parameter), text)
      elif part.setting(parameter):
        draft.harmless.append(part.setting(parameter))
  _say_assumed(draft, parts)
  return MODEL


def _size(draft, parts, part, names, macro, name):
  value, setting = parts.role(part, names, macro)
  draft.bind('Model', f'{MODEL}.{name}', value, setting)
  return value


def _sizes(draft, parts):
  stack, layer, task = parts.inner, parts.layer, parts.task
  outer = parts.source.part('DecoderStack')
  _size(draft, parts, task, ('vocab_size',), 'NUM_EMBEDDINGS', 'vocab_size')
  d_model = _size(
    draft,
    parts,
    outer,
    ('embedding_size', 'embedding_dim'),
    'EMBED_DIM',
    'd_model',
  )
  ffn = parts.source.part('MLP', scope='transformer_ffn')
  part, names = layer, ('mlp_dim',)
  if layer.setting('mlp_dim') is None and ffn.setting('num_hidden_units'):
    part, names = ffn, ('num_hidden_units',)
  _size(draft, parts, part, names, 'MLP_DIM', 'd_ff')
  _size(draft, parts, stack, ('num_layers',), 'NUM_LAYERS', 'n_layers')
  n_heads = _size(draft, parts, layer, ('num_heads',), 'NUM_HEADS', 'n_heads')
  _size(draft, parts, outer, ('final_dropout_rate',), 'DROPOUT_RATE', 'dropout')
  if ffn.get('hidden_activation', default='relu') != 'relu':
    text = 'the feed-forward layers have ReLU'
    draft.lose(ffn.setting('hidden_activation'), text)
  text = 'the feed-forward layers have no bias'
  draft.compare(ffn, 'use_bias', False, False, text)
  return d_model, n_heads


def _check_heads(draft, parts, d_model, n_heads):
  d_head, setting = parts.role(parts.layer, ('head_size',), 'HEAD_DIM')
  if d_head * n_heads != d_model:
    draft.bind('Model', f'{MODEL}.d_head', d_head, setting)
  return d_head


def _positions(draft, parts):
  name = 'relative_position_type'
  kind, setting = parts.role(parts.layer, (name,), name.upper())
  if kind not in _POSITIONS:
    text = f'positions {kind!r} have no counterpart; @T5Positions are used'
    draft.lose(setting, text)
  here = _POSITIONS.get(kind, 'T5Positions')
  carries = draft.sections['Model'].get(f'{MODEL}.carry', True)
  if here == 'RotaryPositions' and carries:
    text = 'keys that are carried cannot rotate; @T5Positions are used'
    draft.lose(setting, text)
    here = 'T5Positions'
  draft.refer('Model', f'{MODEL}.positions', here)


def _dropout(draft, parts):
  """Says where dropout differs: its rates and its places."""
  outer = parts.source.part('DecoderStack')
  base = parts.source.part('TransformerBase', 'MemTransformerBase')
  rate = parts.role(outer, ('final_dropout_rate',), 'DROPOUT_RATE')[0]
  for part, name, macro in (
    (parts.layer, 'attn_dropout_rate', 'ATTN_DROPOUT_RATE'),
    (base, 'dropout_rate', 'DROPOUT_RATE'),
  ):
    other, setting = parts.role(part, (name,), macro)
    if other != rate:
      text = f'there is one rate of dropout, {rate}'
      draft.lose(setting, text if setting else f'{macro} = {other}: {text}')
  text = 'dropout follows the attention instead of preceding it'
  draft.compare(base, 'pre_attn_dropout', False, True, text)
  precedes = base.get('pre_attn_dropout', default=True)
  text = 'dropout follows the attention'
  equal = (False, True) if precedes else True
  draft.compare(base, 'post_attn_dropout', equal, False, text)
  text = 'dropout follows the feed-forward'
  draft.compare(base, 'post_ffn_dropout', True, True, text)


def _norm(draft, source):
  norm = source.part('LayerNorm')
  if norm.get('use_mean', default=False) or norm.get('use_bias', default=False):
    draft.refer('Model', f'{MODEL}.norm', 'LayerNorm')


def _data(draft, parts):
  task, here = parts.task, 'DocumentLanes'
  name = task.get('dataset_name', default='synthetic')
  draft.refer('Data', 'train.data', here, True)
  what = 'a folder of documents'
  if name.startswith('pg19'):
    what += ', written by python -m trax_hier.data.prepare --name=pg19'
  draft.require('Data', f'{here}.path', 'DATA', what)
  draft.copy('Data', task, 'batch_size', f'{here}.batch_size', 1)
  if task.setting('batch_size') is None:
    parts.assumed['batch_size'] = 1
  draft.decide(
    f'{here}.batch_size',
    'per device in meliad: multiply by the devices of your run',
  )
  length, setting = parts.role(task, ('sequence_length',), 'SEGMENT_LENGTH')
  draft.bind('Data', f'{here}.length', length, setting)
  draft.lengths = (length,)
  if name.endswith('bytes'):
    text = 'bytes have 256 ids here, and 260 in meliad'
    draft.decide('VOCAB_SIZE', text)
  dtype = parts.role(parts.source.part('DecoderStack'), ('dtype',), 'DTYPE')[0]
  draft.bind('Training', 'train.compute_dtype', dtype)
  text = f'all layers compute in {dtype}'
  draft.compare(parts.layer, 'dtype', dtype, dtype, text)


def _say_assumed(draft, parts):
  """Says which values no file of the stack gives."""
  if parts.assumed:
    values = ', '.join(f'{k} = {v!r}' for k, v in parts.assumed.items())
    text = 'no base file of meliad, such as base_memory.gin, gives these; give'
    draft.lose(None, f'{text} one first, or look at what is assumed: {values}')
