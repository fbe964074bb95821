"""Sizes and activations that the models of Trax share."""

from trax_hier.config.errors import ConfigError
from trax_hier.translation.draft import Draft
from trax_hier.translation.source import Part

# Defaults of all models of Trax that have a counterpart.
_SIZES = dict(vocab_size=None, d_model=512, d_ff=2048, n_heads=8, dropout=0.1)
_ACTIVATIONS = {'FastGelu': 'Gelu', 'Relu': 'Relu'}


def copy_sizes(draft: Draft, part: Part, here: str, **more: int) -> None:
  """Copies the sizes that have the same meaning.

  Args:
    draft: Gets the bindings.
    part: The model of Trax.
    here: Name of the model here.
    **more: Sizes of this model besides those of all models, with their
      defaults in Trax.

  Raises:
    ConfigError: A size is not given.
  """
  for parameter, default in (_SIZES | more).items():
    old = parameter
    if parameter == 'vocab_size' and 'n_encoder_layers' in more:
      old = 'input_vocab_size'
    new = parameter.replace('attention_layers', 'attentions')
    value = part.get(old, default=default)
    if value is None:
      raise ConfigError(f'{part.names[0]}.{old} must be given a value')
    draft.bind('Model', f'{here}.{new}', value, part.setting(old))


def bind_activation(draft: Draft, part: Part, default: str) -> None:
  """Binds the activation of the feed-forward layers; Trax has a default."""
  _, name = part.target('ff_activation', default=default)
  if name not in _ACTIVATIONS:
    known = 'FastGelu and Relu have counterparts; @Gelu is used'
    draft.lose(part.setting('ff_activation'), f'of activations, {known}')
  here = _ACTIVATIONS.get(name, 'Gelu')
  if here != 'Gelu':
    draft.refer('Model', 'FeedForward.activation', here)
