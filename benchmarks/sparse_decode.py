"""Scaling Transformers: what sparse layers cost, save and learn.

    python benchmarks/sparse_decode.py [--parts=decode,capacity]
        [--layers=6] [--capacities=32,2048] [--peers=official|none]
    python benchmarks/sparse_decode.py --parts=big [--memory_gib=20]
    python benchmarks/sparse_decode.py --parts=train
    python benchmarks/sparse_decode.py --parts=quality --data=FILE
    python benchmarks/sparse_decode.py --parts=quality --data=enwik8:FILE

* decode: an encoder-decoder model of d_model 1024 decodes greedily, at batch 1,
  with random weights, at each capacity of its caches. The text is short, so
  that capacity should not matter. Rows add one sparse part after another;
  d_ff is 4096, and 6144 with sparse QKV. `--layers=24` is the published model.
* capacity: the row FF+QKV, with short text at more capacities, and at the
  largest with a long prompt.
* big: the published model of 17 billion weights, d_model 9216. In float32 as
  many of its layers as memory holds, from which 6 are extrapolated; in 8 bits
  all 6, if they fit.
* train: seconds and temporary memory of loss and gradient with SparseFF against
  a dense feed-forward part of the same d_ff, and of one SparseFF against trax's.
* quality: bits per byte of language models of equal numbers of weights after
  equal numbers of steps.

Peer: ConfigurableTransformer of trax 1.4.1 in predict mode, called as its own
timing test does. All in one process; what a line compares, and the speed of
the memory, is measured in turns. Figures are of medians.

Columns of decode, capacity and big:

* ms: of a token, without the prompt, the encoder and compilation;
* trax: the same of the peer;
* weights: how many million numbers a token needs. Not all do: of tables of
  embeddings and positions one row, of SparseFF one unit in N, nothing of the
  encoder and of what makes the keys and values of its output;
* cache: how many MB of keys and values it needs, those of the encoder included;
* GB/s: bytes of both over the time;
* floor: the time that it takes to read them, at the speed measured here for a
  product of a vector with a matrix, in percent of ours;
* x dense, x trax: our speed over that of our dense row, and over the peer's;
* spec, paper (where known): weights as counted by hand in the published model,
  small ones left out, and its published speed over dense.
"""

import argparse
import dataclasses
import functools
import math
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import trax
from block_recurrent import medians
from generation import last_level_cache

from trax_hier import config, generation
from trax_hier.data import Enwik8, TextFiles
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
from trax_hier.layers.stacking import Once, Stack
from trax_hier.models import ScalingTransformer, ScalingTransformerLM
from trax_hier.sampling import Sampling
from trax_hier.training import Adam, multifactor
from trax_hier.training.build import build
from trax_hier.training.evaluate import Evaluator
from trax_hier.training.mesh import data_mesh
from trax_hier.training.state import abstract_init, n_weights, tokens_like
from trax_hier.trax_compat import ShapeDtype, signature, tl

# After the door, which makes this import fast and works around today's JAX.
from trax.layers.research import sparsity  # isort: skip
from trax.models.research import configurable_transformer  # isort: skip
from trax.supervised import decoding as official_decoding  # isort: skip

P = functools.partial

_SOURCE_LENGTH = 8
_WARM_TOKENS = 3  # Of the peer, drawn in each turn before those that are timed.
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
# Of 24 layers: million weights of a token, and Table 1 of the paper.
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
# Of 6 layers, likewise; the paper's model of that row is a dense loss layer's.
BIG_SPEC = {'dense': 7882.0, 'FF+QKV+cross': 364.7}
BIG_PAPER = {'FF+QKV+cross': 20.2}
BIG_LAYERS = 6


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of an encoder-decoder model, whichever of its parts are sparse."""

  d_model: int
  n_heads: int
  d_ff: int
  d_ff_sparse_qkv: int
  n_elements: int
  d_lowrank: int
  n_modules: int
  loss_modules: int
  n_encoder_layers: int
  n_layers: int
  vocab_size: int = 32000

  def d_ff_of(self, parts):
    return self.d_ff_sparse_qkv if 'qkv' in parts else self.d_ff

  def d_lowrank_of(self, parts):
    """The width of SparseFF's controller; if it is not given, d_ff / N."""
    return self.d_lowrank or self.d_ff_of(parts) // self.n_elements


