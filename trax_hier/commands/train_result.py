"""What `trax-hier train` prints after the last step."""

import copy
import os
import shlex

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier import config
from trax_hier.environment import escape_controls
from trax_hier.inspection.probes import Probes
from trax_hier.training.loop import TrainResult

_N_RATES = 64
_MULTIFACTOR = 'trax_hier.training.multifactor'


def print_result(result: TrainResult, probes: Probes, output_dir: str) -> None:
  """Prints a sample, the run directory and how to continue training.

  Several hosts sample together, and the first one prints.

  Args:
    result: The finished run.
    probes: Its probes, which have the last sample.
    output_dir: The run directory as the user gave it.
  """
  say = print if jax.process_index() == 0 else lambda *_, **__: None
  say()
  if result.is_probed:
    if not probes.has_sample(result.step):
      say('sampling ...', flush=True)
    trained = result.model, result.data, result.weights
    if sample := probes.sample(result.step, *trained):
      say(escape_controls(sample))
  if jax.process_index() != 0:
    return
  print(f'run directory: {output_dir}')
  more = 2 * result.step
  print(
    f'train.steps = {result.step} is reached, so the same command would train '
    'no further'
  )
  if (rate := final_rate(result, more)) is not None:
    print(
      f'the learning rate has fallen to {rate:.3g} and stays there'
      f'{_how_to_decay_later(result.step)}'
    )
  # The folder of config.gin does not have the modules beside other gin files.
  folders = os.pathsep.join(config.import_folders())
  command = (
    'python',
    '-m',
    'trax_hier.trainer',
    f'--config_file={output_dir}/config.gin',
    f'--config=train.steps = {more}',
    f'--output_dir={output_dir}',
  )
  variable = f'PYTHONPATH={shlex.quote(folders)} ' if folders else ''
  print(f'to continue training: {variable}{shlex.join(command)}')


def final_rate(result: TrainResult, last: int) -> float | None:
  """The learning rate after the end of its schedule.

  Args:
    result: A finished run.
    last: Number of a later step.

  Returns:
    The rate, if it has fallen during the run and is the same in all steps from
    the end of the run to `last`; else None.
  """
  before = np.linspace(1, result.step, _N_RATES)
  after = np.linspace(result.step + 1, last, _N_RATES)
  steps = jnp.asarray(np.rint(np.append(before, after)), jnp.int32)
  rates = np.asarray(jax.jit(jax.vmap(result.learning_rate))(steps))
  rate = rates[-1]
  has_ended = (rates[_N_RATES:] == rate).all() and rate < rates.max()
  return float(rate) if has_ended else None


def _how_to_decay_later(step):
  """The binding that stretches a cosine over twice as many steps, if any."""
  # A copy resolves macros.
  values = {
    binding.name: copy.deepcopy(binding.value)
    for binding in config.resolved()
    if binding.selector == _MULTIFACTOR
  }
  for name in values:
    schedule, _, parameter = name.rpartition('.')
    factors = values.get(f'{schedule}.factors', '')
    if parameter == 'cosine_steps' and 'cosine_decay_once' in factors:
      return (
        '; to stretch its schedule too, add '
        f"--config='{name} = {2 * step}' --accept_changes"
      )
  return ''
