"""Multi-scale models: which tokens a token depends on, sizes, cost."""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import ShapeDtype, base, tl
from trax_hier.layers.hierarchy import attend_to_scales, scales
from trax_hier.models import (
  BottomUpLM,
  HourglassLM,
  RetinaLM,
  TopDownLM,
  TransformerLM,
)

P = functools.partial
slow = pytest.mark.slow
FINE, COARSE, UNEQUAL = (1, 4), (1, 4, 16), (1, 2, 6)
LENGTH = 48
CONCAT = dict(aggregate=hl.ConcatAggregation)


class Record(base.Layer):
  """The identity, which keeps its input as state."""

  def init_weights_and_state(self, input_signature):
    self.state = jnp.zeros(input_signature.shape)

  def forward(self, x):
    self.state = x
    return x


@functools.wraps(hl.DecoderBlock)
def recorded_block(**dimensions):
  return tl.Serial(hl.DecoderBlock(**dimensions), Record())


def toy_model(model, **kwargs):
  sizes = {**toy.SIZES, 'mode': 'eval', **kwargs}
  if not np.any(sizes.get('n_layers', 1)) or isinstance(sizes.get('block'), P):
    # Sizes that no layer takes are refused.
    sizes = {k: v for k, v in sizes.items() if k not in ('d_ff', 'n_heads')}
  return model(**sizes)


# Dependencies
# ------------------------------------------------------------------------------
def evaluate(layer, length):
  """Random weights, tokens, and compiled tokens -> logits, recorded arrays."""
  x = toy.tokens(length)
  weights, state = toy.make(layer, x)

  @jax.jit
  def run(x):
    logits, new = layer.pure_fn(x, weights, state, toy.KEY)
    return logits, [s[0] for s in toy.states_of(layer, new, Record)]

  return weights, x, run


CASES = {
  'top-down two': (TopDownLM, dict(scales=FINE, n_layers=(1, 1))),
  'top-down': (TopDownLM, dict(scales=COARSE, n_layers=(1, 1, 1))),
  'top-down unequal': (
    TopDownLM,
    dict(
      scales=UNEQUAL,
      n_layers=(1, 1, 1),
      inject=hl.Sum,
      shorten=hl.LinearShorten,
    ),
  ),
  'bottom-up two': (BottomUpLM, dict(scales=FINE, n_layers=(0, 1), n_post=0)),
  'bottom-up': (BottomUpLM, dict(scales=COARSE, n_layers=(0, 1, 1), n_post=1)),
  'bottom-up unequal': (
    BottomUpLM,
    dict(scales=UNEQUAL, n_layers=(1, 1, 1), n_post=0, **CONCAT),
  ),
  'retina two': (RetinaLM, dict(scales=FINE, window=4, n_layers=1)),
  'retina': (RetinaLM, dict(scales=COARSE, window=16, n_layers=2)),
  'retina unequal': (
    RetinaLM,
    dict(scales=UNEQUAL, window=6, n_layers=1, pool=hl.LinearShorten),
  ),
}


