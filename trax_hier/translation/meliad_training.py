"""Optimizer, schedule and training of meliad."""

from trax_hier.translation.draft import Draft
from trax_hier.translation.source import Source

# Old parameter of the trainer, default, new binding.
_TRAIN = (
  ('num_steps', 100_000, 'train.steps'),
  ('test_every_steps', 1000, 'train.eval_every'),
  ('num_test_steps', 400, 'train.eval_batches'),
)
_RATES = {'AdafactorConfig': 1.0, 'AdamConfig': 0.05}
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
  scope, name = trainer.target('optimizer_factory', default='AdafactorConfig')
  part = source.part(name, scope=scope)
  rate = part.get('learning_rate', default=_RATES.get(name, 1.0))
  here = 'Adam' if name == 'AdamConfig' else 'Adafactor'
  draft.refer('Optimizer', 'train.optimizer', here)
  draft.refer('Optimizer', f'{here}.learning_rate', 'multifactor', True)
  if here == 'Adam':
    for old, new, default in (
      ('beta1', 'b1', 0.9),
      ('beta2', 'b2', 0.98),
      ('weight_decay_rate', 'weight_decay', 0.0),
    ):
      draft.copy('Optimizer', part, old, f'{here}.{new}', default)
  else:
    draft.copy('Optimizer', part, 'momentum', f'{here}.momentum', 0.9)
    draft.copy('Optimizer', part, 'decay_rate', f'{here}.decay_rate', 0.8)
    text = 'the decay of meliad is that of optax'
    draft.compare(part, 'weight_decay_rate', (None, 0.0), None, text)
  rate *= trainer.get('learning_rate_multiplier', default=1.0)
  _schedule(draft, source, trainer, rate)


def _schedule(draft, source, trainer, rate):
  _, name = trainer.target('learning_rate_schedule', default='lr_cosine_decay')
  part = source.part(name)
  draft.copy(
    'Optimizer', trainer, 'warmup_steps', 'multifactor.warmup_steps', 1000
  )
  steps = trainer.get('num_steps', default=100_000)
  end = trainer.get('max_scheduled_steps', default=0) or steps
  if name in ('lr_rsqrt_decay_std', 'lr_rsqrt_decay'):
    factors = 'constant * linear_warmup * rsqrt_decay'
    draft.bind('Optimizer', 'multifactor.factors', factors)
    draft.bind('Optimizer', 'multifactor.constant', rate)
    if name == 'lr_rsqrt_decay':
      text = '@lr_rsqrt_decay ends at min_lr; here 1 / sqrt(step) goes on'
      draft.lose(trainer.setting('learning_rate_schedule'), text)
      part.setting('max_lr'), part.setting('min_lr')
    else:
      text = 'the rate has no other upper limit than that of the warm-up'
      draft.compare(part, 'max_lr', None, None, text)
    return
  if name != 'lr_cosine_decay':
    text = f'@{name} has no counterpart; a cosine with the same ends is used'
    draft.lose(trainer.setting('learning_rate_schedule'), text)
  highest = part.get('max_lr', default=0.01)
  lowest = part.get('min_lr', default=0.001)
  factors = 'constant * linear_warmup * cosine_decay_once'
  draft.bind('Optimizer', 'multifactor.factors', factors)
  draft.bind('Optimizer', 'multifactor.constant', rate * highest)
  draft.bind('Optimizer', 'multifactor.cosine_steps', end)
  draft.bind('Optimizer', 'multifactor.cosine_end', lowest / highest)
  if part.get('decay_after', default=True) and end < steps:
    text = f'the rate is constant after step {end:,}, and does not fall again'
    draft.lose(part.setting('decay_after'), text)
  draft.compare(part, 'spike_steps', 0, 0, 'the rate has no spike')
  if not part.get('spike_steps', default=0) and part.setting('spike_lr'):
    draft.harmless.append(part.setting('spike_lr'))
