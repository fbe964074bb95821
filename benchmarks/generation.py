"""Decoding speed against peers and the memory bandwidth, and by precision.

    pip install torch hourglass-transformer-pytorch
    python benchmarks/generation.py [--models=transformer,hourglass]
        [--contexts=512,2048] [--batches=1,8] [--peers=rerun,predict,torch]
        [--parts=speed,coarse,precision] [--run=DIR] [--d_model=512]
        [--n_layers=12] [--rounds=3]

Prints new tokens per second, summed over the rows of the batch, at the end of
the given context, with random weights in float32. Decoders alternate in one
process after warm-up; figures are medians. Decoders:

* ours: `generate`, greedy;
* trax re-run: the model of trax 1.4.1 in eval mode, under `jax.jit`, over the
  whole context for every token;
* trax predict: trax's `autoregressive_sample_stream`, the core of its
  `autoregressive_sample` (it cannot decode an Hourglass);
* torch package: `generate` of hourglass-transformer-pytorch, on CPU;
* lower bound: the time to read the weights and cached keys and values that our
  decoder needs, at the bandwidth measured here.

Columns: 'ours/it' is our speed over the decoder's, 'x bound' its time over the
lower bound, 'timed' the number of tokens timed in a round, 'prefill' prompt
tokens per second.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import math
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from concurrent import futures
from unittest import mock

import gin
import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import ShapeDtype, tl
from trax_hier.generation import generate, prepare
from trax_hier.layers import PRECISIONS, ShortenedStack, decoding_state
from trax_hier.layers.hierarchy import groups
from trax_hier.models import HourglassLM, TransformerLM
from trax_hier.models.hourglass import parse_hierarchy
from trax_hier.storage.runs import open_run

# trax must be imported after the compatibility layer.
from trax.models import transformer as official_transformer  # isort: skip
from trax.models.research import hourglass as official_hourglass  # isort: skip
from trax.supervised import decoding as official_decoding  # isort: skip

_FLOAT = 4  # bytes
_MIN_SECONDS = 1.0  # Time a decoder runs in each round, at least.


@dataclasses.dataclass
class Decoder:
  """A way to decode, with the prompt it continues.

  Attributes:
    name: Name in the table.
    decode: n -> n new tokens (batch, n), and the seconds until the first token
      if its time includes the prompt, else 0.
    n_parameters: Number of parameters.
    batch: Number of rows.
    prompt_length: Length of the prompt if the decoder has a cache, so that the
      first token's time includes the prompt; None if all tokens cost the same.
  """

  name: str
  decode: Callable[[int], tuple[np.ndarray, float]]
  n_parameters: int
  batch: int
  prompt_length: int | None = None

  def seconds(self, n):
    """Seconds for the prompt, and seconds per token over n tokens after it."""
    n_sampled = n if self.prompt_length is None else n + 1
    start = time.perf_counter()
    tokens, prompt = self.decode(n_sampled)
    step = (time.perf_counter() - start - prompt) / n
    expected = self.batch, n_sampled
    if np.shape(tokens) != expected:
      raise RuntimeError(
        f'{self.name}: tokens have shape {np.shape(tokens)}, not {expected}'
      )
    return prompt, step


@dataclasses.dataclass
class Measured:
  """Seconds per step and for the prompt, and the steps timed per round."""

  step: float
  prompt: float
  n_steps: int


def measure(decoders, n_new, rounds, slow_seconds):
  """Times decoders alternately; returns a `Measured` for each."""
  n_steps = []
  for decoder in decoders:
    decoder.seconds(1)  # Compiles.
    if decoder.prompt_length is None:
      affordable = int(slow_seconds / decoder.seconds(1)[1])
      n_steps.append(max(1, min(n_new, affordable)))
    else:
      n_steps.append(n_new)
  seconds = [[] for _ in decoders]
  for _ in range(rounds):
    for decoder, n, taken in zip(decoders, n_steps, seconds, strict=True):
      end = time.perf_counter() + _MIN_SECONDS
      while True:
        taken.append(decoder.seconds(n))
        if time.perf_counter() > end:
          break
  results = []
  for n, taken in zip(n_steps, seconds, strict=True):
    prompt, step = map(statistics.median, zip(*taken, strict=True))
    results.append(Measured(step, prompt, n))
  return results


def random_tokens(arguments, batch, length):
  """Nonzero tokens, int32 (batch, length)."""
  rng = np.random.default_rng(1)
  shape = (batch, length)
  return rng.integers(1, arguments.vocab_size, shape, dtype=np.int32)


def count(weights):
  return sum(math.prod(w.shape) for w in jax.tree.leaves(weights))


# Ours.


def our_model(name, arguments):
  """The factory of our 'transformer' or 'hourglass'."""
  dimensions = dict(
    vocab_size=arguments.vocab_size,
    d_model=arguments.d_model,
    d_ff=arguments.d_ff,
    n_heads=arguments.n_heads,
  )
  if name == 'transformer':
    return functools.partial(
      TransformerLM, n_layers=arguments.n_layers, **dimensions
    )
  return functools.partial(
    HourglassLM,
    vanilla_layers=arguments.vanilla_layers,
    hierarchy=arguments.hierarchy,
    **dimensions,
  )


def initial_weights(model):
  """Initialized weights of a model."""
  layer = model(mode='eval')
  init = jax.jit(lambda rng: layer.init(ShapeDtype((1, 8), np.int32), rng)[0])
  return init(jax.random.PRNGKey(0))


def ours(model, weights, batch, context, arguments, precision='float32'):
  """A decoder that calls `generate` on prepared weights."""
  prepared = prepare(model, weights, precision)
  length = context - 1 - arguments.n_new
  prompt = random_tokens(arguments, batch, context)[:, :length]

  def decode(n):
    arrivals = []
    start = time.perf_counter()
    new = generate(
      model,
      prepared,
      prompt,
      n,
      temperature=0.0,
      max_len=context,
      on_tokens=lambda _: arrivals.append(time.perf_counter()),
    )
    return np.stack(new), arrivals[0] - start

  return Decoder('ours', decode, count(weights), batch, length)


# Peers.


def rerun(name, batch, context, arguments):
  """A decoder that runs trax's model on the whole context for every token.

  It is one compiled loop, which is faster here than a call per token.
  """
  dimensions = dict(
    vocab_size=arguments.vocab_size,
    d_model=arguments.d_model,
    d_ff=arguments.d_ff,
    n_heads=arguments.n_heads,
    mode='eval',
  )
  length = context
  if name == 'transformer':
    layer = official_transformer.TransformerLM(
      n_layers=arguments.n_layers, max_len=length, **dimensions
    )
  else:
    # It requires a length that the shorten factors divide.
    factors = [k for _, k in parse_hierarchy(arguments.hierarchy)]
    length += -length % math.prod(factors)
    layer = official_hourglass.HourglassLM(
      vanilla_layers=arguments.vanilla_layers,
      hierarchy=arguments.hierarchy,
      **dimensions,
    )
  weights, state = layer.init(ShapeDtype((batch, length), np.int32))

  @jax.jit
  def run(weights, tokens, begin, end):
    def step(i, tokens):
      logits, _ = layer.pure_fn(tokens, weights, state, jax.random.PRNGKey(0))
      # Logits at a position predict the token at that same position.
      logits = jax.lax.dynamic_index_in_dim(logits, i, 1, keepdims=False)
      return tokens.at[:, i].set(jnp.argmax(logits, -1).astype(jnp.int32))

    return jax.lax.fori_loop(begin, end, step, tokens)

  tokens = random_tokens(arguments, batch, context)
  tokens = jnp.pad(tokens, [(0, 0), (0, length - context)])

  def decode(n):
    begin = context - n
    new = np.asarray(run(weights, tokens, begin, context))[:, begin:context]
    return new, 0.0

  return Decoder('trax re-run', decode, count(weights), batch)


def predict(name, batch, context, arguments):
  """A decoder that samples from trax's Transformer by trax's own function."""
  del name
  # It reads the whole of its cache, which has 2048 rows by default.
  gin.bind_parameter(
    'trax.layers.CausalAttention.max_inference_length', context
  )
  layer = official_transformer.TransformerLM(
    vocab_size=arguments.vocab_size,
    d_model=arguments.d_model,
    d_ff=arguments.d_ff,
    n_layers=arguments.n_layers,
    n_heads=arguments.n_heads,
    max_len=context,
    mode='predict',
  )
  layer.init(ShapeDtype((batch, 1), np.int32))
  # `accelerate=True` would create and compile this in every call.
  fast = tl.Accelerate(layer)
  state = fast.state
  length = context - 1 - arguments.n_new
  prompt = random_tokens(arguments, batch, context)[:, :length]

  def decode(n):
    fast.state = state
    start = time.perf_counter()
    stream = official_decoding.autoregressive_sample_stream(
      fast, prompt, batch_size=batch, temperature=0.0, accelerate=False
    )
    new = [np.asarray(next(stream))]
    first = time.perf_counter() - start
    new += [np.asarray(next(stream)) for _ in range(n - 1)]
    return np.stack(new, axis=1), first

  return Decoder('trax predict', decode, count(layer.weights), batch, length)


def torch_package(name, batch, context, arguments):
  """A decoder that calls the package's `generate`, which has no cache.

  Its models differ from ours in two ways that cost less: positions are learned
  and absolute, and an Hourglass's shortening and upsampling attend only within
  a group. d_ff is always 4 * d_model. It samples from the most likely tenth of
  the tokens and cannot decode greedily.
  """
  # Spinning threads, the default, are many times slower on a busy machine.
  os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
  import torch
  from hourglass_transformer_pytorch import HourglassTransformerLM
  from hourglass_transformer_pytorch import (
    hourglass_transformer_pytorch as implementation,
  )
  from hourglass_transformer_pytorch.autoregressive_wrapper import (
    AutoregressiveWrapper,
  )

  # The package uses `math` without importing it, at lengths that the shorten
  # factor does not divide.
  implementation.math = math
  torch.set_num_threads(os.cpu_count())

  def nested(levels):
    (n, _), *deeper = levels
    return (n, nested(deeper), n) if deeper else n

  depth, factors = arguments.n_layers, None
  if name == 'hourglass':
    before, after = arguments.vanilla_layers
    levels = parse_hierarchy(arguments.hierarchy)
    depth = (before, nested(levels), after)
    factors = tuple(k for _, k in levels)
  model = HourglassTransformerLM(
    num_tokens=arguments.vocab_size,
    dim=arguments.d_model,
    max_seq_len=context,
    depth=depth,
    shorten_factor=factors,
    heads=arguments.n_heads,
    dim_head=arguments.d_model // arguments.n_heads,
  )
  wrapper = AutoregressiveWrapper(model)
  tokens = torch.tensor(random_tokens(arguments, batch, context)).long()

  def decode(n):
    with torch.inference_mode():
      return wrapper.generate(tokens[:, : context - n], n).numpy(), 0.0

  n_parameters = sum(w.numel() for w in model.parameters())
  return Decoder('torch package', decode, n_parameters, batch)


PEERS = {'rerun': rerun, 'predict': predict, 'torch': torch_package}


# The lower bound.


def read_bandwidth():
  """Bytes per second that all threads read together, the best of several."""
  x = np.ones(1 << 28, np.float32)
  n_threads = os.cpu_count()
  total = jax.jit(jnp.sum)
  on_device = jnp.asarray(x)

  def by_jax():
    total(on_device).block_until_ready()

  with futures.ThreadPoolExecutor(n_threads) as pool:

    def by_numpy():
      list(pool.map(np.max, np.array_split(x, n_threads)))

    reads = [by_jax]
    if jax.default_backend() == 'cpu':
      reads.append(by_numpy)
    best = math.inf
    for read in reads * 6:
      start = time.perf_counter()
      read()
      best = min(best, time.perf_counter() - start)
  return x.nbytes / best


def last_level_cache():
  """Size of the CPU's last-level cache, as Linux reports it."""
  path = pathlib.Path('/sys/devices/system/cpu/cpu0/cache/index3/size')
  return path.read_text().strip() if path.exists() else 'unknown'