@pytest.mark.parametrize(
  'name',
  [
    # The slowest; CI runs the other eight.
    pytest.param(name, marks=[pytest.mark.slow] * (name == 'bottom-up'))
    for name in CASES
  ],
)
def test_logits_depend_on_all_earlier_tokens_and_no_others(name):
  model, arguments = CASES[name]
  arguments = dict(arguments)
  if model is not RetinaLM:
    arguments['coarse_block'] = recorded_block
  layer = toy_model(model, **arguments)
  _, *program = evaluate(layer, LENGTH)
  seen, recorded = toy.dependencies(*program)
  assert toy.leaks(seen) == [] and toy.gaps(seen) == []

  # Token j is row j + 1 of the shifted sequence: rows from its block on change.
  n_coarse = 0 if model is RetinaLM else len(arguments['scales']) - 1
  assert len(recorded) == n_coarse
  for moved in recorded:
    scale = LENGTH // len(moved)
    assert scale in arguments['scales'][1:]
    rows, tokens = np.indices(moved.shape)
    np.testing.assert_array_equal(moved, rows >= (tokens + 1) // scale)


def test_without_layers_a_token_sees_itself_and_the_newest_blocks():
  length = 24
  layer = toy_model(TopDownLM, scales=UNEQUAL, n_layers=(0, 0, 0))
  _, *program = evaluate(layer, length)
  seen, _ = toy.dependencies(*program)
  for i in range(length):
    two = (i + 1) // 2  # Complete blocks of 2; the token sees the newest.
    six = two // 3  # Blocks of 6 that are complete where that block ends.
    rows = {i, *range(2 * two - 2, 2 * two), *range(6 * six - 6, 6 * six)}
    # Row 0 of the shifted sequence is no token.
    assert set(np.flatnonzero(seen[i])) == {row - 1 for row in rows if row > 0}


LEAKY = {
  'latest, sum': (TopDownLM, dict(n_layers=(0, 0), inject=hl.Sum)),
  'latest, concat': (TopDownLM, dict(n_layers=(0, 0))),
  'aggregation': (BottomUpLM, dict(n_layers=(0, 0), n_post=0)),
  'concat aggregation': (BottomUpLM, dict(n_layers=(0, 0), n_post=0, **CONCAT)),
  'retina': (RetinaLM, dict(window=4, n_layers=1)),
}


def pairs_of_own_block(length, scale):
  """Pairs (i, j), j >= i, that leak if a token sees a block in progress."""
  return [
    (i, j)
    for i in range(length)
    for j in range(i, length)
    if (j + 1) // scale == i // scale
  ]


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=slow) if name == 'latest, sum' else name
    for name in LEAKY
  ],
)
def test_blocks_in_progress_leak(name, monkeypatch):
  """Perturbation detects a block that is seen one row too early."""
  model, arguments = LEAKY[name]
  length = 16

  def found():
    layer = toy_model(model, scales=FINE, **arguments)
    _, *program = evaluate(layer, length)
    return toy.leaks(toy.dependencies(*program)[0])

  if name == 'retina':
    # All scales begin at the window of the query, where blocks in progress are
    # hidden only by `n_complete`.
    monkeypatch.setattr(
      attend_to_scales.AttendToScales, '_begin', lambda self, j: 0
    )
  assert found() == []

  def begun(t, scale):
    return t // scale + 1

  monkeypatch.setattr(scales, 'n_complete', begun)
  monkeypatch.setattr(attend_to_scales, 'n_complete', begun)
  leaking = pairs_of_own_block(length, 4)
  assert len(leaking) == 24
  assert found() == leaking


def test_a_retina_that_forgets_a_window_has_gaps(monkeypatch):
  begin = attend_to_scales.AttendToScales._begin
  monkeypatch.setattr(
    attend_to_scales.AttendToScales,
    '_begin',
    lambda self, j: begin(self, j) + (j > 0),
  )
  layer = toy_model(RetinaLM, scales=FINE, window=4, n_layers=1)
  _, *program = evaluate(layer, 16)
  seen, _ = toy.dependencies(*program)
  assert toy.leaks(seen) == []
  # Two windows back, in shifted tokens.
  assert toy.gaps(seen) == [
    (i, j) for i in range(16) for j in range(i) if i // 4 - (j + 1) // 4 == 2
  ]


# Decoding
# ------------------------------------------------------------------------------
def counted_block(log):
  """A factory of blocks that log their stride and number of rows when run."""

  @functools.wraps(hl.DecoderBlock)
  def block(stride, **dimensions):
    def count(x):
      jax.debug.callback(lambda: log.append((stride, x.shape[1])))
      return x

    return tl.Serial(
      tl.Fn('Count', count), hl.DecoderBlock(stride=stride, **dimensions)
    )

  return block


def decode(layer, lengths):
  """Yields the state before and after each call."""
  weights, state = toy.make(layer, toy.tokens(1))
  x = toy.tokens(sum(lengths))
  step = jax.jit(layer.pure_fn)
  for part in np.split(x, np.cumsum(lengths)[:-1], axis=1):
    old = state
    _, state = step(part, weights, state, toy.KEY)
    jax.block_until_ready(state)
    jax.effects_barrier()
    yield old, state


