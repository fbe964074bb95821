"""The training loop: `train`, the root of every gin file.

The loop never waits for the device: it dispatches step n, prepares the batch
of step n + 1, and only then reads the metrics of step n - 1.
"""

import contextlib
import dataclasses
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax

from trax_hier import config
from trax_hier.compat import base
from trax_hier.config import configurable
from trax_hier.training.build import Build, build
from trax_hier.training.checkpoints import (
  CheckpointError,
  Checkpoints,
  saved_steps,
)
from trax_hier.training.logging.console import Console
from trax_hier.training.logging.metrics_log import MetricsLog, read_metrics
from trax_hier.training.logging.report import NotFiniteError, Reporter
from trax_hier.training.logging.weights_and_biases import check_wandb
from trax_hier.training.mesh import put_batch
from trax_hier.training.optimizers import Optimizer
from trax_hier.training.profile import check_profile_steps, profiling
from trax_hier.training.state import n_parameters
from trax_hier.training.stopping import Stopped, listen_for_sigterm
from trax_hier.training.utilization import mesh_peak_flops

PyTree = object

# Takes the run, the step, the weights, the log, and what prints a line.
Look = Callable[[Build, int, PyTree, MetricsLog, Callable[[str], None]], None]

# What may change when a run resumes: the losses that follow do not depend on it
# (on the mesh, but for rounding).
_FREE = {
  f'train.{name}'
  for name in (
    'steps',
    'eval_every',
    'checkpoint_every',
    'log_every',
    'keep_checkpoints',
    'init_from',
    'mesh',
    'look_every',
    'profile_steps',
    'wandb',
  )
}


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """What a finished run leaves in memory.

  Attributes:
    step: the number of steps done.
    weights: the trained weights, float32, as nested tuples.
    evaluation: loss, bits per unit, accuracy and tokens on the held-out set.
    model: the model factory, and
    data: the data set the run was given.
  """

  step: int
  weights: PyTree
  evaluation: dict[str, float]
  model: Callable
  data: object


