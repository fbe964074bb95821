"""Optimizer, schedule and training of Trax."""

from trax_hier.config.old_names import PARAMETERS
from trax_hier.translation.draft import Draft
from trax_hier.translation.source import Part, Source

_OPTIMIZERS = {
  'Adafactor': 'Adafactor',
  'Adam': 'Adam',
  'Momentum': 'SGD',
  'RMSProp': 'Adam',
  'SGD': 'SGD',
  'SM3': 'Adafactor',
}
# Parameters of the schedule that each factor uses.
_FACTORS = {
  'constant': ('constant',),
  'two_constants': ('constant', 'second_constant', 'second_constant_step'),
  'linear_warmup': ('warmup_steps',),
  'rsqrt_decay': ('warmup_steps',),
  'rsqrt_normalized_decay': ('warmup_steps',),
  'decay_every': ('steps_per_decay', 'decay_factor'),
  'cosine_decay': ('warmup_steps', 'steps_per_cycle'),
}
_DEFAULTS = {
  'constant': 0.1,
  'warmup_steps': 400,
  'decay_factor': 0.5,
  'steps_per_decay': 20000,
  'steps_per_cycle': 100000,
  'second_constant': 0.01,
  'second_constant_step': 10000,
}
# Trax's other schedules, as factors of multifactor.
_SCHEDULES = {
  'constant': ('constant', 'value', ''),
  'warmup': ('constant * linear_warmup', 'max_value', 'n_warmup_steps'),
  'warmup_and_rsqrt_decay': (
    'constant * linear_warmup * rsqrt_normalized_decay',
    'max_value',
    'n_warmup_steps',
  ),
}
# Parameters of `train` that change no result; others are lost.
_HARMLESS = (
  'save_graphs',
  'use_memory_efficient_trainer',
  'use_loop',
  'metrics',
  'trainer_class',
)


def training(draft: Draft, source: Source) -> None:
  """Adds the optimizer, the schedule and the arguments of `train`."""
  train = source.part('train')
  _train(draft, train)
  _, name = train.target('optimizer', default='Adafactor')
  here = _OPTIMIZERS.get(name, 'Adafactor')
  if name not in _OPTIMIZERS:
    text = f'@{name} has no counterpart; @{here} is used'
    draft.lose(train.setting('optimizer'), text)
  draft.refer('Optimizer', 'train.optimizer', here)
  draft.refer('Optimizer', f'{here}.learning_rate', 'multifactor', True)
  rules = {'Adam': _adam, 'Adafactor': _adafactor}
  part = source.part(name)
  rules.get(name, _other)(draft, part, here)
  if part.get('clip_grad_norm') is not None:
    draft.copy('Optimizer', part, 'clip_grad_norm', f'{here}.clip_norm', None)
  _schedule(draft, source, train)


def _train(draft, train: Part):
  draft.copy('Training', train, 'steps', 'train.steps', 1000)
  draft.copy('Training', train, 'eval_frequency', 'train.eval_every', 100)
  draft.copy('Training', train, 'eval_steps', 'train.eval_batches', 10)
  seed = train.setting('random_seed')
  if seed is not None and train.get('random_seed') is not None:
    draft.copy('Training', train, 'random_seed', 'train.seed', 0)
  n_shards = train.get('n_weights_shards', default=1)
  if n_shards > 1:
    draft.bind('Training', 'train.mesh', {'data': -1, 'fsdp': n_shards})
  every = train.setting('permanent_checkpoint_frequency')
  if every is not None and train.get('permanent_checkpoint_frequency'):
    draft.copy(
      'Training',
      train,
      'permanent_checkpoint_frequency',
      'train.checkpoint_every',
      None,
    )
    draft.lose(every, 'checkpoints are saved as often, but old ones deleted')
  if train.get('init_checkpoint') is not None:
    text = 'import its weights by `trax-hier import_trax`: train.init_from'
    draft.lose(train.setting('init_checkpoint'), text)
  _loss(draft, train)
  for name in _HARMLESS:
    setting = train.setting(name)
    if setting is not None:
      draft.harmless.append(setting)


def _loss(draft, train):
  setting = train.setting('loss_fn')
  _, name = train.target('loss_fn', default='WeightedCategoryCrossEntropy')
  if setting is not None:
    if 'CrossEntropy' in name:
      draft.harmless.append(setting)
    else:
      draft.lose(setting, f'@{name}: the loss is the cross entropy here')
  part = train.source.part(name)
  smoothing = part.setting('label_smoothing')
  if not part.get('label_smoothing'):
    draft.harmless += [smoothing] * (smoothing is not None)
  elif setting is None:  # Trax has built its default loss before.
    text = 'Trax does not use it unless train.loss_fn is bound, nor is it here'
    draft.lose(smoothing, text)
  else:
    new = 'train.label_smoothing'
    draft.copy('Training', part, 'label_smoothing', new, 0.0)
  draft.compare(part, 'cutoff', 0.0, 0.0, 'the loss has no cutoff here')
  if train.get('loss_chunk_size', default=0):
    draft.copy('Training', train, 'loss_chunk_size', 'train.loss_chunk', 0)