MEDIUM = Sizes(
  d_model=1024,
  n_heads=16,
  d_ff=4096,
  d_ff_sparse_qkv=6144,
  n_elements=64,
  d_lowrank=0,
  n_modules=16,
  loss_modules=4,
  n_encoder_layers=1,
  n_layers=6,
)
# Its encoder is left out: a token does not need it.
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
  """The same model 16 times as narrow, to try this program."""
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
  """Small normal numbers, and whole numbers in 8 bits, in any shape.

  Cut from a million of them, over and over, which is much faster than to draw
  as many as a large model has.
  """

  def __init__(self):
    self._rng = np.random.default_rng(0)
    n = 1_000_003  # A prime, so that rows differ.
    self._floats = 0.02 * self._rng.standard_normal(n, np.float32)
    self._bytes = self._rng.integers(-127, 128, n, np.int8)

  def __call__(self, shape):
    """An array as a ShapeDtypeStruct says."""
    whole = jnp.issubdtype(shape.dtype, jnp.integer)
    numbers = self._bytes if whole else self._floats
    numbers = np.roll(numbers, self._rng.integers(len(numbers)))
    return jnp.asarray(np.resize(numbers, shape.shape), shape.dtype)


# Ours
# ------------------------------------------------------------------------------
def our_model(sizes, parts, n_positions):
  """The factory of our model whose `parts` are sparse."""
  modules = dict(n_modules=sizes.n_modules)
  return P(
    ScalingTransformer,
    sizes.vocab_size,
    d_model=sizes.d_model,
    d_ff=sizes.d_ff_of(parts),
    n_encoder_layers=sizes.n_encoder_layers,
    n_decoder_layers=sizes.n_layers,
    n_heads=sizes.n_heads,
    attention=P(SparseAttention, **modules)
    if 'qkv' in parts
    else SelfAttention,
    cross_attention=P(SparseCrossAttention, **modules)
    if 'cross' in parts
    else CrossAttention,
    feed_forward=P(
      SparseFF,
      n_elements_in_block=sizes.n_elements,
      d_lowrank=sizes.d_lowrank_of(parts),
    )
    if 'ff' in parts
    else P(FeedForward, activation=Relu),
    logits=P(MultiplicativeDense, n_modules=sizes.loss_modules)
    if 'loss' in parts
    else Dense,
    positions=P(LearnedPositions, n_positions),
  )


def read_for_a_token(layer, weights, n_elements):
  """Yields the arrays that decoding a token needs, and which part of each.

  Args:
    layer: A model of ours, or a layer of it, in 'predict' mode.
    weights: Its weights for decoding, or their shapes.
    n_elements: Units in a block of SparseFF.
  """
  if isinstance(weights, dict) or isinstance(layer, Once):
    return  # What occurred before, and what is computed for all tokens.
  if isinstance(layer, ShareWeights) or hasattr(layer, 'n_positions'):
    for table in jax.tree.leaves(weights):
      yield table, 1 / table.shape[0]
  elif isinstance(layer, SparseFF):
    *controller, w1, w2, bias = weights
    yield from ((x, 1) for x in jax.tree.leaves((controller, bias)))
    yield from ((x, 1 / n_elements) for x in jax.tree.leaves((w1, w2)))
  elif isinstance(layer, Stack):
    (blocks,), (block,) = weights, layer.sublayers
    for of_block in blocks.trees:
      yield from read_for_a_token(block, of_block, n_elements)
  elif layer.sublayers:
    for sub, of_sub in zip(layer.sublayers, weights, strict=True):
      yield from read_for_a_token(sub, of_sub, n_elements)
  else:
    yield from ((x, 1) for x in jax.tree.leaves(weights))


