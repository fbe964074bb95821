"""Windows, recurrence and memory of meliad's layers."""

from trax_hier.config.errors import ConfigError

MODEL = 'BlockRecurrentLM'
_GATES = {'bias': 'FixedGate', 'lstm': 'LSTMGate'}
# They count only in layers with recurrence.
_OF_STATES = (
  'recurrent_num_states',
  'recurrent_gate_type',
  'recurrent_single_gate',
  'recurrent_skip_ffn',
)


def add_window(draft, parts) -> int:
  """Adds the window and what the layers carry; returns the window.

  A window of the whole stack takes the place of a longer one of the layers.
  """
  layer, stack = parts.layer, parts.inner
  window, setting = parts.role(layer, ('window_length',), 'WINDOW_LENGTH')
  depth = stack.get('dstack_window_length', default=0)
  if 0 < depth < window:
    window, setting = depth, stack.setting('dstack_window_length')
  length = _segment(parts)[0]
  if window > length:
    text = f'the segments have {length} tokens, so the window has as many'
    draft.lose(setting, text)
    window, setting = length, None
  draft.bind('Model', 'SlidingAttention.window', window, setting)
  name = 'use_long_xl_architecture'
  carries, of_carry = parts.role(layer, (name,), name.upper())
  if not carries:
    draft.bind('Model', f'{MODEL}.carry', False)
    if length > window:
      text = 'windows of a segment see the window before'
      draft.lose(of_carry, text)
  return window


def add_recurrence(draft, parts, window: int) -> None:
  """Adds the recurrent layers, with feedback where meliad has it."""
  stack, layer = parts.inner, parts.layer
  layers = _layers(parts, stack, 'recurrent_layer_indices')
  of_layers = stack.setting('recurrent_layer_indices')
  has_feedback = _has_feedback(draft, parts, layers, window)
  if not layers:
    draft.harmless += filter(None, map(layer.setting, _OF_STATES))
    return
  draft.bind('Model', f'{MODEL}.recurrent_layers', layers, of_layers)
  here = 'FeedbackStack' if has_feedback else 'BlockRecurrentCell'
  slot = 'feedback' if has_feedback else 'recurrent_attention'
  draft.refer('Model', f'{MODEL}.{slot}', here)
  if has_feedback:
    # Feedback replaces the attention of the other layers.
    del draft.sections['Model']['SlidingAttention.window']
  draft.bind('Model', f'{here}.window', window)
  states = layer.get('recurrent_num_states', default=0)
  if not states:
    raise ConfigError(
      f'{of_layers.location}: TransformerLayer.recurrent_num_states must be '
      'given, for the recurrent layers'
    )
  of_states = layer.setting('recurrent_num_states')
  draft.bind('Model', f'{here}.n_states', states, of_states)
  gate = layer.get('recurrent_gate_type', default='bias')
  if gate not in _GATES:
    text = "of gates, 'bias' and 'lstm' have counterparts; @FixedGate is used"
    draft.lose(layer.setting('recurrent_gate_type'), text)
  draft.refer('Model', f'{here}.gate', _GATES.get(gate, 'FixedGate'))
  configuration = 'dual'
  if layer.get('recurrent_skip_ffn', default=False):
    configuration = 'skip'
  elif layer.get('recurrent_single_gate', default=False):
    configuration = 'single'
  draft.bind('Model', f'{here}.configuration', configuration)


def _has_feedback(draft, parts, layers, window):
  """Whether all layers read the states: only in windows of the stack."""
  stack = parts.inner
  depth = stack.get('dstack_window_length', default=0)
  wanted = stack.get('feedback_recurrence', default=True)
  of_depth = stack.setting('dstack_window_length')
  of_feedback = stack.setting('feedback_recurrence')
  if not (layers and depth > 0 and wanted):
    if of_feedback:
      draft.harmless.append(of_feedback)
    if of_depth and not 0 < depth <= window:
      draft.harmless.append(of_depth)
    return False
  if len(layers) > 1:
    text = 'only models with one recurrent layer have feedback; left out'
    draft.lose(of_feedback or of_depth, text)
    return False
  period = min(depth, _segment(parts)[0])
  if period > window:
    text = f'states feed back after each window of {window} tokens'
    draft.lose(of_depth, text)
  return True


def add_memory(draft, parts, window: int, heads: dict[str, int]) -> None:
  """Adds the external memory of Memorizing Transformers, in some layers.

  Args:
    draft: The new file.
    parts: The old model.
    window: Tokens of a window.
    heads: {'num_heads': of the model, 'head_size': width of one}.
  """
  stack, layer = parts.stack, parts.layer
  scope, name = stack.target('memory_factory')
  layers = _layers(parts, stack, 'memory_layer_indices')
  n_neighbors = layer.get('memory_num_neighbors', default=0)
  of_layers = stack.setting('memory_layer_indices')
  of_neighbors = layer.setting('memory_num_neighbors')
  has_states = draft.value(f'{MODEL}.recurrent_layers') is not None
  if not (name and layers):
    if not has_states:
      draft.bind('Model', f'{MODEL}.recurrent_layers', ())
    of_memory = stack.setting('memory_factory'), of_layers, of_neighbors
    draft.harmless += filter(None, of_memory)
    return
  if not n_neighbors:
    raise ConfigError(
      f'{of_layers.location}: TransformerLayer.memory_num_neighbors must be at '
      'least 1, for the layers with a memory'
    )
  if has_states:
    text = 'a model has recurrent layers or layers with a memory, not both'
    draft.lose(of_layers, text)
    return
  draft.bind('Model', f'{MODEL}.recurrent_layers', layers)
  here = 'MemorizingAttention'
  draft.refer('Model', f'{MODEL}.recurrent_attention', here)
  draft.bind('Model', f'{here}.window', window)
  draft.bind('Model', f'{here}.segment', *_segment(parts))
  memory = parts.source.part(name, scope=scope)
  draft.copy('Model', memory, 'database_size', f'{here}.memory', 8192)
  draft.bind('Model', f'{here}.n_neighbors', n_neighbors, of_neighbors)
  for parameter, of_model in (
    ('num_heads', 'num_heads'),
    ('key_size', 'head_size'),
    ('value_size', 'head_size'),
  ):
    equal = heads[of_model]
    text = f'layers with a memory have the heads of the model: {equal}'
    draft.compare(memory, parameter, equal, equal, text)
  text = 'each row of a batch has its own memory'
  draft.compare(memory, 'cross_batch_memory', False, False, text)
  if memory.setting('dtype'):
    draft.harmless.append(memory.setting('dtype'))


def _segment(parts):
  """The tokens of a training segment, and their binding."""
  return parts.role(parts.task, ('sequence_length',), 'SEGMENT_LENGTH')


def _layers(parts, stack, parameter):
  """The layers with some indices, counted from 1 as here.

  Raises:
    ConfigError: There is no such layer.
  """
  n_layers = parts.role(parts.inner, ('num_layers',), 'NUM_LAYERS')[0]
  indices = stack.get(parameter, default=())
  for i in indices:
    if not -n_layers <= i < n_layers:
      setting = stack.setting(parameter)
      raise ConfigError(
        f'{setting.location}: there is no layer {i}; with {n_layers} layers, '
        f'the indices are {-n_layers} to {n_layers - 1}'
      )
  return tuple(sorted({i % n_layers + 1 for i in indices}))
