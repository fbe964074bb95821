"""Builds the configured model without weights, and without data if need be."""

import inspect
from typing import Any

_TRAIN = 'trax_hier.training.train'


def build_configured(batch_shape: tuple[int, ...] | None) -> Any:
  """Builds the same objects as `train` from the parsed gin.

  Args:
    batch_shape: Rows, tokens per row and, for an encoder-decoder model, tokens
      per source, instead of the data; None builds the data.
  """
  from trax_hier import config
  from trax_hier.training.build import build

  bound = {
    binding.parameter
    for binding in config.resolved()
    if binding.selector == _TRAIN and not binding.scope
  }
  arguments = {
    parameter.name: config.value(f'train.{parameter.name}')
    for parameter in inspect.signature(build).parameters.values()
    if parameter.name != 'data'
    and (parameter.name in bound or parameter.default is parameter.empty)
  }
  if batch_shape is None:
    return build(data=_data(), **arguments)
  return build(data=_zeros(batch_shape, arguments['model']), **arguments)


def _data():
  from trax_hier import config

  try:
    return config.value('train.data')
  except (ValueError, OSError) as error:
    raise ValueError(
      f'{config.explain(error)}. To describe the model without its data, give '
      'the shape of a batch: --batch=ROWS,LENGTH[,SOURCES]'
    ) from error


def _zeros(batch_shape, model):
  """A data set of zeros in the shape that --batch gives."""
  from trax_hier.commands.describe_zero_batches import ZeroBatches
  from trax_hier.training.build import check_bindings
  from trax_hier.training.state import model_inputs

  data = ZeroBatches(*batch_shape)
  check_bindings(model, data, 'float32')
  layer = model(mode='train')
  try:
    model_inputs(layer, data.train_batch(0))
  except ValueError as error:
    needs_sources = len(batch_shape) == 2
    raise ValueError(
      f'--batch={",".join(map(str, batch_shape))}: the model reads '
      f'{"sources" if needs_sources else "no sources"}; give '
      f'--batch=ROWS,LENGTH{",SOURCES" if needs_sources else ""}'
    ) from error
  return data


def called_in_training(is_without_data: bool) -> list[str]:
  """Selectors of configurables that only training calls, not this build."""
  from trax_hier import config

  selectors = {binding.selector for binding in config.resolved()}
  data = {s for s in selectors if s.startswith('trax_hier.data.')}
  return [_TRAIN, *(data if is_without_data else ())]


def abstract_model(built: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
  """The layer, and the shapes of its weights, its state and a batch."""
  from trax_hier.training.build import batch_shapes
  from trax_hier.training.state import abstract_init

  batch = batch_shapes(built.data)
  layer = built.model(mode='train')
  return (layer, *abstract_init(layer, batch), batch)