class OurModel:
  """A model of ours, to which `draw` gives random weights.

  They are drawn as decoding lays them out, so that there is one copy.

  Attributes:
    name: That of its row.
    sizes: Its sizes.
    n_bytes: Of all its weights.
    peak_bytes: The most that `draw` takes.
    n_read: Number of weights that a token needs.
    bytes_read: Their bytes.
  """

  def __init__(self, name, parts, sizes, n_positions, precision='float32'):
    self.name = name
    self.sizes = sizes
    self._model = our_model(sizes, parts, n_positions)
    self._precision = precision
    layer = self._model(mode='predict')
    tokens = ShapeDtype((1, 1), np.int32)

    def lay_out():
      weights, _ = layer.init((tokens, tokens), jax.random.PRNGKey(0))
      return decoding_weights(layer, weights, precision)

    self._weights = jax.eval_shape(lay_out)
    leaf_bytes = [_bytes(x) for x in jax.tree.leaves(self._weights)]
    self.n_bytes = sum(leaf_bytes)
    self.peak_bytes = self.n_bytes + max(leaf_bytes)
    reads = list(read_for_a_token(layer, self._weights, sizes.n_elements))
    self.n_read = sum(part * x.size for x, part in reads)
    self.bytes_read = sum(part * _bytes(x) for x, part in reads)

  def draw(self):
    """Draws the weights; returns the model itself."""
    self._weights = jax.tree.map(RandomArrays(), self._weights)
    return self

  def decoder(self, capacity, n_new, prompt_length=0):
    """A function that decodes and returns the seconds of a token.

    What is timed is the program that `generate` runs for the new tokens.
    """
    program = generation._program(
      self._model,
      config.fingerprint(),
      1,
      capacity,
      self._precision,
      _SOURCE_LENGTH,
    )
    sampling = Sampling(
      jnp.float32(0),
      jnp.int32(program.n_ids),
      jnp.float32(1),
      jnp.int32(program.n_ids),
    )
    request = generation._Request(
      sampling,
      jax.random.PRNGKey(0),
      jnp.int32(n_new),
      generation._stop_array(()),
    )
    tokens = np.zeros((1, 1 + capacity), np.int32)
    tokens[:, 1 : 1 + prompt_length] = 1
    lengths = np.array([prompt_length], np.int32)
    sources = 1 + np.arange(_SOURCE_LENGTH, dtype=np.int32)[None]
    weights = self._weights

    def seconds():
      decoding = program.start(weights, tokens, lengths, request, sources)
      decoding = jax.block_until_ready(program.read(weights, decoding))
      first = int(decoding.t)
      start = time.perf_counter()
      decoding = program.write(weights, decoding, request, capacity)
      n = int(decoding.t) - first
      return (time.perf_counter() - start) / n

    seconds()  # Compiles.
    return seconds

  def cache_bytes(self, n_new, prompt_length=0):
    """Bytes of keys and values that a new token needs, on average."""
    rows = prompt_length + (n_new + 1) / 2 + _SOURCE_LENGTH
    return 2 * self.sizes.n_layers * self.sizes.d_model * rows * _FLOAT


def _bytes(x):
  return x.size * x.dtype.itemsize


