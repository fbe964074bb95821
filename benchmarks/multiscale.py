"""Multi-scale Transformers: memory, time, decoding and quality over vanilla.

    python benchmarks/multiscale.py [--parts=memory,time,decode]
        [--positions=rotary|none|relative|learned] [--models=NAME,NAME]
    python benchmarks/multiscale.py --parts=quality --text=FILE [--minutes=10]

The name of a model gives its numbers of blocks at 1, 4 and 16 tokens per
vector: 'top-down:8-10-12' has 8 blocks at full length. Bottom-up has 7 blocks
at full length after its aggregation, which is a block too. Retina has windows
of 64. All ratios are to the first model.

* memory: of loss and gradient, compiled but not run. Columns: 'temp', temporary
  memory of the compiled program; 'kept', bytes of residuals of autodiff,
  without weights; 'GFLOP', floating-point operations of all dot products,
  forward and backward; 'proxy', ratio of an estimate of the activation bytes:
  34 n d + 5 h n k per block (n rows, k keys per row) and 8 l v for the logits.
  A line before the tables compares the FLOPs of a model of one block with the
  compiler's count, which counts a loop's body once.
* time: seconds of loss and gradient.
* decode: blocks that run per token, and tokens per second of `generate`,
  greedy, one row, with random weights. Models alternate in one process, here
  and for time; figures are medians.
* quality: bits per byte on held-out windows of the last 5 % of a text. Models
  train alternately, one step each on the same batch, until each has used up its
  own time, which excludes compilation and evaluation. Columns: bits after equal
  numbers of steps; bits after equal times (the last step may exceed the limit);
  the steps and seconds at the end.
"""

import argparse
import dataclasses
import functools
import itertools
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import medians, random_weights

from trax_hier.data import TextFiles
from trax_hier.generation import generate, prepare
from trax_hier.layers import (
  LearnedPositions,
  NoPositions,
  RelativePositions,
  RotaryPositions,
)
from trax_hier.models import BottomUpLM, RetinaLM, TopDownLM, TransformerLM
from trax_hier.training import Adam, multifactor
from trax_hier.training.build import build
from trax_hier.training.evaluate import Evaluator
from trax_hier.training.flops import flops as count_flops
from trax_hier.training.mesh import make_mesh
from trax_hier.training.state import abstract_init, n_parameters, token_shapes

P = functools.partial

SCALES = (1, 4, 16)
WINDOW = 64


@dataclasses.dataclass(frozen=True)
class Variant:
  """A model without its dimensions.

  Attributes:
    factory: Factory of the model.
    blocks: Pairs of a scale and its number of blocks.
    n_keys: Number of rows -> the most keys that a query attends to.
  """

  factory: Callable
  blocks: tuple[tuple[int, int], ...]
  n_keys: Callable[[int], int] = lambda n: n

  def blocks_per_token(self):
    """Average number of blocks that decoding runs per token."""
    return sum(n / scale for scale, n in self.blocks)

  def activation_proxy(self, length, vocab_size, arguments):
    """Activation bytes of one sequence, by the formula of the module."""
    total = 8 * length * vocab_size
    for scale, n in self.blocks:
      rows = length // scale
      attention = 5 * arguments.n_heads * rows * self.n_keys(rows)
      total += n * (34 * rows * arguments.d_model + attention)
    return total


def top_down(*n_layers):
  """The top-down variant with the given blocks per scale."""
  factory = P(TopDownLM, scales=SCALES, n_layers=n_layers)
  return Variant(factory, tuple(zip(SCALES, n_layers, strict=True)))


def bottom_up(*n_layers, n_post):
  """The bottom-up variant with the given blocks per scale and at the end."""
  factory = P(BottomUpLM, scales=SCALES, n_layers=n_layers, n_post=n_post)
  before, *coarse = n_layers
  n_blocks = before + 1 + n_post, *coarse
  return Variant(factory, tuple(zip(SCALES, n_blocks, strict=True)))


