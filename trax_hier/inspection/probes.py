"""Probes of a model in training: text samples, and gate and choice histograms.

    probes = Probes()
    result = train(..., probe=probes)
    print(probes.sample(result.step, result.model, result.data, result.weights))

Each probe compiles its program once for the whole run.
"""

import math
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from trax_hier import generation
from trax_hier.compat import base
from trax_hier.generation.partial_characters import whole_characters
from trax_hier.layers.base.observe import N_BINS, Counts, collecting
from trax_hier.training.build import Build
from trax_hier.training.data_error import DataError, reading
from trax_hier.training.host_rows import held_out_rows
from trax_hier.training.logging.metrics_log import MetricsLog
from trax_hier.training.mesh import row_sharding
from trax_hier.training.state import init_layer, shapes_of, store_shapes
from trax_hier.training.step import apply_model

PyTree = object
Batch = Mapping[str, np.ndarray]

_PROMPT_TOKENS = 32
_NEW_TOKENS = 256
_TEMPERATURE = 0.8
_SOURCE_CHARACTERS = 300  # A sample shows at most this many.


class Probes:
  """The probes of a run: a sample and histograms; called by `train`.

  A probe that raises is disabled for the rest of the run; it never stops
  training. Several hosts must all call the methods, as they compute together.
  """

  def __init__(self):
    """Compiles nothing yet."""
    self._first_row = self._observations = None
    self._sample = None, ''  # Step and text of the last one.
    self._failures = {}

  def __call__(
    self,
    built: Build,
    step: int,
    weights: PyTree,
    log: MetricsLog,
    say: Callable[[str], None],
  ) -> None:
    """Logs the probes of a step.

    Args:
      built: The model and data of the run.
      step: The finished step.
      weights: The weights after it.
      log: Receives a text, histograms and numbers of kind 'probe'.
      say: Prints a line, once for each probe that fails.

    Raises:
      OSError: The log cannot be written.
    """
    known = dict(self._failures)
    text = self.sample(step, built.model, built.data, weights)
    counts = self._try('histograms', self._observe, built, weights)
    for probe, failure in self._failures.items():
      if probe not in known:
        say(failure)
    if text and 'sample' not in self._failures:
      log.text('probe', step, 'sample', text)
    values = {}
    for name, array in (counts or {}).items():
      bins, edges, summary = _summary(array)
      log.histogram('probe', step, name, bins, edges)
      values |= {f'{name}/{key}': x for key, x in summary.items()}
    if values:
      log.write('probe', step, values)

  def sample(
    self, step: int, model: Callable, data: object, weights: PyTree
  ) -> str:
    """A continuation of a held-out text, or why there is none.

    The last sample is cached: a second call for its step generates nothing.

    Args:
      step: Step of the weights.
      model: Factory of the model.
      data: The data set; images give ''.
      weights: Weights of the model.
    """
    if data.unit == 'dim':
      return ''
    if not self.has_sample(step):
      text = self._try('sample', self._generate, model, data, weights)
      self._sample = step, text
    return self._failures.get('sample', self._sample[1])

  def has_sample(self, step: int) -> bool:
    """Whether the sample of a step is cached."""
    return self._sample[0] == step

  def _generate(self, model, data, weights):
    try:
      return sample(model, data.vocab, weights, self._held_out_row(data))
    except FloatingPointError as error:  # Training may recover from it.
      return f'no sample: {error}'

  def _observe(self, built, weights):
    if self._observations is None:
      self._observations = Observations(
        built, weights, built.evaluator.batch(0)
      )
    return self._observations(weights)

  def _held_out_row(self, data):
    if self._first_row is None:
      with reading('held-out batch 1'):
        self._first_row = held_out_rows(data.eval_batches('valid'), 0, 0, 1)
    return self._first_row

  def _try(self, probe, function, *arguments):
    if probe in self._failures:
      return None
    try:
      return function(*arguments)
    except Exception as error:
      # Other hosts can read theirs, and would wait for this one.
      if isinstance(error, DataError) and jax.process_count() > 1:
        raise
      why = str(error).splitlines() or ['']
      kind = (
        '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
      )
      self._failures[probe] = f'no {probe}: {kind}{why[0]}'