# The peer
# ------------------------------------------------------------------------------
def official_decoder(sizes, parts, capacity, n_timed):
  """The official model: a function that returns the seconds of a token."""
  attention = tl.CausalAttention
  if 'qkv' in parts:
    attention = P(
      tl.MultiplicativeConvCausalAttention,
      sparsity=sizes.n_modules,
      length_kernel_size=3,
    )
  ff_sparsity = (sizes.n_elements, sizes.d_lowrank_of(parts))
  layer = configurable_transformer.ConfigurableTransformer(
    sizes.vocab_size,
    d_model=sizes.d_model,
    d_ff=sizes.d_ff_of(parts),
    n_encoder_layers=sizes.n_encoder_layers,
    n_decoder_layers=sizes.n_layers,
    n_heads=sizes.n_heads,
    max_len=capacity,
    mode='predict',
    ff_sparsity=ff_sparsity if 'ff' in parts else 0,
    loss_sparsity=sizes.loss_modules if 'loss' in parts else 0,
    encoder_decoder_attention_type=P(attention, max_inference_length=capacity),
    enc_dec_attention_sparsity=sizes.n_modules if 'cross' in parts else 0,
  )
  sources = 1 + np.arange(_SOURCE_LENGTH, dtype=np.int32)[None]
  inputs = signature(sources), ShapeDtype((1, 1), np.int32)
  shapes, _ = jax.eval_shape(lambda: layer.init(inputs))
  state = jax.jit(lambda: layer.init(inputs)[1])()
  layer.weights = jax.tree.map(RandomArrays(), shapes)
  layer.state = state
  layer.rng = jax.random.PRNGKey(0)
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
  """Reads 256 MiB as decoding does: a vector times a matrix, on all cores."""

  def __init__(self):
    self._matrix = jnp.ones((1 << 14, 1 << 12), jnp.float32)
    self._vector = jnp.ones(1 << 12, jnp.float32)
    self._product = jax.jit(lambda x, y: y @ x)
    self()  # Compiles.

  def __call__(self):
    """Seconds to read a byte."""
    start = time.perf_counter()
    self._product(self._vector, self._matrix).block_until_ready()
    return (time.perf_counter() - start) / self._matrix.nbytes


@dataclasses.dataclass(frozen=True)
class Measured:
  """What a line of a table shows.

  Attributes:
    model: Ours.
    cache_bytes: What a token needs of the caches.
    seconds: Of a token.
    dense: Those of our dense model, or None.
    official: Those of the peer, or None.
    byte_seconds: Seconds to read a byte from memory.
  """

  model: OurModel
  cache_bytes: float
  seconds: float
  dense: float | None
  official: float | None
  byte_seconds: float


def print_header(title):
  print(
    f'{title:31}{"ms":>8}{"trax":>8}{"weights":>9}{"cache":>7}{"GB/s":>7}'
    f'{"floor":>7}{"x dense":>9}{"x trax":>8}{"spec":>8}{"paper":>7}'
  )


def print_line(title, measured, spec=None, paper=None):
  """Prints a line of the table; spec and paper may be None."""
  model, seconds = measured.model, measured.seconds
  n_bytes = model.bytes_read + measured.cache_bytes
  floor = n_bytes * measured.byte_seconds

  def optional(number, width, digits):
    return ' ' * width if number is None else f'{number:{width}.{digits}f}'

  def speed_over(other):
    return None if other is None else other / seconds

  def in_ms(time):
    return None if time is None else 1e3 * time

  print(
    f'{title:31}{1e3 * seconds:8.2f}{optional(in_ms(measured.official), 8, 1)}'
    f'{model.n_read / 1e6:9.1f}{measured.cache_bytes / 1e6:7.2f}'
    f'{n_bytes / seconds / 1e9:7.1f}{100 * floor / seconds:6.0f}%'
    f'{optional(speed_over(measured.dense), 9, 2)}'
    f'{optional(speed_over(measured.official), 8, 2)}'
    f'{optional(spec, 8, 1)}{optional(paper, 7, 2)}',
    flush=True,
  )


def in_turns(turns, rounds):
  """The medians of functions that return seconds: a dictionary as given."""
  return dict(zip(turns, medians(list(turns.values()), rounds), strict=True))


def medium(arguments):
  """Sizes of the model of the parts decode and capacity."""
  sizes = dataclasses.replace(MEDIUM, n_layers=arguments.layers)
  return shrink(sizes) if arguments.tiny else sizes