def weight_bytes(layer, weights, levels, batch, period=1):
  """Average bytes of weights read per decoding step, one token for each row.

  A step reads every array once, except that it reads one row of an embedding
  per token, and runs the coarse layers of a `ShortenedStack` once in
  `shorten_factor` tokens.
  """
  if isinstance(weights, dict):  # Trax marks a repeated layer this way.
    return 0
  if isinstance(layer, tl.Embedding):
    return batch * weights.shape[-1] * _FLOAT / period
  if not layer.sublayers:
    return count(weights) * _FLOAT / period
  periods = [period] * len(layer.sublayers)
  if isinstance(layer, ShortenedStack):
    (_, k), *levels = levels
    periods[0] *= k
  return sum(
    weight_bytes(sublayer, w, levels, batch, p)
    for sublayer, w, p in zip(layer.sublayers, weights, periods, strict=True)
  )


def cache_bytes(name, t, arguments):
  """Average bytes of keys and values that the token at position t reads.

  The stride of a layer's keys determines the rows that it reads, the stride of
  its queries how often it runs. Tables of relative positions do not count:
  instead of a table, a decoder may read the projection that produces it, which
  `weight_bytes` counts.
  """
  rows = 0.0
  if name == 'transformer':
    rows += arguments.n_layers * t
  else:
    rows += sum(arguments.vanilla_layers) * t
    stride = 1
    levels = parse_hierarchy(arguments.hierarchy)
    for i, (n_blocks, k) in enumerate(levels):
      fine, coarse = stride, stride * k
      rows += t / fine / coarse  # shortening
      rows += t / coarse / fine  # upsampling
      sides = 1 if i == len(levels) - 1 else 2
      rows += sides * n_blocks * t / coarse / coarse
      stride = coarse
  return rows * 2 * arguments.d_model * _FLOAT


