"""Attention layers of Trax."""

from trax_hier.config.files import Reference
from trax_hier.config.names import OWN
from trax_hier.translation.draft import Draft
from trax_hier.translation.source import Source

_OUTPUTS = {
  'mult': 'MultiplicativeDense',
  'conv': 'ModularConv',
  'multconv': 'SparseDense',
}
_V_CONCAT = {'none': False, 'fixed': True}
# Layers of Trax without counterpart, and the nearest ones here.
_NEAREST = {
  'DotProductCausalAttention': 'SelfAttention',
  'LSHSelfAttention': 'LSHAttention',
  'LowRankCausalAttention': 'SparseAttention',
  'ModularCausalAttention': 'SparseAttention',
  'ConvCausalAttention': 'SparseAttention',
  'MultiplicativeCausalAttention': 'SparseAttention',
  'MultiplicativeModularCausalAttention': 'SparseAttention',
  'SelfAttention': 'SelfAttention',
}


def attention(
  draft: Draft,
  source: Source,
  slot: str,
  target: tuple[str, str],
  scope: str = '',
  is_causal: bool = True,
) -> None:
  """Binds a slot for attention to the counterpart of a layer of Trax.

  Args:
    draft: Gets the bindings.
    source: The old files.
    slot: Such as 'Terraformer.attention'.
    target: Scope and name of Trax's layer.
    scope: Scope of the new layer.
    is_causal: Whether it is causal, and not that of an encoder.
  """
  here = _layer(draft, source, slot, target, scope, is_causal)
  draft.refer('Model', slot, here)


def attentions(
  draft: Draft, source: Source, slot: str, targets: list[tuple[str, str]]
) -> None:
  """Binds a slot for a list of causal attention layers.

  Layers of Trax that are one layer here have scopes, for their arguments
  differ.

  Args:
    draft: Gets the bindings.
    source: The old files.
    slot: Such as 'Terraformer.attention'.
    targets: Scope and name of each layer of Trax.
  """
  kinds = {found: _kind(source, slot, found) for found in targets}
  made, scopes = {}, {'', 'encoder'}
  for i, (found, kind) in enumerate(kinds.items()):
    here, bound = kind
    same = [other for other in kinds.values() if other[0] == here]
    # The window of SelfAttention is that of SparseAttention, too.
    is_shared = all(x == kind for x in same) and here != 'SelfAttention'
    earlier = [made[f] for f in list(kinds)[:i] if kinds[f] == kind]
    scope = ''
    if earlier:
      scope = earlier[0].name.rpartition('/')[0]
    elif bound and not is_shared:
      scope = f'layer_{i + 1}' if found[0] in scopes else found[0]
      scopes.add(scope)
    name = _layer(draft, source, slot, found, scope)
    made[found] = Reference(name, '@', False)
  draft.bind('Model', slot, [made[found] for found in targets])


def _kind(source, slot, found):
  """The layer here for a causal layer of Trax, and its bindings."""
  trial = Draft()
  here = _layer(trial, source, slot, found)
  return here, {name: trial.value(name) for name in trial.sections['Model']}


def _layer(draft, source, slot, target, scope='', is_causal=True):
  """Binds the arguments of a layer; returns its name with its scope."""
  old_scope, name = target
  if name.startswith(OWN):
    return _in(old_scope, name.rpartition('.')[2])
  part = source.part(name, scope=old_scope)
  reason = f'@{name} has no counterpart; the nearest layer is used'
  here = 'EncoderAttention'
  if not is_causal:
    if name in ('PureLSHSelfAttentionWrapper', 'LSHSelfAttention'):
      here = _lsh(draft, source, part, name, scope, is_causal)
    elif name != 'Attention':
      draft.lose(None, f'{slot}: {reason}, @{here}')
  elif name == 'CausalAttention':
    here = 'SelfAttention'
  elif name == 'MultiplicativeConvCausalAttention':
    here = _sparse(draft, part, scope)
  elif name == 'PureLSHSelfAttentionWrapper':
    here = _lsh(draft, source, part, name, scope, is_causal)
  else:
    here = _nearest(draft, source, part, name, scope, slot, reason)
  return _in(scope, here)


def _nearest(draft, source, part, name, scope, slot, reason):
  here = _NEAREST.get(name, 'SelfAttention')
  if here == 'LSHAttention':
    return _lsh(draft, source, part, name, scope, True)
  if here == 'SparseAttention':
    binding = _in(scope, f'{here}.n_modules')
    draft.copy('Model', part, 'sparsity', binding, 16)
  if name == 'SelfAttention':
    reason = "Trax's SelfAttention has no biases; @SelfAttention has them"
    if part.get('chunk_len') is not None:
      binding = _in(scope, 'SelfAttention.window')
      draft.copy('Model', part, 'chunk_len', binding, None)
      text = 'a window that slides, instead of chunks that see the one before'
      draft.lose(part.setting('chunk_len'), text)
  draft.lose(None, f'{slot}: {reason}')
  return here


def _sparse(draft, part, scope):
  """MultiplicativeConvCausalAttention, which is SparseAttention here."""
  here = _in(scope, 'SparseAttention')
  draft.copy('Model', part, 'sparsity', f'{here}.n_modules', 16)
  for parameter, default in (('length_kernel_size', 3), ('share_qk', False)):
    if part.get(parameter, default=default) != default:
      draft.copy('Model', part, parameter, f'{here}.{parameter}', default)
  v_concat = part.get('v_concat_type', default='none')
  if v_concat not in _V_CONCAT:
    draft.lose(part.setting('v_concat_type'), "legal here: 'none' and 'fixed'")
  elif _V_CONCAT[v_concat]:
    draft.bind('Model', f'{here}.v_concat', True)
  output = part.get('output_layer_type', default='none')
  if output in _OUTPUTS:
    draft.refer('Model', f'{here}.output', _OUTPUTS[output])
  return 'SparseAttention'


def _lsh(draft, source, part, name, scope, is_causal):
  """Hashed attention; the variant here is the one of Hourglass."""
  here = _in(scope, 'LSHAttention')
  inner = part
  if name == 'PureLSHSelfAttentionWrapper':
    _, inner_name = found = part.target(
      'pure_lsh_implementation', default='PureLSHSelfAttention'
    )
    inner = source.part(inner_name, scope=found[0])
    rotary = 'the layer here has rotary positions'
    draft.compare(part, 'rotary_position_emb', True, False, rotary)
    draft.compare(part, 'bias', True, True, 'the layer here has biases')
    draft.compare(
      part, 'num_weights', 2, 3, 'queries and keys share their weights here'
    )
    draft.compare(
      part, 'weights_format', 'model', 'model', 'the projections are dense here'
    )
  else:
    draft.lose(
      None,
      '@LSHSelfAttention: the hashed attention here has biases and rotary '
      'positions, and one dense matrix for all heads',
    )
  draft.copy('Model', inner, 'chunk_len', f'{here}.chunk_len', 128)
  draft.copy('Model', inner, 'n_hashes', f'{here}.n_hashes', 1)
  draft.compare(
    inner, 'n_buckets', None, None, 'their number is chosen by the length here'
  )
  draft.compare(inner, 'n_chunks_before', 1, 1, '1 chunk before is seen here')
  after = 0 if is_causal else 1
  draft.compare(
    inner, 'n_chunks_after', after, 0, f'{after} chunks after are seen here'
  )
  return 'LSHAttention'


def _in(scope, name):
  return f'{scope}/{name}' if scope else name
