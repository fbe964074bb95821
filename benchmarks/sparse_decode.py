"""Scaling Transformers: cost, savings and quality of sparse layers.

    python benchmarks/sparse_decode.py [--parts=decode,capacity]
        [--layers=6] [--capacities=32,2048] [--peers=official|none]
    python benchmarks/sparse_decode.py --parts=big [--memory_gib=20]
    python benchmarks/sparse_decode.py --parts=train
    python benchmarks/sparse_decode.py --parts=quality --data=FILE
    python benchmarks/sparse_decode.py --parts=quality --data=enwik8:FILE

* decode: an encoder-decoder model of d_model 1024 decodes greedily, at batch 1,
  with random weights, at each capacity of its caches. The text is short, so the
  capacity should not matter. Rows differ in which layers are sparse; d_ff is
  4096, and 6144 with sparse QKV. `--layers=24` is the published model.
* capacity: the row FF+QKV with short text at more capacities, and with a long
  prompt at the largest one.
* big: the published model of 17 billion parameters, d_model 9216. In float32 as
  many decoder layers as fit in memory, extrapolated to 6; in int8 all 6 layers,
  if they fit.
* train: milliseconds and temporary memory of loss and gradient with SparseFF
  and with a dense feed-forward layer of the same d_ff, and of a single SparseFF
  of ours and of trax.
* quality: bits per byte of language models with equal numbers of parameters
  after equal numbers of steps.

Peer: ConfigurableTransformer of trax 1.4.1 in predict mode, called as trax's
timing test calls it. Everything runs in one process. The entries of a line and
the memory bandwidth are measured alternately, except the rows of `big`: memory
holds only one of them at a time. Figures are medians.

Columns of decode, capacity and big:

* ms: time per token, without the prompt, the encoder and compilation;
* trax: the same for the peer;
* params: millions of parameters that a token reads: one row of the tables of
  embeddings and positions, one unit in N of SparseFF, nothing of the encoder or
  of the projections of its output to keys and values, and all of the rest;
* cache: MB of keys and values that a token reads, including the encoder's;
* GB/s: bytes of parameters and cache over the time;
* memory: GB/s at which a vector-matrix product reads 256 MiB;
* bound: lower bound of the time, to read these bytes at that bandwidth, in
  percent of our time;
* x dense, x trax: our speed over that of our dense row, and over the peer's;
* spec, paper (where known): millions of parameters read in the published model,
  counted by hand without small arrays; its published speed over dense.
"""

import argparse
import bisect
import dataclasses
import functools
import gc
import importlib.metadata
import math
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from generation import last_level_cache
from timing import median_seconds

from trax_hier import config
from trax_hier.compat import ShapeDtype, signature, tl
from trax_hier.data import Enwik8, TextFiles
from trax_hier.generation.programs import Request, programs_of
from trax_hier.generation.sampling import Sampling
from trax_hier.generation.stop_sequences import stop_array
from trax_hier.layers import (
  CrossAttention,
  Dense,
  FeedForward,
  LearnedPositions,
  MultiplicativeDense,
  Relu,
  SelfAttention,
  ShareWeights,
  SparseAttention,
  SparseCrossAttention,
  SparseFF,
  decoding_weights,
)
from trax_hier.layers.base.once import Once
from trax_hier.layers.base.repeat import Stack
from trax_hier.models import ScalingTransformer, ScalingTransformerLM
from trax_hier.training import Adam, multifactor
from trax_hier.training.build import build
from trax_hier.training.evaluate import Evaluator
from trax_hier.training.mesh import make_mesh
from trax_hier.training.state import abstract_init, n_parameters, token_shapes

# trax must be imported after the compatibility layer.
from trax.layers.research import sparsity  # isort: skip
from trax.models.research import configurable_transformer  # isort: skip
from trax.supervised import decoding as official_decoding  # isort: skip

P = functools.partial

_SOURCE_LENGTH = 8
_WARM_TOKENS = 3  # Tokens that the peer samples before the timed ones.
_FLOAT = 4  # bytes
_GIB = 1 << 30

ROWS = {
  'dense': (),
  'FF': ('ff',),
  'QKV': ('qkv',),
  'FF+QKV': ('ff', 'qkv'),
  '+loss': ('ff', 'qkv', 'loss'),
  '+loss+cross': ('ff', 'qkv', 'loss', 'cross'),
}
# With 24 layers: millions of parameters per token, and speed by Table 1.
SPEC = {
  'dense': 385.1,
  'FF': 194.9,
  'FF+QKV': 108.5,
  '+loss': 83.9,
  '+loss+cross': 36.5,
}
PAPER = {'FF': 1.72, 'QKV': 1.05, 'FF+QKV': 2.62}

