"""Starts or resumes a run: its folder, state, checkpoints and log.

A run resumes from its newest checkpoint. Without one, it starts from the
weights of another run, of an export, or from a seed.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from trax_hier.environment import expand_home
from trax_hier.training.build import Build
from trax_hier.training.checkpoints import (
  CheckpointError,
  Checkpoints,
  saved_steps,
)
from trax_hier.training.data_changes import check_same_data, fingerprint
from trax_hier.training.initial_weights import InitialWeights
from trax_hier.training.logging.console import Console
from trax_hier.training.logging.coverage import coverage, describe_coverage
from trax_hier.training.logging.jsonl import read_metrics
from trax_hier.training.logging.metrics_log import MetricsLog
from trax_hier.training.run_lock import locked
from trax_hier.training.saved_config import check_unchanged, save_config
from trax_hier.training.state import TrainState, n_parameters


@dataclasses.dataclass
class Run:
  """A run in progress: its training state, checkpoints and log.

  Attributes:
    built: Functions, data set and mesh of the run.
    seed: Seed of initial weights and dropout.
    data_fingerprint: Fingerprint of the data set.
    start_step: Number of steps done when the run was started or resumed.
    step: Number of steps done.
    saved_step: Number of steps done when the state was last saved; 0 if never.
    state: Training state after `step` steps.
    evaluated: Steps whose evaluation, of the present coverage, is in the log.
    checkpoints: Checkpoints of the run.
    console: Output of messages and progress.
    log: Log of metrics, samples and histograms.
  """

  built: Build
  seed: int
  data_fingerprint: Mapping[str, str]
  start_step: int
  step: int
  saved_step: int
  state: TrainState
  evaluated: set[int]
  checkpoints: Checkpoints
  console: Console
  log: MetricsLog

  def save(self) -> None:
    """Flushes the log, then saves a checkpoint in the background.

    Does nothing if the state is saved already.

    Raises:
      CheckpointError: if this or the previous checkpoint cannot be written.
    """
    if self.saved_step == self.step:
      return
    self.log.flush()
    position = {
      'step': self.step,
      'seed': self.seed,
      'data': dict(self.data_fingerprint),
    }
    self.checkpoints.save(self.step, self.state, position)
    self.saved_step = self.step


@contextlib.contextmanager
def start_run(
  folder: Path,
  built: Build,
  steps: int,
  seed: int,
  initial_weights: InitialWeights | None,
  keep_checkpoints: int,
  accept_changes: bool,
  wandb: str | None,
) -> Iterator[Run]:
  """Opens the files of a run and restores or initializes its state.

  With several hosts, only the first prints and logs; all write checkpoints.

  Args:
    folder: Folder of the run; created if it does not exist.
    built: Functions, data set and mesh of the run.
    steps: Number of the last step.
    seed: Seed of initial weights and dropout.
    initial_weights: Initial weights of a new run; None initializes them from
      the seed.
    keep_checkpoints: Number of newest checkpoints to keep.
    accept_changes: Whether to resume although the configuration has changed.
    wandb: Project at W&B; None sends nothing.

  Raises:
    FolderInUseError: if another trainer writes to the folder.
    CheckpointError: if the run cannot resume, or no weights can be loaded.
    OSError: if a file cannot be written.
  """
  is_first_host = jax.process_index() == 0
  with contextlib.ExitStack() as stack:

    def closing(resource):
      return stack.enter_context(contextlib.closing(resource))

    console = closing(Console(steps, is_first_host))
    folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(locked(folder, console.say))
    metrics = read_metrics(folder, console.say)
    directory = folder / 'checkpoints'
    saved = saved_steps(directory)
    if not accept_changes:
      if saved:
        check_unchanged(folder / 'config.gin')
      else:
        _check_never_saved(directory, metrics)
    checkpoints = stack.enter_context(
      _closing(Checkpoints(directory, keep_checkpoints))
    )
    evaluations = _evaluations(metrics)
    for x in evaluations:
      checkpoints.evaluated(x['step'], x['loss'], coverage(x))
    _print_setup(built, console.say)
    step, state, position = _initial_state(
      built, checkpoints, seed, initial_weights, console
    )
    data_fingerprint = fingerprint(built.data)
    if position is not None:
      check_same_data(
        position.get('data'),
        data_fingerprint,
        folder,
        accept_changes,
        console.say,
      )
    # Only after restoring: a run that cannot resume keeps its old file.
    if is_first_host:
      save_config(folder / 'config.gin')
    if metrics and not saved:
      console.say(f'{len(metrics)} lines of metrics.jsonl are deleted')
    run = Run(
      built=built,
      seed=seed,
      data_fingerprint=data_fingerprint,
      start_step=step,
      step=step,
      saved_step=step,
      state=state,
      evaluated=_evaluated(
        evaluations, step, built.evaluator.coverage, console.say
      ),
      checkpoints=checkpoints,
      console=console,
      log=closing(MetricsLog(folder, step, is_first_host, wandb, console.say)),
    )
    del state  # Else this frame keeps the initial state in memory.
    yield run


@contextlib.contextmanager
def _closing(checkpoints):
  """Closes checkpoints, except on a second Ctrl-C, which waits for no save."""
  try:
    yield checkpoints
  except KeyboardInterrupt:
    raise
  except BaseException:
    checkpoints.close()
    raise
  else:
    checkpoints.close()


def _evaluations(metrics):
  """The lines of a log that are evaluations."""
  return [x for x in metrics if x['kind'] == 'valid' and 'loss' in x]


def _evaluated(evaluations, step, share, say):
  """Steps up to `step` that have been evaluated with the coverage `share`.

  Says which other coverage there is: its figures cannot be compared.
  """
  done = [x for x in evaluations if x['step'] <= step]
  others = [x for x in done if coverage(x) != share]
  if others:
    say(
      f'held-out figures up to step {others[-1]["step"]} are of '
      f'{describe_coverage(coverage(others[-1]))}, those that follow of '
      f'{describe_coverage(share)}: they are not compared, and the best '
      'checkpoint of each is kept'
    )
  return {x['step'] for x in done if coverage(x) == share}


def _check_never_saved(directory, metrics):
  """Checks that a run without checkpoints has not lost them.

  A run that is killed before its first checkpoint has an empty folder for them
  and no evaluation in its log, as a checkpoint precedes each evaluation.

  Raises:
    CheckpointError: if it had checkpoints.
  """
  if metrics and (not directory.is_dir() or _evaluations(metrics)):
    raise CheckpointError(
      f'{directory} has no checkpoints, but metrics.jsonl beside it has '
      f'{len(metrics)} lines, up to step {max(x["step"] for x in metrics)}. To '
      'delete these lines and start from the first step, add --accept_changes, '
      'or use another output_dir'
    )


def find_folder(output_dir: str) -> Path:
  """Finds the folder of a run, and checks that it can be written to.

  `start_run` creates it: an error in the configuration leaves nothing behind.

  Raises:
    ValueError: if it cannot be created or written to.
  """
  folder = _folder(output_dir)
  try:
    parent = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
    with tempfile.TemporaryFile(dir=parent):
      pass
  except OSError as error:
    reason = error.strerror or error
    raise ValueError(f'output_dir {folder} is not writable: {reason}') from None
  return folder


def _folder(output_dir):
  return expand_home(output_dir, f'output_dir = {output_dir!r}').absolute()


def _print_setup(built, say):
  devices = built.mesh.devices.flat
  say(
    f'{n_parameters(built.abstract.weights):,} parameters, '
    f'{jnp.dtype(built.compute_dtype).name} compute on {len(devices)} x '
    f'{devices[0].device_kind}'
  )
  say(built.data.describe())
  if note := built.train_rows.note:
    say(note)


def _initial_state(
  built: Build,
  checkpoints: Checkpoints,
  seed: int,
  initial_weights: InitialWeights | None,
  console: Console,
) -> tuple[int, TrainState, dict[str, object] | None]:
  """Restores or initializes the state.

  Returns:
    The steps done, the state, and the position of the checkpoint, or None.

  Raises:
    CheckpointError: if no checkpoint loads, or the run has another seed.
  """
  say, restored = console.say, None
  if checkpoints.steps():
    with console.doing('loading the newest checkpoint'):
      restored = checkpoints.restore(built.abstract, say)
  if restored is None:
    say(f'starting from seed {seed}')
    with console.doing('initializing the weights'):
      state = built.init(jax.random.PRNGKey(seed))
    if initial_weights is not None:
      weights = initial_weights.load(
        built.model(mode='eval'), built.abstract.weights, say
      )
      state = dataclasses.replace(state, weights=weights)
    return 0, state, None
  step, state, position = restored
  if position['seed'] != seed:
    raise CheckpointError(
      f'train.seed is {seed}, but the checkpoints of this run have seed '
      f'{position["seed"]}: use that seed, or another output_dir'
    )
  say(f'resuming after step {step}')
  return step, state, position