VARIANTS = {
  'vanilla:14': Variant(P(TransformerLM, n_layers=14), ((1, 14),)),
  'top-down:8-10-12': top_down(8, 10, 12),
  'top-down:8-12-10': top_down(8, 12, 10),
  'bottom-up:0-10-12+7': bottom_up(0, 10, 12, n_post=7),
  'bottom-up:0-12-10+7': bottom_up(0, 12, 10, n_post=7),
  'retina:14': Variant(
    P(RetinaLM, n_layers=14, scales=SCALES, window=WINDOW),
    ((1, 14),),
    lambda n: min(n, 2 * WINDOW + n // SCALES[1]),
  ),
}
QUALITY = [name for name in VARIANTS if '-12-10' not in name]


def dimensions(arguments, vocab_size=256, d_model=None):
  """The model arguments that all variants share."""
  n = max(*arguments.lengths, arguments.train_length, 1 + arguments.n_new)
  positions = {
    'rotary': RotaryPositions,
    'none': NoPositions,
    'relative': RelativePositions,
    'learned': P(LearnedPositions, n),
  }
  d_model = d_model or arguments.d_model
  return dict(
    vocab_size=vocab_size,
    d_model=d_model,
    d_ff=4 * d_model,
    n_heads=arguments.n_heads,
    dropout=0.0,
    positions=positions[arguments.positions],
  )


# The gradient step
# ------------------------------------------------------------------------------
class GradientStep:
  """Loss and gradients of a model under plain `jax.jit`.

  Attributes:
    shapes: Shapes of the arguments of the loss: weights, state and tokens.
  """

  def __init__(self, model, shape):
    self._layer = model(mode='train')
    self.shapes = (
      *abstract_init(self._layer, token_shapes(shape)),
      jax.ShapeDtypeStruct(shape, jnp.int32),
    )
    self._gradient = jax.value_and_grad(self._loss)

  def _loss(self, weights, state, tokens):
    rng = jax.random.PRNGKey(0)
    logits, _ = self._layer.pure_fn(tokens, weights, state, rng)
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
    )

  def compile(self):
    """The compiled step."""
    return jax.jit(self._gradient).lower(*self.shapes).compile()

  def flops(self):
    """FLOPs of the dot products."""
    return count_flops(self._gradient, *self.shapes)

  def kept_bytes(self):
    """Bytes of the residuals: what the forward pass keeps for the backward."""

    def residuals(weights, state, tokens):
      _, backward = jax.vjp(lambda w: self._loss(w, state, tokens), weights)
      inputs = {id(w) for w in jax.tree.leaves(weights)}
      return [x for x in jax.tree.leaves(backward) if id(x) not in inputs]

    kept = jax.eval_shape(residuals, *self.shapes)
    return sum(x.size * x.dtype.itemsize for x in kept)

  def timer(self):
    """A function that runs the step on random inputs; it returns seconds."""
    step = self.compile()
    weights, state, tokens = self.shapes
    tokens = np.random.default_rng(0).integers(1, 256, tokens.shape, np.int32)
    state = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), state)
    inputs = random_weights(weights), state, jnp.asarray(tokens)

    def seconds():
      start = time.perf_counter()
      jax.block_until_ready(step(*inputs))
      return time.perf_counter() - start

    seconds()  # Warms up.
    return seconds


def print_flops_check(arguments):
  """Prints our FLOPs and the compiler's for a model of one block."""
  model = P(TransformerLM, n_layers=1, **dimensions(arguments))
  step = GradientStep(model, (arguments.batch, arguments.lengths[0]))
  ours, theirs = step.flops(), step.compile().cost_analysis()['flops']
  print(
    f'one block: {ours / 1e9:.2f} GFLOP in dot products, {theirs / 1e9:.2f} '
    f'in all operations by the compiler, ratio {ours / theirs:.3f}',
    flush=True,
  )


# Tables
# ------------------------------------------------------------------------------
class Ratios:
  """Formats the numbers of a column with their ratios to the first one."""

  def __init__(self):
    self._first = None

  def __call__(self, number, width, digits):
    self._first = self._first or number
    return f'{number:{width}.{digits}f}{number / self._first:7.3f}'


def memory(arguments):
  """Prints memory and FLOPs of a gradient step, by length and vocabulary."""
  print_flops_check(arguments)
  cases = itertools.product(arguments.lengths, arguments.vocab_sizes)
  for length, vocab_size in cases:
    print(f'memory: batch {arguments.batch} x {length}, {vocab_size} ids')
    print(
      f'{"":22}{"M params":>10}{"temp MB":>9}{"ratio":>7}{"kept MB":>9}'
      f'{"ratio":>7}{"GFLOP":>9}{"ratio":>7}{"proxy":>7}'
    )
    temp, kept, flops = (Ratios() for _ in range(3))
    first_proxy = None
    for name in arguments.models or VARIANTS:
      variant = VARIANTS[name]
      model = P(variant.factory, **dimensions(arguments, vocab_size))
      step = GradientStep(model, (arguments.batch, length))
      temp_bytes = step.compile().memory_analysis().temp_size_in_bytes
      proxy = variant.activation_proxy(length, vocab_size, arguments)
      first_proxy = first_proxy or proxy
      print(
        f'{name:22}{n_parameters(step.shapes[0]) / 1e6:10.1f}'
        f'{temp(temp_bytes / 1e6, 9, 1)}{kept(step.kept_bytes() / 1e6, 9, 1)}'
        f'{flops(step.flops() / 1e9, 9, 1)}{proxy / first_proxy:7.3f}',
        flush=True,
      )


