"""Multi-scale models: parity with a reference written from their rules.

The reference in `multiscale_reference.py` lists the blocks that each token may
see. It was written from the rules, not from the layers.
"""

import dataclasses
import functools

import jax
import multiscale_reference as reference
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.models import BottomUpLM, RetinaLM, TopDownLM, TransformerLM

P = functools.partial
LONGEST = 47
SIZES = {**toy.SIZES, 'max_len': LONGEST}
POSITIONS = {
  'none': hl.NoPositions,
  'rotary': hl.RotaryPositions,
  't5': hl.T5Positions,
  'relative': hl.RelativePositions,
  'learned': P(hl.LearnedPositions, n_positions=LONGEST),
}
SHORTEN = {'average': hl.AverageShorten, 'linear': hl.LinearShorten}
INJECT = {'concat': hl.ConcatDense, 'sum': hl.Sum}
AGGREGATE = {
  'attention': hl.AttentionAggregation,
  'concat': hl.ConcatAggregation,
}


@dataclasses.dataclass(frozen=True)
class Case:
  """A toy model, made by both the library and the reference.

  Attributes:
    kind: 'top_down', 'bottom_up', 'retina' or 'transformer'.
    scales: see `reference.Config`, also for attributes not described here.
    n_layers: blocks at each scale; None means 1 each, or 2 in a retina.
    n_post: blocks after the aggregation of a bottom-up model.
  """

  kind: str
  scales: tuple = (1, 4, 16)
  n_layers: tuple | None = None
  positions: str = 'relative'
  shorten: str = 'average'
  inject: str = 'concat'
  aggregate: str = 'attention'
  window: int = 0
  n_post: int = 1

  def __str__(self):
    """The kind, and the values that are not defaults."""
    values = [(f, getattr(self, f.name)) for f in dataclasses.fields(self)]
    changed = [f'{f.name}={x}' for f, x in values[1:] if x != f.default]
    return ' '.join([self.kind, *changed])

  @property
  def config(self):
    """The `reference.Config`."""
    names = (f.name for f in dataclasses.fields(reference.Config))
    fields = {n: getattr(self, n) for n in names if n != 'n_heads'}
    return reference.Config(n_heads=SIZES['n_heads'], **fields)

  @property
  def stacks(self):
    """Blocks in each stack; retinas and transformers have one stack."""
    if self.n_layers is not None:
      return self.n_layers
    one = self.kind in ('retina', 'transformer')
    return (2,) if one else (1,) * len(self.scales)

  def layer(self):
    """The library's model."""
    sizes = dict(SIZES, positions=POSITIONS[self.positions], mode='eval')
    if self.kind == 'transformer':
      return TransformerLM(n_layers=self.stacks[0], **sizes)
    sizes |= dict(scales=self.scales)
    if self.kind == 'retina':
      sizes |= dict(window=self.window, pool=SHORTEN[self.shorten])
      return RetinaLM(n_layers=self.stacks[0], **sizes)
    sizes |= dict(shorten=SHORTEN[self.shorten], n_layers=self.stacks)
    if self.kind == 'top_down':
      return TopDownLM(inject=INJECT[self.inject], **sizes)
    return BottomUpLM(
      n_post=self.n_post, aggregate=AGGREGATE[self.aggregate], **sizes
    )

  @functools.cached_property
  def initial(self):
    """Random weights and the empty state of the library's model."""
    weights, state = toy.shapes(self.layer(), toy.tokens(13))
    return toy.random_like(weights), toy.zeros_like(state)

  @property
  def weights(self):
    """Random weights of the library's model."""
    return self.initial[0]

  @functools.cached_property
  def run(self):
    """Compiled: weights, tokens (b, l) -> logits."""
    layer, (_, state) = self.layer(), self.initial
    return jax.jit(lambda w, x: layer.pure_fn(x, w, state, toy.KEY)[0])

  @functools.cached_property
  def expect(self):
    """The reference: tokens (b, l) -> logits in float64."""
    model = getattr(reference, self.kind)
    weights = as_reference(self)
    return lambda x: np.stack([model(weights, row, self.config) for row in x])


