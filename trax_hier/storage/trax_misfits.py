"""Finds arguments of our model that arrays of Trax's model would fit.

Shapes tell widths, numbers of layers and most kinds of layers. One argument
after another is changed, as long as more of the first arrays fit.
"""

import collections
import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trax_hier import config
from trax_hier import layers as hl
from trax_hier.compat import base
from trax_hier.models.hourglass import parse_hierarchy
from trax_hier.storage.trax_order import Array, first_misfit, in_trax_order

_MAX_CHANGES = 6
_WIDTHS = 'vocab_size', 'd_model', 'd_ff', 'n_heads'
# Numbers of blocks, and what precedes the names of the blocks, as patterns.
_COUNTS = {
  'n_layers': '',
  'n_encoder_layers': r'encoder\.',
  'n_decoder_layers': r'(decoder\.)?',
}


def _parts(*names, **inner):
  """Factories for a slot by gin text.

  Args:
    *names: Names of layers.
    **inner: A slot of the first one, and names of layers for it.
  """
  parts = {f'@{name}': getattr(hl, name) for name in names}
  for slot, alternatives in inner.items():
    for name in alternatives:
      part = functools.partial(
        getattr(hl, names[0]), **{slot: getattr(hl, name)}
      )
      parts[f'@{names[0]}, {names[0]}.{slot} = @{name}'] = part
  return parts


# What names of arrays beside the slot contain, and factories for it.
_SLOTS = {
  'shorten': (
    'shortened',
    _parts(
      *('AttentionShorten', 'AverageShorten', 'LinearShorten'),
      pool=('AverageShorten', 'LinearShorten'),
    ),
  ),
  'upsample': (
    'upsample',
    _parts(
      *('AttentionUpsample', 'LinearUpsample', 'RepeatUpsample'),
      expand=('LinearUpsample', 'RepeatUpsample'),
    ),
  ),
  'vanilla_block': (
    'attention',
    {
      '@vanilla/DecoderBlock, vanilla/DecoderBlock.attention = @LSHAttention': (
        functools.partial(hl.DecoderBlock, attention=hl.LSHAttention)
      )
    },
  ),
  'attention': ('attention', _parts('SelfAttention', 'SparseAttention')),
  'cross_attention': (
    'attention',
    _parts('CrossAttention', 'SparseCrossAttention'),
  ),
  'feed_forward': ('feed_forward', _parts('FeedForward', 'SparseFF')),
  'recurrence': ('feed_forward', {'None': None} | _parts('SRUBranch')),
  'logits': ('logits', _parts('Dense', 'MultiplicativeDense')),
  'positions': (
    '',
    _parts('NoPositions', 'RelativePositions', 'FixedBasePositions'),
  ),
}


@dataclasses.dataclass(frozen=True)
class _Change:
  """Another value of an argument of the model, and its gin text."""

  argument: str
  value: Any
  text: str


@dataclasses.dataclass(frozen=True)
class _Blocks:
  """A stack of equal blocks.

  Attributes:
    prefix: What precedes 'blocks.' in names of its arrays, as a pattern.
    first: Number of the first block in these names.
    n: Number of blocks.
    change: Function of another number of blocks.
  """

  prefix: str
  first: int
  n: int
  change: Callable[[int], _Change]


@dataclasses.dataclass(frozen=True)
class _Attempt:
  """The model with changes, its arrays, and how many of the first ones fit.

  `fitting` is infinite if all fit.
  """

  changes: Mapping[str, _Change]
  arrays: Sequence[Array]
  fitting: float


def changes_that_fit(
  model: Callable[..., base.Layer],
  shapes: Sequence[Sequence[int]],
  abstract: Callable[[Callable], tuple[base.Layer, Any]],
) -> str:
  """Bindings that would make arrays of Trax fit a model, for a message.

  Args:
    model: The value of `train.model`, which the arrays do not fit.
    shapes: Shapes of the arrays in the order of Trax's layers.
    abstract: Function, model -> layer and shapes of its weights.

  Returns:
    Such as 'HourglassLM.d_ff = 64, HourglassLM.n_heads = 2'; '' if the search
    finds none.
  """
  search = _Search(model, shapes, abstract)
  best = search.attempt({})
  for _ in range(_MAX_CHANGES):
    best = best and search.improve(best)
    if best and best.fitting == math.inf:
      changes = best.changes.values()
      name = model.__name__
      return ', '.join(f'{name}.{x.argument} = {x.text}' for x in changes)
  return ''


def argument_value(model: Callable[..., base.Layer], argument: str) -> Any:
  """The value of an argument in gin, or its default; None without either."""
  try:
    return config.value(f'{model.__name__}.{argument}')
  except config.ConfigError:
    known = inspect.signature(model).parameters.get(argument)
    return known and known.default


