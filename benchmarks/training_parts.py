"""Time of the parts of a training step on CPU, and of attention by length.

    python benchmarks/training_parts.py [--parts=step,layers,attention]
        [--against=COMMIT] [--rounds=3]

* step: milliseconds of the parts of the Hourglass step of `training_speed.py`,
  each with its gradient, times their number in the step.
* layers: milliseconds of single layers with their gradients, 4 x 1536 x 256.
* attention: milliseconds and temporary memory in MB of the gradient of causal
  attention with 4 heads of 64, 8192 tokens in all, by length: all heads at
  once, as in our layers, and one head of one row at a time, recomputed in the
  backward pass.

'before' is the code of another commit, or else this code, without huge pages
and without the faster products of `trax_hier.training.cpu_products`. It runs in
a process of its own, alternately. Figures are the fastest of several runs. The
share of the product speed is the time that the FLOPs of a part would take at
the speed of a product of 2048 x 2048 matrices, over its time.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from startup import unpack
from timing import Worker, report
from training_speed import FAST, HEADS, PLAIN, SHAPES, WIDTH, product_speed

from trax_hier import layers as hl
from trax_hier.compat import base, signature, tl
from trax_hier.models import HourglassLM
from trax_hier.training import Adam
from trax_hier.training.flops import flops
from trax_hier.training.loss import weighted_sums
from trax_hier.training.optimizers import global_norm

P = functools.partial
BATCH, LENGTH = SHAPES['hourglass']
KEY = jax.random.PRNGKey(0)
ADAM = Adam(1e-3).transform
N_WEIGHTS = 20  # Arrays (256, 1024): about the weights of the Hourglass.
N_TOKENS = 8192  # Of the table of attention.
N_RUNS = 3


@dataclasses.dataclass(frozen=True)
class Part:
  """A function to time.

  Attributes:
    function: Function of arrays.
    arguments: Its arguments.
    flops: FLOPs of its products and those of its gradient.
  """

  function: Callable
  arguments: tuple
  flops: float = 0


def normal(*shape):
  return jax.random.normal(KEY, shape)


def ids(n):
  return jax.random.randint(KEY, (BATCH, LENGTH), 1, n)


def with_gradient(apply, *arguments):
  """The gradient of the sum of squares of the outputs."""

  def loss(*arguments):
    return sum(jnp.sum(y * y) for y in jax.tree.leaves(apply(*arguments)))

  gradient = jax.grad(loss, argnums=tuple(range(len(arguments))))
  return Part(gradient, arguments, 3 * flops(apply, *arguments))


def of_layer(make: Callable[[], base.Layer], *lengths: int):
  """A layer with its gradient; its inputs have these lengths."""
  layer = make()
  inputs = tuple(normal(BATCH, length, WIDTH) for length in lengths)
  x = inputs if len(inputs) > 1 else inputs[0]
  weights, state = layer.init(signature(x), KEY)

  def apply(weights, x):
    return layer.pure_fn(x, weights, state, KEY)[0]

  return with_gradient(apply, weights, x)


def with_positions(make, positions, **settings):
  """A layer of attention, and the weights of its positions."""
  layer = make(n_heads=HEADS, positions=positions, **settings)
  return tl.Serial(hl.ShareWeights(*positions.shared), layer)


def attention(positions=None, **settings):
  positions = positions or hl.NoPositions()
  return with_positions(P(hl.SelfAttention, WIDTH), positions, **settings)


def resampling(make):
  relative = hl.RelativePositions(WIDTH, HEADS)
  return with_positions(
    P(make, 3, d_model=WIDTH, d_ff=4 * WIDTH, mode='train'), relative
  )


def embedding():
  tokens = ids(256)
  return with_gradient(lambda table: table[tokens], normal(256, WIDTH))


def cross_entropy(n_ids):
  batch = {'targets': ids(n_ids), 'weights': jnp.ones((BATCH, LENGTH))}
  logits = normal(BATCH, LENGTH, n_ids)
  return Part(jax.grad(weighted_sums, has_aux=True), (logits, batch))


def update(weights, state, gradients):
  updates, state = ADAM.update(gradients, state, weights)
  return optax.apply_updates(weights, updates), state, global_norm(gradients)


def adam():
  weights = [normal(WIDTH, 4 * WIDTH)] * N_WEIGHTS
  return Part(update, (weights, ADAM.init(weights), weights))


def whole_step():
  layer = HourglassLM(
    256,
    WIDTH,
    4 * WIDTH,
    vanilla_layers=(1, 1),
    hierarchy='4@3',
    n_heads=HEADS,
    dropout=0.0,
  )
  tokens = ids(256)
  weights, state = layer.init(signature(tokens), KEY)
  batch = {'targets': tokens, 'weights': jnp.ones(tokens.shape)}

  def loss(weights):
    logits, _ = layer.pure_fn(tokens, weights, state, KEY)
    return weighted_sums(logits, batch)[0]

  def step(weights, state):
    return update(weights, state, jax.grad(loss)(weights))

  return Part(step, (weights, ADAM.init(weights)), 3 * flops(loss, weights))


def feed_forward():
  return hl.FeedForward(WIDTH, 4 * WIDTH)


def relative():
  return attention(hl.RelativePositions(WIDTH, HEADS))


SHORT = LENGTH // 3
# Parts of the step of 1@1 4@3 1@1, and how often each occurs in it.
STEP = {
  'embedding': (1, embedding),
  'layer normalization': (7, P(of_layer, hl.LayerNorm, LENGTH)),
  'layer normalization, shortened': (9, P(of_layer, hl.LayerNorm, SHORT)),
  'feed-forward': (2, P(of_layer, feed_forward, LENGTH)),
  'feed-forward, shortened': (4, P(of_layer, feed_forward, SHORT)),
  'attention': (2, P(of_layer, relative, LENGTH)),
  'attention, shortened': (4, P(of_layer, relative, SHORT)),
  'shortening by attention': (
    1,
    P(of_layer, P(resampling, hl.AttentionShorten), LENGTH),
  ),
  'upsampling by attention': (
    1,
    P(of_layer, P(resampling, hl.AttentionUpsample), SHORT, LENGTH),
  ),
  'logits': (1, P(of_layer, P(hl.Dense, 256), LENGTH)),
  'log-softmax': (1, P(cross_entropy, 256)),
  'Adam, norm of the gradient': (1, adam),
  'whole step': (1, whole_step),
}
LAYERS = {
  'feed-forward': feed_forward,
  'SparseFF': P(hl.SparseFF, 4 * WIDTH),
  'dense': P(hl.Dense, WIDTH),
  'multiplicative dense': P(hl.MultiplicativeDense, WIDTH),
  'modular convolution': P(hl.ModularConv, WIDTH),
  'SRU': hl.SRU,
  'attention': attention,
  'attention, rotary': P(attention, hl.RotaryPositions()),
  'attention, T5': P(attention, hl.T5Positions(HEADS)),
  'attention, relative': relative,
  'attention, sparse QKV': P(attention, qkv=hl.SparseQKV),
  'attention, window 512': P(attention, window=512),
  'attention, window 512, T5': P(attention, hl.T5Positions(HEADS), window=512),
}
SCHEMES = {
  'none': lambda width, n_heads: hl.NoPositions(),
  'relative': hl.RelativePositions,
  'T5': lambda width, n_heads: hl.T5Positions(n_heads),
  'rotary': lambda width, n_heads: hl.RotaryPositions(),
}
LENGTHS = 256, 512, 1024, 2048, 4096, 8192


def core(width, n_heads, scheme, x):
  """Attention without projections; its weights and a function of both."""
  layer = attention_core(width, n_heads, SCHEMES[scheme](width, n_heads))
  weights, state = layer.init(signature(x), KEY)
  return weights, lambda weights, x: layer.pure_fn(x, weights, state, KEY)[0]


def attention_core(width, n_heads, positions):
  return tl.Serial(
    hl.ShareWeights(*positions.shared),
    hl.SelfAttention(
      width,
      n_heads,
      positions=positions,
      qkv=lambda d_out: tl.Serial(tl.Dup(), tl.Dup()),
      output=hl.NoProjection,
    ),
  )


def all_heads(scheme, length):
  """Attention of all heads at once."""
  x = normal(N_TOKENS // length, length, WIDTH)
  weights, apply = core(WIDTH, HEADS, scheme, x)
  return with_gradient(apply, weights, x)


def by_head(scheme, length):
  """Attention of one head of one row at a time, recomputed."""
  x = normal(N_TOKENS // length * HEADS, 1, length, WIDTH // HEADS)
  weights, apply = core(WIDTH // HEADS, 1, scheme, x[0])
  weights = jax.tree.map(lambda w: jnp.stack([w] * HEADS), weights)

  def apply_all(weights, x):
    # The weights of its head for each row.
    weights = jax.tree.map(
      lambda w: jnp.tile(w, [len(x) // HEADS] + [1] * (w.ndim - 1)), weights
    )
    return jax.lax.map(jax.checkpoint(lambda pair: apply(*pair)), (weights, x))

  return with_gradient(apply_all, weights, x)


ATTENTION = {
  f'{scheme}, {length}, {make.__name__}': (1, P(make, scheme, length))
  for scheme in SCHEMES
  for length in LENGTHS
  for make in (all_heads, by_head)
}
PARTS = {
  'step': STEP,
  'layers': {
    name: (1, P(of_layer, make, LENGTH)) for name, make in LAYERS.items()
  }
  | {'log-softmax over 8192 ids': (1, P(cross_entropy, 8192))},
  'attention': ATTENTION,
}


# Measurement
# ------------------------------------------------------------------------------
def work():
  """Answers 'part/name' with milliseconds, MB of temporary memory and FLOPs."""
  asked, run = None, None
  while True:
    try:
      text = input()
    except EOFError:
      return
    if text != asked:
      part, name = text.split('/')
      _, make = PARTS[part][name]
      run, memory, n_flops = compiled(make())
      asked = text
      run()
    seconds = []
    for _ in range(N_RUNS):
      start = time.perf_counter()
      run()
      seconds.append(time.perf_counter() - start)
    report(1e3 * min(seconds), memory / 1e6, n_flops)


def compiled(part):
  """A function without arguments, its temporary memory, and its FLOPs."""
  function = part.function
  if importlib.util.find_spec('trax_hier.training.cpu_products'):
    from trax_hier.training.cpu_products import speed_up_products

    function = speed_up_products(function)
  program = jax.jit(function).lower(*part.arguments).compile()
  memory = program.memory_analysis().temp_size_in_bytes
  run = lambda: jax.block_until_ready(program(*part.arguments))  # noqa: E731
  return run, memory, part.flops


def measure(workers, text, rounds):
  """Milliseconds by worker; MB and FLOPs of the last worker."""
  answers = [[worker.ask(text) for worker in workers] for _ in range(rounds)]
  *_, (_, memory, n_flops) = answers[0]
  by_worker = zip(*answers, strict=True)
  return [min(ms for ms, *_ in each) for each in by_worker], memory, n_flops


def print_parts(part, workers, rounds, peak):
  print(f'{part}: milliseconds, {BATCH} x {LENGTH} x {WIDTH}')
  print(
    f'{"":32}{"number":>7}{"before":>9}{"now":>9}{"ratio":>7}'
    f'{"of products":>13}{"MB":>8}'
  )
  totals = [0, 0]
  for name, (n, _) in PARTS[part].items():
    times, memory, n_flops = measure(workers, f'{part}/{name}', rounds)
    if name == 'whole step':
      print_row('all of these', '', totals)
    share = f'{n_flops / peak / times[1] * 1e3:13.2f}' if n_flops else 13 * ' '
    times = [n * ms for ms in times]
    totals = [a + b for a, b in zip(totals, times, strict=True)]
    print_row(name, n, times, share + f'{memory:8.0f}')


def print_row(name, n, times, more=''):
  before, now = times
  row = f'{name:32}{n:7}{before:9.1f}{now:9.1f}{now / before:7.2f}{more}'
  print(row.rstrip(), flush=True)


def print_attention(worker, rounds):
  print(f'attention: {HEADS} heads of {WIDTH // HEADS}, {N_TOKENS} tokens')
  print(f'{"":24}{"all heads":>16}{"by head":>16}{"ratio":>14}')
  print(f'{"positions":16}{"length":>8}' + 3 * f'{"ms":>8}{"MB":>8}')
  for scheme in SCHEMES:
    for length in LENGTHS:
      figures = []
      for make in (all_heads, by_head):
        text = f'attention/{scheme}, {length}, {make.__name__}'
        (ms,), memory, _ = measure([worker], text, rounds)
        figures.append((ms, memory))
      (ours, memory), (other, least) = figures
      print(
        f'{scheme:16}{length:8}{ours:8.0f}{memory:8.0f}{other:8.0f}{least:8.0f}'
        f'{other / ours:8.2f}{least / memory:8.2f}',
        flush=True,
      )


@contextlib.contextmanager
def processes(against):
  """The process of 'before', and that of now."""
  with tempfile.TemporaryDirectory() as folder:
    before = dict(PLAIN)
    if against is not None:
      before['PYTHONPATH'] = unpack(against, pathlib.Path(folder))
    workers = [Worker(['--worker'], x) for x in (before, FAST)]
    yield workers
    for worker in workers:
      worker.close()


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--parts', default='step,layers,attention')
  parser.add_argument('--against', metavar='COMMIT')
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.worker:
    work()
    return
  peak, rounds = product_speed(), arguments.rounds
  print(
    f'jax {jax.__version__}, {len(os.sched_getaffinity(0))} cores; a large '
    f'product runs at {peak / 1e9:.0f} GFLOP/s'
  )
  with processes(arguments.against) as workers:
    for part in arguments.parts.split(','):
      if part == 'attention':
        print_attention(workers[1], rounds)
      else:
        print_parts(part, workers, rounds, peak)


if __name__ == '__main__':
  main()
