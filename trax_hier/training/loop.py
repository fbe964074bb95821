"""Training: `train`, the root configurable of every gin file."""

import contextlib
import dataclasses
import math
from collections.abc import Callable

from trax_hier.compat import base
from trax_hier.config import configurable
from trax_hier.training.build import build
from trax_hier.training.initial_weights import Exports, find_initial_weights
from trax_hier.training.intervals import Intervals, SaveClock
from trax_hier.training.logging.report import NotFiniteError, Reporter
from trax_hier.training.logging.weights_and_biases import check_wandb
from trax_hier.training.memory_limit import peak_memory
from trax_hier.training.optimizers import Optimizer
from trax_hier.training.profile import check_profile_steps, profiling
from trax_hier.training.run import find_folder, start_run
from trax_hier.training.schedules import Schedule
from trax_hier.training.state import n_parameters
from trax_hier.training.steps import Probe, Steps
from trax_hier.training.stopping import listen_for_signals
from trax_hier.training.utilization import mesh_peak_flops

PyTree = object


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """Result of a finished run.

  Attributes:
    step: Number of steps done.
    weights: Trained weights, float32, as nested tuples.
    evaluation: Loss, bits per unit, accuracy and tokens of the held-out set;
      `bits_per_byte` of tokens that encode a text and are not its bytes;
      `sequence_accuracy`, the share of rows without a wrong prediction; and
      `coverage`, the share of the batches that was evaluated.
    model: Model factory of the run.
    data: Data set of the run.
    learning_rate: Schedule of the optimizer.
    is_probed: Whether the run probes the model: `train.look_every` is not 0.
  """

  step: int
  weights: PyTree
  evaluation: dict[str, float]
  model: Callable
  data: object
  learning_rate: Schedule
  is_probed: bool

  def __repr__(self) -> str:
    """One line, without the weights."""
    score = f'bits_per_{self.data.unit}'
    return (
      f'<{type(self).__name__} step {self.step}: '
      f'{n_parameters(self.weights):,} parameters, {score} '
      f'{self.evaluation[score]:.4f}>'
    )


@configurable(
  module='trax_hier.training',
  denylist=['accept_changes', 'before_compile', 'probe', 'exports'],
)
def train(
  output_dir: str,
  model: Callable[..., base.Layer],
  data: object,
  optimizer: Callable[..., Optimizer],
  steps: int,
  eval_every: int = 1000,
  checkpoint_every: int | None = None,
  checkpoint_minutes: float | None = 10.0,
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
  eval_batches: int | None = None,
  label_smoothing: float = 0.0,
  loss_chunk: int | None = None,
  accept_changes: bool = False,
  before_compile: Callable[[], None] | None = None,
  probe: Probe | None = None,
  exports: Exports | None = None,
) -> TrainResult:
  """Trains a model, or resumes a run that was stopped.

  `output_dir` gets `config.gin` (before the first step), `metrics.jsonl`,
  TensorBoard event files, and `checkpoints/`. If it has checkpoints, the run
  resumes from the newest complete one: weights, optimizer, model state, rng
  and data position are restored, metrics of later steps are dropped, and the
  losses that follow equal those of an uninterrupted run.

  Evaluations, checkpoints and probes happen at multiples of their intervals
  and after the last step. Checkpoints are saved by time as well, before each
  evaluation, on Ctrl-C, SIGTERM or SIGHUP, and before an error ends the run,
  unless the state may be damaged.

  Args:
    output_dir: Folder of the run; created if it does not exist.
    model: Factory of layers, `model(mode=...)`, such as `@HourglassLM`.
    data: Data set, such as `@TextFiles()`.
    optimizer: Factory of optimizers, such as `@Adam`.
    steps: Number of the last step; a resumed run counts earlier steps too.
    eval_every: Steps between evaluations on the held-out set.
    checkpoint_every: Steps between checkpoints; None sets no interval.
    checkpoint_minutes: Minutes after which a checkpoint is saved if there was
      none meanwhile; None saves none by time.
    log_every: Steps between lines of metrics.jsonl.
    keep_checkpoints: Number of newest checkpoints to keep; the one with the
      lowest held-out loss is kept as well.
    accumulate_steps: Number of micro-batches that a batch is split into, to
      save memory (gradient accumulation).
    compute_dtype: 'float32' or 'bfloat16'; a step casts the weights to it.
      Stored weights, loss and optimizer stay float32.
    seed: Seed of initial weights and dropout.
    init_from: Folder of another run, whose newest weights are fine-tuned, or of
      an export, which `trax-hier import_trax` makes, too. Model and vocabulary
      must be the same, but only the shapes of the weights are checked.
      Optimizer state and step number are not loaded. None initializes the
      weights randomly.
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
    eval_batches: Number of batches in an evaluation, always the first ones of
      the validation split; None evaluates the whole split. `@DocumentLanes`
      reads the longest documents first.
    label_smoothing: Share of each target that is spread evenly over the
      vocabulary, in training. Logged losses stay the plain cross entropy.
    loss_chunk: Largest number of positions of a row whose logits are in memory;
      the backward pass recomputes them. It saves memory with large vocabularies
      and costs the time of one more last layer. None computes all at once.
    accept_changes: Whether to resume although the configuration has changed.
    before_compile: Function called after the model is built and before anything
      is compiled.
    probe: Function that logs samples and statistics of the model, such as
      `probes.Probes()`; None logs none.
    exports: Reads an export that `init_from` names, as
      `trax_hier.storage.export_weights` does; None refuses exports.

  Returns:
    A `TrainResult`.

  Raises:
    ValueError: for an invalid argument, before anything is compiled.
    run_lock.FolderInUseError: if another trainer writes to `output_dir`.
    data_error.DataError: when a batch cannot be read.
    report.NotFiniteError: when a metric is not finite; names the step, the
      metric and the last checkpoint.
    checkpoints.CheckpointError: if no checkpoint of this run or of `init_from`
      loads, if one cannot be written, or if the configuration has changed
      since the checkpoints.
    stopping.Stopped: on Ctrl-C, SIGTERM or SIGHUP, after a checkpoint of the
      step in progress is saved. An evaluation stops between batches; the
      resumed run repeats it.
    KeyboardInterrupt: on a second Ctrl-C, at once.
  """
  if look_every is None:
    look_every = eval_every
  _check_counts(
    steps=steps,
    eval_every=eval_every,
    checkpoint_every=1 if checkpoint_every is None else checkpoint_every,
    log_every=log_every,
    keep_checkpoints=keep_checkpoints,
    accumulate_steps=accumulate_steps,
  )
  _check_numbers(seed, look_every, checkpoint_minutes)
  check_profile_steps(profile_steps)
  check_wandb(wandb)
  probe_every = 0 if probe is None else look_every
  intervals = Intervals(steps, eval_every, checkpoint_every, probe_every)
  folder = find_folder(output_dir)
  initial_weights = find_initial_weights(init_from, folder, exports)
  numerics = accumulate_steps, compute_dtype, mesh
  scoring = eval_batches, label_smoothing, loss_chunk
  built = build(model, data, optimizer, *numerics, True, *scoring)
  if initial_weights is not None:
    initial_weights.check(model(mode='eval'), built.abstract.weights)
  if before_compile is not None:
    before_compile()

  with contextlib.ExitStack() as stack:
    should_stop = stack.enter_context(listen_for_signals())
    run = stack.enter_context(
      start_run(
        folder,
        built,
        steps,
        seed,
        initial_weights,
        keep_checkpoints,
        accept_changes,
        wandb,
      )
    )
    profile = stack.enter_context(
      profiling(folder / 'profile', profile_steps, run.console.say)
    )
    to_do = Steps(
      run,
      _make_reporter(run, log_every),
      intervals,
      SaveClock(checkpoint_minutes, run.step),
      probe,
      profile,
      should_stop,
    )
    return _finish(run, _evaluate_or_train(to_do), is_probed=probe_every > 0)