def least_seconds(name, model, batch, context, bandwidth, arguments):
  """Lower bound of the seconds per step, midway through the timed tokens."""
  layer = model(mode='eval')
  signature = ShapeDtype((1, 8), np.int32)
  shapes, _ = jax.eval_shape(
    lambda rng: layer.init(signature, rng), jax.random.PRNGKey(0)
  )
  levels = parse_hierarchy(arguments.hierarchy)
  t = context - arguments.n_new / 2
  n_bytes = weight_bytes(layer, shapes, levels, batch)
  n_bytes += batch * cache_bytes(name, t, arguments)
  return n_bytes / bandwidth


# The tables.


def speed(arguments):
  """Prints the speed of all decoders."""
  print(f'{os.cpu_count()} cores, last-level cache {last_level_cache()}')
  print(
    f'{"model, batch x context":24}{"decoder":15}{"tokens/s":>10}'
    f'{"ours/it":>9}{"x bound":>9}{"timed":>6}{"prefill":>9}'
  )
  sizes = []
  for name in arguments.models:
    n_parameters = {}
    model = our_model(name, arguments)
    weights = initial_weights(model)
    for batch in arguments.batches:
      for context in arguments.contexts:
        decoders = [ours(model, weights, batch, context, arguments)]
        decoders += [
          PEERS[peer](name, batch, context, arguments)
          for peer in arguments.peers
          if (name, peer) != ('hourglass', 'predict')
        ]
        results = measure(
          decoders, arguments.n_new, arguments.rounds, arguments.slow_seconds
        )
        bandwidth = read_bandwidth()
        bound = least_seconds(name, model, batch, context, bandwidth, arguments)
        where = f'{name} {batch} x {context}'
        for decoder, result in zip(decoders, results, strict=True):
          n_parameters[decoder.name] = decoder.n_parameters
          prefill = (
            f'{batch * decoder.prompt_length / result.prompt:9.0f}'
            if decoder.prompt_length
            else ''
          )
          print(
            f'{where:24}{decoder.name:15}{batch / result.step:10.2f}'
            f'{result.step / results[0].step:9.2f}'
            f'{result.step / bound:9.2f}{result.n_steps:6}{prefill}'
          )
          where = ''
        ratio = bound / results[0].step
        print(
          f'{f"memory: {bandwidth / 1e9:.1f} GB/s":24}{"lower bound":15}'
          f'{batch / bound:10.2f}{ratio:9.2f}{1:9.2f}',
          flush=True,
        )
    megabytes = n_parameters['ours'] * _FLOAT / 1e6
    sizes.append(
      f'million parameters of {name}, ours {megabytes:.0f} MB: '
      + ', '.join(f'{d} {n / 1e6:.1f}' for d, n in n_parameters.items())
    )
  print('\n'.join(sizes))


