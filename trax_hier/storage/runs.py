"""Runs: the folders that `train` writes, opened to score or to sample.

    run = open_run('runs/quickstart')
    step, weights = run.load_weights()

Nothing in the folder is changed, so the run may still be training.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import config
from trax_hier.storage import export
from trax_hier.storage.run_folder import config_file
from trax_hier.training.build import check_logits, check_parts
from trax_hier.training.checkpoints import Checkpoints
from trax_hier.training.state import abstract_init, shapes_of

PyTree = object


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run was configured with, and where its checkpoints are.

  Attributes:
    folder: the folder of the run.
    model: the model factory,
    data: the data set,
    compute_dtype: the name of the type, and
    mesh: the axes of the devices that `train` was bound to.
  """

  folder: Path
  model: Callable
  data: object
  compute_dtype: str
  mesh: Mapping[str, int] | None

  def load_weights(
    self, step: int | None = None, say: Callable[[str], None] = print
  ) -> tuple[int, PyTree]:
    """Loads the weights of a checkpoint onto the first local device.

    Args:
      step: which checkpoint; None: the newest that is whole.
      say: gets a line for each newer checkpoint that cannot be loaded.

    Returns:
      The step, and the weights, float32, as nested tuples.

    Raises:
      ValueError: if the model does not fit the data, or if there are
        checkpoints, but none of this step.
      CheckpointError: if there are no checkpoints, none can be loaded, or they
        are of another model.
    """
    batch = shapes_of(self.data.train_batch(0))
    layer = self.model(mode='eval')
    weights, model_state = abstract_init(layer, batch)
    check_logits(layer, weights, model_state, batch, self.data.vocab.size)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), weights
    )
    checkpoints = Checkpoints(self.folder / 'checkpoints', read_only=True)
    with contextlib.closing(checkpoints):
      return checkpoints.load_weights(abstract, say, step)


def open_run(folder: str | Path, bindings: Sequence[str] = ()) -> Run:
  """Reads `config.gin` of a run and makes the run's model factory and data set.

  Whatever was bound in gin before is forgotten. A model factory reads gin when
  it is called, so only the run opened last can be used.

  Args:
    folder: the run's folder, `output_dir` of `train`, or an export.
    bindings: gin statements that win over the file.

  Raises:
    ValueError: one message, for a folder that is not of a run, or a binding
      (config.ConfigError) or data set that does not work.

  Example:
    >>> import shutil
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   quickstart = config.packaged_gin_dir() / 'quickstart.gin'
    ...   _ = shutil.copy(quickstart, Path(folder, 'config.gin'))
    ...   run = open_run(folder, ['train.compute_dtype = "bfloat16"'])
    >>> run.data.train_batch(0)['inputs'].shape
    (8, 256)
    >>> config.clear()
  """
  file = config_file(folder)
  if (file.parent / export.WEIGHTS_FILE).is_file():
    return _open_export(file.parent, bindings)
  config.clear()
  config.parse([str(file)], bindings)
  names = 'model', 'data', 'compute_dtype'
  run = Run(
    file.parent,
    *(config.value(f'train.{name}') for name in names),
    mesh=_bound_mesh(),
  )
  check_parts(run.model, run.data, run.compute_dtype)
  return run


def _bound_mesh():
  """The mesh that gin binds; None where a run or an export names none."""
  bound = any(b.name == 'train.mesh' for b in config.resolved())
  return config.value('train.mesh') if bound else None


def _open_export(folder, bindings):
  """An export as a run of one checkpoint."""
  exported = export.load(folder, bindings)
  data = _ExportedData(exported)
  return _ExportedRun(
    folder, exported.model, data, 'float32', _bound_mesh(), exported
  )


@dataclasses.dataclass(frozen=True)
class _ExportedRun(Run):
  exported: export.Exported

  def load_weights(self, step=None, say=print):
    del say
    if step not in (None, self.exported.step):
      raise ValueError(
        f'step = {step}: {self.folder} has step {self.exported.step} alone'
      )
    return self.exported.step, self.exported.weights


class _ExportedData:
  """What an export knows of the data; the rest is read where the data lie."""

  def __init__(self, exported):
    self.vocab, self.unit = exported.vocab, exported.unit
    self._batch = export.batch_like(exported.length, exported.source_length)
    if exported.source_length is not None:
      self.source_length = exported.source_length

  def train_batch(self, step):
    """The shapes of a batch of one row."""
    del step
    return self._batch

  @functools.cached_property
  def _data(self):
    return config.value('train.data')

  def __getattr__(self, name):
    # Python asks for many names; only those of data sets are worth a reading.
    if name not in _OF_DATA:
      raise AttributeError(name)
    return getattr(self._data, name)


_OF_DATA = (
  'eval_batches',
  'count_bytes',
  'describe',
  'pairs',
  'target_length',
)
