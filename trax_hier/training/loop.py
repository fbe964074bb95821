"""The training loop: `train`, the root configurable of every gin file.

The loop never waits for the device: it dispatches step n, prepares the batch
of step n + 1, and only then reads the metrics of step n - 1.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable

import jax

from trax_hier.compat import base
from trax_hier.config import configurable
from trax_hier.training.build import Build, build
from trax_hier.training.intervals import Intervals
from trax_hier.training.logging.metrics_log import MetricsLog
from trax_hier.training.logging.report import NotFiniteError, Reporter
from trax_hier.training.logging.weights_and_biases import check_wandb
from trax_hier.training.mesh import put_batch
from trax_hier.training.optimizers import Optimizer
from trax_hier.training.profile import check_profile_steps, profiling
from trax_hier.training.run import (
  Run,
  find_init_checkpoints,
  make_folder,
  start_run,
)
from trax_hier.training.step import METRICS
from trax_hier.training.stopping import Stopped, listen_for_sigterm
from trax_hier.training.utilization import mesh_peak_flops

PyTree = object

# (built, step, weights, log, say); `say` prints a line.
Probe = Callable[[Build, int, PyTree, MetricsLog, Callable[[str], None]], None]


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """Result of a finished run.

  Attributes:
    step: Number of steps done.
    weights: Trained weights, float32, as nested tuples.
    evaluation: Loss, bits per unit, accuracy and tokens of the held-out set.
    model: Model factory of the run.
    data: Data set of the run.
  """

  step: int
  weights: PyTree
  evaluation: dict[str, float]
  model: Callable
  data: object


@configurable(
  module='trax_hier.training',
  denylist=['accept_changes', 'before_compile', 'probe'],
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
  probe: Probe | None = None,
) -> TrainResult:
  """Trains a model, or resumes a run that was stopped.

  `output_dir` gets `config.gin` (before the first step), `metrics.jsonl`,
  TensorBoard event files, and `checkpoints/`. If it has checkpoints, the run
  resumes from the newest complete one: weights, optimizer, model state, rng
  and data position are restored, metrics of later steps are dropped, and the
  losses that follow equal those of an uninterrupted run.

  Evaluations, checkpoints and probes happen at multiples of their intervals
  and after the last step.

  Args:
    output_dir: Folder of the run; created if it does not exist.
    model: Factory of layers, `model(mode=...)`, such as `@HourglassLM`.
    data: Data set, such as `@TextFiles()`.
    optimizer: Factory of optimizers, such as `@Adam`.
    steps: Number of the last step; a resumed run counts earlier steps too.
    eval_every: Steps between evaluations on the whole held-out set.
    checkpoint_every: Steps between checkpoints; None means eval_every.
    log_every: Steps between lines of metrics.jsonl.
    keep_checkpoints: Number of newest checkpoints to keep; the one with the
      lowest held-out loss is kept as well.
    accumulate_steps: Number of micro-batches that a batch is split into, to
      save memory (gradient accumulation).
    compute_dtype: 'float32' or 'bfloat16'; a step casts the weights to it.
      Stored weights, loss and optimizer stay float32.
    seed: Seed of initial weights and dropout.
    init_from: Folder of another run, whose newest weights are fine-tuned.
      Model and vocabulary must be the same, but only the shapes of the weights
      are checked. Optimizer state and step number are not loaded. None
      initializes the weights randomly.
    mesh: Number of devices along 'data' (replicas of the weights) and along
      'fsdp' (weights and optimizer state are sharded), such as
      `{'data': -1, 'fsdp': 8}`; -1 means all remaining devices. Rows of a
      batch are split along both. None puts all devices along 'data'.
    look_every: Steps between probes of the model, such as a sample of text in
      TensorBoard; None means eval_every, 0 means never.
    profile_steps: (first, n) profiles `n` steps from step `first` on, to
      `output_dir/profile`. None profiles no steps.
    wandb: Project at Weights & Biases that gets all metrics as well; needs
      `trax_hier[wandb]`. A resumed run continues the same run there. None
      sends nothing.
    accept_changes: Whether to resume although the configuration has changed.
    before_compile: Function called after the model is built and before anything
      is compiled.
    probe: Function that logs samples and statistics of the model, such as
      `probes.Probes()`; None logs none.

  Returns:
    A `TrainResult`.

  Raises:
    ValueError: for an invalid argument, before anything is compiled.
    report.NotFiniteError: when a metric is not finite; names the step, the
      metric and the last checkpoint.
    checkpoints.CheckpointError: if no checkpoint of this run or of `init_from`
      loads, if one cannot be written, or if the configuration has changed
      since the checkpoints.
    stopping.Stopped: on SIGTERM, after a checkpoint of the step in progress is
      saved (of the next step, if SIGTERM arrives during an evaluation).
  """
  if checkpoint_every is None:
    checkpoint_every = eval_every
  if look_every is None:
    look_every = eval_every
  _check_counts(
    steps=steps,
    eval_every=eval_every,
    checkpoint_every=checkpoint_every,
    log_every=log_every,
    keep_checkpoints=keep_checkpoints,
    accumulate_steps=accumulate_steps,
  )
  _check_look_every(look_every)
  check_profile_steps(profile_steps)
  check_wandb(wandb)
  probe_every = 0 if probe is None else look_every
  intervals = Intervals(steps, eval_every, checkpoint_every, probe_every)
  folder = make_folder(output_dir)
  init_checkpoints = find_init_checkpoints(init_from, folder)
  built = build(model, data, optimizer, accumulate_steps, compute_dtype, mesh)
  if before_compile is not None:
    before_compile()

  with contextlib.ExitStack() as stack:
    run = stack.enter_context(
      start_run(
        folder,
        built,
        steps,
        seed,
        init_checkpoints,
        keep_checkpoints,
        accept_changes,
        wandb,
      )
    )
    should_stop = stack.enter_context(listen_for_sigterm())
    profile = stack.enter_context(
      profiling(folder / 'profile', profile_steps, run.console.say)
    )
    reporter = _make_reporter(run, log_every)
    evaluation = _evaluate_first(run, reporter, intervals)
    if run.start_step < steps:
      with _name_last_checkpoint(run.checkpoints):
        evaluation = _run_steps(
          run, reporter, intervals, probe, profile, should_stop
        )
    run.checkpoints.wait()
  return TrainResult(
    max(run.start_step, steps), run.state.weights, evaluation, model, data
  )


def _run_steps(
  run: Run,
  reporter: Reporter,
  intervals: Intervals,
  probe: Probe | None,
  profile: Callable[[int, jax.Array | None], None],
  should_stop: Callable[[int], bool],
) -> dict[str, float]:
  """Runs the remaining steps; returns the evaluation after the last one.

  Raises:
    NotFiniteError: when a metric is not finite.
    Stopped: on SIGTERM.
  """
  built, data = run.built, run.built.data
  evaluation = None
  batch = data.train_batch(run.start_step)
  pending = None  # Metrics of the previous step, until they are read.
  for step in range(run.start_step + 1, intervals.steps + 1):
    profile(step, pending)
    run.state, metrics = built.step(run.state, put_batch(built.mesh, batch))
    if step < intervals.steps:
      batch = data.train_batch(step)
    if pending is not None:
      reporter.step(step - 1, pending)
    pending = metrics
    stop = should_stop(step)
    if not (stop or intervals.any(step)):
      continue
    # Before saving, so that a checkpoint has finite and logged metrics.
    reporter.step(step, pending)
    pending = None
    with reporter.pause():
      evaluation = None
      # SIGTERM may leave no time to evaluate; the resumed run evaluates first.
      if intervals.evaluates(step) and not stop:
        evaluation = built.evaluator(run.state.weights)
        reporter.evaluation(step, evaluation)
      if intervals.saves(step) or stop:
        run.save(step, evaluation)
      if intervals.probes(step) and not stop:
        probe(built, step, run.state.weights, run.log, run.console.say)
    if stop:
      run.checkpoints.wait()
      raise Stopped(f'received SIGTERM: checkpoint {step} is saved')
  return evaluation


def _evaluate_first(run, reporter, intervals):
  """Evaluates a finished run, or a step whose evaluation SIGTERM skipped.

  Returns the metrics, or None.
  """
  step, is_done = run.start_step, run.start_step >= intervals.steps
  if is_done:
    run.console.say(f'nothing to train: train.steps is {intervals.steps}')
  is_missing = step > 0 and step not in run.evaluated
  if not is_done and not (is_missing and intervals.evaluates(step)):
    return None
  evaluation = run.built.evaluator(run.state.weights)
  if step in run.evaluated:
    reporter.say_evaluation(step, evaluation)
  else:
    reporter.evaluation(step, evaluation)
  return evaluation


def _make_reporter(run, log_every):
  built = run.built
  tokens = math.prod(built.batch_shape)
  peak = mesh_peak_flops(built.mesh)
  peak_speed = peak and tokens * peak / built.count_flops()
  unit = built.data.unit
  return Reporter(
    run.log, run.console, METRICS, unit, tokens, log_every, peak_speed
  )


@contextlib.contextmanager
def _name_last_checkpoint(checkpoints):
  """Adds the last checkpoint to the message of a NotFiniteError."""
  try:
    yield
  except NotFiniteError as error:
    checkpoints.wait()
    kept = checkpoints.steps()
    last = f'step {kept[-1]}' if kept else 'none'
    message = f'{error}; training stopped; last checkpoint: {last}'
    raise NotFiniteError(message) from None


def _check_counts(**counts):
  for name, value in counts.items():
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      raise ValueError(
        f'train.{name} must be a whole number, at least 1, got {value!r}'
      )


def _check_look_every(look_every):
  if type(look_every) is not int or look_every < 0:
    raise ValueError(
      'train.look_every must be None (at each evaluation) or a whole number of '
      f'steps (0 for never), got {look_every!r}'
    )