BIG_ROWS = {
  'dense': (),
  'FF+QKV+cross': ('ff', 'qkv', 'cross'),
  '+loss': ('ff', 'qkv', 'cross', 'loss'),
}
# The same with 6 layers.
BIG_SPEC = {'dense': 7882.0, 'FF+QKV+cross': 364.7}
BIG_PAPER = {'FF+QKV+cross': 20.2}
BIG_LAYERS = 6


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of an encoder-decoder model with dense or sparse layers.

  A set of 'ff', 'qkv', 'loss' and 'cross' says which layers are sparse.
  """

  d_model: int
  n_heads: int
  d_ff: int
  d_ff_sparse_qkv: int
  n_elements: int
  d_lowrank: int | None
  n_modules: int
  loss_modules: int
  n_encoder_layers: int
  n_layers: int
  vocab_size: int = 32000

  def d_ff_of(self, sparse):
    """Width of the feed-forward layers, larger if QKV is sparse."""
    return self.d_ff_sparse_qkv if 'qkv' in sparse else self.d_ff

  def d_lowrank_of(self, sparse):
    """Width of the controller of SparseFF."""
    return self.d_lowrank or self.d_ff_of(sparse) // self.n_elements


MEDIUM = Sizes(
  d_model=1024,
  n_heads=16,
  d_ff=4096,
  d_ff_sparse_qkv=6144,
  n_elements=64,
  d_lowrank=None,
  n_modules=16,
  loss_modules=4,
  n_encoder_layers=1,
  n_layers=6,
)
# No encoder: decoding a token does not read it.
BIG = Sizes(
  d_model=9216,
  n_heads=96,
  d_ff=40960,
  d_ff_sparse_qkv=65536,
  n_elements=256,
  d_lowrank=32,
  n_modules=64,
  loss_modules=8,
  n_encoder_layers=0,
  n_layers=BIG_LAYERS,
)


def shrink(sizes):
  """Sizes of a model with 1/16 of the width, for a smoke test."""
  return dataclasses.replace(
    sizes,
    d_model=sizes.d_model // 16,
    n_heads=sizes.n_heads // 4,
    d_ff=sizes.d_ff // 16,
    d_ff_sparse_qkv=sizes.d_ff_sparse_qkv // 16,
    vocab_size=sizes.vocab_size // 16,
  )


# Random weights
# ------------------------------------------------------------------------------
class RandomArrays:
  """Makes arrays of small normal floats or of random int8 values.

  It repeats a million random numbers, which is much faster than sampling one
  per parameter of a large model.
  """

  def __init__(self):
    self._rng = np.random.default_rng(0)
    n = 1_000_003  # A prime, so that rows differ.
    self._floats = 0.02 * self._rng.standard_normal(n, np.float32)
    self._bytes = self._rng.integers(-127, 128, n, np.int8)

  def __call__(self, shape):
    """An array with the shape and dtype of a ShapeDtypeStruct."""
    is_integer = jnp.issubdtype(shape.dtype, jnp.integer)
    numbers = self._bytes if is_integer else self._floats
    numbers = np.roll(numbers, self._rng.integers(len(numbers)))
    array = jnp.asarray(np.resize(numbers, shape.shape), shape.dtype)
    return array.block_until_ready()  # At most one array exists twice.


# Ours
# ------------------------------------------------------------------------------
def our_model(sizes, sparse, n_positions):
  """The factory of our model with the given layers sparse."""
  modules = dict(n_modules=sizes.n_modules)
  layers = dict(
    attention=SelfAttention,
    cross_attention=CrossAttention,
    feed_forward=P(FeedForward, activation=Relu),
    logits=Dense,
    positions=P(LearnedPositions, n_positions),
  )
  if 'ff' in sparse:
    layers['feed_forward'] = P(
      SparseFF,
      n_elements_in_block=sizes.n_elements,
      d_lowrank=sizes.d_lowrank_of(sparse),
    )
  if 'qkv' in sparse:
    layers['attention'] = P(SparseAttention, **modules)
  if 'loss' in sparse:
    layers['logits'] = P(MultiplicativeDense, n_modules=sizes.loss_modules)
  if 'cross' in sparse:
    layers['cross_attention'] = P(SparseCrossAttention, **modules)
  return P(
    ScalingTransformer,
    sizes.vocab_size,
    d_model=sizes.d_model,
    d_ff=sizes.d_ff_of(sparse),
    n_encoder_layers=sizes.n_encoder_layers,
    n_decoder_layers=sizes.n_layers,
    n_heads=sizes.n_heads,
    **layers,
  )


def arrays_read_per_token(layer, weights, n_elements):
  """Yields (array, fraction of it read) for the arrays that a token reads.

  Args:
    layer: Our model, or one of its layers, in 'predict' mode.
    weights: Weights for decoding, or their shapes.
    n_elements: Units in a block of SparseFF.
  """
  if isinstance(weights, dict) or isinstance(layer, Once):
    return  # A repeated layer, or a layer that runs once for all tokens.
  if isinstance(layer, ShareWeights) or hasattr(layer, 'n_positions'):
    for table in jax.tree.leaves(weights):
      yield table, 1 / table.shape[0]
  elif isinstance(layer, SparseFF):
    *controller, w1, w2, bias = weights
    yield from ((x, 1) for x in jax.tree.leaves((controller, bias)))
    yield from ((x, 1 / n_elements) for x in jax.tree.leaves((w1, w2)))
  elif isinstance(layer, Stack):
    (blocks,), (block,) = weights, layer.sublayers
    for w in blocks.trees:
      yield from arrays_read_per_token(block, w, n_elements)
  elif layer.sublayers:
    for sublayer, w in zip(layer.sublayers, weights, strict=True):
      yield from arrays_read_per_token(sublayer, w, n_elements)
  else:
    yield from ((x, 1) for x in jax.tree.leaves(weights))


class OurModel:
  """Our model; it keeps no weights.

  Attributes:
    sizes: Sizes of the model.
    n_bytes: Bytes of all weights.
    peak_bytes: Peak memory of `random_weights`.
    n_read: Number of parameters that a token reads.
    bytes_read: Bytes of these parameters.
  """

  def __init__(self, sparse, sizes, n_positions, precision='float32'):
    self.sizes = sizes
    self._model = our_model(sizes, sparse, n_positions)
    self._precision = precision
    layer = self._model(mode='predict')
    tokens = ShapeDtype((1, 1), np.int32)

    def init():
      weights, _ = layer.init((tokens, tokens), jax.random.PRNGKey(0))
      return decoding_weights(layer, weights, precision)

    self._shapes = jax.eval_shape(init)
    leaf_bytes = [_bytes(x) for x in jax.tree.leaves(self._shapes)]
    self.n_bytes = sum(leaf_bytes)
    self.peak_bytes = self.n_bytes + max(leaf_bytes)
    reads = list(arrays_read_per_token(layer, self._shapes, sizes.n_elements))
    self.n_read = sum(fraction * x.size for x, fraction in reads)
    self.bytes_read = sum(fraction * _bytes(x) for x, fraction in reads)

  def random_weights(self):
    """Random weights in the layout of decoding, which needs no second copy."""
    gc.collect()  # Frees the weights of the model before.
    return jax.tree.map(RandomArrays(), self._shapes)

  def decoder(self, weights, capacity, n_new, prompt_length=0):
    """A function that decodes and returns seconds per token.

    It times only the program that `generate` runs for the new tokens.
    """
    program = programs_of(
      self._model,
      config.fingerprint(),
      1,
      capacity,
      self._precision,
      _SOURCE_LENGTH,
    )
    n_ids = program.n_ids(weights)
    sampling = Sampling(
      jnp.float32(0),
      jnp.int32(n_ids),
      jnp.float32(1),
      jnp.int32(n_ids),
    )
    request = Request(
      sampling,
      jax.random.PRNGKey(0),
      jnp.int32(n_new),
      stop_array(()),
    )
    tokens = np.zeros((1, 1 + capacity), np.int32)
    tokens[:, 1 : 1 + prompt_length] = 1
    lengths = np.array([prompt_length], np.int32)
    sources = 1 + np.arange(_SOURCE_LENGTH, dtype=np.int32)[None]

    def seconds():
      decoding = program.start(weights, tokens, lengths, request, sources)
      if prompt_length:
        decoding = program.prefill(weights, decoding)
      first = int(jax.block_until_ready(decoding).t)
      start = time.perf_counter()
      decoding = program.decode(weights, decoding, request, capacity)
      n = int(decoding.t) - first
      return (time.perf_counter() - start) / n

    seconds()  # Compiles.
    return seconds

  def cache_bytes(self, n_new, prompt_length=0):
    """Average bytes of keys and values that a new token reads."""
    rows = prompt_length + (n_new + 1) / 2 + _SOURCE_LENGTH
    return 2 * self.sizes.n_layers * self.sizes.d_model * rows * _FLOAT


def _bytes(x):
  return x.size * x.dtype.itemsize


# The peer
# ------------------------------------------------------------------------------
def official_decoder(sizes, sparse, capacity, n_timed):
  """A function that decodes by trax's model and returns seconds per token."""
  attention = tl.CausalAttention
  if 'qkv' in sparse:
    attention = P(
      tl.MultiplicativeConvCausalAttention,
      sparsity=sizes.n_modules,
      length_kernel_size=3,
    )
  ff_sparsity = (sizes.n_elements, sizes.d_lowrank_of(sparse))
  layer = configurable_transformer.ConfigurableTransformer(
    sizes.vocab_size,
    d_model=sizes.d_model,
    d_ff=sizes.d_ff_of(sparse),
    n_encoder_layers=sizes.n_encoder_layers,
    n_decoder_layers=sizes.n_layers,
    n_heads=sizes.n_heads,
    max_len=capacity,
    mode='predict',
    ff_sparsity=ff_sparsity if 'ff' in sparse else 0,
    loss_sparsity=sizes.loss_modules if 'loss' in sparse else 0,
    encoder_decoder_attention_type=P(attention, max_inference_length=capacity),
    enc_dec_attention_sparsity=sizes.n_modules if 'cross' in sparse else 0,
  )
  sources = 1 + np.arange(_SOURCE_LENGTH, dtype=np.int32)[None]
  inputs = signature(sources), ShapeDtype((1, 1), np.int32)
  rng = jax.random.PRNGKey(0)
  shapes, _ = jax.eval_shape(lambda: layer.init(inputs, rng))
  layer.state = jax.jit(lambda: layer.init(inputs, rng)[1])()
  layer.weights = jax.tree.map(RandomArrays(), shapes)
  layer.rng = rng
  fast = tl.Accelerate(layer)
  state = fast.state

  def seconds():
    fast.state = state
    stream = official_decoding.autoregressive_sample_stream(
      fast, sources, temperature=0.0, accelerate=False
    )
    for _ in range(_WARM_TOKENS):
      np.asarray(next(stream))
    start = time.perf_counter()
    for _ in range(n_timed):
      np.asarray(next(stream))
    return (time.perf_counter() - start) / n_timed

  seconds()  # Compiles.
  return seconds


