"""Initial weights of a new run: those of another run or of an export."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from trax_hier import config
from trax_hier.compat import base
from trax_hier.config import names
from trax_hier.environment import expand_home
from trax_hier.training.checkpoint_record import different_arrays, read_record
from trax_hier.training.checkpoints import (
  CheckpointError,
  Checkpoints,
  named_leaves,
  saved_steps,
)
from trax_hier.training.initialization import put_array

PyTree = object

_EXPORTED = 'model.safetensors'
_OF_TRAX = 'model.pkl.gz'
_MAX_NAMED = 3  # Arrays or parameters that a message names.
# Modules whose parameters do not change the weights.
_OTHER_MODULES = 'trax_hier.training.', 'trax_hier.data.'


class Exports(Protocol):
  """Reads exports: the module `trax_hier.storage.export_weights`."""

  def differences(
    self, folder: Path, layer: base.Layer, shapes: PyTree
  ) -> dict[str, tuple[str, str]]:
    """The tensors that differ: {name: (shape there, shape here)}."""

  def read(
    self, folder: Path, layer: base.Layer, shapes: PyTree
  ) -> tuple[int | None, PyTree]:
    """The step of an export, None if unknown, and its weights."""

  def array_names(self, layer: base.Layer, shapes: PyTree) -> list[str]:
    """A name for each array of a model, in the order of its leaves."""


@dataclasses.dataclass(frozen=True)
class InitialWeights:
  """The weights that `train.init_from` names.

  Attributes:
    setting: The binding, for messages.
    folder: A run or an export.
    exports: Reads exports.
  """

  setting: str
  folder: Path
  exports: Exports | None

  def check(self, layer: base.Layer, shapes: PyTree) -> None:
    """Compares the shapes of the weights with those of a model.

    Args:
      layer: The model in 'train' or 'eval' mode.
      shapes: Shapes of its weights.

    Raises:
      ValueError: some differ; the message names them, and the parameters of
        the model that differ.
    """
    try:
      if self._is_export:
        different = self.exports.differences(self.folder, layer, shapes)
      else:
        different = self._different_arrays(layer, shapes)
    except Exception:  # orbax and tensorstore raise many kinds
      return  # Damaged; `load` says so, or finds an older checkpoint.
    if different:
      changes = self._different_bindings()
      raise ValueError(
        f'{self.setting}: its weights are of another model: '
        f'{changes and f"{changes}; "}{_describe(different)}'
      )

  def load(
    self, layer: base.Layer, shapes: PyTree, say: Callable[[str], None]
  ) -> PyTree:
    """Loads the weights, those of the newest checkpoint of a run.

    Args:
      layer: The model in 'train' or 'eval' mode.
      shapes: Its weights as a tree of `jax.ShapeDtypeStruct` with shardings.
      say: Prints where the weights are from, which parameters of the model
        differ there, and which checkpoints are damaged.

    Raises:
      CheckpointError: they cannot be loaded, or belong to another model.
    """
    try:
      if self._is_export:
        step, weights = self.exports.read(self.folder, layer, shapes)
        weights = jax.tree.map(
          lambda x, s: put_array(np.asarray(x), s.sharding), weights, shapes
        )
      else:
        checkpoints = Checkpoints(self._checkpoints, read_only=True)
        with contextlib.closing(checkpoints):
          step, weights = checkpoints.load_weights(shapes, say)
    except (CheckpointError, ValueError, OSError) as error:
      raise CheckpointError(f'{self.setting}: {error}') from error
    changes = self._different_bindings()
    say(
      f'initial weights: {self.folder}'
      f'{"" if step is None else f", step {step}"}'
      f'{changes and f"; {changes}"}'
    )
    return weights

  @property
  def _checkpoints(self):
    return self.folder / 'checkpoints'

  @property
  def _is_export(self):
    return not self._checkpoints.is_dir()

  def _different_arrays(self, layer, shapes):
    """The arrays of the newest checkpoint that differ, under readable names."""
    newest = self._checkpoints / str(saved_steps(self._checkpoints)[-1])
    here = named_leaves({'weights': shapes})
    record = read_record(newest / 'digests')
    different = different_arrays(newest, record, here, 'weights')
    if not different or self.exports is None:
      return different
    readable = self.exports.array_names(layer, shapes)
    readable = dict(zip(here, readable, strict=True))
    return {readable.get(k, k): shapes for k, shapes in different.items()}

  def _different_bindings(self):
    """Says which parameters of the model differ; '' if that is not known."""
    try:
      text = (self.folder / 'config.gin').read_text('utf-8')
      changes = config.differences(text)
    except (OSError, ValueError):
      return ''
    changes = [
      f'{name} = {there or "not set"} there, {here or "not set"} here'
      for name, (there, here) in changes.items()
      if _is_of_model(name)
    ]
    return _some(changes, '; ')


def find_initial_weights(
  init_from: str | None, output_dir: Path, exports: Exports | None
) -> InitialWeights | None:
  """Finds the run or export `train.init_from`; None if it is not needed.

  A resumed run does not need it, so `init_from` may no longer exist.

  Args:
    init_from: Folder of another run or of an export, or None.
    output_dir: Folder of this run, which may not exist.
    exports: Reads exports; None if only runs can be read.

  Raises:
    ValueError: there are no weights.
  """
  if init_from is None or saved_steps(output_dir / 'checkpoints'):
    return None
  setting = f'train.init_from = {init_from!r}'
  folder = expand_home(init_from, setting).absolute()
  found = InitialWeights(setting, folder, exports)
  if folder.is_file():
    raise ValueError(
      f'{setting}: not a folder: it must be a run or an export, which '
      "trax-hier import_trax makes of a file of Trax's weights"
    )
  if not folder.is_dir():
    raise ValueError(f'{setting}: no such folder')
  if not found._is_export:
    if not saved_steps(folder / 'checkpoints'):
      raise ValueError(f'{setting}: the run has no complete checkpoint')
  elif (folder / _OF_TRAX).is_file():
    raise ValueError(
      f"{setting}: a run of Trax's trainer: import its {_OF_TRAX} by "
      'trax-hier import_trax, and give the export'
    )
  elif not (folder / _EXPORTED).is_file():
    raise ValueError(
      f'{setting}: not a run directory, which has checkpoints, nor an export, '
      f'which has {_EXPORTED}'
    )
  elif exports is None:
    raise ValueError(
      f'{setting}: train reads exports only if it gets exports = '
      'trax_hier.storage.export_weights'
    )
  return found


def _is_of_model(parameter: str) -> bool:
  """Whether weights may depend on a parameter, such as 'TransformerLM.d_ff'."""
  if parameter == 'train.model' or '.' not in parameter:
    return parameter == 'train.model'
  configurable = parameter.rpartition('.')[0].rpartition('/')[2]
  try:
    return not names.resolve(configurable).startswith(_OTHER_MODULES)
  except config.ConfigError:
    return True


def _describe(different: Mapping[str, tuple[str, str]]) -> str:
  """Names some arrays that differ, and both shapes."""
  n = len(different)
  named = [
    f'{name} ({there} there, {here} here)'
    for name, (there, here) in different.items()
  ]
  return (
    f'{n} array{" differs" if n == 1 else "s differ"}: {_some(named, ", ")}'
  )


def _some(texts: Sequence[str], separator: str) -> str:
  """The first texts, and how many more there are."""
  more = len(texts) - _MAX_NAMED
  also = f' and {more} more' if more > 0 else ''
  return separator.join(texts[:_MAX_NAMED]) + also
