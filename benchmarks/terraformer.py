"""Terraformer: memory by depth, training and decoding, against trax.

    python benchmarks/terraformer.py [--parts=memory,step,decode,attention]
        [--rounds=5] [--depths=2,4,8,16] [--trax_depths=2,4,8]
        [--sources=512,2048,4096] [--lengths=4096,8192]

* memory: temporary memory of the compiled gradient step of the whole model, by
  depth (encoder and decoder have this number of layers each); seconds to trace
  and compile the step and the model's initialization.
* step: seconds of a gradient step.
* decode: milliseconds per token after long sources, at batch 1, and seconds
  from the source to the first token.
* attention: a gradient step of one layer of causal attention.

Peer: ConfigurableTerraformer of trax 1.4.1 with layers of the same types and
sizes: SparseFF, SRU, multiplicative convolutional attention, full attention in
the encoder, learned positions, two attention layers in a decoder block, sparse
loss layer. Dense variants have no SparseFF, SRU, convolutions or sparse loss
layer. Models train with dropout 0.1 and the noise of SparseFF. Weights are
random. The entries of a table alternate in one process, after a round that
compiles them. Figures are medians.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import os
import platform
import shlex
import sys
import time
from unittest import mock

import jax
import numpy as np
from sparse_decode import (
  GradientStep,
  RandomArrays,
  cross_entropy,
  mean_square,
)
from timing import medians

from trax_hier.compat import ShapeDtype, signature, tl
from trax_hier.generation import generate, prepare
from trax_hier.layers import (
  Dense,
  EncoderAttention,
  FeedForward,
  LearnedPositions,
  LSHAttention,
  MultiplicativeDense,
  Relu,
  SelfAttention,
  SparseAttention,
  SparseFF,
  SRUBranch,
  reversible,
)
from trax_hier.layers.attention import dot_product
from trax_hier.models import Terraformer

# trax must be imported after the compatibility layer.
from trax.models.research import terraformer as official_terraformer  # isort: skip

P = functools.partial

_D_SRU = 32
_N_ATTENTIONS = 2  # In a decoder block.
_WARM_TOKENS = 3  # Tokens before the timed ones of a decoding round.
_CAPACITY = 64  # Of caches, in new tokens.
_N_BEAMS = 4


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of our model and of trax's."""

  d_model: int
  d_ff: int
  n_heads: int
  n_encoder_layers: int
  n_decoder_layers: int
  vocab_size: int
  n_positions: int
  n_elements: int = 64  # Units in a block of SparseFF.
  n_modules: int = 16
  loss_modules: int = 4

  @property
  def common(self):
    """Arguments with the same names in both models."""
    names = 'd_model', 'd_ff', 'n_heads', 'n_encoder_layers', 'n_decoder_layers'
    return {name: getattr(self, name) for name in names}


def our_model(sizes, dense=False):
  """The factory of our model."""
  layers = dict(
    attention=P(SparseAttention, n_modules=sizes.n_modules),
    feed_forward=P(SparseFF, n_elements_in_block=sizes.n_elements),
    recurrence=P(SRUBranch, d_sru=_D_SRU),
    logits=P(MultiplicativeDense, n_modules=sizes.loss_modules),
  )
  if dense:
    layers = dict(
      attention=SelfAttention,
      feed_forward=P(FeedForward, activation=Relu),
      recurrence=None,
      logits=Dense,
    )
  return P(
    Terraformer,
    sizes.vocab_size,
    n_decoder_attentions=_N_ATTENTIONS,
    encoder_attention=EncoderAttention,
    positions=P(LearnedPositions, sizes.n_positions),
    **sizes.common,
    **layers,
  )