# Tables of decoding
# ------------------------------------------------------------------------------
class MemoryRead:
  """Reads 256 MiB as decoding does, by a vector-matrix product on all cores."""

  def __init__(self):
    self._matrix = jnp.ones((1 << 14, 1 << 12), jnp.float32)
    self._vector = jnp.ones(1 << 12, jnp.float32)
    self._product = jax.jit(lambda x, y: y @ x)
    self()  # Compiles.

  def __call__(self):
    """Seconds per byte."""
    start = time.perf_counter()
    self._product(self._vector, self._matrix).block_until_ready()
    return (time.perf_counter() - start) / self._matrix.nbytes


@dataclasses.dataclass(frozen=True)
class Measured:
  """The measurements of a line of a table.

  Attributes:
    model: The `OurModel` of the line.
    cache_bytes: Bytes of the caches that a token reads.
    seconds: Seconds per token.
    byte_seconds: Seconds to read a byte from memory.
    dense: Seconds per token of our dense model, or None.
    official: Seconds per token of the peer, or None.
  """

  model: OurModel
  cache_bytes: float
  seconds: float
  byte_seconds: float
  dense: float | None = None
  official: float | None = None


def print_header(title):
  print(
    f'{title:22}{"ms":>8}{"trax":>7}{"params":>8}{"cache":>7}{"GB/s":>6}'
    f'{"memory":>7}{"bound":>6}{"x dense":>8}{"x trax":>7}{"spec":>7}'
    f'{"paper":>6}'
  )


