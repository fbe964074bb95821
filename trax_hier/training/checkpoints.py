"""Checkpoints: saving, loading with fallback, and retention.

Orbax writes in the background and renames a checkpoint when it is complete, so
a run killed at any moment leaves only complete checkpoints with final names.
Arrays are stored by their path in the state, such as `weights.2.0`, as trax's
nested tuples have no names. Digests of the arrays are stored too; loading
verifies them.
"""

import contextlib
import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from trax_hier.training.checkpoint_record import (
  check_arrays,
  check_position,
  different_arrays,
  make_record,
  not_finite_arrays,
  read_record,
)
from trax_hier.training.digests import count_arrays, summarize
from trax_hier.training.logging.not_finite import NotFiniteError
from trax_hier.training.retention import KeepBest

PyTree = object

_WEIGHTS = 'weights'  # the field of TrainState


class CheckpointError(RuntimeError):
  """Checkpoints are missing, unusable, or cannot be written."""


class _DamagedError(CheckpointError):
  """One checkpoint cannot be loaded; an older one may load."""


def named_leaves(tree: PyTree) -> dict[str, object]:
  """The leaves of a tree by path, with the keys joined by dots.

  Example:
    >>> named_leaves({'weights': (1, (2, 3))})
    {'weights.0': 1, 'weights.1.0': 2, 'weights.1.1': 3}
  """
  leaves, _ = jax.tree.flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): leaf
    for path, leaf in leaves
  }


def saved_steps(directory: str | Path) -> list[int]:
  """Steps that have a complete checkpoint in a folder, in ascending order."""
  if not Path(directory).is_dir():
    return []
  return sorted(ocp.utils.checkpoint_steps(Path(directory).absolute()))


def _from_named(leaves, names, like):
  """Builds a tree with the structure of `like` from leaves by name."""
  return jax.tree.unflatten(
    jax.tree.structure(like), [leaves[name] for name in names]
  )


def _reason(error):
  """First line of an error; a long line is cut to its end, the cause."""
  line = str(error).strip().partition('\n')[0]
  line = line.partition(' See full TensorStore details')[0]
  return line if len(line) <= 200 else f'… {line[-200:]}'


class _Manager(ocp.CheckpointManager):
  """Leaves preemption to `stopping`.

  JAX keeps one count for all who ask it for preemption. Orbax asks with the
  number of the step, which would set the count of `stopping` back, and the
  hosts would agree on a moment that is over.
  """

  def reached_preemption(self, step):
    del step
    return False


