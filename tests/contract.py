"""The table of toy models whose properties `test_contract.py` tests.

Add a row for each new model or variant. Weight trees are compared with a golden
file; after a deliberate change, rewrite it:

  python tests/contract.py --write-golden
"""

import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Callable

if __name__ == '__main__':
  import conftest  # noqa: F401

import jax
import jax.numpy as jnp
import numpy as np
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.models import (
  BlockRecurrentLM,
  BottomUpLM,
  HourglassLM,
  RetinaLM,
  ReversibleLM,
  ScalingTransformer,
  ScalingTransformerLM,
  Terraformer,
  TopDownLM,
  TransformerLM,
)
from trax_hier.training.step import apply_model

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'weights.json'
LENGTH = 13  # A multiple of no shorten factor or window.
N_POSITIONS = 24  # In models with learned positions.
P = functools.partial


@dataclasses.dataclass(frozen=True)
class Row:
  """A model at toy size.

  Attributes:
    model: Factory of the model, called with `mode` and sometimes `dropout`.
    idle: Number of weight arrays without a gradient. The bias of keys adds the
      same number to all scores of a query, and so does the bias of projected
      distances: the softmax cancels them. (With rotary positions the bias of
      keys matters.)
    thorough: Whether to decode with calls of many lengths.
    noisy: Whether training samples random numbers other than dropout.
    dominated: Whether the gradients of a small weight are most of the first
      gradient: fixed-base positions multiply weights by digits up to 14.
    slow: Whether CI omits the row because other rows cover its layers.
  """

  model: Callable
  idle: int
  thorough: bool = False
  noisy: bool = False
  dominated: bool = False
  slow: bool = False


def _transformer(**kwargs):
  return P(TransformerLM, n_layers=4, **{**toy.SIZES, **kwargs})


def _hourglass(hierarchy='2@3', **kwargs):
  return P(HourglassLM, hierarchy=hierarchy, **{**toy.SIZES, **kwargs})


def _dynamic(hierarchy='2@~2', **kwargs):
  """Without a limit to the number of segments, which depends on the length."""
  parts = {name: kwargs.pop(name) for name in _PARTS if name in kwargs}
  stack = P(hl.DynamicStack, capacity=9, **parts)
  return _hourglass(hierarchy, dynamic=stack, **kwargs)


def _block_recurrent(**kwargs):
  # Without memory between calls, which tests/models/test_block_recurrent.py
  # tests.
  sizes = dict(toy.SIZES, n_layers=4, recurrent_layers=(3,), carry=False)
  return P(BlockRecurrentLM, attention=_SLIDING, **{**sizes, **kwargs})


def _top_down(**kwargs):
  sizes = dict(toy.SIZES, scales=(1, 2, 6), n_layers=(1, 2, 1))
  return P(TopDownLM, **{**sizes, **kwargs})


def _bottom_up(**kwargs):
  sizes = dict(toy.SIZES, scales=(1, 2, 4), n_layers=(0, 1, 1), n_post=1)
  return P(BottomUpLM, **{**sizes, **kwargs})


def _retina(**kwargs):
  # Windows are so short that tokens attend to every scale.
  sizes = dict(toy.SIZES, scales=(1, 2), window=2, n_layers=2)
  return P(RetinaLM, **{**sizes, **kwargs})


def _scaling(**kwargs):
  return P(ScalingTransformerLM, n_layers=4, **{**_SPARSE, **kwargs})


def _with_sources(model=ScalingTransformer, **kwargs):
  """A model that decodes from the same sources in every batch."""

  sizes = {'n_encoder_layers': 2, 'n_decoder_layers': 2, **_SPARSE, **kwargs}

  def factory(mode, **changes):
    arguments = {**sizes, **changes}
    arguments['max_len'] += 7  # Sources may occupy rows of the same caches.
    layer = model(mode=mode, **arguments)
    sources = toy.tokens(7, seed=1)
    sources[1, 4:] = 0  # Padding.
    return tl.Serial(tl.Fn('Sources', lambda x: (sources, x), n_out=2), layer)

  factory.with_inputs = P(model, **sizes)  # Takes its sources as an input.
  return factory


def _terraformer(**kwargs):
  return _with_sources(Terraformer, **kwargs)