@pytest.mark.parametrize(
  'model, arguments',
  [
    (TopDownLM, dict(n_layers=(1, 1, 1))),
    pytest.param(
      BottomUpLM, dict(n_layers=(0, 1, 1), n_post=1, **CONCAT), marks=slow
    ),
    pytest.param(BottomUpLM, dict(n_layers=(1, 2, 1), n_post=1), marks=slow),
  ],
)
def test_coarse_layers_run_once_per_block_when_decoding(model, arguments):
  log = []
  block = counted_block(log)
  layer = toy_model(
    model,
    scales=UNEQUAL,
    block=block,
    coarse_block=block,
    mode='predict',
    max_len=24,
    positions=hl.NoPositions,
    **arguments,
  )
  n_fine, *n_layers = arguments['n_layers']
  n_fine += arguments.get('n_post', 0)
  lengths = [7] + [1] * 17  # The prompt ends inside blocks.
  t = 0
  for length, (old, new) in zip(lengths, decode(layer, lengths), strict=True):
    rows = collections.Counter()
    for stride, n in log:
      rows[stride] += n
    log.clear()
    assert rows.pop(1) == length * n_fine
    ended = {s: (t + length) // s - t // s for s in UNEQUAL[1:]}
    expected = {s: n * ended[s] for s, n in zip(ended, n_layers, strict=True)}
    assert rows == {s: n for s, n in expected.items() if n}

    before, after = (
      [inner for inner, _ in toy.states_of(layer, state, scales.Coarse)]
      for state in (old, new)
    )
    assert len(after) == 2
    for n, a, b in zip(ended.values(), before, after, strict=True):
      same = jax.tree.map(lambda x, y: (x == y).all(), a, b)
      assert all(jax.tree.leaves(same)) == (n == 0)
    t += length


def test_layer_steps_per_token_of_the_30_layer_model():
  log = []
  block = counted_block(log)
  n_layers = 8, 10, 12
  layer = toy_model(
    TopDownLM,
    scales=COARSE,
    n_layers=n_layers,
    block=block,
    coarse_block=block,
    positions=hl.NoPositions,
    mode='predict',
  )
  for _ in decode(layer, [1] * 16):
    pass
  assert collections.Counter(log) == {(1, 1): 128, (4, 1): 40, (16, 1): 12}
  assert len(log) / 16 == 8 + 10 / 4 + 12 / 16 == 11.25 < 14


# Sizes
# ------------------------------------------------------------------------------
V, D, F = 17, 24, 40


def n_parameters(model, **arguments):
  layer = model(
    V, d_model=D, d_ff=F, n_heads=2, positions=hl.NoPositions, **arguments
  )
  weights, _ = toy.shapes(layer, toy.tokens(13))
  return sum(math.prod(w.shape) for w in jax.tree.leaves(weights))


BLOCK = 4 * D**2 + 2 * D * F + 9 * D + F
ENDS = V * D + 2 * D + D * V + V  # Embedding, last norm, logits.


@pytest.mark.parametrize(
  'sizes, n_layers',
  [
    (UNEQUAL, (1, 2, 3)),
    pytest.param(COARSE, (0, 1, 2), marks=slow),
    pytest.param((1, 4), (2, 0), marks=slow),
  ],
  ids=str,
)
def test_number_of_parameters(sizes, n_layers):
  k = len(sizes) - 1
  common = dict(scales=sizes, n_layers=n_layers)
  blocks = sum(n_layers) * BLOCK + ENDS
  nulls, concat = k * D, 2 * D**2 + D
  strided = sum(sizes[j + 1] // sizes[j] * D**2 + D for j in range(k))

  assert n_parameters(TopDownLM, **common) == blocks + nulls + k * concat
  common |= dict(inject=hl.Sum)
  assert n_parameters(TopDownLM, **common) == blocks + nulls
  common |= dict(shorten=hl.LinearShorten)
  assert n_parameters(TopDownLM, **common) == blocks + nulls + strided

  common.pop('inject')
  common |= dict(n_post=2)
  blocks += 2 * BLOCK + strided
  aggregation = BLOCK + (k + 1) * D
  assert n_parameters(BottomUpLM, **common) == blocks + aggregation
  aggregation = (k + 1) * D**2 + D + nulls
  common |= dict(shorten=hl.AverageShorten)
  expected = blocks - strided + aggregation
  assert n_parameters(BottomUpLM, **common, **CONCAT) == expected


@pytest.mark.parametrize('model', [TopDownLM, BottomUpLM])
def test_number_of_parameters_of_one_scale(model):
  more = dict(n_post=2) if model is BottomUpLM else {}
  n_blocks = 3 + sum(more.values())
  expected = n_blocks * BLOCK + ENDS
  assert n_parameters(model, scales=(1,), n_layers=(3,), **more) == expected
  assert n_parameters(TransformerLM, n_layers=n_blocks) == expected


def test_number_of_parameters_of_retinas():
  common = dict(scales=UNEQUAL, window=12, n_layers=3)
  plain = n_parameters(TransformerLM, n_layers=3)
  assert n_parameters(RetinaLM, **common) == plain == 3 * BLOCK + ENDS
  strided = 2 * D**2 + D + 3 * D**2 + D
  common |= dict(pool=hl.LinearShorten)
  assert n_parameters(RetinaLM, **common) == plain + 3 * strided


# Cost
# ------------------------------------------------------------------------------
def costs(layer, length):
  """FLOPs of a forward pass of one sequence, and bytes kept for the gradient.

  The bytes are those of activations, without the weights.
  """
  x = ShapeDtype((1, length), np.int32)
  weights, state = jax.eval_shape(lambda: layer.init(x, toy.KEY))

  def forward(weights, state, x):
    def loss(weights):
      logits, _ = layer.pure_fn(x, weights, state, toy.KEY)
      return jnp.mean(jax.nn.log_softmax(logits)[..., 0])

    return jax.vjp(loss, weights)[1]

  x = jax.ShapeDtypeStruct(x.shape, x.dtype)
  trace = jax.make_jaxpr(forward, return_shape=True)
  jaxpr, kept = trace(weights, state, x)
  own = collections.Counter(
    (w.shape, w.dtype) for w in jax.tree.leaves(weights)
  )
  n_bytes = 0
  for s in jax.tree.leaves(kept):
    if own[s.shape, s.dtype]:
      own[s.shape, s.dtype] -= 1
    else:
      n_bytes += math.prod(s.shape) * s.dtype.itemsize
  return np.array([jaxprs.flops(jaxpr.jaxpr), n_bytes])


@pytest.mark.parametrize(
  'model', [TopDownLM, pytest.param(BottomUpLM, marks=slow)]
)
@pytest.mark.parametrize(
  'sizes', [COARSE, pytest.param(UNEQUAL, marks=slow)], ids=str
)
def test_a_layer_of_scale_s_costs_at_most_1_by_s(sizes, model):
  """It also costs at least 1 / S ** 2, as its attention does."""

  def total(*n_layers):
    layer = toy_model(
      model,
      scales=sizes,
      n_layers=n_layers,
      positions=hl.NoPositions,
      mode='train',
    )
    return costs(layer, 384)

  none, *with_one = (
    total(*n) for n in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
  )
  fine, *coarse = (x - none for x in with_one)
  for scale, cost in zip(sizes[1:], coarse, strict=True):
    assert (fine / scale**2 < cost).all() and (cost < fine / scale).all()


def test_30_layers_of_three_scales_keep_less_than_14_of_one():
  sizes = dict(vocab_size=30_000, dropout=0.0)
  _, ours = costs(TopDownLM(**sizes), 512)
  _, plain = costs(TransformerLM(n_layers=14, **sizes), 512)
  assert 0.72 < ours / plain < 0.82


# Factories
# ------------------------------------------------------------------------------
@pytest.mark.parametrize('model', [TopDownLM, BottomUpLM])
def test_factories_receive_the_stride_of_their_inputs(model):
  made = collections.defaultdict(set)

  def block(name, stride, positions):
    made[name].add((stride, type(positions)))
    return tl.Fn(name, lambda x: x)

  def shorten(shorten_factor, stride, positions):
    made['shorten'].add((stride, shorten_factor, type(positions)))
    return hl.AverageShorten(shorten_factor)

  toy_model(
    model,
    scales=(1, 2, 6, 24),
    n_layers=(1, 1, 0, 2),
    block=P(block, 'fine'),
    coarse_block=P(block, 'coarse'),
    shorten=shorten,
    positions=hl.RotaryPositions,
  )
  scheme = hl.RotaryPositions
  assert made == {
    'fine': {(1, scheme)},
    'coarse': {(2, scheme), (24, scheme)},
    'shorten': {(1, 2, scheme), (2, 3, scheme), (6, 4, scheme)},
  }


SPARSE_FF = P(
  hl.SparseFF, n_elements_in_block=2, temperature=0.0, quant_prob=1.0
)
MIXED = {
  'retina in an hourglass': P(
    HourglassLM,
    hierarchy='1@3',
    shorten=hl.AverageShorten,
    upsample=hl.RepeatUpsample,
    vanilla_block=P(
      hl.DecoderBlock,
      attention=P(hl.RetinaAttention, scales=(1, 2), window=2),
    ),
  ),
  'recurrent and sparse coarse layers': P(
    TopDownLM,
    scales=(1, 2),
    n_layers=(1, 1),
    coarse_block=P(
      hl.DecoderBlock,
      attention=P(hl.BlockRecurrentCell, window=4, n_states=3),
      feed_forward=SPARSE_FF,
    ),
  ),
}


@pytest.mark.parametrize(
  'name',
  [
    'retina in an hourglass',
    pytest.param('recurrent and sparse coarse layers', marks=pytest.mark.slow),
  ],
)
def test_layers_of_other_models(name):
  length = 21
  weights, x, run = evaluate(toy_model(MIXED[name]), length)
  seen, _ = toy.dependencies(x, run)
  assert toy.leaks(seen) == [] and toy.gaps(seen) == []

  decoder = toy_model(MIXED[name], mode='predict', max_len=length)
  _, state = toy.make(decoder, x[:, :1])
  step = jax.jit(decoder.pure_fn)
  inputs = np.pad(x, [(0, 0), (1, 0)])
  t, outputs = 0, []
  for n in [7] + [1] * 14:
    y, state = step(inputs[:, t : t + n], weights, state, toy.KEY)
    outputs.append(y)
    t += n
  toy.close(np.concatenate(outputs, axis=1), run(x)[0])


@pytest.mark.parametrize(
  'model', [TopDownLM, pytest.param(BottomUpLM, marks=slow)]
)
def test_each_scale_has_a_table_of_learned_positions(model):
  n_positions, length = 22, 22
  layer = toy_model(
    model,
    scales=COARSE,
    n_layers=(0, 0, 0),
    positions=P(hl.LearnedPositions, n_positions),
  )
  x = toy.tokens(length)
  weights, _ = jax.jit(lambda: layer.init(toy.signature(x), toy.KEY))()
  tables = {
    w.shape[0]: np.asarray(w)
    for w in jax.tree.leaves(weights)
    if w.shape[1:] == (16,) and w.shape[0] in (22, 6, 2)
  }
  assert list(tables) == [22, 6, 2]
  angles = np.arange(22)[:, None] * 10000.0 ** (-np.arange(0, 16, 2) / 16)
  fine = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  toy.close(tables[22], fine)
  toy.close(tables[6], fine[::4])
  toy.close(tables[2], fine[::16])
  with pytest.raises(
    Exception,
    match=r'23 tokens exceeds LearnedPositions\.n_positions = 22',
  ):
    toy.shapes(layer, toy.tokens(23))


# Errors
# ------------------------------------------------------------------------------
@pytest.mark.parametrize('model', [TopDownLM, BottomUpLM, RetinaLM])
@pytest.mark.parametrize('sizes', [(), (2, 4), (1, 3, 4), (1, 4, 4)], ids=str)
def test_bad_scales(model, sizes):
  n_layers = 2 if model is RetinaLM else (1,) * len(sizes)
  with pytest.raises(ValueError, match=rf'{model.__name__}\.scales') as error:
    model(**{**toy.SIZES, 'scales': sizes, 'n_layers': n_layers})
  assert str(sizes) in str(error.value)


@pytest.mark.parametrize(
  'model, arguments, message',
  [
    *(
      (model, dict(n_layers=n), rf'{model.__name__}\.n_layers = ')
      for model in (TopDownLM, BottomUpLM)
      for n in [(), (1, 1), (1, 1, 1, 1), (1, -1, 1), (-1, 1, 1)]
    ),
    *(
      (model, arguments, message)
      for model in (TopDownLM, BottomUpLM, RetinaLM)
      for arguments, message in [
        (dict(mode='test'), "LM.mode = 'test' must be 'train', 'eval' or"),
        (dict(n_heads=3), 'n_heads = 3 must divide d_model = 16'),
        (dict(dropout=1.0), 'dropout = 1.0'),
      ]
    ),
    (BottomUpLM, dict(n_post=-1), r'BottomUpLM\.n_post = -1'),
    (RetinaLM, dict(n_layers=-1), r'RetinaLM\.n_layers = -1'),
    *(
      (RetinaLM, dict(window=window), rf'RetinaLM\.window = {window} must')
      for window in (0, -16, 4, 24)
    ),
    (TopDownLM, dict(n_layers=6), r'TopDownLM\.n_layers = 6 must'),
    (TopDownLM, dict(inject=3), r'TopDownLM\.inject = 3 must make'),
    (TopDownLM, dict(inject=tl.Dropout), r'TopDownLM\.inject = .* must make'),
    (TopDownLM, dict(shorten=tl.Add), r'TopDownLM\.shorten = .*@Average'),
    (
      BottomUpLM,
      dict(aggregate=tl.Add),
      r'BottomUpLM\.aggregate = .* must make',
    ),
    (BottomUpLM, dict(aggregate=3), r'BottomUpLM\.aggregate = 3 must'),
  ],
)
def test_bad_arguments(model, arguments, message):
  with pytest.raises(ValueError, match=message):
    model(**{**toy.SIZES, **arguments})


def test_a_shortening_that_does_not_shorten():
  with pytest.raises(ValueError, match=r'TopDownLM\.shorten = @Dense .* maps'):
    TopDownLM(
      **{**toy.SIZES, 'n_layers': (1, 1, 1)},
      shorten=P(hl.Dense, toy.SIZES['d_model']),
    )


# One value for each scale
# ------------------------------------------------------------------------------
each_model_of_scales = pytest.mark.parametrize('model', [TopDownLM, BottomUpLM])


@each_model_of_scales
def test_each_scale_has_its_shortening(model):
  d = toy.SIZES['d_model']

  def has_kernel_of_3_rows(*shorten):
    sizes = dict(scales=(1, 2, 6), n_layers=(0, 0, 1), shorten=shorten)
    shapes, _ = toy.shapes(toy_model(model, **sizes), toy.tokens(12))
    return (3 * d, d) in {x.shape for x in jax.tree.leaves(shapes)}

  assert has_kernel_of_3_rows(hl.AverageShorten, hl.LinearShorten)
  assert not has_kernel_of_3_rows(hl.LinearShorten, hl.AverageShorten)


@pytest.mark.parametrize(
  'model', [TopDownLM, pytest.param(BottomUpLM, marks=slow)]
)
def test_each_scale_has_its_dropout(model):
  x = toy.tokens(8)

  def logits(dropout):
    sizes = dict(scales=(1, 4), n_layers=(0, 1), positions=hl.NoPositions)
    layer = toy_model(model, **sizes, dropout=dropout, mode='train')
    return toy.run(layer, x, *toy.make(layer, x))[0]

  np.testing.assert_array_equal(logits(0.2), logits((0.2, 0.2)))
  # The first vector of 4 tokens is complete at the last of them.
  changed = logits((0.0, 0.5)) != logits(0.0)
  assert not changed[:, :3].any() and changed[:, 3:].any()