def official_model(sizes, mode, dense=False, **attention_options):
  """The model of trax with the same sizes."""
  attention = P(
    tl.MultiplicativeConvCausalAttention,
    sparsity=sizes.n_modules,
    length_kernel_size=3,
    **attention_options,
  )
  options = dict(
    encoder_decoder_attention_type=attention,
    ff_sparsity=(sizes.n_elements, sizes.d_ff // sizes.n_elements),
    ff_use_sru=(1, _D_SRU),
    loss_sparsity_type='mult',
    loss_sparsity=sizes.loss_modules,
  )
  if dense:
    options = dict(encoder_decoder_attention_type=tl.CausalAttention)
  return official_terraformer.ConfigurableTerraformer(
    sizes.vocab_size,
    max_len=sizes.n_positions,
    mode=mode,
    n_decoder_attention_layers=_N_ATTENTIONS,
    encoder_attention_type=tl.Attention,
    pos_type=None,  # Learned positions.
    reversible_encoder=True,
    **sizes.common,
    **options,
  )


# Training
# ------------------------------------------------------------------------------
def loss(y, inputs):
  """Mean cross-entropy of the tokens; trax's models return (logits, tokens)."""
  logits = y[0] if isinstance(y, tuple) else y
  return cross_entropy(logits, inputs[1])


def gradient_step(layer, sizes, batch, source_length, length):
  """A `GradientStep` on random sources and tokens."""
  rng = np.random.default_rng(0)
  inputs = tuple(
    rng.integers(1, sizes.vocab_size, (batch, n), np.int32)
    for n in (source_length, length)
  )
  return GradientStep(layer, inputs, loss, 0)


def autodiff():
  """A context that disables the custom backward pass of reversible stacks."""
  return mock.patch.object(reversible, '_run', reversible._run.fun)


def memory(arguments):
  """Prints temporary memory and compilation by depth."""
  sizes = Sizes(
    d_model=128,
    d_ff=512,
    n_heads=4,
    n_encoder_layers=0,
    n_decoder_layers=0,
    vocab_size=512,
    n_positions=512,
  )
  shape = 2, 512, 128
  print(
    f'memory: d_model {sizes.d_model}, d_ff {sizes.d_ff}, batch {shape[0]} of '
    f'{shape[1]} source and {shape[2]} target tokens\n'
    'temp MB (compile s) by layers of encoder and of decoder; growth: deepest '
    'over shallowest\n'
    'weights and their gradients do not count; our memory grows only by the '
    'choices of SparseFF,\n'
    f'a byte per token for each of {sizes.d_ff // sizes.n_elements} blocks of '
    'units'
  )
  header = ''.join(f'{n:>16}' for n in arguments.depths)
  print(f'{"layers":22}{header}{"growth":>8}')

  def ours(sizes):
    return our_model(sizes)(mode='train')

  ends = min(arguments.depths), max(arguments.depths)
  rows = {
    'ours': (ours, contextlib.nullcontext, arguments.depths),
    'ours by autodiff': (ours, autodiff, ends),
    'trax': (
      P(official_model, mode='train'),
      contextlib.nullcontext,
      arguments.trax_depths,
    ),
  }
  for name, (model, context, depths) in rows.items():
    print(f'{name:22}', end='', flush=True)
    n_bytes = []
    for n in arguments.depths:
      cell = ''
      if n in depths:
        deep = dataclasses.replace(
          sizes, n_encoder_layers=n, n_decoder_layers=n
        )
        with context():
          start = time.perf_counter()
          step = gradient_step(model(deep), deep, *shape)
          seconds = time.perf_counter() - start - step()
        n_bytes.append(step.temporary)
        cell = f'{step.temporary / 1e6:.1f} ({seconds:.1f})'
      print(f'{cell:>16}', end='', flush=True)
    print(f'{n_bytes[-1] / n_bytes[0]:8.2f}', flush=True)


def step(arguments):
  """Prints seconds and temporary memory of a gradient step."""
  sizes = Sizes(
    d_model=256,
    d_ff=1024,
    n_heads=4,
    n_encoder_layers=4,
    n_decoder_layers=4,
    vocab_size=512,
    n_positions=512,
  )
  shape = 4, 512, 128
  print(
    f'step: {sizes.n_encoder_layers} + {sizes.n_decoder_layers} layers, '
    f'd_model {sizes.d_model}, d_ff {sizes.d_ff}, batch {shape[0]} of '
    f'{shape[1]} source and {shape[2]} target tokens, {arguments.rounds} '
    'rounds\n'
    f'{"":22}{"ours s":>9}{"trax s":>9}{"x trax":>8}{"ours MB":>9}'
    f'{"trax MB":>9}'
  )
  for name, dense in (('sparse', False), ('dense', True)):
    layers = (
      our_model(sizes, dense)(mode='train'),
      official_model(sizes, 'train', dense),
    )
    steps = [gradient_step(layer, sizes, *shape) for layer in layers]
    ours, trax = medians(steps, arguments.rounds)
    temporary = ''.join(f'{s.temporary / 1e6:9.1f}' for s in steps)
    print(
      f'{name:22}{ours:9.3f}{trax:9.3f}{trax / ours:8.2f}{temporary}',
      flush=True,
    )


def attention(arguments):
  """Prints seconds and temporary memory of one attention layer, by length."""
  sizes = dict(d_model=256, n_heads=4, mode='train')
  print(
    f'attention: d_model {sizes["d_model"]}, {sizes["n_heads"]} heads, batch '
    f'1, {arguments.rounds} rounds'
  )
  header = ''.join(f'{n:>9} s{"MB":>9}' for n in arguments.lengths)
  print(f'{"tokens":22}{header}')
  unchunked = P(mock.patch.object, dot_product, 'MAX_ROWS', 1 << 30)
  rows = {
    'exact': (SelfAttention, contextlib.nullcontext),
    'exact, unchunked': (SelfAttention, unchunked),
    'window 512': (P(SelfAttention, window=512), contextlib.nullcontext),
    'LSH': (P(LSHAttention, chunk_len=128, n_hashes=2), contextlib.nullcontext),
  }
  columns = []
  for n in arguments.lengths:
    x = np.random.default_rng(0).standard_normal((1, n, 256), np.float32)
    steps = []
    for layer, context in rows.values():
      with context():
        steps.append(GradientStep(layer(**sizes), x, mean_square, (0, 1)))
    seconds = medians(steps, arguments.rounds)
    columns.append(
      f'{t:11.2f}{s.temporary / 1e6:9.1f}'
      for t, s in zip(seconds, steps, strict=True)
    )
  for name, *cells in zip(rows, *columns, strict=True):
    print(f'{name:22}' + ''.join(cells), flush=True)


# Decoding
# ------------------------------------------------------------------------------
def first_inputs(source):
  """Signatures of a source and of one token."""
  return signature(source), ShapeDtype((1, 1), np.int32)


def random_weights(layer, inputs):
  """Random weights of a layer."""
  shapes, _ = jax.eval_shape(lambda: layer.init(inputs, jax.random.PRNGKey(0)))
  return jax.tree.map(RandomArrays(), shapes)


class OurDecoder:
  """Our `generate` on one source, greedy or by beam search."""

  def __init__(self, sizes, source, n_new):
    self._model = our_model(sizes)
    weights = random_weights(self._model(mode='eval'), first_inputs(source))
    self._weights = prepare(self._model, weights)
    self._source, self._n_new = source, n_new

  def _generate(self, n_tokens, **options):
    (new,) = generate(
      self._model,
      self._weights,
      [np.zeros(0, np.int32)],
      n_tokens,
      temperature=0.0,
      max_len=_CAPACITY,
      sources=self._source,
      **options,
    )
    assert len(new) == n_tokens

  def greedy(self):
    """Seconds to the first token and per later token."""
    stamps = []
    begin = time.perf_counter()
    self._generate(
      _WARM_TOKENS + self._n_new,
      on_tokens=lambda new: stamps.append((time.perf_counter(), len(new[0]))),
    )
    (first, _), *later = stamps
    # Callbacks get 1, then 1, 2, .. tokens.
    (start, _), *timed = later
    return first - begin, (timed[-1][0] - start) / sum(n for _, n in timed)

  def beams(self):
    """Seconds per token with several beams: a long run less a short one."""
    seconds = []
    lengths = _WARM_TOKENS, _WARM_TOKENS, _CAPACITY  # The first compiles.
    for n in lengths:
      start = time.perf_counter()
      self._generate(n, n_beams=_N_BEAMS)
      seconds.append(time.perf_counter() - start)
    return (seconds[2] - seconds[1]) / (lengths[2] - lengths[1])


class OfficialDecoder:
  """The model of trax in predict mode, greedy, one call per token."""

  def __init__(self, sizes, source, n_new):
    capacity = source.shape[1] + _CAPACITY
    layer = official_model(sizes, 'predict', max_inference_length=capacity)
    inputs = first_inputs(source)
    self._weights = random_weights(layer, inputs)
    self._rng = jax.random.PRNGKey(0)
    self._state = jax.jit(lambda: layer.init(inputs, self._rng)[1])()
    self._step = jax.jit(layer.pure_fn)
    self._source, self._n_new = source, n_new

  def __call__(self):
    """Seconds to the first token and per later token."""
    token, state = np.zeros((1, 1), np.int32), self._state
    stamps = [time.perf_counter()]
    for _ in range(_WARM_TOKENS + self._n_new):
      (logits, _), state = self._step(
        (self._source, token), self._weights, state, self._rng
      )
      token = np.argmax(np.asarray(logits), axis=-1).astype(np.int32)
      stamps.append(time.perf_counter())
    timed = stamps[_WARM_TOKENS:]
    return stamps[1] - stamps[0], (timed[-1] - timed[0]) / self._n_new


def decode(arguments):
  """Prints time per token, and to the first, by length of the source."""
  sizes = Sizes(
    d_model=512,
    d_ff=2048,
    n_heads=8,
    n_encoder_layers=1,
    n_decoder_layers=6,
    vocab_size=32000,
    n_positions=max(arguments.sources),
  )
  print(
    f'decode: {sizes.n_encoder_layers} + {sizes.n_decoder_layers} layers, '
    f'd_model {sizes.d_model}, d_ff {sizes.d_ff}, {sizes.vocab_size} ids, '
    f'{arguments.n_new} tokens after {_WARM_TOKENS}, {arguments.decode_rounds} '
    'rounds\n'
    'ms per token, and s to the first token; last column: ms per token with '
    f'{_N_BEAMS} beams, one round\n'
    f'{"source":22}{"ours ms":>9}{"trax ms":>9}{"x trax":>8}{"ours s":>9}'
    f'{"trax s":>9}{"x trax":>8}{"beams ms":>10}'
  )
  rng = np.random.default_rng(0)
  for n in arguments.sources:
    source = rng.integers(1, sizes.vocab_size, (1, n), np.int32)
    ours = OurDecoder(sizes, source, arguments.n_new)
    decoders = ours.greedy, OfficialDecoder(sizes, source, arguments.n_new)
    for decoder in decoders:
      decoder()  # Compiles.
    rounds = range(arguments.decode_rounds)
    seconds = np.median([[run() for run in decoders] for _ in rounds], axis=0)
    (first, token), (trax_first, trax_token) = seconds
    print(
      f'{n:<22}{1e3 * token:9.2f}{1e3 * trax_token:9.2f}'
      f'{trax_token / token:8.2f}{first:9.2f}{trax_first:9.2f}'
      f'{trax_first / first:8.2f}{1e3 * ours.beams():10.2f}',
      flush=True,
    )


BENCHMARKS = {
  'memory': memory,
  'step': step,
  'decode': decode,
  'attention': attention,
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
    default=','.join(BENCHMARKS),
    help=f'benchmarks to run, of {", ".join(BENCHMARKS)}',
  )
  add('--rounds', type=int, default=5, help='step and attention only')
  add('--depths', type=numbers, default='2,4,8,16', help='memory only')
  add('--trax_depths', type=numbers, default='2,4,8', help='memory only')
  add(
    '--sources',
    type=numbers,
    default='512,2048,4096',
    help='source lengths (decode only)',
  )
  add('--n_new', type=int, default=32, help='tokens that decode times')
  add('--decode_rounds', type=int, default=2)
  add('--lengths', type=numbers, default='4096,8192', help='attention only')
  arguments = parser.parse_args()
  print('$ python', shlex.join(sys.argv))
  print(
    f'python {platform.python_version()}, jax {jax.__version__}, trax '
    f'{importlib.metadata.version("trax")}, {os.cpu_count()} cores, '
    f'{jax.devices()[0].device_kind}',
    flush=True,
  )
  for name in arguments.parts:
    BENCHMARKS[name](arguments)


if __name__ == '__main__':
  main()