@configurable(
  module='trax_hier.training',
  denylist=['accept_changes', 'before_compile', 'look'],
)
def train(
  output_dir: str,
  model: Callable[..., base.Layer],
  data: object,
  optimizer: Callable[..., Optimizer],
  steps: int,
  eval_every: int = 1000,
  checkpoint_every: int | None = None,
  log_every: int = 10,
  keep_checkpoints: int = 3,
  accumulate_steps: int = 1,
  compute_dtype: str = 'float32',
  seed: int = 0,
  init_from: str | None = None,
  mesh: dict[str, int] | None = None,
  look_every: int | None = None,
  profile_steps: tuple[int, int] | None = None,
  wandb: str | None = None,
  accept_changes: bool = False,
  before_compile: Callable[[], None] | None = None,
  look: Look | None = None,
) -> TrainResult:
  """Trains a model, or carries on with a run that was stopped.

  `output_dir` gets `config.gin` (before the first step), `metrics.jsonl`,
  TensorBoard event files, and `checkpoints/`. If it has checkpoints, the run
  resumes from the newest whole one: weights, optimizer, model state, rng and
  data position are those of that step, metrics written after it are dropped,
  and the losses that follow are those of a run never stopped.

  Args:
    output_dir: the folder of the run; created if need be.
    model: a factory of layers, `model(mode=...)`, such as `@HourglassLM`.
    data: a data set, such as `@TextFiles()`.
    optimizer: a factory of optimizers, such as `@Adam`.
    steps: the number of steps to reach, those of an earlier run included.
    eval_every: steps between evaluations on the whole held-out set; there is
      one at the end as well.
    checkpoint_every: steps between checkpoints; None: at each evaluation.
      There is one at the end as well.
    log_every: steps between the lines of metrics.jsonl.
    keep_checkpoints: how many of the newest checkpoints are kept, besides the
      best one by held-out loss.
    accumulate_steps: parts in which a batch is taken, to save memory.
    compute_dtype: 'float32' or 'bfloat16': what weights are cast to for
      compute. Weights, loss and optimizer stay float32.
    seed: of the initial weights and of dropout.
    init_from: the folder of another run, whose newest weights this one begins
      with, to fine-tune them: model and vocabulary must be the same, of which
      the shapes of the weights are checked. Optimizer and step begin anew.
      None: weights are drawn.
    mesh: how many devices lie along 'data' (copies of the weights) and along
      'fsdp' (over which weights and optimizer state are split), such as
      `{'data': -1, 'fsdp': 8}`; -1 is the rest. Rows of a batch split over
      all. None: all along 'data'.
    look_every: steps between looks at the model, such as a sample of text in
      TensorBoard; None: at each evaluation; 0: never. There is one at the end
      as well.
    profile_steps: (first, n): `n` steps from step `first` on are profiled, to
      `output_dir/profile`. None: none are.
    wandb: a project at Weights & Biases that gets all metrics as well, if
      `trax_hier[wandb]` is installed; the run is the same there when it
      resumes. None: nothing leaves the machine.
    accept_changes: whether a run may resume with another configuration.
    before_compile: called when everything is built and nothing is compiled.
    look: what a look is, such as `looks.Looks()`; None: there are none.

  Returns:
    A `TrainResult`.

  Raises:
    ValueError: for an argument that cannot work, before any compilation.
    report.NotFiniteError: when a metric is not finite; names the step, the
      metric and the last checkpoint.
    checkpoints.CheckpointError: if there are checkpoints, of this run or of
      `init_from`, and none loads; if one cannot be written; if there are some
      and the configuration has changed.
    stopping.Stopped: on SIGTERM, when a checkpoint has been saved: after the
      step in progress, or after the evaluation and the step that follows it.
  """
  if checkpoint_every is None:
    checkpoint_every = eval_every
  counts = {
    'steps': steps,
    'eval_every': eval_every,
    'checkpoint_every': checkpoint_every,
    'log_every': log_every,
    'keep_checkpoints': keep_checkpoints,
    'accumulate_steps': accumulate_steps,
  }
  for name, value in counts.items():
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      raise ValueError(
        f'train.{name} must be a whole number, at least 1, got {value!r}'
      )
  if look_every is None:
    look_every = eval_every
  if type(look_every) is not int or look_every < 0:
    raise ValueError(
      'train.look_every must be None, for each evaluation, or a whole number '
      f'of steps, 0 for never, got {look_every!r}'
    )
  check_profile_steps(profile_steps)
  check_wandb(wandb)
  folder = _make_folder(output_dir)
  source = None
  # A run that goes on has no use for the other, which may be gone.
  if init_from is not None and not saved_steps(folder / 'checkpoints'):
    source = _checkpoints_of(init_from)
  built = build(model, data, optimizer, accumulate_steps, compute_dtype, mesh)
  if before_compile is not None:
    before_compile()
  # With several hosts, one of them speaks and writes; checkpoints are of all.
  speaks = jax.process_index() == 0

  with contextlib.ExitStack() as stack:
    console = stack.enter_context(contextlib.closing(Console(steps, speaks)))
    checkpoints = stack.enter_context(
      contextlib.closing(Checkpoints(folder / 'checkpoints', keep_checkpoints))
    )
    _introduce(built, compute_dtype, console.say)
    if checkpoints.steps() and not accept_changes:
      _check_unchanged(folder / 'config.gin')
    done, state = _start(built, checkpoints, seed, source, console.say)
    # Not before: a run that refuses to resume keeps its configuration.
    if speaks:
      _write_whole(folder / 'config.gin', config.operative_text())
    lines = read_metrics(folder)
    evaluated = {line['step'] for line in lines if line['kind'] == 'valid'}
    log = stack.enter_context(
      contextlib.closing(MetricsLog(folder, done, speaks, wandb))
    )
    stopping = stack.enter_context(listen_for_sigterm())
    profile = stack.enter_context(
      profiling(folder / 'profile', profile_steps, console.say)
    )
    tokens = math.prod(built.batch_shape)
    peak = mesh_peak_flops(built.mesh)
    full_speed = peak and tokens * peak / built.count_flops()
    reporter = Reporter(log, console, data.unit, tokens, log_every, full_speed)

    def evaluate(step):
      return step % eval_every == 0 or step == steps

    def save(step):
      return step % checkpoint_every == 0 or step == steps

    def looks(step):
      wanted = look is not None and look_every > 0
      return wanted and (step % look_every == 0 or step == steps)

    if done >= steps:
      console.say(f'nothing to train: train.steps is {steps}')
    # Also what a run that was told to stop has left out.
    if done >= steps or (done and evaluate(done) and done not in evaluated):
      evaluation = built.evaluator(state.weights)
      if done in evaluated:
        reporter.say_evaluation(done, evaluation)
      else:
        reporter.evaluation(done, evaluation)
    batch = data.train_batch(done)
    waiting = None
    try:
      for step in range(done + 1, steps + 1):
        profile(step, waiting)
        state, metrics = built.step(state, put_batch(built.mesh, batch))
        if step < steps:
          batch = data.train_batch(step)
        if waiting is not None:
          reporter.step(step - 1, waiting)
        waiting = metrics
        stop = stopping(step)
        if not (evaluate(step) or save(step) or looks(step) or stop):
          continue
        # A checkpoint holds nothing that is not finite, and its metrics are
        # on disk before it is.
        reporter.step(step, waiting)
        waiting = None
        with reporter.pause():
          evaluation = None
          # One that is told to stop may have no time for an evaluation, which
          # is made up for when it resumes.
          if evaluate(step) and not stop:
            evaluation = built.evaluator(state.weights)
            reporter.evaluation(step, evaluation)
          if save(step) or stop:
            log.flush()
            position = {'step': step, 'seed': seed}
            checkpoints.save(step, state, position, evaluation)
          if looks(step) and not stop:
            look(built, step, state.weights, log, console.say)
        if stop:
          checkpoints.wait()
          raise Stopped(f'told to stop (SIGTERM): step {step} is saved')
    except NotFiniteError as error:
      checkpoints.wait()
      kept = checkpoints.steps()
      last = f'the last is of step {kept[-1]}' if kept else 'there is none'
      message = f'{error}; training stopped. Of checkpoints, {last}'
      raise NotFiniteError(message) from None
    checkpoints.wait()
  return TrainResult(max(done, steps), state.weights, evaluation, model, data)