def print_line(title, measured, spec=None, paper=None):
  """Prints a line of the table; spec and paper may be None."""
  model, seconds = measured.model, measured.seconds
  n_bytes = model.bytes_read + measured.cache_bytes
  bound_percent = 100 * n_bytes * measured.byte_seconds / seconds

  def if_known(number, width, digits, factor=1.0):
    if number is None:
      return ' ' * width
    return f'{factor * number:{width}.{digits}f}'

  line = (
    f'{title:22}{1e3 * seconds:8.2f}{if_known(measured.official, 7, 1, 1e3)}'
    f'{model.n_read / 1e6:8.1f}{measured.cache_bytes / 1e6:7.2f}'
    f'{n_bytes / seconds / 1e9:6.1f}{1e-9 / measured.byte_seconds:7.1f}'
    f'{bound_percent:5.0f}%{if_known(measured.dense, 8, 2, 1 / seconds)}'
    f'{if_known(measured.official, 7, 2, 1 / seconds)}'
    f'{if_known(spec, 7, 1)}{if_known(paper, 6, 2)}'
  )
  print(line.rstrip(), flush=True)


def medium(arguments):
  """Sizes of the model that decode and capacity measure."""
  sizes = dataclasses.replace(MEDIUM, n_layers=arguments.layers)
  return shrink(sizes) if arguments.tiny else sizes