# Weights
# ------------------------------------------------------------------------------
def names(case):
  """The reference's names of a model's weights, in the model's order.

  A name is a path in the reference's dict. ('blocks', i) and ('post',) stack
  the weights of several blocks on a leading axis.
  """
  last = len(case.scales) - 1

  def dense(*path):
    return [(*path, 'kernel'), (*path, 'bias')]

  def norm(*path):
    return [(*path, 'scale'), (*path, 'bias')]

  def shorten(i, *path):
    return dense(*path, 'shorten', i) if case.shorten == 'linear' else []

  def place(i):
    return [('places', i)] if case.positions == 'learned' else []

  def block(*path, n_sets=1, own=()):
    """A block whose attention has the weights `own` for each scale."""
    at, feed = (*path, 'attention'), (*path, 'feed_forward')
    result = norm(*path, 'norm1')
    if case.kind == 'retina':
      for i in range(last):
        result += shorten(i, *at)
    for name in ('query', 'key', 'value'):
      result += dense(*at, name)
    result += [(*at, name, i) for name in own for i in range(n_sets)]
    for i in range(n_sets):
      if case.positions == 'relative':
        result += dense(*at, 'positions', i)
      elif case.positions == 't5':
        result += [(*at, 'positions', i)]
    result += dense(*at, 'output') + norm(*path, 'norm2')
    return result + dense(*feed, 'hidden') + dense(*feed, 'output')

  def stack(i, n_sets=1):
    return block('blocks', i, n_sets=n_sets) if case.stacks[i] else []

  def downwards(i):
    if i == last:
      return stack(i)
    result = shorten(i) + place(i + 1) + downwards(i + 1) + [('null', i)]
    if case.inject == 'concat':
      result += dense('inject', i)
    return result + stack(i)

  result = [('u',), ('v',)] if case.positions == 'relative' else []
  result += [('embedding',), *place(0)]
  if case.kind == 'transformer':
    result += stack(0)
  elif case.kind == 'retina':
    result += stack(0, n_sets=last + 1)
  elif case.kind == 'top_down':
    result += downwards(0)
  else:
    result += stack(0)
    for i in range(last):
      result += shorten(i) + place(i + 1) + stack(i + 1)
    if last and case.aggregate == 'concat':
      result += [('null', i) for i in range(last)] + dense('aggregate')
    elif last:
      result += block('aggregate', n_sets=last + 1, own=['scales'])
    result += block('post') if case.n_post else []
  return result + norm('norm') + dense('logits')


def by_name(case):
  """The weights of a case, by the reference's names."""
  return dict(zip(names(case), jax.tree.leaves(case.weights), strict=True))


def as_reference(case):
  """The weights of a case, in the format of the reference."""
  d_model, d_head = SIZES['d_model'], SIZES['d_model'] // SIZES['n_heads']
  stacks = {('blocks', i): n for i, n in enumerate(case.stacks)}
  if case.kind == 'bottom_up':
    stacks['post',] = case.n_post
  result = {'blocks': {}}
  for path, n in stacks.items():
    put(result, path, [{} for _ in range(n)])
  for path, leaf in by_name(case).items():
    leaf = np.asarray(leaf, np.float64)
    if path in (('u',), ('v',)):
      leaf = leaf.reshape(-1, d_head)
    elif 'scales' in path:
      leaf = leaf.reshape(d_model)
    (stack,) = [s for s in stacks if s == path[: len(s)]] or [None]
    if stack is None:
      put(result, path, leaf)
      continue
    assert len(leaf) == stacks[stack]
    for i, part in enumerate(leaf):
      put(result, (*stack, i, *path[len(stack) :]), part)
  return result


def put(tree, path, x):
  """Sets tree[path[0]][path[1]].. to x, and creates missing dicts."""
  *way, last = path
  for name in way:
    if isinstance(tree, dict):
      tree.setdefault(name, {})
    tree = tree[name]
  tree[last] = x


