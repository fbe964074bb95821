"""Optimizer, schedule and training of meliad."""

import math

from trax_hier.translation.draft import Draft
from trax_hier.translation.source import Source

# Old parameter of the trainer, default, new binding.
_TRAIN = (
  ('num_steps', 100_000, 'train.steps'),
  ('test_every_steps', 1000, 'train.eval_every'),
  ('num_test_steps', 400, 'train.eval_batches'),
)
_WARMUP = 1000
_RATES = {
  'AdafactorConfig': 1.0,
  'AdamConfig': 0.05,
  'FlaxAdafactorConfig': 1.0,
}
# These say how often something is shown or saved.
_HARMLESS = (
  'status_every_steps',
  'generate_every_steps',
  'print_input_every_steps',
  'parameter_metrics_every_steps',
  'print_variables',
  'save_checkpoints',
  'use_separate_metric_directories',
  'rng_key_names',
  'model_definition',
)


def training(draft: Draft, source: Source) -> None:
  """Adds the optimizer, the schedule and the arguments of `train`."""
  trainer = source.part('Trainer')
  for old, default, new in _TRAIN:
    draft.copy('Training', trainer, old, new, default)
  for old, new in (
    ('log_every_steps', 'train.log_every'),
    ('checkpoint_every_steps', 'train.checkpoint_every'),
  ):
    if trainer.setting(old):
      draft.copy('Training', trainer, old, new, None)
  for name in _HARMLESS:
    if trainer.setting(name):
      draft.harmless.append(trainer.setting(name))
  _say_assumed(draft, trainer)
  rate = _optimizer(draft, source, trainer)
  rate *= trainer.get('learning_rate_multiplier', default=1.0)
  _schedule(draft, source, trainer, rate)


def _say_assumed(draft, trainer):
  """Says which values of trainer_configuration.gin no file gives."""
  rows = {old: f'{default:_}' for old, default, _ in _TRAIN} | {
    'warmup_steps': f'{_WARMUP:_}',
    'optimizer_factory': '@AdafactorConfig()',
    'learning_rate_schedule': '@lr_cosine_decay',
  }
  values = ', '.join(
    f'{name} = {value}'
    for name, value in rows.items()
    if trainer.setting(name) is None
  )
  if values:
    text = 'as in trainer_configuration.gin of meliad, which is assumed'
    draft.lose(None, f'{values}: {text}')


def _optimizer(draft, source, trainer):
  """Adds the optimizer; returns its rate, a factor of the schedule."""
  scope, name = trainer.target('optimizer_factory', default='AdafactorConfig')
  if name not in _RATES:
    text = f'@{name} has no counterpart; @Adafactor is used'
    draft.lose(trainer.setting('optimizer_factory'), text)
  part = source.part(name, scope=scope)
  rate = part.get('learning_rate', default=_RATES.get(name, 1.0))
  here = 'Adam' if name == 'AdamConfig' else 'Adafactor'
  draft.refer('Optimizer', 'train.optimizer', here)
  draft.refer('Optimizer', f'{here}.learning_rate', 'multifactor', True)
  if here == 'Adam':
    for old, new, default in (
      ('beta1', 'b1', 0.9),
      ('beta2', 'b2', 0.98),
      ('weight_decay_rate', 'weight_decay', 0.0001),
    ):
      draft.copy('Optimizer', part, old, f'{here}.{new}', default)
    return rate
  momentum = 'beta1' if name == 'FlaxAdafactorConfig' else 'momentum'
  draft.copy('Optimizer', part, momentum, f'{here}.momentum', 0.9)
  draft.copy('Optimizer', part, 'decay_rate', f'{here}.decay_rate', 0.8)
  text = 'the decay of meliad is that of optax'
  draft.compare(part, 'weight_decay_rate', (None, 0.0), None, text)
  return rate


def _schedule(draft, source, trainer, rate):
  """Adds the schedule, which in meliad is a ramp times a function of the step.

  That function stands still until the ramp ends.
  """
  of_schedule = trainer.setting('learning_rate_schedule')
  _, name = trainer.target('learning_rate_schedule', default='lr_cosine_decay')
  part = source.part(name)
  steps = trainer.get('num_steps', default=100_000)
  end = trainer.get('max_scheduled_steps', default=0) or steps
  warmup = max(trainer.get('warmup_steps', default=_WARMUP), 0)
  held = max(warmup, 1)
  decay, where = '', part.setting('max_lr') or of_schedule
  if name == 'lr_constant':
    rate *= part.get('learning_rate', default=0.01)
  elif name in ('lr_rsqrt_decay_std', 'lr_rsqrt_decay'):
    decay = 'rsqrt_decay'
    # It stands still for 100 steps at least.
    held = warmup or 100
    scale, highest = 1.0, part.get('max_lr', default=None)
    if name == 'lr_rsqrt_decay':
      scale = part.get('min_lr', default=0.001) * end**0.5
      highest = part.get('max_lr', default=0.05)
    first = scale / max(held, 100) ** 0.5
    if held < 100:
      text = f'the rate falls from step {held}, in meliad from step 100'
      draft.lose(trainer.setting('warmup_steps'), text)
    if highest is not None and first > highest:
      text = (
        f'max_lr = {highest:g} has no counterpart: until step '
        f'{math.ceil((scale / highest) ** 2):,} the rate is higher, at most '
        f'{rate * first:g}'
      )
      draft.lose(where, text)
    elif part.setting('max_lr'):
      draft.harmless.append(part.setting('max_lr'))
    rate *= scale
  else:
    decay = 'cosine_decay_once'
    if name != 'lr_cosine_decay':
      text = f'@{name} has no counterpart; a cosine with the same ends is used'
      draft.lose(of_schedule, text)
    rate *= _cosine(draft, part, warmup, end, steps)
  # A ramp of one step is none, but with rsqrt_decay it would take its steps.
  ramp = 'linear_warmup' if warmup or not decay.startswith('rsqrt') else ''
  factors = ' * '.join(filter(None, ('constant', ramp, decay)))
  draft.bind('Optimizer', 'multifactor.factors', factors)
  draft.bind('Optimizer', 'multifactor.constant', rate)
  of_warmup = trainer.setting('warmup_steps')
  draft.bind('Optimizer', 'multifactor.warmup_steps', held, of_warmup)


def _cosine(draft, part, warmup, end, steps):
  """Adds a cosine to `min_lr`; returns `max_lr`."""
  highest = part.get('max_lr', default=0.01)
  lowest = part.get('min_lr', default=0.001)
  draft.bind('Optimizer', 'multifactor.cosine_steps', end)
  draft.bind('Optimizer', 'multifactor.cosine_end', lowest / highest)
  done = min(warmup / end, 1.0)
  y = (1 + math.cos(math.pi * done)) / 2
  # One in a hundred is less than a change of the seed.
  if highest > 1.01 * (lowest + y * (highest - lowest)):
    text = (
      f'the cosine falls from step 0 on, in meliad from step {warmup:,} on, '
      'the end of the warm-up'
    )
    draft.lose(part.setting('max_lr'), text)
  if part.get('decay_after', default=True) and end < steps:
    text = f'the rate is constant after step {end:,}, and does not fall again'
    draft.lose(part.setting('decay_after'), text)
  spike = [part.setting('spike_steps'), part.setting('spike_lr')]
  if all(part.get(name, default=0) > 0 for name in ('spike_steps', 'spike_lr')):
    draft.lose(spike[0], 'the rate has no spike')
  else:
    draft.harmless += filter(None, spike)
  return highest
