"""Looks at a model in training: a sample of text, its gates and its choices.

    looks = Looks()
    result = train(..., look=looks)
    print(looks.sample(result.step, result.model, result.data, result.weights))

What is compiled for a look is compiled once for all of them.
"""

import math
from collections.abc import Callable, Mapping

import jax
import numpy as np

from trax_hier import generation
from trax_hier.compat import base
from trax_hier.layers.base.observe import N_BINS, Seen, collecting
from trax_hier.training.build import Build
from trax_hier.training.logging.metrics_log import MetricsLog
from trax_hier.training.mesh import pad_rows, split_rows
from trax_hier.training.state import init_layer, shapes_of
from trax_hier.training.step import apply_model

PyTree = object
Batch = Mapping[str, np.ndarray]

_PROMPT = 32
_TOKENS = 256
_TEMPERATURE = 0.8
_SHOWN = 300  # characters of a source


class Probes:
  """What a run has to show; called by `train` now and then.

  A part that fails is left out from then on: it never stops a run.
  """

  def __init__(self):
    """Nothing is compiled or drawn yet."""
    self._batch = self._observations = None
    self._sample = None, ''  # the step, and the text of it
    self._failures = {}

  def __call__(
    self,
    built: Build,
    step: int,
    weights: PyTree,
    log: MetricsLog,
    say: Callable[[str], None],
  ) -> None:
    """Puts into the log what the weights of a step are like.

    Args:
      built: the run.
      step: the step that is done.
      weights: those after it.
      log: gets a text, histograms and numbers of kind 'look'.
      say: gets a line, once, for each part that cannot be had.

    Raises:
      OSError: if the log cannot be written.
    """
    known = dict(self._failures)
    text = self.sample(step, built.model, built.data, weights)
    counts = self._try('histograms', self._observe, built, weights)
    for part, failure in self._failures.items():
      if part not in known:
        say(failure)
    if text and 'sample' not in self._failures:
      log.text('look', step, 'sample', text)
    values = {}
    for name, array in (counts or {}).items():
      bins, edges, summary = _summary(array)
      log.histogram('look', step, name, bins, edges)
      values |= {f'{name}/{key}': x for key, x in summary.items()}
    if values:
      log.write('look', step, values)

  def sample(
    self, step: int, model: Callable, data: object, weights: PyTree
  ) -> str:
    """What the model writes after a held-out text, or why it does not.

    The sample of the last look is not drawn again.

    Args:
      step: which step the weights are of.
      model: the model factory.
      data: the data set; of pictures there is no sample, but ''.
      weights: the model's.
    """
    if data.unit == 'dim':
      return ''
    if self._sample[0] != step:
      text = self._try('sample', self._draw, model, data, weights)
      self._sample = step, text
    return self._failures.get('sample', self._sample[1])

  def _draw(self, model, data, weights):
    return sample(model, data.vocab, weights, self._held_out(data))

  def _observe(self, built, weights):
    if self._observations is None:
      batch = self._held_out(built.data)
      self._observations = Observations(built, weights, batch)
    return self._observations(weights)

  def _held_out(self, data):
    if self._batch is None:
      self._batch = data.eval_batches('valid')[0]
    return self._batch

  def _try(self, part, function, *arguments):
    if part in self._failures:
      return None
    try:
      return function(*arguments)
    except Exception as error:
      why = str(error).splitlines() or ['']
      kind = (
        '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
      )
      self._failures[part] = f'no {part}: {kind}{why[0]}'


def sample(
  model: Callable[..., base.Layer],
  vocab: object,
  weights: PyTree,
  batch: Batch,
) -> str:
  """A title, then the first held-out text in brackets and what follows it.

  Args:
    model: the model factory.
    vocab: of the data.
    weights: the model's.
    batch: a held-out one.

  Raises:
    ValueError: a part of the model cannot decode.
  """
  if 'sources' in batch:
    source, prompt = np.trim_zeros(batch['sources'][0], 'b'), ''
    shown, what = vocab.decode(source), 'for a held-out source'
    if len(shown) > _SHOWN:
      shown = f'{shown[:_SHOWN]}…'
  else:
    source, prompt = None, vocab.decode(batch['inputs'][0, :_PROMPT])
    shown, what = prompt, 'after held-out text'
  text = generation.sample_text(
    model, weights, vocab, prompt, _TOKENS, _TEMPERATURE, 0, source
  )
  return f'sample, {what} in brackets:\n[{shown}]{text}\n'


class Observations:
  """Counts of what layers let be observed, on one batch in eval mode."""

  def __init__(self, built: Build, weights: PyTree, batch: Batch):
    """Traces the model; compiles it if there is anything to observe.

    Args:
      built: the run.
      weights: as they will be given.
      batch: what the model is to see each time.
    """
    batch = pad_rows(built.mesh, batch)
    layer, shapes = built.model(mode='eval'), shapes_of(batch)
    rng = jax.random.PRNGKey(0)

    def run(weights, batch):
      # The weights that it draws are not among the outputs, so none are drawn.
      _, state = init_layer(layer, shapes, rng)
      with collecting(self._seen):
        apply_model(layer, weights, state, batch, rng, built.compute_dtype)

    self._seen = Seen()
    self._batch = jax.device_put(batch, split_rows(built.mesh))
    traced = jax.jit(run).trace(weights, self._batch)
    self._run = traced.lower().compile() if self._seen else None

  def __call__(self, weights: PyTree) -> dict[str, np.ndarray]:
    """Counts by name, gates (N_PARTS,) and choices (B, N); see `observe`."""
    if self._run is None:
      return {}
    self._run(weights, self._batch)
    return self._seen.take()


def _summary(counts):
  """Counts, the edges between which they are, and numbers that say more."""
  if counts.ndim == 1:
    edges = np.linspace(0, 1, N_BINS + 1)
    mean = counts @ (edges[:-1] + edges[1:]) / 2 / counts.sum()
    return counts, edges, {'mean': mean}
  # How often each unit is chosen, where 1 is as often as any other.
  n_units = counts.shape[1]
  share = counts / counts.sum(axis=1, keepdims=True)
  bins, edges = np.histogram(n_units * share, N_BINS, (0, n_units))
  nats = -np.sum(share * np.log(np.where(share > 0, share, 1)), axis=1)
  return (
    bins,
    edges,
    {
      # 1 where all are chosen alike, 0 where always the same.
      'entropy': nats.mean() / max(math.log(n_units), 1e-9),
      'never_chosen': np.mean(counts == 0),
    },
  )