# Without noise in training; tests/layers/sparse/test_sparse_ff.py tests noise.
_SPARSE_FF = P(
  hl.SparseFF, n_elements_in_block=2, temperature=0.0, quant_prob=1.0
)
_SPARSE = dict(
  toy.SIZES,
  attention=P(hl.SparseAttention, n_modules=4),
  feed_forward=_SPARSE_FF,
  positions=P(hl.LearnedPositions, N_POSITIONS),
)
_SRU = P(hl.SRUBranch, d_sru=4)
_SLIDING = P(hl.SlidingAttention, window=4)
_MEMORIZING = P(
  hl.MemorizingAttention, window=4, memory=6, n_neighbors=3, segment=3
)
_CELL = P(hl.BlockRecurrentCell, window=4, n_states=3)
_WINDOWED = P(hl.DecoderBlock, attention=P(hl.SelfAttention, window=4))
_ALTERNATING = P(
  hl.DecoderBlock, attention=(P(hl.SelfAttention, window=4), hl.SelfAttention)
)
_TOKEN_OFFSETS = P(hl.AttentionUpsample, token_offsets=True)
_LINEAR = dict(shorten=hl.LinearShorten, upsample=hl.LinearUpsample)
_PARTS = 'boundaries', 'shorten', 'upsample'
_PLAIN = dict(shorten=hl.AverageShorten, upsample=hl.RepeatUpsample)