def decoding_logits(model, weights, tokens, precision):
  """The logits that decoding in a precision computes for given tokens."""
  batch, length = tokens.shape
  layer = model(mode='predict', max_len=length)

  @jax.jit
  def logits(weights, tokens):
    rng = jax.random.PRNGKey(0)
    _, state = layer.init(ShapeDtype((batch, 1), np.int32), rng)
    state = decoding_state(layer, weights, state, precision)
    inputs = jnp.pad(tokens, [(0, 0), (1, 0)])[:, :-1]
    return layer.pure_fn(inputs, weights, state, rng)[0]

  return logits(prepare(model, weights, precision).weights, tokens)


def precision(title, model, weights, tokens, arguments):
  """Prints the speed at batch 1 and the error of a model in each precision.

  Args:
    title: First column of the lines.
    model: Factory of the model.
    weights: Weights of the model.
    tokens: int32 (batch, length), the tokens on which to measure errors.
    arguments: Arguments of the command line.
  """
  context = arguments.contexts[0]
  results = measure(
    [ours(model, weights, 1, context, arguments, p) for p in PRECISIONS],
    arguments.n_new,
    arguments.rounds,
    arguments.slow_seconds,
  )
  exact = decoding_logits(model, weights, tokens, 'float32')
  p = jax.nn.softmax(exact)
  for name, result in zip(PRECISIONS, results, strict=True):
    logits = decoding_logits(model, weights, tokens, name)
    ratios = jax.nn.log_softmax(exact) - jax.nn.log_softmax(logits)
    print(
      f'{title:24}{name:15}{1 / result.step:10.2f}'
      f'{results[0].step / result.step:9.2f}'
      f'{jnp.max(jnp.abs(logits - exact)):14.2e}'
      f'{jnp.mean(jnp.sum(p * ratios, -1)):14.2e}',
      flush=True,
    )