def decode(arguments):
  """Prints a line for each row of the paper's Table 1 and each capacity."""
  sizes, n_new = medium(arguments), arguments.n_new
  capacities = arguments.capacities
  print(
    f'decode: {sizes.n_encoder_layers} + {sizes.n_layers} layers, d_model '
    f'{sizes.d_model}, {n_new} new tokens, medians of {arguments.rounds} rounds'
    f'; trax: {arguments.official_tokens} tokens after {_WARM_TOKENS}'
  )
  print_header('row, capacity')
  published = sizes.n_layers == 24 and not arguments.tiny
  spec, paper = (SPEC, PAPER) if published else ({}, {})

  def make(name):
    return OurModel(name, ROWS[name], sizes, max(capacities)).draw()

  dense = make('dense')
  memory = MemoryRead()
  for name in arguments.rows:
    model = dense if name == 'dense' else make(name)
    turns = {'memory': memory}
    for capacity in capacities:
      turns['dense', capacity] = dense.decoder(capacity, n_new)
      if model is not dense:
        turns[name, capacity] = model.decoder(capacity, n_new)
      if arguments.peers == 'official':
        turns['trax', capacity] = official_decoder(
          sizes, ROWS[name], capacity, arguments.official_tokens
        )
    seconds = in_turns(turns, arguments.rounds)
    for capacity in capacities:
      measured = Measured(
        model,
        model.cache_bytes(n_new),
        seconds[name, capacity],
        seconds['dense', capacity],
        seconds.get(('trax', capacity)),
        seconds['memory'],
      )
      title = f'{name}, {capacity}'
      print_line(title, measured, spec.get(name), paper.get(name))
    del model, turns  # Before the next one is drawn.
  print_memory_speed(seconds['memory'])


def print_memory_speed(byte_seconds):
  print(f'memory: {1e-9 / byte_seconds:.1f} GB/s in the last rounds')


def capacity(arguments):
  """Prints lines of FF+QKV for capacities, and for a long prompt."""
  sizes, n_new, name = medium(arguments), arguments.n_new, 'FF+QKV'
  capacities, prompt = arguments.more_capacities, arguments.prompt
  model = OurModel(name, ROWS[name], sizes, max(capacities)).draw()
  print(f'capacity: the same, row {name}')
  print_header('capacity, prompt')
  # Of the peer a prompt changes nothing: it reads all of its caches.
  cases = [(n, 0) for n in capacities] + [(max(capacities), prompt)]
  turns = {'memory': MemoryRead()}
  for n, length in cases:
    turns[n, length] = model.decoder(n, n_new, length)
    if arguments.peers == 'official' and not length:
      turns['trax', n] = official_decoder(
        sizes, ROWS[name], n, arguments.official_tokens
      )
  seconds = in_turns(turns, arguments.rounds)
  for n, length in cases:
    measured = Measured(
      model,
      model.cache_bytes(n_new, length),
      seconds[n, length],
      None,
      seconds.get(('trax', n)) if not length else None,
      seconds['memory'],
    )
    print_line(f'{n}, {length}', measured)
  print_memory_speed(seconds['memory'])


# The published model of 17 billion weights
# ------------------------------------------------------------------------------
def big_model(name, n_layers, precision, arguments):
  """A row's model of so many layers, without weights."""
  sizes = dataclasses.replace(BIG, n_layers=n_layers)
  sizes = shrink(sizes) if arguments.tiny else sizes
  n_positions = arguments.capacities[0]
  return OurModel(name, BIG_ROWS[name], sizes, n_positions, precision)


def measure_alone(model, arguments):
  """Draws weights and measures them: a `Measured` without comparisons."""
  capacity, n_new = arguments.capacities[0], arguments.n_new
  # The weights are dropped as this returns, but for the decoder's.
  decoder = dataclasses.replace
  model.draw()
  decoder = model.decoder(capacity, n_new)
  seconds = in_turns(
    {'memory': MemoryRead(), 'ours': decoder}, arguments.rounds
  )
  model.drop()
  return Measured(
    model,
    model.cache_bytes(n_new),
    seconds['ours'],
    None,
    None,
    seconds['memory'],
  )