ROWS = {
  'transformer': Row(_transformer(), idle=2, thorough=True),
  'transformer rotary': Row(
    _transformer(positions=hl.RotaryPositions), idle=0, slow=True
  ),
  'transformer t5': Row(
    _transformer(positions=hl.T5Positions), idle=1, slow=True
  ),
  'transformer no positions': Row(
    _transformer(positions=hl.NoPositions), idle=1, slow=True
  ),
  'transformer windowed': Row(
    _transformer(block=_WINDOWED), idle=2, thorough=True
  ),
  'transformer windowed rotary': Row(
    _transformer(block=_WINDOWED, positions=hl.RotaryPositions),
    idle=0,
    slow=True,
  ),
  'transformer alternating, tied': Row(
    _transformer(block=_ALTERNATING, logits=hl.TiedLogits), idle=4
  ),
  'hourglass own positions, remat': Row(
    _hourglass(
      vanilla_block=P(_ALTERNATING, own_positions=hl.NoPositions),
      vanilla_layers=(2, 0),
      remat=True,
    ),
    idle=8,
    slow=True,
  ),
  'transformer remat': Row(_transformer(remat=True), idle=2, slow=True),
  'hourglass': Row(_hourglass(), idle=10, thorough=True),
  'hourglass linear pool, repeat': Row(
    _hourglass(
      shorten=P(hl.AttentionShorten, pool=hl.LinearShorten),
      upsample=P(hl.AttentionUpsample, expand=hl.RepeatUpsample),
    ),
    idle=10,
    slow=True,
  ),
  # One more idle array: the scale of a LayerNorm of zeros.
  'hourglass zero': Row(
    _hourglass(upsample=P(hl.AttentionUpsample, expand=hl.ZeroUpsample)),
    idle=11,
    slow=True,
  ),
  'hourglass linear': Row(_hourglass(**_LINEAR), idle=6, slow=True),
  'hourglass average, repeat': Row(_hourglass(**_PLAIN), idle=6, slow=True),
  'hourglass two levels': Row(_hourglass('1@2 1@6 1@2'), idle=18, slow=True),
  'hourglass three levels': Row(
    _hourglass(
      '1@2 1@4 1@8 1@4 1@2', shorten=hl.AverageShorten, upsample=_TOKEN_OFFSETS
    ),
    idle=20,
    slow=True,
  ),
  'hourglass rotary': Row(
    _hourglass(positions=hl.RotaryPositions, upsample=_TOKEN_OFFSETS),
    idle=0,
    slow=True,
  ),
  'hourglass t5': Row(_hourglass(positions=hl.T5Positions), idle=5, slow=True),
  'hourglass k=1': Row(_hourglass('2@1'), idle=10, slow=True),
  'hourglass asymmetric': Row(
    _hourglass('1@4', vanilla_layers=(0, 2)), idle=8, slow=True
  ),
  'hourglass factor dropout': Row(
    _hourglass(shorten_factor_dropout=(2, 3), **_PLAIN),
    idle=6,
    noisy=True,
    slow=True,
  ),
  'hourglass windowed, remat': Row(
    _hourglass(vanilla_block=_WINDOWED, remat=True), idle=10, slow=True
  ),
  'hourglass dynamic': Row(_dynamic(), idle=6, thorough=True),
  'hourglass dynamic mean': Row(
    _dynamic(
      boundaries=hl.FixedBoundaries,
      shorten=hl.SegmentMean,
      upsample=hl.PreviousSegment,
    ),
    idle=6,
    slow=True,
  ),
  'hourglass dynamic words, wider': Row(
    _dynamic(
      boundaries=hl.WordRule,
      shorten=P(hl.TakeFirst, projection=True),
      upsample=P(hl.PositionLinear, n_positions=2),
      dynamic_d_model=(24,),
      dynamic_d_ff=(40,),
      dynamic_n_heads=(3,),
    ),
    idle=6,
    slow=True,
  ),
  'hourglass dynamic bytes, rotary': Row(
    _dynamic(
      boundaries=hl.ByteRule,
      upsample=hl.AtBoundaries,
      positions=hl.RotaryPositions,
    ),
    idle=0,
    slow=True,
  ),
  'hourglass dynamic two levels, remat': Row(
    _dynamic(
      '1@~2 2@~4 1@~2',
      vanilla_block=_WINDOWED,
      shortened_block=_WINDOWED,
      positions=hl.RotaryPositions,
      dynamic_positions='tokens',
      remat=True,
    ),
    idle=0,
    slow=True,
  ),
  'hourglass dynamic around fixed': Row(
    _hourglass(
      '1@~2 1@4 1@~2', dynamic=P(hl.DynamicStack, capacity=9), **_LINEAR
    ),
    idle=10,
    slow=True,
  ),
  'hourglass fixed around dynamic': Row(
    _dynamic('1@2 1@~4 1@2'), idle=18, slow=True
  ),
  'hourglass dynamic block-recurrent, sparse': Row(
    _dynamic(
      shortened_block=P(
        hl.DecoderBlock,
        attention=P(hl.BlockRecurrentCell, window=3, n_states=3),
        feed_forward=_SPARSE_FF,
      ),
    ),
    idle=5,
    slow=True,
  ),
  'slide': Row(_block_recurrent(recurrent_layers=()), idle=0, slow=True),
  'memorizing': Row(
    _block_recurrent(recurrent_attention=_MEMORIZING),
    idle=0,
    thorough=True,
    slow=True,
  ),
  'hourglass memorizing': Row(
    _hourglass(
      '2@2', shortened_block=P(hl.DecoderBlock, attention=_MEMORIZING)
    ),
    idle=9,
    slow=True,
  ),
  'slide, dense logits': Row(
    _block_recurrent(recurrent_layers=(), logits=hl.Dense), idle=0, slow=True
  ),
  'block-recurrent': Row(
    _block_recurrent(recurrent_attention=_CELL), idle=0, thorough=True
  ),
  'block-recurrent lstm dual, remat': Row(
    _block_recurrent(
      recurrent_attention=P(_CELL, gate=hl.LSTMGate, configuration='dual'),
      remat=True,
    ),
    idle=0,
    slow=True,
  ),
  # Not ReLU, which could leave units of the recurrent layer without a gradient.
  'block-recurrent feedback': Row(
    _block_recurrent(
      feedback=P(hl.FeedbackStack, window=4, n_states=3),
      feed_forward=hl.FeedForward,
    ),
    idle=0,
    slow=True,
  ),
  'hourglass block-recurrent': Row(
    _hourglass(
      '2@2',
      shortened_block=P(
        hl.DecoderBlock,
        attention=P(hl.BlockRecurrentCell, window=3, n_states=3),
      ),
    ),
    idle=9,
    slow=True,
  ),
  'hourglass block-recurrent, sparse': Row(
    _hourglass(
      '2@2',
      vanilla_block=P(hl.DecoderBlock, feed_forward=_SPARSE_FF),
      shortened_block=P(
        hl.DecoderBlock,
        attention=P(hl.BlockRecurrentCell, window=3, n_states=3),
        feed_forward=_SPARSE_FF,
      ),
    ),
    idle=9,
    slow=True,
  ),
  'hourglass alternating, tied': Row(
    _hourglass(
      '4@2',
      vanilla_layers=(0, 2),
      vanilla_block=_ALTERNATING,
      shortened_block=_ALTERNATING,
      logits=hl.TiedLogits,
    ),
    idle=12,
    slow=True,
  ),
  'hourglass recurrence': Row(
    _hourglass(
      vanilla_block=P(hl.DecoderBlock, feed_forward=_SRU),
      shortened_block=P(hl.DecoderBlock, attention=_SRU),
      **_PLAIN,
    ),
    idle=4,
    slow=True,
  ),
  'top-down': Row(_top_down(), idle=6, thorough=True, slow=True),
  'top-down linear, sum, learned': Row(
    _top_down(
      scales=(1, 2),
      n_layers=(1, 2),
      shorten=hl.LinearShorten,
      inject=hl.Sum,
      positions=P(hl.LearnedPositions, N_POSITIONS),
    ),
    idle=2,
    slow=True,
  ),
  'top-down attention, rotary': Row(
    _top_down(shorten=hl.AttentionShorten, positions=hl.RotaryPositions),
    idle=0,
    slow=True,
  ),
  'top-down, one for each scale, tied': Row(
    _top_down(
      shorten=(hl.AverageShorten, hl.LinearShorten),
      dropout=(0.0, 0.2, 0.1),
      logits=hl.TiedLogits,
    ),
    idle=6,
    slow=True,
  ),
  'bottom-up': Row(_bottom_up(), idle=7, thorough=True, slow=True),
  'bottom-up concatenated, t5': Row(
    _bottom_up(aggregate=hl.ConcatAggregation, positions=hl.T5Positions),
    idle=3,
    slow=True,
  ),
  'bottom-up rotary': Row(
    _bottom_up(n_layers=(1, 1, 1), positions=hl.RotaryPositions),
    idle=0,
    slow=True,
  ),
  'bottom-up, one for each scale, tied': Row(
    _bottom_up(
      shorten=(hl.AttentionShorten, hl.LinearShorten),
      logits=hl.TiedLogits,
    ),
    idle=9,
    slow=True,
  ),
  'retina': Row(_retina(), idle=1, thorough=True),
  'retina linear, rotary': Row(
    _retina(pool=hl.LinearShorten, positions=hl.RotaryPositions),
    idle=0,
    slow=True,
  ),
  'retina sparse, tied': Row(
    _retina(
      block=P(hl.DecoderBlock, feed_forward=_SPARSE_FF), logits=hl.TiedLogits
    ),
    idle=1,
    slow=True,
  ),
  'scaling': Row(_scaling(), idle=1, thorough=True, slow=True),
  'scaling recurrence, fixed-base': Row(
    _scaling(
      attention=(P(hl.SparseAttention, n_modules=4), hl.SelfAttention),
      recurrence=_SRU,
      norm=hl.RMSNorm,
      positions=hl.FixedBasePositions,
    ),
    idle=2,
    noisy=True,
    dominated=True,
    slow=True,
  ),
  'scaling recurrence, sources': Row(
    _with_sources(
      attention=(P(hl.SparseAttention, n_modules=4), hl.SelfAttention),
      # Choices of SparseFF may differ in bfloat16.
      feed_forward=hl.FeedForward,
      recurrence=_SRU,
      norm=hl.RMSNorm,
      logits=hl.TiedLogits,
    ),
    idle=5,
    slow=True,
  ),
  'scaling, all sparse, sources': Row(
    _with_sources(
      cross_attention=P(hl.SparseCrossAttention, n_modules=2),
      # A convolution, so that the last layer reads earlier positions, too.
      logits=P(hl.SparseDense, n_modules=1),
    ),
    idle=3,
    slow=True,
  ),
  'scaling dense, sources': Row(
    _with_sources(
      attention=hl.SelfAttention,
      feed_forward=hl.FeedForward,
    ),
    idle=3,
    slow=True,
  ),
  'terraformer': Row(
    _terraformer(
      recurrence=P(hl.SRUBranch, d_sru=4, n_layers=2),
      logits=P(hl.SparseDense, n_modules=1),
    ),
    idle=3,
    slow=True,
  ),
  'terraformer dense, rotary': Row(
    _terraformer(
      attention=hl.SelfAttention,
      feed_forward=hl.FeedForward,
      recurrence=None,
      n_decoder_attentions=1,
      positions=hl.RotaryPositions,
    ),
    idle=1,
    slow=True,
  ),
  'terraformer not reversible, fixed-base': Row(
    _terraformer(
      attention=(hl.SelfAttention, P(hl.SparseAttention, n_modules=4)),
      feed_forward=hl.FeedForward,
      recurrence=_SRU,
      norm=hl.RMSNorm,
      reversible_encoder=False,
      positions=hl.FixedBasePositions,
      logits=hl.TiedLogits,
    ),
    idle=5,
    noisy=True,
    dominated=True,
    slow=True,
  ),
  'terraformer windowed': Row(
    _terraformer(attention=P(hl.SelfAttention, window=4)), idle=3, slow=True
  ),
  'terraformer, all convolutions': Row(
    _terraformer(
      attention=P(
        hl.SparseAttention,
        n_modules=4,
        share_qk=True,
        v_concat=True,
        output=hl.SparseDense,
      ),
    ),
    idle=1,
    slow=True,
  ),
  'terraformer, recurrences alone': Row(
    # d_ff is the default, as no layer takes it.
    _terraformer(attention=_SRU, feed_forward=_SRU, d_ff=6144),
    idle=1,
    slow=True,
  ),
  'reversible': Row(
    P(ReversibleLM, n_layers=3, **{**_SPARSE, 'recurrence': hl.SRUBranch}),
    idle=1,
    slow=True,
  ),
  'reversible alternating, tied': Row(
    P(
      ReversibleLM,
      n_layers=4,
      **{
        **_SPARSE,
        'attention': (P(hl.SparseAttention, n_modules=4), hl.SelfAttention),
        'norm': hl.RMSNorm,
        'logits': hl.TiedLogits,
      },
    ),
    idle=2,
    slow=True,
  ),
  'reversible, recurrences alone': Row(
    P(
      ReversibleLM,
      n_layers=3,
      attention=_SRU,
      feed_forward=_SRU,
      **{n: toy.SIZES[n] for n in ('vocab_size', 'd_model', 'max_len')},
      positions=P(hl.LearnedPositions, N_POSITIONS),
    ),
    idle=0,
    slow=True,
  ),
}


