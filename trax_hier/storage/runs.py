"""Opens run directories to evaluate their models or sample from them.

    run = open_run('runs/quickstart')
    step, weights = run.load_weights()

The run directory is only read, so the run may still be training.
"""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import config
from trax_hier.environment import expand_home
from trax_hier.storage import export
from trax_hier.storage.run_folder import config_file
from trax_hier.training.build import (
  batch_shapes,
  check_bindings,
  check_data,
  check_logits,
)
from trax_hier.training.checkpoints import Checkpoints
from trax_hier.training.state import abstract_init

PyTree = object

_SUBWORDS_OUTPUT = 'trax_hier.data.Subwords', 'output'
# Data sets that need no files of the user.
_PATHLESS = {
  'trax_hier.training.train',
  'trax_hier.data.StandardLibrary',
  'trax_hier.data.Synthetic',
}
# Attributes of `_ExportedData` that open the data set.
_DATA_ATTRIBUTES = (
  'eval_batches',
  'count_bytes',
  'describe',
  'pairs',
  'target_length',
)


@dataclasses.dataclass(frozen=True)
class Run:
  """The settings of a run, and access to its checkpoints.

  Attributes:
    folder: The run directory.
    model: Factory of the model.
    data: The data set.
    compute_dtype: Name of the type of activations.
    mesh: Value of `train.mesh`, the axes of devices; None if it is not bound.
    loss_chunk: Value of `train.loss_chunk`; None if it is not bound.
  """

  folder: Path
  model: Callable
  data: object
  compute_dtype: str
  mesh: Mapping[str, int] | None
  loss_chunk: int | None

  def __repr__(self) -> str:
    """One line."""
    name = getattr(self.model, '__name__', 'model')
    return f'<{type(self).__name__} {self.folder}: {name}>'

  def load_weights(
    self, step: int | None = None, say: Callable[[str], None] = print
  ) -> tuple[int, PyTree]:
    """Loads the weights of a checkpoint onto the first local device.

    Args:
      step: Step of the checkpoint; None means the newest complete one.
      say: Called with a line for each newer checkpoint that cannot be loaded.

    Returns:
      The step, and the weights in float32 as nested tuples.

    Raises:
      ValueError: The model does not fit the data, or no checkpoint has this
        step.
      CheckpointError: No checkpoint exists or can be loaded, or the checkpoint
        is from another model.
    """
    batch = batch_shapes(self.data)
    layer = self.model(mode='eval')
    weights, _ = abstract_init(layer, batch)
    check_logits(layer, batch, self.data.vocab.size)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), weights
    )
    checkpoints = Checkpoints(self.folder / 'checkpoints', read_only=True)
    with contextlib.closing(checkpoints):
      return checkpoints.load_weights(abstract, say, step)


def open_run(
  folder: str | Path, bindings: Sequence[str] = (), trust_code: bool = False
) -> Run:
  """Opens a run: builds its model factory and its data set from config.gin.

  This clears all gin bindings. A model factory reads gin when it is called, so
  only the run opened last can be used.

  The folder may be somebody else's. So without `trust_code` its config.gin
  imports nothing and calls nothing but models, layers and data. A run opens the
  data at the paths that it names, but trains no vocabulary; an export opens
  only data at paths in `bindings`, or data that need none.

  Args:
    folder: The run directory (`output_dir` of `train`), or an export.
    bindings: Gin statements that override config.gin.
    trust_code: Whether config.gin may import modules and call any configurable,
      and so run any code of its author.

  Raises:
    ValueError: The folder is not a run directory, or a binding
      (config.ConfigError) or the data set is invalid.

  Example:
    >>> import shutil
    >>> import tempfile
    >>> dtype = 'train.compute_dtype = "bfloat16"'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   quickstart = config.packaged_gin_dir() / 'quickstart.gin'
    ...   _ = shutil.copy(quickstart, Path(folder, 'config.gin'))
    ...   # It includes other files, which needs trust.
    ...   run = open_run(folder, [dtype], trust_code=True)
    >>> run.data.train_batch(0)['inputs'].shape
    (8, 256)
    >>> config.clear()
  """
  file = config_file(folder)
  if _is_export(file.parent):
    return _open_export(file.parent, bindings, trust_code)
  config.clear()
  config.parse([str(file)], bindings, trust_code)
  check_data_files(file.parent)
  names = 'model', 'data', 'compute_dtype'
  run = Run(
    file.parent,
    *(config.value(f'train.{name}') for name in names),
    mesh=_bound('mesh'),
    loss_chunk=_bound('loss_chunk'),
  )
  check_bindings(run.model, run.data, run.compute_dtype)
  config.set_vocab_size('train.model', run.data.vocab.size)
  return run


def check_data_files(folder: str | Path) -> None:
  """Checks which files would be opened or written with the data of a folder.

  An export opens only those that the user names. A run, whose data define its
  vocabulary, opens those of its config.gin, but trains no new vocabulary.

  Args:
    folder: A run or an export, whose config.gin is parsed.

  Raises:
    ValueError: An export names files, or the file of @Subwords() does not exist
      any more.
  """
  if _is_export(expand_home(folder)):
    config.check_no_paths('train.data', _PATHLESS)
    return
  for binding in config.resolved():
    if (binding.selector, binding.parameter) != _SUBWORDS_OUTPUT:
      continue
    output = copy.deepcopy(binding.value)  # Resolves a macro.
    if not expand_home(output).is_file():
      raise ValueError(
        f'{binding.location.short}: {binding.name} = {output!r}: the '
        'vocabulary of the run is missing'
      )


def _is_export(folder):
  return (folder / export.WEIGHTS_FILE).is_file()


def _bound(parameter):
  """The value of a parameter of `train`; None if it is not bound."""
  name = f'train.{parameter}'
  is_bound = any(b.name == name for b in config.resolved())
  return config.value(name) if is_bound else None


def _open_export(folder, bindings, trust_code):
  """Opens an export as a run with a single checkpoint."""
  notes = []
  exported = export.load(folder, bindings, trust_code, notes.append)
  data = _ExportedData(exported)
  return _ExportedRun(
    folder,
    exported.model,
    data,
    'float32',
    _bound('mesh'),
    _bound('loss_chunk'),
    exported,
    notes,
  )


@dataclasses.dataclass(frozen=True, repr=False)
class _ExportedRun(Run):
  """An export with the interface of a run; its only step is loaded already."""

  exported: export.Exported
  notes: Sequence[str]

  def load_weights(self, step=None, say=print):
    for note in self.notes:
      say(note)
    if step not in (None, self.exported.step):
      raise ValueError(
        f'step = {step}: {self.folder} has only step {self.exported.step}'
      )
    return self.exported.step, self.exported.weights


class _ExportedData:
  """The vocabulary and batch shape of an export; opens its data on demand."""

  def __init__(self, exported):
    self.vocab, self.unit = exported.vocab, exported.unit
    self._batch = export.batch_shapes(exported.length, exported.source_length)
    if exported.source_length is not None:
      self.source_length = exported.source_length

  def train_batch(self, step):
    """Returns the shapes of the arrays of a batch of one row."""
    del step
    return self._batch

  @functools.cached_property
  def _data(self):
    config.check_no_paths('train.data', _PATHLESS)
    data = config.value('train.data')
    check_data(data)
    return data

  def __getattr__(self, name):
    # Python looks up other names, which must not open the data set.
    if name not in _DATA_ATTRIBUTES:
      raise AttributeError(name)
    return getattr(self._data, name)