def _evaluate_or_train(to_do):
  """Does the remaining steps, if any; returns the last evaluation."""
  evaluation = to_do.evaluate_first()
  if to_do.run.step < to_do.intervals.steps:
    with _name_last_checkpoint(to_do.run.checkpoints):
      evaluation = to_do.train()
  return evaluation


def _finish(run, evaluation, is_probed):
  """Waits for the last checkpoint; returns the result of the run."""
  with run.console.doing('waiting for the checkpoint to be written'):
    run.checkpoints.wait()
  built = run.built
  return TrainResult(
    run.step,
    run.state.weights,
    evaluation,
    built.model,
    built.data,
    built.learning_rate,
    is_probed,
  )


def _make_reporter(run, log_every):
  built = run.built
  tokens = math.prod(built.batch_shape)
  peak = mesh_peak_flops(built.mesh)
  peak_speed = peak and tokens * peak / built.count_flops()
  epoch = getattr(built.data, 'rows_per_epoch', None)
  return Reporter(
    run.log,
    run.console,
    built.metrics,
    built.data.unit,
    tokens,
    log_every,
    peak_speed,
    epoch and epoch / built.batch_shape[0],
    peak_memory,
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


def _check_numbers(seed, look_every, checkpoint_minutes):
  _check_seed(seed)
  _check_look_every(look_every)
  _check_minutes(checkpoint_minutes)


def _check_seed(value):
  # JAX keeps the bits of a 64-bit integer.
  if not isinstance(value, int) or not 0 <= value < 1 << 63:
    raise ValueError(
      f'train.seed must be at least 0 and below 2 ** 63, got {value!r}'
    )


def _check_look_every(look_every):
  if type(look_every) is not int or look_every < 0:
    raise ValueError(
      'train.look_every must be None (at each evaluation) or a whole number of '
      f'steps (0 for never), got {look_every!r}'
    )


def _check_minutes(value):
  is_number = type(value) in (int, float) and 0 < value < math.inf
  if value is not None and not is_number:
    raise ValueError(
      'train.checkpoint_minutes must be None (only by steps) or a number of '
      f'minutes above 0, got {value!r}'
    )