# Parity
# ------------------------------------------------------------------------------
UNEQUAL, TWO, FINE = (1, 2, 6), (1, 3), (1,)
CASES = [
  (Case('transformer', FINE), (47,)),
  (Case('top_down', n_layers=(1, 1, 2)), (47, 13)),
  (
    Case(
      'top_down', UNEQUAL, positions='rotary', shorten='linear', inject='sum'
    ),
    (47,),
  ),
  (Case('top_down', TWO, positions='t5', n_layers=(0, 2)), (30, 1)),
  (Case('top_down', UNEQUAL, positions='learned', shorten='linear'), (47,)),
  (Case('bottom_up', n_layers=(0, 1, 2)), (47, 13)),
  (Case('bottom_up', UNEQUAL, positions='rotary', shorten='linear'), (30,)),
  (Case('bottom_up', TWO, positions='t5'), (47, 2)),
  (Case('bottom_up', positions='learned', aggregate='concat'), (47, 13)),
  (Case('retina', UNEQUAL, window=6, shorten='linear'), (47, 13)),
  (Case('retina', (1, 3, 6), window=6, positions='rotary'), (47,)),
  (Case('retina', TWO, window=6, positions='t5'), (47, 2)),
]


def all_cases():
  """Every position scheme in every kind of model at several scales."""
  ways = [
    ('top_down', 'average', dict(inject='sum')),
    ('top_down', 'linear', dict(inject='concat')),
    ('bottom_up', 'average', dict(aggregate='attention')),
    ('bottom_up', 'linear', dict(aggregate='attention', n_layers=0)),
    ('bottom_up', 'linear', dict(aggregate='concat', n_post=0)),
    ('retina', 'average', dict(window=1)),
    ('retina', 'linear', dict(window=2)),
  ]
  for kind, shorten, more in ways:
    several = [(1, 4, 16), UNEQUAL, TWO]
    for scales in [*several, FINE] if shorten == 'average' else several:
      for positions in POSITIONS:
        sizes = dict(more)
        if 'window' in more:
          sizes['window'] *= scales[-1]
        if 'n_layers' in more:
          sizes['n_layers'] = (0,) + (2,) * (len(scales) - 1)
        case = Case(kind, scales, positions=positions, shorten=shorten, **sizes)
        yield case, (47, 13)


@pytest.mark.parametrize(
  'case, lengths',
  [
    *(
      pytest.param(
        *parts, marks=[pytest.mark.slow] * (parts[0].positions == 't5')
      )
      for parts in CASES
    ),
    *(pytest.param(*parts, marks=pytest.mark.slow) for parts in all_cases()),
    # The only retina long enough to use its scale of 16: 6 windows of 16 back.
    pytest.param(
      Case('retina', window=16, shorten='linear'),
      (113,),
      marks=pytest.mark.slow,
    ),
  ],
  ids=str,
)
def test_parity(case, lengths):
  x = toy.tokens(max(lengths))
  expected = case.expect(x)
  assert np.abs(expected).max() > 0.5
  for length in lengths:
    logits = case.run(case.weights, x[:, :length])
    np.testing.assert_allclose(
      logits, expected[:, :length], 1e-5, 1e-5, err_msg=f'length {length}'
    )


@pytest.mark.parametrize('kind', ['top_down', 'bottom_up'])
def test_number_of_learned_positions_of_a_scale_is_that_of_its_rows(kind):
  own = by_name(Case(kind, positions='learned'))
  assert [len(own['places', i]) for i in range(3)] == [47, 12, 3]


def test_the_reference_is_causal():
  x = toy.tokens(23, batch=1)
  for case, _ in CASES:
    expected = case.expect(x)
    for length in (1, 5, 12, 22):
      toy.close(case.expect(x[:, :length]), expected[:, :length], 1e-12)


# Equivalence with plain decoders
# ------------------------------------------------------------------------------
@functools.cache
def decoder(positions):
  return Case('transformer', FINE, (3,), positions)