def precisions(arguments):
  """Prints speed and error by precision, of random weights and of a run."""
  print(
    f'{"weights":24}{"precision":15}{"tokens/s":>10}{"ratio":>9}'
    f'{"max |error|":>14}{"mean KL, nats":>14}'
  )
  tokens = random_tokens(arguments, 2, arguments.contexts[0])
  for name in arguments.models:
    model = our_model(name, arguments)
    title = f'random {name}'
    precision(title, model, initial_weights(model), tokens, arguments)
  if arguments.run:
    run = open_run(arguments.run)
    _, weights = run.load_weights()
    tokens = run.data.eval_batches('test')[0]['inputs']
    precision(
      pathlib.Path(arguments.run).name, run.model, weights, tokens, arguments
    )


def coarse_layers(arguments):
  """Prints the speed of ways to run the coarse layers once in k tokens.

  The time of a loop over groups is computed from the times of a step without
  coarse layers and a step with them: it would run k - 1 of the former and one
  of the latter.
  """

  def cond(condition, fn, x):
    return jax.lax.cond(condition, fn, lambda x: x, x)

  ways = {
    'loop of <= 1 iteration': groups.apply_if,
    'lax.cond': cond,
    'never': lambda condition, fn, x: x,
    'always': lambda condition, fn, x: fn(x),
  }
  decoders = []
  context = arguments.contexts[-1]
  k = parse_hierarchy(arguments.hierarchy)[0][1]
  weights = initial_weights(our_model('hourglass', arguments))
  for name, way in ways.items():
    model = our_model('hourglass', arguments)
    decoder = ours(model, weights, 1, context, arguments)
    with mock.patch.object(groups, 'apply_if', way):
      decoder.seconds(1)  # Compiles.
    decoders.append(dataclasses.replace(decoder, name=name))
  results = measure(
    decoders, arguments.n_new, arguments.rounds, arguments.slow_seconds
  )
  steps = {d.name: r.step for d, r in zip(decoders, results, strict=True)}
  never, always = steps.pop('never'), steps.pop('always')
  steps['loop over groups'] = ((k - 1) * never + always) / k
  for name, step in steps.items():
    print(
      f'coarse layers once in {k}, 1 x {context}, {name:24}{1 / step:10.2f}'
    )


