"""Trax's own training program, `trax.trainer`, on current JAX."""

import re
import sys
import traceback
import types
from collections.abc import Sequence

import jax
from absl import flags, logging

from trax_hier.compat import stubs
from trax_hier.config import ConfigError, explain
from trax_hier.config.errors import must_be_given

# Flags of TensorFlow, which computes nothing here, and of former JAX.
_WITHOUT_EFFECT = (
  'enable_eager_execution',
  'jax_backend_target',
  'jax_xla_backend',
  'tf_allow_float64',
  'tf_opt_layout',
  'tf_opt_pin_to_host',
  'tf_xla',
  'tf_xla_forced_compile',
)
# {part of a message about a model of trax_hier: what a batch of Trax needs}
_HINTS = {
  'takes 3 inputs, but there are 2': 'the loss needs targets: for an '
  'encoder-decoder of trax_hier, set train.model = @KeepTargets and '
  'KeepTargets.model = @its_name',
  '/ Lanes: ': "Trax's loop has no lanes: set BlockRecurrentLM.carry = False",
}
# Gin's messages about what has no value; the first also lists all bindings.
_NO_VALUE = re.compile(
  "No bindings specified for '(.*)/gin.macro'"
  r"|Required bindings for `(?:.*\.)?(\w+)` not provided in config: \['(\w+)'"
)
# Methods of Trax that train, of `Loop` and `Trainer`.
_TRAINING = 'Loop.run', 'Trainer.train_epoch'


def run(argv: Sequence[str]) -> None:
  """Trains as Trax's program does, with its flags.

  Args:
    argv: The name of the program and the arguments.

  Raises:
    ConfigError: A flag or the configuration has a fault; nothing is trained.
    Exception: The training has failed.
  """
  from trax import trainer
  from trax.layers.base import LayerError

  logging.use_absl_handler()
  logging.get_absl_handler().python_handler.stream = sys.stderr
  if flags.FLAGS.is_parsed():  # Flags of an earlier call.
    flags.FLAGS.unparse_flags()
  try:
    rest = flags.FLAGS(list(argv))[1:]
  except flags.Error as error:
    raise ConfigError(error) from error
  if rest:
    raise ConfigError(f'unexpected argument {rest[0]!r}; flags start with --')
  try:
    trainer.main(argv)
  except (ValueError, TypeError, OSError, RuntimeError, LayerError) as error:
    if _has_trained(error):
      raise
    message = _without_value(error) or ' '.join(explain(error).split())
    hints = (hint for fault, hint in _HINTS.items() if fault in message)
    raise ConfigError('; '.join([message, *hints])) from error


def help_text() -> str:
  """Describes the flags."""
  from trax import trainer_flags

  return flags.FLAGS.module_help(trainer_flags)


def patch(module: types.ModuleType) -> None:
  """Replaces what JAX has removed, and what would load TensorFlow.

  Args:
    module: `trax.trainer`.
  """
  parse = module._gin_parse_configs

  def gin_parse_configs():
    try:
      parse()
    except Exception as error:  # Gin and modules it imports may raise any.
      message = _without_value(error) or _one_line(error)
      raise ConfigError(message) from error

  module._gin_parse_configs = gin_parse_configs
  module._tf_setup_from_flags = _set_up_tensorflow
  module._jax_and_tf_configure_for_devices = _choose_devices
  module._make_jax_gpu_cluster = _join_cluster


def _set_up_tensorflow():
  """Keeps TensorFlow, once data load it, off the GPUs that JAX needs."""
  stubs.when_tensorflow_loads = _hide_gpus
  given = [f'--{n}' for n in _WITHOUT_EFFECT if flags.FLAGS[n].present]
  if given:
    print(f'{", ".join(given)}: without effect here', file=sys.stderr)


def _hide_gpus(tensorflow):
  tensorflow.config.set_visible_devices([], 'GPU')


def _choose_devices():
  if flags.FLAGS.use_tpu:
    jax.config.update('jax_platforms', 'tpu')


def _join_cluster(host_id, server_ip, n_hosts, server_port=5005):
  jax.distributed.initialize(f'{server_ip}:{server_port}', n_hosts, host_id)


def _has_trained(error):
  """Whether an error comes from training, not from what precedes it."""
  frames = traceback.walk_tb(error.__traceback__)
  return any(frame.f_code.co_qualname in _TRAINING for frame, _ in frames)


def _one_line(error):
  """The message of an error as one line, with its type if that tells more."""
  text = ' '.join(str(error).split())
  is_clear = isinstance(error, ValueError | OSError | SyntaxError)
  return text if is_clear else f'{type(error).__name__}: {text}'


def _without_value(error):
  """The message if a macro or an argument has no value, or ''."""
  found = _NO_VALUE.match(str(error))
  return must_be_given('.'.join(filter(None, found.groups()))) if found else ''