def decode(arguments):
  """Prints a line per row of the paper's Table 1 and capacity of the caches."""
  sizes, n_new = medium(arguments), arguments.n_new
  capacities = arguments.capacities
  print(
    f'decode: {sizes.n_encoder_layers} + {sizes.n_layers} layers, d_model '
    f'{sizes.d_model}, {arguments.precision}, {n_new} new tokens, medians of '
    f'{arguments.rounds} rounds; trax: {arguments.official_tokens} tokens '
    f'after {_WARM_TOKENS}'
  )
  print_header('row, capacity')
  published = sizes.n_layers == 24 and not arguments.tiny
  spec, paper = (SPEC, PAPER) if published else ({}, {})

  settings = sizes, max(capacities), arguments.precision
  dense = OurModel(ROWS['dense'], *settings)
  dense_weights = dense.random_weights()
  memory = MemoryRead()
  for name in arguments.rows:
    model, weights = dense, dense_weights
    if name != 'dense':
      model = OurModel(ROWS[name], *settings)
      weights = model.random_weights()
    timers = {'memory': memory}
    for n in capacities:
      timers['dense', n] = dense.decoder(dense_weights, n, n_new)
      if name != 'dense':
        timers[name, n] = model.decoder(weights, n, n_new)
      if arguments.peers == 'official':
        timers['trax', n] = official_decoder(
          sizes, ROWS[name], n, arguments.official_tokens
        )
    seconds = median_seconds(timers, arguments.rounds)
    for n in capacities:
      measured = Measured(
        model,
        model.cache_bytes(n_new),
        seconds[name, n],
        seconds['memory'],
        dense=seconds['dense', n],
        official=seconds.get(('trax', n)),
      )
      print_line(f'{name}, {n}', measured, spec.get(name), paper.get(name))
    del weights, timers  # Frees memory for the next model.


def capacity(arguments):
  """Prints lines of FF+QKV for each capacity, and for a long prompt."""
  sizes, n_new, name = medium(arguments), arguments.n_new, 'FF+QKV'
  capacities = arguments.more_capacities
  largest = max(capacities)
  model = OurModel(ROWS[name], sizes, largest)
  weights = model.random_weights()
  print(f'capacity: row {name} of the same model')
  print_header('capacity, prompt')
  # The peer reads its whole caches, so a prompt does not change its time.
  cases = [(n, 0) for n in capacities] + [(largest, arguments.prompt)]
  timers = {'memory': MemoryRead()}
  for n, prompt in cases:
    timers[n, prompt] = model.decoder(weights, n, n_new, prompt)
    if arguments.peers == 'official' and not prompt:
      timers['trax', n, prompt] = official_decoder(
        sizes, ROWS[name], n, arguments.official_tokens
      )
  seconds = median_seconds(timers, arguments.rounds)
  for n, prompt in cases:
    measured = Measured(
      model,
      model.cache_bytes(n_new, prompt),
      seconds[n, prompt],
      seconds['memory'],
      official=seconds.get(('trax', n, prompt)),
    )
    print_line(f'{n}, {prompt}', measured)


# The published model of 17 billion parameters
# ------------------------------------------------------------------------------
def big_model(name, n_layers, precision, arguments):
  """The model of a row with n decoder layers."""
  sizes = shrink(BIG) if arguments.tiny else BIG
  sizes = dataclasses.replace(sizes, n_layers=n_layers)
  return OurModel(BIG_ROWS[name], sizes, arguments.capacities[0], precision)


def measure_alone(model, arguments):
  """A `Measured` of a model whose weights exist only for the measurement."""
  capacity, n_new = arguments.capacities[0], arguments.n_new
  timers = {
    'memory': MemoryRead(),
    'ours': model.decoder(model.random_weights(), capacity, n_new),
  }
  seconds = median_seconds(timers, arguments.rounds)
  return Measured(
    model, model.cache_bytes(n_new), seconds['ours'], seconds['memory']
  )


