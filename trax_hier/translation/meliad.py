"""Models and data of meliad: BlockRecurrentLM and its segments of documents."""

from typing import Any

from trax_hier.config.errors import ConfigError
from trax_hier.config.files import Reference
from trax_hier.config.old_names import MACROS
from trax_hier.translation.draft import Draft
from trax_hier.translation.source import Source

_MODEL = 'BlockRecurrentLM'
_POSITIONS = {
  None: 'NoPositions',
  't5': 'T5Positions',
  'rotary': 'RotaryPositions',
}
_GATES = {'bias': 'FixedGate', 'lstm': 'LSTMGate'}
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
    'cross_attention_kv': (None, 'there is no other cross-attention'),
  },
  'DecoderStack': {
    'use_absolute_positions': (False, 'there are no absolute positions'),
    'use_final_layernorm': (True, 'the last layer is normalized'),
    'embedding_stddev': (1.0, 'embeddings begin with variance 1'),
    'final_mlp_factory': (None, 'there is no final feed-forward layer'),
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
    return _BASE[macro], None


def model(draft: Draft, source: Source) -> str:
  """Adds the model and the data; returns the name of the model."""
  parts = _Parts(source)
  draft.refer('Model', 'train.model', _MODEL)
  d_model, n_heads = _sizes(draft, parts)
  _check_heads(draft, parts, d_model, n_heads)
  window = _window(draft, parts)
  _recurrence(draft, parts, window)
  _memory(draft, parts, window)
  _positions(draft, parts)
  _norm(draft, source)
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
  _missing_base(draft, source)
  return _MODEL


def _size(draft, parts, part, names, macro, name):
  value, setting = parts.role(part, names, macro)
  draft.bind('Model', f'{_MODEL}.{name}', value, setting)
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
  activation = parts.source.part('MLP', scope='transformer_ffn')
  if activation.get('hidden_activation', default='relu') != 'relu':
    text = 'the feed-forward layers have ReLU'
    draft.lose(activation.setting('hidden_activation'), text)
  text = 'the feed-forward layers have no bias'
  draft.compare(activation, 'use_bias', False, False, text)
  rate = parts.role(outer, ('final_dropout_rate',), 'DROPOUT_RATE')[0]
  for part, name, macro in (
    (layer, 'attn_dropout_rate', 'ATTN_DROPOUT_RATE'),
    (
      parts.source.part('TransformerBase', 'MemTransformerBase'),
      'dropout_rate',
      'DROPOUT_RATE',
    ),
  ):
    other, setting = parts.role(part, (name,), macro)
    if other != rate:
      text = f'there is one rate of dropout, {rate}'
      draft.lose(setting, text if setting else f'{macro} = {other}: {text}')
  return d_model, n_heads


def _check_heads(draft, parts, d_model, n_heads):
  d_head, setting = parts.role(parts.layer, ('head_size',), 'HEAD_DIM')
  if d_head * n_heads != d_model:
    draft.bind('Model', f'{_MODEL}.d_head', d_head, setting)


def _window(draft, parts):
  layer = parts.layer
  window, setting = parts.role(layer, ('window_length',), 'WINDOW_LENGTH')
  length, of_length = parts.role(
    parts.task, ('sequence_length',), 'SEGMENT_LENGTH'
  )
  if window > length:
    text = f'the segments have {length} tokens, so the window has as many'
    draft.lose(setting, text)
    window, setting = length, None
  draft.bind('Model', 'SlidingAttention.window', window, setting)
  name = 'use_long_xl_architecture'
  carries, of_carry = parts.role(layer, (name,), name.upper())
  if not carries:
    draft.bind('Model', f'{_MODEL}.carry', False)
    if length > window:
      text = 'windows of a segment see the window before'
      draft.lose(of_carry, text)
  del of_length
  return window


def _recurrence(draft, parts, window):
  stack, layer = parts.inner, parts.layer
  n_layers = parts.role(stack, ('num_layers',), 'NUM_LAYERS')[0]
  indices = stack.get('recurrent_layer_indices', default=())
  setting = stack.setting('recurrent_layer_indices')
  layers = tuple(i % n_layers + 1 for i in indices)
  draft.bind('Model', f'{_MODEL}.recurrent_layers', layers, setting)
  depth = stack.get('dstack_window_length', default=0)
  if not layers:
    return
  has_feedback = stack.get('feedback_recurrence', default=False)
  here = 'FeedbackStack' if has_feedback else 'BlockRecurrentCell'
  slot = 'feedback' if has_feedback else 'recurrent_attention'
  draft.refer('Model', f'{_MODEL}.{slot}', here)
  if has_feedback:
    # Feedback replaces the attention of the other layers.
    del draft.sections['Model']['SlidingAttention.window']
  if depth and depth != window:
    text = f'blocks are as long as the window, {window}'
    draft.lose(stack.setting('dstack_window_length'), text)
  draft.bind('Model', f'{here}.window', window)
  states = layer.get('recurrent_num_states', default=0)
  if not states:
    raise ConfigError('TransformerLayer.recurrent_num_states must be given')
  of_states = layer.setting('recurrent_num_states')
  draft.bind('Model', f'{here}.n_states', states, of_states)
  gate = layer.get('recurrent_gate_type', default='bias')
  if gate not in _GATES:
    text = "of gates, 'bias' and 'lstm' have counterparts; @FixedGate is used"
    draft.lose(layer.setting('recurrent_gate_type'), text)
  draft.refer('Model', f'{here}.gate', _GATES.get(gate, 'FixedGate'))
  configuration = 'dual'
  if layer.get('recurrent_skip_ffn', default=True):
    configuration = 'skip'
  elif layer.get('recurrent_single_gate', default=False):
    configuration = 'single'
  draft.bind('Model', f'{here}.configuration', configuration)


def _memory(draft, parts, window):
  """The external memory of Memorizing Transformers, in some layers."""
  stack, layer = parts.stack, parts.layer
  of_memory = [
    stack.setting('memory_factory'),
    stack.setting('memory_layer_indices'),
    layer.setting('memory_num_neighbors'),
  ]
  scope, name = stack.target('memory_factory')
  indices = stack.get('memory_layer_indices', default=())
  n_neighbors = layer.get('memory_num_neighbors', default=0)
  if not (name and indices and n_neighbors):
    draft.harmless += filter(None, of_memory)
    return
  slot = f'{_MODEL}.recurrent_attention'
  if draft.sections['Model'][f'{_MODEL}.recurrent_layers']:
    text = 'a model has recurrent layers or layers with a memory, not both'
    draft.lose(of_memory[1], text)
    return
  n_layers = parts.role(parts.inner, ('num_layers',), 'NUM_LAYERS')[0]
  layers = tuple(i % n_layers + 1 for i in indices)
  draft.bind('Model', f'{_MODEL}.recurrent_layers', layers)
  here = 'MemorizingAttention'
  draft.refer('Model', slot, here)
  draft.bind('Model', f'{here}.window', window)
  length = parts.role(parts.task, ('sequence_length',), 'SEGMENT_LENGTH')
  draft.bind('Model', f'{here}.segment', *length)
  memory = parts.source.part(name, scope=scope)
  draft.copy('Model', memory, 'database_size', f'{here}.memory', 8192)
  draft.bind('Model', f'{here}.n_neighbors', n_neighbors, of_memory[2])
  for parameter in ('num_heads', 'key_size', 'value_size', 'dtype'):
    # They are those of the model.
    if memory.setting(parameter):
      draft.harmless.append(memory.setting(parameter))


def _positions(draft, parts):
  name = 'relative_position_type'
  kind, setting = parts.role(parts.layer, (name,), name.upper())
  if kind not in _POSITIONS:
    text = f'positions {kind!r} have no counterpart; @T5Positions are used'
    draft.lose(setting, text)
  here = _POSITIONS.get(kind, 'T5Positions')
  carries = draft.sections['Model'].get(f'{_MODEL}.carry', True)
  if here == 'RotaryPositions' and carries:
    text = 'keys that are carried cannot rotate; @T5Positions are used'
    draft.lose(setting, text)
    here = 'T5Positions'
  draft.refer('Model', f'{_MODEL}.positions', here)


def _norm(draft, source):
  norm = source.part('LayerNorm')
  if norm.get('use_mean', default=False) or norm.get('use_bias', default=False):
    draft.refer('Model', f'{_MODEL}.norm', 'LayerNorm')


def _data(draft, parts):
  task, here = parts.task, 'DocumentLanes'
  name = task.get('dataset_name', default='synthetic')
  draft.refer('Data', 'train.data', here, True)
  what = 'a folder of documents'
  if name.startswith('pg19'):
    what += ', written by python -m trax_hier.data.prepare --name=pg19'
  draft.require('Data', f'{here}.path', 'DATA', what)
  draft.copy('Data', task, 'batch_size', f'{here}.batch_size', 1)
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
  dtype, of_dtype = parts.role(
    parts.source.part('DecoderStack'), ('dtype',), 'DTYPE'
  )
  del of_dtype
  draft.bind('Training', 'train.compute_dtype', dtype)


def _missing_base(draft, source):
  """Says which values no file of the stack gives."""
  if ('', 'DecoderStack', 'num_layers') in source.settings:
    return
  if ('', 'TransformerStack', 'num_layers') in source.settings:
    return
  missing = [m for m in MACROS if m in _BASE and m not in source.macros]
  values = ', '.join(f'{name} = {_BASE[name]!r}' for name in missing)
  text = 'no file of the stack is a base file, such as base_memory.gin'
  draft.lose(None, f'{text}; assumed: {values}' if missing else text)