def step_time(arguments):
  """Prints the seconds of a gradient step, by length."""
  names = arguments.models or list(VARIANTS)
  vocab_size, *_ = arguments.vocab_sizes
  for length in arguments.lengths:
    print(
      f'time: batch {arguments.batch} x {length}, {vocab_size} ids, medians of '
      f'{arguments.rounds} rounds'
    )
    print(f'{"":22}{"seconds":>9}{"ratio":>7}')
    timers = []
    for name in names:
      model = P(VARIANTS[name].factory, **dimensions(arguments, vocab_size))
      timers.append(GradientStep(model, (arguments.batch, length)).timer())
    ratios = Ratios()
    for name, t in zip(names, medians(timers, arguments.rounds), strict=True):
      print(f'{name:22}{ratios(t, 9, 3)}', flush=True)


def decoder(model, n_new):
  """A function that decodes n_new tokens; it returns seconds."""
  shapes, _ = abstract_init(model(mode='eval'), token_shapes((1, 8)))
  weights = prepare(model, random_weights(shapes))

  def seconds():
    start = time.perf_counter()
    (new,) = generate(
      model, weights, [[1]], n_new, temperature=0.0, max_len=1 + n_new
    )
    assert len(new) == n_new
    return time.perf_counter() - start

  seconds()  # Compiles.
  return seconds


def decode(arguments):
  """Prints decoded tokens per second, and blocks per token."""
  names, n = arguments.models or list(VARIANTS), arguments.n_new
  print(
    f'decode: {n} new tokens, 1 row, medians of {arguments.rounds} rounds\n'
    f'{"":22}{"blocks/token":>13}{"ratio":>7}{"tokens/s":>10}{"ratio":>7}'
  )
  decoders = [
    decoder(P(VARIANTS[name].factory, **dimensions(arguments)), n)
    for name in names
  ]
  blocks, speeds = Ratios(), Ratios()
  for name, t in zip(names, medians(decoders, arguments.rounds), strict=True):
    print(
      f'{name:22}{blocks(VARIANTS[name].blocks_per_token(), 13, 2)}'
      f'{speeds(n / t, 10, 1)}',
      flush=True,
    )