def extrapolate(small, large, model):
  """Extrapolates to a model from the `Measured` of two with fewer layers."""
  first, last = small.model.sizes.n_layers, large.model.sizes.n_layers
  ratio = (model.sizes.n_layers - first) / (last - first)
  return Measured(
    model,
    small.cache_bytes + ratio * (large.cache_bytes - small.cache_bytes),
    small.seconds + ratio * (large.seconds - small.seconds),
    (small.byte_seconds + large.byte_seconds) / 2,
  )


def print_big_lines(title, results, published=False):
  """Prints a line for each row.

  Args:
    title: Heading above the lines.
    results: `Measured` by row.
    published: Whether to print the figures of the published model.
  """
  spec, paper = (BIG_SPEC, BIG_PAPER) if published else ({}, {})
  print(title)
  for name, measured in results.items():
    measured = dataclasses.replace(measured, dense=results['dense'].seconds)
    print_line(f'  {name}', measured, spec.get(name), paper.get(name))


def big(arguments):
  """Prints lines of the published model of 17 billion parameters."""
  published = not arguments.tiny

  def models(n_layers, precision):
    return {
      name: big_model(name, n_layers, precision, arguments) for name in BIG_ROWS
    }

  def fits(n_layers, precision):
    peak = max(m.peak_bytes for m in models(n_layers, precision).values())
    return peak <= arguments.memory_gib * _GIB

  def measure(n_layers, precision):
    return {
      name: measure_alone(model, arguments)
      for name, model in models(n_layers, precision).items()
    }

  print(
    f'big: {arguments.n_new} new tokens, medians of {arguments.rounds} rounds, '
    f'one line after another, in {arguments.memory_gib:g} GiB'
  )
  print_header('row')
  fitting = [n for n in range(1, BIG_LAYERS + 1) if fits(n, 'float32')]
  if not fitting:
    print('float32: not even one layer fits')
  results = {}
  for n in sorted({*fitting[:1], *fitting[-1:]}):
    results[n] = measure(n, 'float32')
    title = f'float32, layers: {n}'
    print_big_lines(title, results[n], published and n == BIG_LAYERS)
  if 1 < max(results, default=0) < BIG_LAYERS:
    small, large = results.values()
    whole = {
      name: extrapolate(small[name], large[name], model)
      for name, model in models(BIG_LAYERS, 'float32').items()
    }
    title = f'float32, layers: {BIG_LAYERS}, extrapolated from these'
    print_big_lines(title, whole, published)
  if fits(BIG_LAYERS, 'int8'):
    title = f'int8, layers: {BIG_LAYERS}'
    print_big_lines(title, measure(BIG_LAYERS, 'int8'), published)
  else:
    print(f'int8: {BIG_LAYERS} layers do not fit')


# Training
# ------------------------------------------------------------------------------
class GradientStep:
  """Loss and gradients of a layer under plain `jax.jit`.

  Attributes:
    temporary: Bytes of temporary memory, besides inputs and outputs.
  """

  def __init__(self, layer, x, loss, argnums):
    """Compiles the step.

    Args:
      layer: Layer in 'train' mode.
      x: Input of the layer.
      loss: A function: the layer's output, x -> scalar.
      argnums: 0 for gradients of weights, (0, 1) for gradients of x as well.
    """
    rng = jax.random.PRNGKey(0)
    shapes, _ = jax.eval_shape(lambda: layer.init(signature(x), rng))
    state = jax.jit(lambda: layer.init(signature(x), rng)[1])()

    def total(weights, x):
      y, _ = layer.pure_fn(x, weights, state, rng)
      return loss(y, x)

    self._arguments = jax.tree.map(RandomArrays(), shapes), x
    step = jax.jit(jax.value_and_grad(total, argnums))
    self._step = step.lower(*self._arguments).compile()
    self.temporary = self._step.memory_analysis().temp_size_in_bytes
    self()  # Warms up.

  def __call__(self):
    """Seconds of one step."""
    start = time.perf_counter()
    jax.block_until_ready(self._step(*self._arguments))
    return time.perf_counter() - start


def cross_entropy(logits, tokens):
  log_probs = jax.nn.log_softmax(logits)
  return -jnp.mean(jnp.take_along_axis(log_probs, tokens[..., None], -1))


def mean_square(y, x):
  del x
  return jnp.mean(jnp.square(y))