def sample(
  model: Callable[..., base.Layer],
  vocab: object,
  weights: PyTree,
  batch: Batch,
) -> str:
  """A title, then the first held-out text in brackets and its continuation.

  Args:
    model: Factory of the model.
    vocab: Vocabulary of the data.
    weights: Weights of the model.
    batch: A held-out batch.

  Raises:
    ValueError: A layer of the model cannot decode.
    FloatingPointError: The logits of the model are not finite.
  """
  if 'sources' in batch:
    source, prompt = np.trim_zeros(batch['sources'][0], 'b'), ''
    shown, what = vocab.decode(source), 'for a held-out source'
    if len(shown) > _SOURCE_CHARACTERS:
      shown = f'{shown[:_SOURCE_CHARACTERS]}…'
  else:
    source = None
    is_text = (batch['inputs'][0] != 0) | (batch['weights'][0] > 0)
    if (ids := batch.get('documents')) is not None:
      is_text &= np.logical_and.accumulate(ids[0] == ids[0, 0])
    n = 1 + np.flatnonzero(is_text).max(initial=-1)  # Without padding.
    prompt = batch['inputs'][0, : min(n, _PROMPT_TOKENS)]
    prompt = whole_characters(prompt, vocab.decode)
    shown, what = vocab.decode(prompt), 'after held-out text'
  text = generation.sample_text(
    model,
    weights,
    vocab,
    prompt,
    _NEW_TOKENS,
    _TEMPERATURE,
    source=source,
    compile_fast=True,
  )
  return f'sample, {what} in brackets:\n[{shown}]{text}\n'


class Observations:
  """Counts of the observations that layers emit for one batch in eval mode."""

  def __init__(self, built: Build, weights: PyTree, batch: Batch):
    """Traces the model; compiles it only if a layer emits observations.

    Args:
      built: The model and data of the run.
      weights: Weights of the model; later calls may pass others of the same
        shapes and shardings.
      batch: Input of the model in every call, from `Evaluator.batch`.
    """
    layer, shapes = built.evaluator.layer, shapes_of(batch)
    known = layer.weights, layer.state
    rng = jax.random.PRNGKey(0)

    def apply(weights, state, batch):
      with collecting(self._counts):
        apply_model(layer, weights, state, batch, rng, built.compute_dtype)

    def run(weights, batch):
      # XLA drops the initial weights, which are not used.
      _, state = init_layer(layer, shapes, rng)
      apply(weights, state, batch)

    self._run, self._counts = None, Counts()
    self._batch = jax.device_put(batch, row_sharding(built.mesh))
    try:
      jax.eval_shape(apply, *known, shapes)
      if self._counts:
        self._run = jax.jit(run).lower(weights, self._batch).compile()
    finally:
      store_shapes(layer, *known)  # Tracing left tracers in the layer.

  def __call__(self, weights: PyTree) -> dict[str, np.ndarray]:
    """Counts by name: gates (N_BINS,), choices (B, n); see `observe`."""
    if self._run is None:
      return {}
    self._run(weights, self._batch)
    counts = self._counts.take()
    if jax.process_count() == 1:
      return counts
    # The callbacks of a program run on one of the hosts.
    everywhere = multihost_utils.process_allgather(counts)
    return {name: np.sum(x, axis=0) for name, x in everywhere.items()}


def _summary(counts):
  """Counts of a histogram, the edges of its bins, and summary statistics."""
  if counts.ndim == 1:
    edges = np.linspace(0, 1, N_BINS + 1)
    mean = counts @ (edges[:-1] + edges[1:]) / 2 / counts.sum()
    return counts, edges, {'mean': mean}
  # n_units * share is 1 for each unit in a uniform choice.
  n_units = counts.shape[1]
  share = counts / counts.sum(axis=1, keepdims=True)
  bins, edges = np.histogram(n_units * share, N_BINS, (0, n_units))
  nats = -np.sum(share * np.log(np.where(share > 0, share, 1)), axis=1)
  return (
    bins,
    edges,
    {
      # 1 in a uniform choice, 0 if the same unit is always chosen.
      'entropy': nats.mean() / max(math.log(n_units), 1e-9),
      'never_chosen': np.mean(counts == 0),
    },
  )