class Subject:
  """A model in the table, and its programs, each compiled at its first use."""

  def __init__(self, name):
    self.row = ROWS[name]
    self.tokens = toy.tokens(LENGTH)
    self.model = self.row.model(mode='eval')
    self.shapes, state = toy.shapes(self.model, self.tokens)
    self.state = toy.zeros_like(state)
    self.weights = toy.random_like(self.shapes)
    self.n_compiled = 0

  @functools.cached_property
  def eval(self):
    """(weights, tokens) -> logits, in eval mode."""

    @jax.jit
    def logits(weights, x):
      self.n_compiled += 1
      return self.model.pure_fn(x, weights, self.state, toy.KEY)[0]

    return logits

  @functools.cached_property
  def logits(self):
    """Logits of `tokens` in eval mode."""
    return np.asarray(self.eval(self.weights, self.tokens))

  @functools.cached_property
  def eval_documents(self):
    """(weights, tokens, ids of documents) -> logits, in eval mode."""

    @jax.jit
    def logits(weights, x, ids):
      batch = {'inputs': x, 'documents': ids}
      return apply_model(
        self.model, weights, self.state, batch, toy.KEY, jnp.float32
      )[0]

    return logits

  def train(self, dropout):
    """(weights, rng) -> logits, in train mode with a rate of dropout."""
    model = self.row.model(mode='train', dropout=dropout)

    def logits(weights, rng):
      return model.pure_fn(self.tokens, weights, self.state, rng)[0]

    return logits

  @functools.cached_property
  def train_and_gradients(self):
    """(weights, rng) -> logits and gradients, in train mode, no dropout."""
    train = self.train(0.0)

    def loss(weights, rng):
      logits = train(weights, rng)
      losses = jax.nn.log_softmax(logits)[..., ::2].sum(-1)
      return jnp.mean(losses), logits

    return jax.jit(jax.grad(loss, has_aux=True))

  @functools.cached_property
  def predict(self):
    """Decoding: initial state, and a step: tokens, state -> logits, state."""
    model = self.row.model(mode='predict')
    first = toy.signature(self.tokens[:, :1])
    state = jax.jit(lambda: model.init(first, toy.KEY)[1])()
    step = jax.jit(
      lambda x, state: model.pure_fn(x, self.weights, state, toy.KEY)
    )
    return state, step

  def decode(self, lengths):
    """Logits of `tokens`, decoded in calls of these lengths."""
    state, step = self.predict
    inputs = np.pad(self.tokens, [(0, 0), (1, 0)])[:, :LENGTH]
    outputs, start = [], 0
    for n in lengths:
      y, state = step(inputs[:, start : start + n], state)
      outputs.append(y)
      start += n
    return np.concatenate(outputs, axis=1)


@functools.cache
def subject(name):
  """The `Subject` of a row of the table, one per process."""
  return Subject(name)


def record(shapes):
  """A tree of shapes as the JSON object in the golden file."""
  leaves = jax.tree_util.tree_leaves_with_path(shapes)
  return {
    'n_weights': sum(s.size for _, s in leaves),
    'weights': {
      jax.tree_util.keystr(path): f'{s.dtype}{list(s.shape)}'
      for path, s in leaves
    },
  }


def main():
  """Writes the golden file: the weight trees of all rows."""
  golden = {name: record(Subject(name).shapes) for name in ROWS}
  GOLDEN.parent.mkdir(exist_ok=True)
  GOLDEN.write_text(json.dumps(golden, indent=1) + '\n')


if __name__ == '__main__':
  if sys.argv[1:] != ['--write-golden']:
    sys.exit(__doc__)
  main()