def _check_unchanged(file):
  """Compares the configuration that was saved with the present one.

  Raises:
    CheckpointError: if they differ in more than may change, or the first
      cannot be read.
  """
  try:
    saved = file.read_text()
    changes = config.differences(saved, _FREE)
  except (OSError, ValueError):
    saved = ''
  if not saved.strip():
    raise CheckpointError(
      f'{file} is missing or damaged, so what has changed since its '
      'checkpoints cannot be told. Go on all the same by --accept_changes'
    )
  if changes:
    lines = [
      f'\n  {name}: {then or "not there"} then, {now or "not there"} now'
      for name, (then, now) in changes.items()
    ]
    raise CheckpointError(
      f'the configuration is not that of the checkpoints of {file.parent}:'
      f'{"".join(lines)}\nGo on with it all the same by --accept_changes, or '
      'use another output_dir'
    )


def _write_whole(file, text):
  """Replaces a file in one moment: it is never there half written."""
  temporary = file.with_suffix('.tmp')
  with temporary.open('w') as opened:
    opened.write(text)
    opened.flush()
    os.fsync(opened.fileno())
  temporary.replace(file)


def _introduce(built, compute_dtype, say):
  devices = built.mesh.devices.flat
  say(
    f'{n_parameters(built.abstract.weights):,} parameters, {compute_dtype} '
    f'compute on {len(devices)} x {devices[0].device_kind}'
  )
  say(built.data.describe())


def _start(built, checkpoints, seed, source, say):
  """The newest checkpoint, or a fresh state where there is none."""
  restored = checkpoints.restore(built.abstract, say)
  if restored is None:
    say(f'starting from seed {seed}')
    state = built.init(jax.random.PRNGKey(seed))
    if source is not None:
      weights = _load_weights(source, built.abstract.weights, say)
      state = dataclasses.replace(state, weights=weights)
    return 0, state
  step, state, position = restored
  if position['seed'] != seed:
    raise CheckpointError(
      f'train.seed is {seed}, but the checkpoints of this run are of seed '
      f'{position["seed"]}: use that, or another output_dir'
    )
  say(f'resuming after step {step}')
  return step, state


def _checkpoints_of(init_from):
  """Where another run has its checkpoints.

  Raises:
    ValueError: if it has none.
  """
  directory = Path(init_from).expanduser().absolute() / 'checkpoints'
  if not directory.is_dir():
    raise ValueError(
      f'train.init_from = {init_from!r}: not the folder of a run: it has no '
      'checkpoints'
    )
  return directory


def _load_weights(directory, abstract, say):
  """The newest weights of another run.

  Raises:
    CheckpointError: if none load, or they are of another model.
  """
  with contextlib.closing(Checkpoints(directory, read_only=True)) as others:
    try:
      step, weights = others.load_weights(abstract, say)
    except CheckpointError as error:
      raise CheckpointError(f'train.init_from: {error}') from error
  say(f'weights are those of {directory.parent}, step {step}')
  return weights


def _make_folder(output_dir):
  """The folder, there and writable.

  Raises:
    ValueError: if it cannot be made or written to.
  """
  folder = Path(output_dir).expanduser().absolute()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise ValueError(f'output_dir {folder} is not writable: {error}') from None
  return folder