def main():
  def names(text):
    return [name for name in text.split(',') if name]

  def numbers(text):
    return [int(number) for number in names(text)]

  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--models', type=names, default='transformer,hourglass')
  parser.add_argument('--contexts', type=numbers, default='512,2048')
  parser.add_argument('--batches', type=numbers, default='1,8')
  parser.add_argument('--peers', type=names, default=','.join(PEERS))
  parser.add_argument(
    '--parts',
    type=names,
    default='speed,coarse,precision',
    help='benchmarks to run',
  )
  parser.add_argument(
    '--run', help='a run whose weights the precision benchmark also measures'
  )
  parser.add_argument('--vocab_size', type=int, default=256)
  parser.add_argument('--d_model', type=int, default=512)
  parser.add_argument('--d_ff', type=int, default=2048)
  parser.add_argument('--n_heads', type=int, default=8)
  parser.add_argument('--n_layers', type=int, default=12)
  parser.add_argument('--vanilla_layers', type=numbers, default='2,2')
  parser.add_argument('--hierarchy', default='8@3')
  parser.add_argument('--n_new', type=int, default=64)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument(
    '--slow_seconds',
    type=float,
    default=10.0,
    help='time limit of a round for a decoder without a cache; it sets the '
    'number of tokens',
  )
  arguments = parser.parse_args()
  packages = ['jax', 'trax']
  if 'torch' in arguments.peers:
    packages += ['torch', 'hourglass-transformer-pytorch']
  versions = [f'{p} {importlib.metadata.version(p)}' for p in packages]
  print(f'{", ".join(versions)}, on {jax.devices()[0].device_kind}')
  print(
    f'd_model {arguments.d_model}, d_ff {arguments.d_ff}, {arguments.n_heads} '
    f'heads; transformer: {arguments.n_layers} layers; hourglass: vanilla '
    f'layers {arguments.vanilla_layers}, hierarchy {arguments.hierarchy}'
  )
  if 'speed' in arguments.parts:
    speed(arguments)
  if 'coarse' in arguments.parts and 'hourglass' in arguments.models:
    coarse_layers(arguments)
  if 'precision' in arguments.parts:
    precisions(arguments)


if __name__ == '__main__':
  main()