@pytest.mark.parametrize(
  'positions',
  [
    name if name == 'relative' else pytest.param(name, marks=pytest.mark.slow)
    for name in POSITIONS
  ],
)
@pytest.mark.parametrize(
  'case',
  [
    Case('top_down', FINE, (3,)),
    Case('bottom_up', FINE, (2,)),
    Case('bottom_up', FINE, (0,), n_post=3),
    Case('retina', FINE, (3,), window=5),
    # All tokens are in one window or in two.
    Case('retina', UNEQUAL, (3,), window=48),
    Case('retina', UNEQUAL, (3,), window=24),
  ],
  ids=str,
)
def test_models_without_coarse_blocks_are_plain_decoders(case, positions):
  case = dataclasses.replace(case, positions=positions)
  plain = decoder(positions)
  own, leaves = by_name(case), []
  for path in names(plain):
    parts = [own[path]] if path in own else []
    if path[0] == 'blocks' and ('post', *path[2:]) in own:
      parts.append(own['post', *path[2:]])
    leaves.append(np.concatenate(parts))
  weights = jax.tree.unflatten(jax.tree.structure(plain.weights), leaves)
  x = toy.tokens(47)
  toy.close(case.run(case.weights, x), plain.run(weights, x))


# Tests of the reference
# ------------------------------------------------------------------------------
@pytest.mark.parametrize(
  'scales, length, shorten',
  [
    ((1, 4), 13, 'average'),
    (UNEQUAL, 20, 'linear'),
    pytest.param((1, 4, 16), 36, 'average', marks=pytest.mark.slow),
  ],
  ids=str,
)
@pytest.mark.parametrize('kind', ['top_down', 'bottom_up', 'retina'])
def test_reference_depends_on_every_earlier_token_and_no_other(
  kind, scales, length, shorten
):
  case = Case(kind, scales, shorten=shorten, window=scales[-1])
  if shorten == 'linear':
    case = dataclasses.replace(case, inject='sum', aggregate='concat')
  x = toy.tokens(length, batch=1)
  logits = case.expect(x)
  for t in range(length):
    changed = x.copy()
    changed[:, t] = (changed[:, t] + 1) % toy.VOCAB
    moved = (case.expect(changed) != logits).any(axis=(0, 2))
    assert list(np.flatnonzero(moved)) == list(range(t + 1, length)), t


def test_blocks_that_a_token_may_use():
  assert reference.usable_blocks(4, 2, 12) == []
  assert reference.usable_blocks(4, 3, 12) == [0]
  assert reference.usable_blocks(4, 6, 12) == [0]
  assert reference.usable_blocks(4, 7, 12) == [0, 1]
  for scale in (1, 2, 3, 4, 16):
    for t in range(50):
      # Papers that cite the model give the latest as floor((t + 1) / S) - 1.
      n = len(reference.usable_blocks(scale, t, 50))
      assert n - 1 == (t + 1) // scale - 1


@pytest.mark.parametrize(
  'scales, window, length',
  [((1, 4, 16), 16, 300), (UNEQUAL, 12, 130), ((1, 2, 4, 8), 8, 300)],
  ids=str,
)
def test_keys_of_a_retina_cover_the_past_and_are_few(scales, window, length):
  seen = set()
  for t in range(length):
    # Fails unless each token is covered exactly once.
    keys = reference.retina_keys(t, length, window, scales)
    assert len(keys) <= 2 * window + length / scales[1]
    seen |= {i for i, _ in keys}
  assert seen == set(range(len(scales)))


def test_keys_of_one_query_of_a_retina():
  # Query 34 is in window 8. It sees the tokens of windows 8 and 7, blocks of 2
  # of windows 6 and 5, and blocks of 4 of windows 4 to 0, one block each.
  keys = reference.retina_keys(34, 40, window=4, scales=(1, 2, 4))
  by_scale = [[m for i, m in keys if i == scale] for scale in range(3)]
  assert by_scale == [
    list(range(28, 35)),
    [10, 11, 12, 13],
    [0, 1, 2, 3, 4],
  ]