def print_steps(steps, rounds):
  """Prints time and temporary memory of steps, and ratios to the first."""
  seconds = median_seconds(steps, rounds)
  first, *_ = steps
  print(f'{"":31}{"ms":>8}{"ratio":>7}{"temporary MB":>14}{"ratio":>7}')
  for name, step in steps.items():
    time_ratio = seconds[name] / seconds[first]
    memory_ratio = step.temporary / steps[first].temporary
    print(
      f'{name:31}{1e3 * seconds[name]:8.1f}{time_ratio:7.2f}'
      f'{step.temporary / 1e6:14.1f}{memory_ratio:7.2f}',
      flush=True,
    )


def train(arguments):
  """Prints time and temporary memory of training with SparseFF."""
  d, f, n, chunk = 512, 2048, 64, 256
  batch, length, n_layers = 4, 512, 4
  if arguments.tiny:
    d, f, n, chunk, batch, length = 64, 256, 8, 32, 2, 64
  sparse = P(SparseFF, n_elements_in_block=n)
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.integers(1, 256, (batch, length)), jnp.int32)

  def model_step(feed_forward):
    layer = ScalingTransformerLM(
      256,
      d_model=d,
      d_ff=f,
      n_layers=n_layers,
      n_heads=8,
      dropout=0.0,
      attention=SelfAttention,
      feed_forward=feed_forward,
      positions=P(LearnedPositions, length),
    )
    return GradientStep(layer, tokens, cross_entropy, 0)

  print(
    f'train: loss and gradient of a language model, {n_layers} layers, d_model '
    f'{d}, d_ff {f}, N {n}, batch {batch} x {length}'
  )
  print_steps(
    {
      'dense': model_step(P(FeedForward, activation=Relu)),
      'SparseFF': model_step(sparse),
      f'SparseFF, chunks of {chunk}': model_step(P(sparse, chunk_size=chunk)),
    },
    arguments.rounds,
  )
  x = jnp.asarray(rng.standard_normal((batch, length, d)), jnp.float32)
  theirs = sparsity.SparseFF(f, n, f // n, mode='train')
  print(f'train: gradients of a single SparseFF, {batch * length} tokens')
  print_steps(
    {
      'ours': GradientStep(sparse(f), x, mean_square, (0, 1)),
      'trax': GradientStep(theirs, x, mean_square, (0, 1)),
    },
    arguments.rounds,
  )


# Quality
# ------------------------------------------------------------------------------
def language_model(sparse, d_ff, arguments):
  """The factory of a language model with the given layers sparse."""
  attention = SelfAttention
  if 'qkv' in sparse:
    attention = P(SparseAttention, n_modules=arguments.n_modules)
  feed_forward = P(FeedForward, activation=Relu)
  if 'ff' in sparse:
    feed_forward = P(SparseFF, n_elements_in_block=arguments.n_elements)
  return P(
    ScalingTransformerLM,
    256,
    d_model=arguments.d_model,
    d_ff=d_ff,
    n_layers=arguments.n_layers,
    n_heads=8,
    dropout=0.0,
    attention=attention,
    feed_forward=feed_forward,
    positions=P(LearnedPositions, arguments.length),
  )


def size_of(model):
  """Number of parameters of a model."""
  return n_parameters(
    abstract_init(model(mode='train'), token_shapes((1, 8)))[0]
  )


def model_of_size(sparse, n, arguments):
  """The language model with d_ff chosen for about n parameters; its d_ff."""

  def size(d_ff):
    return size_of(language_model(sparse, d_ff, arguments))

  n_elements = arguments.n_elements
  widths = range(n_elements, 4 * arguments.d_ff, n_elements)
  i = bisect.bisect_left(widths, n, key=size)
  d_ff = min(widths[max(0, i - 1) : i + 1], key=lambda f: abs(size(f) - n))
  return language_model(sparse, d_ff, arguments), d_ff


def open_text(arguments):
  """The data set that `--data` names."""
  kind, _, path = arguments.data.rpartition(':')
  make = Enwik8 if kind == 'enwik8' else TextFiles
  return make(path, arguments.batch_size, arguments.length)


def train_on_text(title, model, data, seed, arguments):
  """Trains a model; prints its training loss five times, then its test loss."""
  schedule = multifactor(
    'constant * linear_warmup * cosine_decay_once',
    constant=arguments.rate,
    warmup_steps=arguments.warmup_steps,
    cosine_steps=arguments.steps,
    cosine_end=0.1,
  )
  built = build(model, data, P(Adam, schedule))
  state = built.init(jax.random.PRNGKey(seed))
  bits, seconds = [], []
  report_every = max(1, arguments.steps // 5)
  for i in range(arguments.steps):
    start = time.perf_counter()
    state, (nats, *_) = built.step(state, data.train_batch(i))
    bits.append(float(nats) / math.log(2))
    seconds.append(time.perf_counter() - start)
    if (i + 1) % report_every == 0:
      recent = statistics.mean(bits[-report_every:])
      print(f'  step {i + 1}: {recent:.4f} in training', flush=True)
  batches = data.eval_batches('test')
  n = min(len(batches), arguments.test_batches)
  result = Evaluator(
    model(mode='eval'),
    [batches[i] for i in range(n)],
    data.unit,
    make_mesh(),
  )(state.weights)
  print(
    f'{title}: {result["bits_per_byte"]:.4f} bits per byte over '
    f'{result["tokens"]:,.0f} held-out bytes; '
    f'{statistics.median(seconds):.3f} s per step',
    flush=True,
  )


def quality(arguments):
  """Prints bits per byte of models with equal numbers of parameters."""
  if not arguments.data:
    raise SystemExit('--parts=quality needs --data')
  data = open_text(arguments)
  print(data.describe())
  print(
    f'quality: {arguments.n_layers} layers, d_model {arguments.d_model}, N '
    f'{arguments.n_elements}, {arguments.n_modules} modules, {arguments.steps} '
    f'steps of {arguments.batch_size} x {arguments.length} bytes, Adam, '
    f'learning rate {arguments.rate}; bits per byte'
  )
  dense = language_model((), arguments.d_ff, arguments)
  n = size_of(dense)
  models = {'dense': (dense, arguments.d_ff)}
  for name in ('FF', 'FF+QKV'):
    models[name] = model_of_size(ROWS[name], n, arguments)
  for name, (model, d_ff) in models.items():
    size = size_of(model)
    print(
      f'{name}: d_ff {d_ff}, {size:,} parameters, {100 * (size / n - 1):+.2f} %'
    )
  for seed in arguments.seeds:
    for name, (model, _) in models.items():
      train_on_text(f'{name}, seed {seed}', model, data, seed, arguments)


BENCHMARKS = {
  'decode': decode,
  'capacity': capacity,
  'big': big,
  'train': train,
  'quality': quality,
}


def main():
  def names(text):
    return [name for name in text.split(',') if name]

  def numbers(text):
    return [int(number) for number in names(text)]

  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add(
    '--parts',
    type=names,
    default='decode,capacity',
    help=f'benchmarks to run, of {", ".join(BENCHMARKS)}',
  )
  add('--rounds', type=int, default=15)
  add('--tiny', action='store_true', help='smoke test with narrow models')
  add('--rows', type=names, default=','.join(ROWS), help='decode only')
  add(
    '--layers',
    type=int,
    default=6,
    help='decoder layers (decode and capacity only)',
  )
  add(
    '--capacities',
    type=numbers,
    default='32,2048',
    help='capacities of decode; big takes the first',
  )
  add(
    '--more_capacities',
    type=numbers,
    default='32,256,2048',
    help='capacity only',
  )
  add('--prompt', type=int, default=1024, help='tokens (capacity only)')
  add('--n_new', type=int, default=24, help='tokens decoded per round')
  add('--precision', default='float32', help='of the weights (decode only)')
  add('--peers', choices=['official', 'none'], default='official')
  add('--official_tokens', type=int, default=8)
  add('--memory_gib', type=float, default=20, help='for the weights of big')
  add('--data', help='a text file or enwik8:FILE (quality only)')
  add(
    '--seeds',
    type=numbers,
    default='0',
    help='seeds; this and all flags below: quality only',
  )
  add('--steps', type=int, default=2000)
  add('--warmup_steps', type=int, default=100)
  add('--rate', type=float, default=1e-3)
  add('--batch_size', type=int, default=16)
  add('--length', type=int, default=256)
  add('--d_model', type=int, default=256)
  add('--d_ff', type=int, default=1920, help='d_ff of the dense model')
  add('--n_layers', type=int, default=4)
  add('--n_elements', type=int, default=64)
  add('--n_modules', type=int, default=16)
  add('--test_batches', type=int, default=256)
  arguments = parser.parse_args()
  for name in arguments.parts:
    BENCHMARKS[name](arguments)
  print(
    f'{os.cpu_count()} cores, last-level cache {last_level_cache()}, jax '
    f'{jax.__version__} on {jax.devices()[0].device_kind}, trax '
    f'{importlib.metadata.version("trax")}'
  )


if __name__ == '__main__':
  main()