class Checkpoints:
  """The checkpoints of one run.

  Keeps the newest `keep`, and the one with the lowest finite held-out loss.
  """

  def __init__(
    self,
    directory: str | Path,
    keep: int = 3,
    read_only: bool = False,
  ):
    """Opens the folder.

    Args:
      directory: Folder; created if it does not exist.
      keep: Number of newest checkpoints to keep when one is saved.
      read_only: Whether to change nothing, as another process may be writing:
        the folder is not created, and incomplete checkpoints are not deleted.

    Raises:
      CheckpointError: if the metadata of a checkpoint are damaged.
    """
    self._directory = Path(directory).absolute()
    self._best = KeepBest()
    try:
      self._manager = _Manager(
        self._directory,
        # Orbax's own `read_only` logs a warning for each of the other options.
        options=ocp.CheckpointManagerOptions(
          create=not read_only,
          preservation_policy=policies.AnyPreservationPolicy(
            [policies.LatestN(keep), self._best]
          ),
          cleanup_tmp_directories=not read_only,
        ),
      )
    except (ValueError, RecursionError) as error:  # Metadata, which are JSON.
      raise CheckpointError(f'{self._directory}: {_reason(error)}') from error

  def steps(self) -> list[int]:
    """Steps that have a complete checkpoint, in ascending order."""
    return sorted(self._manager.all_steps())

  def save(
    self,
    step: int,
    state: PyTree,
    position: Mapping[str, object],
  ) -> None:
    """Saves the state after `step` steps; returns before it is written.

    Args:
      step: Number of steps done.
      state: Tree of arrays.
      position: JSON values that a resumed run needs besides the state.

    Raises:
      CheckpointError: if this or the previous checkpoint cannot be written.
      NotFiniteError: if an array is not finite; nothing is saved.
    """
    arrays = named_leaves(state)
    summaries = summarize(arrays)
    if bad := not_finite_arrays(summaries):
      raise NotFiniteError(
        f'step {step} is not saved: {count_arrays(bad, len(arrays))} are not '
        'finite'
      )
    with self._writing():
      # Without enough space, the checkpoint is not started.
      needed = sum(x.nbytes for x in jax.tree.leaves(state))
      free = shutil.disk_usage(self._directory).free
      if free < needed:
        raise OSError(
          f'it needs {needed / 1e6:,.1f} MB, but {free / 1e6:,.1f} MB are free'
        )
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(arrays),
          position=ocp.args.JsonSave(dict(position)),
          digests=ocp.args.JsonSave(make_record(arrays, summaries, position)),
        ),
        force=True,
      )

  def evaluated(self, step: int, loss: float, coverage: float = 1.0) -> None:
    """Records the held-out loss of a step, saved before or after this call.

    Later saves keep the checkpoint of the lowest loss, among those of equal
    coverage. A loss that is not finite does not count.
    """
    self._best.record(step, loss, coverage)

  def restore(
    self, abstract: PyTree, say: Callable[[str], None]
  ) -> tuple[int, PyTree, dict[str, object]] | None:
    """Loads the newest intact checkpoint.

    Then moves newer, damaged checkpoints to a folder whose name ends in
    `_broken`, so that the run can save these steps again.

    Args:
      abstract: State as a tree of `jax.ShapeDtypeStruct` with shardings.
      say: Prints a line for each checkpoint that cannot be loaded.

    Returns:
      The step, the state with the structure and shardings of `abstract`, and
      the position; None if there are no checkpoints.

    Raises:
      CheckpointError: if there are checkpoints and none can be loaded, or one
        belongs to another model or optimizer.
    """
    if not self.steps():
      return None
    load = functools.partial(self._load, abstract, say)
    step, (state, position), broken = self._newest(load, say)
    if jax.process_count() > 1:
      steps = multihost_utils.process_allgather(np.int32(step))
      if len(set(steps.tolist())) > 1:
        raise CheckpointError(
          f'the hosts can load different checkpoints in {self._directory}: '
          f'steps {steps.tolist()}. Do all hosts share this folder?'
        )
    if broken:
      self._set_aside(broken)
    return step, state, position

  def load_weights(
    self,
    abstract: PyTree,
    say: Callable[[str], None],
    step: int | None = None,
  ) -> tuple[int, PyTree]:
    """Loads only the weights of a `TrainState`; changes nothing on disk.

    Args:
      abstract: Weights as a tree of `jax.ShapeDtypeStruct` with shardings.
      say: Prints a line for each newer checkpoint that cannot be loaded.
      step: Step of the checkpoint; None means the newest intact one.

    Returns:
      The step and the weights.

    Raises:
      CheckpointError: if there are no checkpoints, none can be loaded, or one
        belongs to another model.
      ValueError: if there are checkpoints, but none for this step.
    """
    steps = self.steps()
    if not steps:
      raise CheckpointError(f'there are no checkpoints in {self._directory}')
    load = functools.partial(self._load_weights, abstract, say)
    if step is None:
      step, weights, _ = self._newest(load, say)
      return step, weights
    if step not in steps:
      raise ValueError(
        f'step = {step}: {self._directory} has checkpoints of these steps: '
        f'{", ".join(map(str, steps))}'
      )
    return step, self._attempt(load, step)

  def wait(self) -> None:
    """Waits until everything saved is on disk.

    Raises:
      CheckpointError: if a checkpoint cannot be written.
    """
    with self._writing():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for pending saves and closes the folder."""
    # `wait` raises the errors of saves.
    with contextlib.suppress(Exception):
      self._manager.close()

  @contextlib.contextmanager
  def _writing(self):
    try:
      yield
    except Exception as error:  # orbax and tensorstore raise many kinds
      complete = saved_steps(self._directory)
      last = f'step {complete[-1]}' if complete else 'none'
      raise CheckpointError(
        f'a checkpoint cannot be written to {self._directory}: '
        f'{_reason(error)}; last complete checkpoint: {last}'
      ) from error

  def _newest(self, load, say):
    """Loads the newest intact one: (step, content, newer damaged steps)."""
    broken = []
    for step in reversed(self.steps()):
      try:
        loaded = self._attempt(load, step)
      except _DamagedError as error:
        say(str(error))
        broken.append(step)
        continue
      if broken:
        say(f'falling back to checkpoint {step}')
      return step, loaded, broken
    raise CheckpointError(
      f'none of the checkpoints in {self._directory} can be loaded: restore '
      'them from a backup, or start over in another folder'
    )

  def _attempt(self, load, step):
    try:
      return load(step)
    except CheckpointError:
      raise
    except Exception as error:  # orbax and tensorstore raise many kinds
      raise _DamagedError(
        f'checkpoint {step} cannot be loaded: {_reason(error)}'
      ) from error

  def _load(self, abstract, say, step):
    wanted = named_leaves(abstract)
    record = self._check_same(step, wanted, say)
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(wanted),
        position=ocp.args.JsonRestore(),
      ),
    )
    check_arrays(record, summarize(restored.state))
    check_position(record, restored.position)
    state = _from_named(restored.state, wanted, abstract)
    return state, dict(restored.position)

  def _load_weights(self, abstract, say, step):
    wanted = named_leaves({_WEIGHTS: abstract})
    record = self._check_same(step, wanted, say, only=_WEIGHTS)
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeRestore(
          wanted,
          restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
          partial_restore=True,
        )
      ),
    )
    arrays = {name: restored.state[name] for name in wanted}
    check_arrays(record, summarize(arrays))
    return _from_named(arrays, wanted, abstract)

  def _check_same(self, step, wanted, say, only=''):
    """Raises if a checkpoint belongs to another model or optimizer.

    After this check, a checkpoint that does not load is damaged.

    Args:
      step: Step of the checkpoint.
      wanted: Arrays or shapes to load, by name.
      say: Prints a line if the checkpoint has no digests.
      only: Prefix of the names of saved arrays to compare.

    Returns:
      The record of the checkpoint; None if it has no digests.
    """
    folder = self._directory / str(step)
    record = read_record(folder / 'digests')
    if record is None:
      say(f'checkpoint {step} is not verified: it was saved without digests')
    different = different_arrays(folder, record, wanted, only)
    if different:
      name, (saved, now) = next(iter(different.items()))
      raise CheckpointError(
        f'checkpoint {step} in {self._directory} belongs to another model or '
        f'optimizer: {len(different)} arrays differ, such as {name} (saved: '
        f'{saved}, now: {now}); use the settings of that run, or another folder'
      )
    return record

  def _set_aside(self, steps):
    if jax.process_index() == 0:
      aside = self._directory.with_name(f'{self._directory.name}_broken')
      aside.mkdir(exist_ok=True)
      for step in steps:
        target = aside / str(step)
        shutil.rmtree(target, ignore_errors=True)
        (self._directory / str(step)).rename(target)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('checkpoints set aside')
    self._manager.reload()