class _Search:
  """Tries values of the arguments of a model."""

  def __init__(self, model, shapes, abstract):
    self._model, self._shapes, self._abstract = model, shapes, abstract
    self._arguments = inspect.signature(model).parameters

  def attempt(self, changes: Mapping[str, _Change]) -> _Attempt | None:
    """The model with changes; None if it cannot be built."""
    values = {name: change.value for name, change in changes.items()}
    try:
      layer, shapes = self._abstract(functools.partial(self._model, **values))
    except Exception:  # A wrong value may fail anywhere in a model.
      return None
    arrays = in_trax_order(layer, shapes)
    at = first_misfit(arrays, self._shapes)
    return _Attempt(changes, arrays, math.inf if at is None else at)

  def improve(self, best: _Attempt) -> _Attempt | None:
    """The change with which the most arrays fit; None if none is better."""
    for kind in (self._table, self._widths, self._counts, self._parts):
      better = best
      for changes in kind(best):
        tried = self.attempt(
          {**best.changes, **{change.argument: change for change in changes}}
        )
        if tried and tried.fitting > better.fitting:
          better = tried
        if better.fitting == math.inf:
          break
      if better is not best:
        return better
    return None

  def _value(self, argument, best):
    """The value of an argument, with the changes; None if there is none."""
    if argument in best.changes:
      return best.changes[argument].value
    return argument_value(self._model, argument)

  def _table(self, best: _Attempt) -> Iterator[list[_Change]]:
    """The size of the table of embeddings, which is the first array."""
    theirs = self._shapes[0] if self._shapes else ()
    if best.fitting == 0 and len(theirs) == 2:
      sizes = zip(('vocab_size', 'd_model'), theirs, strict=True)
      yield [
        _Change(name, n, str(n))
        for name, n in sizes
        if n != self._value(name, best)
      ]

  def _widths(self, best: _Attempt) -> Iterator[list[_Change]]:
    """Widths for which the first shape that does not fit would."""
    at = best.fitting
    if at >= min(len(best.arrays), len(self._shapes)):
      return
    mine, theirs = best.arrays[at].trax_shape, self._shapes[at]
    is_table = best.arrays[at].name.endswith('position_table.weights')
    if is_table and len(theirs) > 1:
      n = theirs[-2]
      text = f'@LearnedPositions, LearnedPositions.n_positions = {n}'
      part = functools.partial(hl.LearnedPositions, n)
      yield [_Change('positions', part, text)]
    pairs = [(m, t) for m, t in zip(mine, theirs, strict=False) if m != t]
    for argument in _WIDTHS:
      value = self._value(argument, best)
      yield from (
        [_Change(argument, t, str(t))] for m, t in pairs if m == value
      )
    levels = self._levels(best)
    for i, (n, k) in enumerate(levels):
      for m, t in pairs:
        if m and m % k == 0 and t % (m // k) == 0:
          level = n, t // (m // k)
          yield [_hierarchy([*levels[:i], level, *levels[i + 1 :]])]

  def _counts(self, best: _Attempt) -> Iterator[list[_Change]]:
    """Numbers of blocks: as many as there are in a row."""
    for stack in self._stacks(best):
      if (n := self._n_blocks(best, stack)) != stack.n:
        yield [stack.change(n)]
    value = self._value('n_decoder_attentions', best)
    if value is not None:
      for n in {1, 2, 3} - {value}:
        yield [_Change('n_decoder_attentions', n, str(n))]

  def _stacks(self, best: _Attempt) -> Iterator[_Blocks]:
    """The stacks of blocks of a model, with the arguments that count them."""
    for argument, prefix in _COUNTS.items():
      n = self._value(argument, best)
      if n is not None:
        yield _Blocks(prefix, 0, n, lambda n, a=argument: _Change(a, n, str(n)))
    if vanilla := self._value('vanilla_layers', best):
      before, after = vanilla
      for first, n, pair in (
        (0, before, lambda n: (n, after)),
        (before, after, lambda n: (before, n)),
      ):
        yield _Blocks(
          '',
          first,
          n,
          lambda n, p=pair: _Change('vanilla_layers', p(n), str(p(n))),
        )
    levels = self._levels(best)
    for i, (n, k) in enumerate(levels):

      def change(n, i=i, k=k):
        return _hierarchy([*levels[:i], (n, k), *levels[i + 1 :]])

      yield _Blocks(r'shortened\.' * (i + 1), 0, n, change)

  def _levels(self, best):
    hierarchy = self._value('hierarchy', best)
    return parse_hierarchy(hierarchy) if hierarchy else []

  def _n_blocks(self, best: _Attempt, stack: _Blocks) -> int:
    """The number of blocks that the arrays of Trax have in a stack."""
    model = best
    if not stack.n:
      one = stack.change(1)
      model = self.attempt({**best.changes, one.argument: one}) or best
    blocks = collections.defaultdict(list)  # Indices of arrays, by block.
    name = re.compile(rf'{stack.prefix}blocks\.(?P<i>\d+)\.')
    for i, array in enumerate(model.arrays):
      if found := name.match(array.name):
        blocks[int(found['i'])].append(i)
    own = [blocks[stack.first + i] for i in range(stack.n or 1)]
    if not all(own):
      return stack.n
    complete, end = 0, own[0][0]
    if stack.n:
      complete = sum(indices[-1] < best.fitting for indices in own)
      end = own[-1][-1] + 1
    if complete < stack.n:
      is_here = own[0][0] <= best.fitting
      return complete if is_here else stack.n
    # The biases that all layers share may follow an array of the first block.
    block = [model.arrays[i] for i in own[-1]]
    shapes = self._shapes[end:]
    while len(block) <= len(shapes) and (
      first_misfit(block, shapes[: len(block)]) is None
    ):
      shapes = shapes[len(block) :]
      complete += 1
    return complete

  def _parts(self, best: _Attempt) -> Iterator[list[_Change]]:
    """Other kinds of the layers beside the first array that does not fit."""
    near = best.arrays[max(best.fitting - 1, 0) : best.fitting + 2]
    names = ' '.join(array.name for array in near)
    for slot, (place, parts) in _SLOTS.items():
      if place in names and slot in self._arguments:
        yield from ([_Change(slot, p, text)] for text, p in parts.items())


def _hierarchy(levels):
  """The change to a hierarchy of these levels, as of `parse_hierarchy`."""
  names, factor = [], 1
  for n, k in levels:
    factor *= k
    names.append(f'{n}@{factor}')
  text = ' '.join(names + names[-2::-1])
  return _Change('hierarchy', text, repr(text))
