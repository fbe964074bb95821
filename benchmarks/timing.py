"""Timing code that several benchmarks share."""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.training.build import build


def medians(timers, rounds):
  """The median of each function's seconds; every round calls each once."""
  times = [[timer() for timer in timers] for _ in range(rounds)]
  return [statistics.median(column) for column in zip(*times, strict=True)]


def median_seconds(timers, rounds):
  """Runs functions that return seconds alternately; their medians by name."""
  return dict(zip(timers, medians(list(timers.values()), rounds), strict=True))


def random_weights(shapes):
  """Arrays of small normal numbers for a tree of shapes."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda w: jnp.asarray(rng.normal(size=w.shape) * 0.05, w.dtype), shapes
  )


def report(*numbers):
  """The answer of a worker."""
  print('answer', *numbers, flush=True)


class Worker:
  """This program in a process of its own, which answers lines with numbers."""

  def __init__(self, arguments, environment):
    """Starts it.

    Args:
      arguments: Its arguments.
      environment: Variables to set.
    """
    cache = os.path.join(tempfile.gettempdir(), 'benchmark_programs')
    self._process = subprocess.Popen(
      [sys.executable, sys.argv[0], *arguments],
      env=os.environ
      | {'JAX_PLATFORMS': 'cpu', 'JAX_COMPILATION_CACHE_DIR': cache}
      | environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def ask(self, text=''):
    """Writes a line; returns the numbers that the worker reports."""
    self._process.stdin.write(f'{text}\n')
    self._process.stdin.flush()
    for line in self._process.stdout:
      if line.startswith('answer '):
        return [float(word) for word in line.split()[1:]]
    raise SystemExit('a worker has failed: see above')

  def close(self):
    """Ends it."""
    self._process.stdin.close()
    self._process.wait()


class TrainingSteps:
  """The compiled training step that `train` runs, with its state and data.

  Attributes:
    compile_seconds: Time to trace and compile the step.
    temporary: Bytes of memory of the step besides its arguments and results.
    n_tokens: Tokens of a batch.
    steps: Number of completed steps.
    losses: Mean cross entropy of these steps in nats.
  """

  def __init__(self, model, data, optimizer, **settings):
    """Compiles the step.

    Args:
      model: Factory of the model.
      data: Data set.
      optimizer: Factory of the optimizer.
      **settings: Further arguments of `build`, such as compute_dtype.
    """
    self._built = built = build(model, data, optimizer, **settings)
    self._batch = data.train_batch(0)
    start = time.perf_counter()
    self._step = built.step.lower(built.abstract, self._batch).compile()
    self.compile_seconds = time.perf_counter() - start
    self.temporary = self._step.memory_analysis().temp_size_in_bytes
    self.n_tokens = self._batch['inputs'].size
    self._state = None

  def flops(self):
    """Model FLOPs of a step; see `trax_hier.training.flops`."""
    return self._built.count_flops()

  def start(self):
    """Initializes the state."""
    self._state = self._built.init(jax.random.PRNGKey(0))
    self.steps, self.losses = 0, []

  def run(self, steps):
    """Takes steps, each on the next batch; returns their seconds."""
    data, losses = self._built.data, []
    start = time.perf_counter()
    for i in range(self.steps, self.steps + steps):
      self._state, metrics = self._step(self._state, data.train_batch(i))
      losses.append(metrics)
    jax.block_until_ready(self._state)
    seconds = time.perf_counter() - start
    self.steps += steps
    self.losses += [float(metrics[0]) for metrics in losses]
    return seconds

  def evaluate(self):
    """The metrics of the held-out set, by name."""
    return self._built.evaluator(self._state.weights)