# Quality
# ------------------------------------------------------------------------------
class Training:
  """A training run of a model.

  Attributes:
    name: Name of the model.
    steps: Number of completed steps.
    seconds: Time of these steps.
    history: List of (steps, seconds, bits per byte), one for each evaluation.
  """

  def __init__(self, name, data, arguments):
    self.name, self.steps, self.seconds, self.history = name, 0, 0.0, []
    sizes = dimensions(arguments, d_model=arguments.train_d_model)
    model = P(VARIANTS[name].factory, **sizes)
    schedule = multifactor(
      'constant * linear_warmup',
      constant=arguments.rate,
      warmup_steps=arguments.warmup_steps,
    )
    built = build(model, data, P(Adam, schedule))
    self._state = built.init(jax.random.PRNGKey(0))
    self._step = built.step.lower(self._state, data.train_batch(0)).compile()
    batches = data.eval_batches('valid')
    n = min(len(batches), -(-arguments.eval_windows // arguments.train_batch))
    indices = np.linspace(0, len(batches) - 1, n, dtype=int)
    self._evaluate = Evaluator(
      model(mode='eval'), [batches[i] for i in indices], 'byte', make_mesh()
    )
    n = n_parameters(self._state.weights)
    print(f'  {name}: {n:,} parameters', flush=True)

  def step(self, batch):
    """Takes a step on a batch."""
    start = time.perf_counter()
    self._state, metrics = self._step(self._state, batch)
    jax.block_until_ready(metrics)
    self.seconds += time.perf_counter() - start
    self.steps += 1

  def evaluate(self):
    """Prints and records the bits per byte."""
    bits = self._evaluate(self._state.weights)['bits_per_byte']
    self.history.append((self.steps, self.seconds, bits))
    print(
      f'  {self.name}: step {self.steps}, {self.seconds:.1f} s, {bits:.4f}',
      flush=True,
    )

  def bits_after(self, steps):
    """Bits per byte of the evaluation after this number of steps."""
    return next(bits for n, _, bits in self.history if n == steps)


def print_bits(trainings):
  """Prints bits per byte at up to four common steps, and at the end."""
  evaluated = [{steps for steps, *_ in t.history} for t in trainings]
  common = sorted(set.intersection(*evaluated))
  ends = {-(-len(common) * i // 4) for i in (1, 2, 3, 4)}
  shown = [common[i - 1] for i in sorted(ends) if i]
  steps = ''.join(f'{n:>9}' for n in shown)
  print(f'{"after equal steps":22}{steps}{"time":>9}{"steps":>7}{"seconds":>9}')
  for t in trainings:
    *_, (n, seconds, last) = t.history
    bits = ''.join(f'{b:9.4f}' for b in (*map(t.bits_after, shown), last))
    print(f'{t.name:22}{bits}{n:7}{seconds:9.1f}', flush=True)


def quality(arguments):
  """Prints bits per byte of models trained alternately."""
  if not arguments.text:
    raise SystemExit('--parts=quality needs --text')
  data = TextFiles(
    arguments.text,
    arguments.train_batch,
    arguments.train_length,
    valid_fraction=0.05,
    test_fraction=0.0,
  )
  print(
    f'quality: {pathlib.Path(arguments.text).name}, batches of '
    f'{arguments.train_batch} x {arguments.train_length} bytes, d_model '
    f'{arguments.train_d_model}, Adam, learning rate {arguments.rate} after '
    f'{arguments.warmup_steps} warmup steps, one seed; '
    f'{arguments.minutes:g} minutes each; bits per byte of '
    f'{arguments.eval_windows} held-out windows'
  )
  names = arguments.models or QUALITY
  trainings = [Training(name, data, arguments) for name in names]
  limit, running, i = 60 * arguments.minutes, trainings, 0
  while running:
    batch = data.train_batch(i)
    for t in running:
      t.step(batch)
      if t.steps % arguments.eval_every == 0 or t.seconds >= limit:
        t.evaluate()
    running, i = [t for t in running if t.seconds < limit], i + 1
  print_bits(trainings)


BENCHMARKS = {
  'memory': memory,
  'time': step_time,
  'decode': decode,
  'quality': quality,
}


def main():
  def names(text):
    return text.split(',')

  def numbers(text):
    return [int(number) for number in names(text)]

  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add(
    '--parts',
    type=names,
    default='memory,time,decode',
    help=f'benchmarks to run, of {", ".join(BENCHMARKS)}',
  )
  add('--models', type=names, help=f'models, of {", ".join(VARIANTS)}')
  add('--positions', default='rotary', help='rotary, none, relative or learned')
  add('--n_heads', type=int, default=8)
  add('--d_model', type=int, default=512, help='all benchmarks except quality')
  add('--lengths', type=numbers, default='512,2048', help='memory and time')
  add(
    '--vocab_sizes',
    type=numbers,
    default='256,30000',
    help='memory; time takes the first',
  )
  add('--batch', type=int, default=1)
  add('--rounds', type=int, default=5)
  add('--n_new', type=int, default=512, help='tokens that decode generates')
  add('--text', help='a file; this and all flags below: quality only')
  add('--minutes', type=float, default=10, help='training time per model')
  add('--train_d_model', type=int, default=128)
  add('--train_length', type=int, default=512)
  add('--train_batch', type=int, default=8)
  add('--rate', type=float, default=1e-3)
  add('--warmup_steps', type=int, default=100)
  add('--eval_every', type=int, default=50)
  add('--eval_windows', type=int, default=64)
  arguments = parser.parse_args()
  print('$ python', shlex.join(sys.argv))
  print(
    f'{os.cpu_count()} cores, jax {jax.__version__} on '
    f'{jax.devices()[0].device_kind}; {arguments.positions} positions, d_model '
    f'{arguments.d_model} except for quality, {arguments.n_heads} heads',
    flush=True,
  )
  for name in arguments.parts:
    BENCHMARKS[name](arguments)


if __name__ == '__main__':
  main()
