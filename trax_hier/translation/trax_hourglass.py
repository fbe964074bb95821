"""Hourglass of Trax."""

from trax_hier.translation.draft import Draft
from trax_hier.translation.source import Part, Source
from trax_hier.translation.trax_attention import attention
from trax_hier.translation.trax_sizes import bind_activation, copy_sizes

_RESAMPLING = {
  'shorten': {
    'AttentionResampling': 'AttentionShorten',
    'AveragePooling': 'AverageShorten',
    'LinearPooling': 'LinearShorten',
  },
  'upsample': {
    'AttentionResampling': 'AttentionUpsample',
    'LinearUpsampling': 'LinearUpsample',
    'NaiveUpsampling': 'RepeatUpsample',
    'NoUpsampling': 'ZeroUpsample',
  },
}


def hourglass(draft: Draft, source: Source, part: Part, here: str) -> None:
  """Binds the arguments of HourglassLM."""
  copy_sizes(draft, part, here)
  hierarchy = part.get('hierarchy', default='6@3')
  if isinstance(hierarchy, str):
    hierarchy = ' '.join(hierarchy.split())
  vanilla = part.get('vanilla_layers', default=(1, 1))
  if isinstance(vanilla, list):
    vanilla = tuple(vanilla)
  for name, value in ('vanilla_layers', vanilla), ('hierarchy', hierarchy):
    draft.bind('Model', f'{here}.{name}', value, part.setting(name))
  for slot, inner, old, default in (
    ('shorten', 'pool', 'downsampling_fn', 'AveragePooling'),
    ('upsample', 'expand', 'upsampling_fn', 'LinearUpsampling'),
  ):
    chosen = _resampling(draft, part, here, slot, old, 'AttentionResampling')
    if chosen.startswith('Attention'):
      _resampling(draft, part, chosen, inner, f'attention_{old}', default)
    elif part.setting(f'attention_{old}'):
      draft.harmless.append(part.setting(f'attention_{old}'))
  bind_activation(draft, part, 'FastGelu')
  for slot, scope, old in (
    ('vanilla_block', 'vanilla', 'vanilla_attn_type'),
    ('shortened_block', 'middle', 'middle_attn_type'),
  ):
    _block(draft, source, part, slot, scope, old)


def _resampling(draft, part, here, slot, old, default):
  """Binds a way to shorten or to upsample; returns its name."""
  rows = _RESAMPLING['shorten' if 'down' in old else 'upsample']
  _, name = part.target(old, default=default)
  if name not in rows:
    draft.lose(part.setting(old), f'@{rows[default]} is used instead')
  found = rows.get(name, rows[default])
  draft.refer('Model', f'{here}.{slot}', found)
  return found


def _block(draft, source, part, slot, scope, old):
  """The attention of the vanilla or the shortened blocks of Hourglass."""
  found = part.target(old, default='RelativeAttentionWrapper')
  if found[1] == 'RelativeAttentionWrapper':
    return
  draft.refer('Model', f'HourglassLM.{slot}', f'{scope}/DecoderBlock')
  is_hashed = 'LSH' in found[1]
  others = [
    part.target(other)[1] for other in ('vanilla_attn_type', 'middle_attn_type')
  ]
  # All of Trax's hashed layers are one layer here, with other arguments.
  is_shared = not is_hashed or all('LSH' in other for other in others)
  own = scope if is_shared else ''
  attention(draft, source, f'{scope}/DecoderBlock.attention', found, own)
  if not is_hashed:  # Hashed layers have rotary positions of their own.
    draft.refer('Model', f'{scope}/DecoderBlock.own_positions', 'NoPositions')
