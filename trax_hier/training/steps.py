"""The steps of a run, and its evaluations, checkpoints and probes in between.

The loop never waits for the device: it dispatches step n, prepares the batch
of step n + 1, and only then reads the metrics of step n - 1.
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable

import jax

from trax_hier.training.build import Build
from trax_hier.training.checkpoints import CheckpointError
from trax_hier.training.data_error import reading
from trax_hier.training.intervals import Intervals, SaveClock
from trax_hier.training.logging.metrics_log import MetricsLog
from trax_hier.training.logging.report import NotFiniteError, Reporter
from trax_hier.training.mesh import put_batch
from trax_hier.training.run import Run
from trax_hier.training.stopping import Stopped
from trax_hier.training.text_bytes import bits_per_byte, count_text_bytes

PyTree = object

# (built, step, weights, log, say); `say` prints a line.
Probe = Callable[[Build, int, PyTree, MetricsLog, Callable[[str], None]], None]


@dataclasses.dataclass
class Steps:
  """Trains and evaluates the model of a run; heeds signals.

  Attributes:
    run: Run in progress.
    reporter: Receives the metrics.
    intervals: Steps that evaluate, save and probe.
    save_clock: Says when a checkpoint is due by time.
    probe: Function that logs samples and statistics; None logs none.
    profile: Function to call before each step, with the step and the metrics
      of the previous one.
    should_stop: Function that returns the signal that asks to stop, or None.
  """

  run: Run
  reporter: Reporter
  intervals: Intervals
  save_clock: SaveClock
  probe: Probe | None
  profile: Callable[[int, jax.Array | None], None]
  should_stop: Callable[[], int | None]

  def evaluate_first(self) -> dict[str, float] | None:
    """Evaluates a finished run, or a step whose evaluation was interrupted.

    Returns:
      The metrics; None if there is nothing to evaluate.

    Raises:
      Stopped: on a signal.
    """
    step = self.run.step
    is_done = step >= self.intervals.steps
    if is_done:
      self.run.console.say(
        f'nothing to train: train.steps is {self.intervals.steps}'
      )
    is_missing = step > 0 and step not in self.run.evaluated
    if not is_done and not (is_missing and self.intervals.evaluates(step)):
      return None
    return self._evaluate()

  def train(self) -> dict[str, float] | None:
    """Runs the remaining steps; returns the evaluation after the last one.

    If an error ends the run, the state after the latest step is saved first,
    provided that it is good.

    Raises:
      NotFiniteError: when a metric is not finite.
      DataError: when a batch cannot be read.
      Stopped: on a signal.
    """
    run, built, last = self.run, self.run.built, self.intervals.steps
    evaluation = None
    unread = collections.deque()  # Steps whose metrics are not yet read.
    with self._saved_on_error(unread):
      self._stop_on_signal()
      batch = self._train_batch()
      while run.step < last:
        self.profile(run.step + 1, unread[-1][1] if unread else None)
        with self._compiling(is_first=run.step == run.start_step):
          run.state, metrics = built.step(
            run.state, put_batch(built.mesh, batch, built.batch_shape[0])
          )
        run.step += 1
        unread.append((run.step, metrics))
        if run.step < last:
          batch = self._train_batch()
        self._report(unread, keep=1)
        signal = self.should_stop()
        saves = self.intervals.saves(run.step) | self.save_clock.due(run.step)
        if signal or saves or self.intervals.any(run.step):
          # Before saving, so that a checkpoint has finite and logged metrics.
          self._report(unread)
          with self.reporter.pause():
            evaluation = self._between_steps(signal, saves)
    return evaluation

  def _compiling(self, is_first):
    """Says that the first step compiles, and how long it took."""
    if not is_first:
      return contextlib.nullcontext()
    is_cached = jax.config.jax_compilation_cache_dir is not None
    return self.run.console.doing(
      f'compiling the training step{" (cached for later runs)" * is_cached}',
      'compiled the training step',
    )

  def _between_steps(self, signal, saves):
    """Saves, evaluates and probes as due; returns the evaluation or None."""
    run, evaluation = self.run, None
    # A checkpoint first: an evaluation or a probe may take long, or fail.
    if saves:
      with run.console.doing(f'saving checkpoint {run.step}'):
        run.save()
      self.save_clock.restart(run.step)
    if signal:
      self._stop(signal)
    if self.intervals.evaluates(run.step):
      evaluation = self._evaluate()
      self._stop_on_signal()
    if self.intervals.probes(run.step):
      with run.console.doing('sampling'):
        self.probe(
          run.built, run.step, run.state.weights, run.log, run.console.say
        )
      self._stop_on_signal()
    return evaluation

  def _evaluate(self):
    run = self.run
    with run.console.doing('evaluating') as count:

      def before_batch(n_done, n_all):
        self._stop_on_signal()
        count(n_done, n_all)

      evaluation = run.built.evaluator(run.state.weights, before_batch)
      if self._n_bytes:
        bits = evaluation['bits_per_token'], evaluation['tokens']
        evaluation['bits_per_byte'] = bits_per_byte(*bits, self._n_bytes)
    if run.step in run.evaluated:
      self.reporter.say_evaluation(run.step, evaluation)
    else:
      self.reporter.evaluation(run.step, evaluation)
    run.log.flush()
    run.checkpoints.evaluated(
      run.step, evaluation['loss'], evaluation['coverage']
    )
    return evaluation

  @functools.cached_property
  def _n_bytes(self):
    """Bytes of text of the scored held-out tokens, if those are not bytes."""
    built = self.run.built
    n = built.evaluator.n_batches if built.evaluator.coverage < 1 else None
    with reading('the text of the held-out batches'):
      return count_text_bytes(built.data, 'valid', n)

  def _train_batch(self):
    """This host's rows of the batch of the next step."""
    step = self.run.step
    with reading(f'the batch of step {step + 1}'):
      return self.run.built.train_rows(step)

  def _report(self, unread, keep=0):
    while len(unread) > keep:
      self.reporter.step(*unread.popleft())

  def _stop_on_signal(self):
    if signal := self.should_stop():
      self._stop(signal)

  def _stop(self, signal):
    self.run.save()
    self.run.checkpoints.wait()
    raise Stopped(signal, self.run.step)

  @contextlib.contextmanager
  def _saved_on_error(self, unread):
    """Saves the state of the latest step before an error ends the run."""
    try:
      yield
    except (Stopped, NotFiniteError, CheckpointError):
      raise
    except Exception:
      # Another host would not take part in saving.
      if jax.process_count() == 1:
        with contextlib.suppress(Exception):  # The first error is raised.
          self._save_if_good(unread)
      raise

  def _save_if_good(self, unread):
    """Saves the state unless its metrics cannot be computed or not finite."""
    while unread:
      with contextlib.suppress(OSError):  # The log may be what has failed.
        self.reporter.step(*unread.popleft())
    self.run.save()
    self.run.checkpoints.wait()