def _adam(draft, part, here):
  for name, default in (('b1', 0.9), ('b2', 0.999), ('eps', 1e-5)):
    draft.copy('Optimizer', part, name, f'{here}.{name}', default)
  _weight_decay(draft, part, here)


def _adafactor(draft, part, here):
  for name, default in (
    ('decay_rate', 0.8),
    ('clipping_threshold', 1.0),
    ('multiply_by_parameter_scale', True),
    ('factored', True),
  ):
    value = part.get(name, default=default)
    if value is None:
      draft.lose(part.setting(name), 'the updates are clipped at 1.0 here')
    elif part.setting(name):
      draft.copy('Optimizer', part, name, f'{here}.{name}', default)
  # Trax factors the second moments of all matrices, also small ones.
  if part.get('factored', default=True):
    draft.bind('Optimizer', f'{here}.min_dim_size_to_factor', 1)
  beta1 = part.get('beta1', default=0.0)
  if part.get('do_momentum', default=False) and beta1:
    draft.copy('Optimizer', part, 'beta1', f'{here}.momentum', 0.0)
  elif part.setting('beta1'):
    draft.harmless.append(part.setting('beta1'))
  text = 'updates are clipped at Adafactor.clipping_threshold'
  draft.compare(part, 'do_clipping', True, True, text)
  for name, value, default in (
    ('epsilon1', 1e-30, 1e-16),
    ('epsilon2', 1e-3, 1e-3),
  ):
    text = PARAMETERS[f'Adafactor.{name}'][1]
    draft.compare(part, name, value, default, text)
  _weight_decay(draft, part, here)


def _weight_decay(draft, part, here):
  """Trax takes off a share of the weights at each step, whatever the rate."""
  setting = part.setting('weight_decay_rate')
  rate = part.get('weight_decay_rate', default=1e-5)
  n_steps = part.get('weight_decay_n_steps', default=0)
  if here == 'SGD':
    text = '@SGD has no weight decay'
    draft.compare(part, 'weight_decay_rate', 0.0, 1e-5, text)
    return
  if rate:
    draft.bind('Optimizer', f'{here}.weight_decay_rate', rate, setting)
    if n_steps:
      name = 'weight_decay_n_steps'
      draft.copy('Optimizer', part, name, f'{here}.{name}', 0)
  elif setting is not None:
    draft.harmless.append(setting)


def _other(draft, part, here):
  name = part.names[0]
  if name == 'Momentum':
    draft.copy('Optimizer', part, 'mass', f'{here}.momentum', 0.9)
    text = 'the momentum here is not that of Nesterov'
    draft.compare(part, 'nesterov', False, True, text)
    _weight_decay(draft, part, here)
  elif name == 'RMSProp':
    draft.bind('Optimizer', f'{here}.b1', 0.0)
    draft.copy('Optimizer', part, 'gamma', f'{here}.b2', 0.9)
    draft.copy('Optimizer', part, 'eps', f'{here}.eps', 1e-8)
    text = '@RMSProp: @Adam without momentum, which corrects its bias, is used'
    draft.lose(None, text)
  elif name == 'SM3':
    draft.lose(None, '@SM3 has no counterpart; @Adafactor is used')


def _schedule(draft, source, train):
  _, name = train.target('lr_schedule_fn', default='multifactor')
  if name in _SCHEDULES:
    factors, constant, warmup = _SCHEDULES[name]
    part = source.part(name)
    draft.bind('Optimizer', 'multifactor.factors', factors)
    draft.copy('Optimizer', part, constant, 'multifactor.constant', 0.1)
    if warmup:
      draft.copy('Optimizer', part, warmup, 'multifactor.warmup_steps', 400)
    return
  if name != 'multifactor':
    text = f'@{name} has no counterpart; @multifactor() is used'
    draft.lose(train.setting('lr_schedule_fn'), text)
  part = source.part('multifactor')
  default = 'constant * linear_warmup * rsqrt_decay'
  factors = draft.copy(
    'Optimizer', part, 'factors', 'multifactor.factors', default
  )
  used = [
    name
    for factor in factors.split('*')
    for name in _FACTORS.get(factor.strip(), ())
  ]
  for name in dict.fromkeys(used):
    draft.copy('Optimizer', part, name, f'multifactor.{name}', _DEFAULTS[name])
  if part.get('minimum', default=0):
    draft.copy('Optimizer', part, 'minimum', 'multifactor.minimum', 0.0)
  for name in _DEFAULTS.keys() - set(used):
    setting = part.setting(name)
    if setting is not None:
      draft.harmless.append(setting)
