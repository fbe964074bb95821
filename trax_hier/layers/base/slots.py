"""Builds the parts that gin puts into the slots of models and layers.

A slot is an argument that takes a factory. Its `Kind` says what fits: the
inputs and outputs of the layer, and the parts of this library that are made for
it. Other parts, such as a user's own, fit if their inputs and outputs do.
"""

import contextvars
import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

from trax_hier.compat import base
from trax_hier.config.effects import building, note_use
from trax_hier.layers.base.build import accepts, build
from trax_hier.layers.base.part_shapes import (
  check_shapes,
  check_signature,
  message_of,
)

# A slot that occurs this often inside itself contains itself without end.
_MAX_NESTING = 8

# The slots that enclose the part being built, outermost first. Each is a text,
# 'DecoderBlock.norm = @Name'; whether the part is listed in the slot's `Kind`;
# and the function that makes a `MisfitError` of a reason.
_open_slots: contextvars.ContextVar[
  tuple[tuple[str, bool, Callable[[str], Exception]], ...]
] = contextvars.ContextVar('open_slots', default=())


def open_slot() -> str:
  """The slot whose part is being built, 'DecoderBlock.norm = @Name', or ''."""
  return _open_slots.get()[-1][0] if _open_slots.get() else ''


class MisfitError(ValueError):
  """A part does not fit the slot that it is bound to."""


@dataclasses.dataclass(frozen=True)
class Kind:
  """What fits into a slot.

  Attributes:
    signature: Inputs and outputs: `x` (b, l, d), `x/4` (b, l / 4, d), `y` (b,
      l, d_out), `mask` (b, l) bool, `context` (b, m, d), whose `mask` is (b,
      m); of a `DynamicStack`, `c` (b, m, d_inner), `p` and `beta` (b, l),
      `starts` (b, m) int32. '' for parts that are not layers, or of several
      signatures.
    parts: Names of the parts in this library that fit.
    noun: What the slot takes.
    has: An attribute of what the factory makes.
    takes: Arguments that the factory must have.
    row_wise: Whether the layer must not mix rows, since it gets no mask.
  """

  signature: str
  parts: tuple[str, ...]
  noun: str = 'a layer'
  has: str = 'pure_fn'
  takes: tuple[str, ...] = ()
  row_wise: bool = False

  def of(self, signature: str) -> 'Kind':
    """The kind with another signature."""
    return dataclasses.replace(self, signature=signature)

  def taking(self, *arguments: str) -> 'Kind':
    """The kind, for factories that have these arguments."""
    return dataclasses.replace(self, takes=arguments)


_CAUSAL = (
  'SelfAttention',
  'SlidingAttention',
  'MemorizingAttention',
  'SparseAttention',
  'RetinaAttention',
  'BlockRecurrentCell',
)
_SHORTENINGS = ('AverageShorten', 'LinearShorten', 'AttentionShorten')
_ROUTERS = ('SimilarityRouter', 'BoundaryPredictor', 'FixedBoundaries')
_RULES = ('ByteRule', 'WordRule')
_HOLDS = ('SmoothedHold', 'PreviousSegment', 'AtBoundaries', 'PositionLinear')
_UPSAMPLINGS = ('LinearUpsample', 'RepeatUpsample', 'ZeroUpsample')

BLOCK = Kind('x -> x', ('DecoderBlock',), 'a block')
ATTENTION = Kind('x -> x', (*_CAUSAL, 'LSHAttention'), 'causal attention')
MASKED_ATTENTION = Kind(
  'x, mask -> x',
  ('SparseAttention', 'SelfAttention', 'LSHAttention'),
  'causal attention that takes a mask',
)
ENCODER_ATTENTION = Kind(
  'x, mask -> x',
  ('EncoderAttention', 'LSHAttention'),
  'attention to all rows',
)
CROSS_ATTENTION = Kind(
  'x, context, mask -> x',
  ('CrossAttention', 'SparseCrossAttention'),
  'attention to another sequence',
)
FEED_FORWARD = Kind(
  'x -> x',
  ('FeedForward', 'ReluFeedForward', 'SwiGLU', 'SparseFF'),
  'a feed-forward layer',
)
ENCODER_FEED_FORWARD = dataclasses.replace(FEED_FORWARD, row_wise=True)
RECURRENCE = Kind('x -> x', ('SRUBranch',), 'a recurrence')
FEEDBACK = Kind(
  'x -> x',
  ('FeedbackStack',),
  'a stack of all layers',
  takes=('n_layers', 'recurrent_layer'),
)
NORM = Kind('x -> x', ('LayerNorm', 'RMSNorm'), 'a normalization')
ACTIVATION = Kind('x -> x', ('Gelu', 'Relu'), 'an activation')
GATE = Kind(
  'x, x, x -> x', ('FixedGate', 'LSTMGate'), 'a gate', has='paper_candidate'
)
LOGITS = Kind(
  'x -> y', ('Dense', 'MultiplicativeDense', 'TiedLogits'), 'a projection'
)
PROJECTION = Kind(
  'x -> y',
  ('Dense', 'NoProjection', 'SparseDense', 'MultiplicativeDense'),
  'a projection',
)
QKV = Kind(
  'x -> y, y, y',
  ('DenseQKV', 'SparseQKV'),
  'projections to queries, keys and values',
)
SHORTEN = Kind('x -> x/2', _SHORTENINGS, 'a shortening')
UPSAMPLE = Kind(
  'x/2, x -> x',
  ('AttentionUpsample', *_UPSAMPLINGS),
  'an upsampling',
  has='coarse',
)
EXPAND = dataclasses.replace(UPSAMPLE, parts=_UPSAMPLINGS)
BOUNDARIES = Kind('', (*_ROUTERS, *_RULES), 'boundaries')
DYNAMIC_SHORTEN = Kind(
  'x, beta, starts -> c', ('TakeFirst', 'SegmentMean'), 'vectors of segments'
)
DYNAMIC_UPSAMPLE = Kind(
  'c, x, p, beta, starts -> x', _HOLDS, 'an upsampling of segments'
)
DYNAMIC = Kind('', ('DynamicStack',), 'a stack on segments', has='rule')
INJECT = Kind('x, x -> x', ('ConcatDense', 'Sum'), 'a sum of two sequences')
AGGREGATE = Kind(
  'x, x/2 -> x',
  ('AttentionAggregation', 'ConcatAggregation'),
  'an aggregation',
  takes=('scales',),
)
POSITIONS = Kind(
  '',
  (
    'NoPositions',
    'RelativePositions',
    'RotaryPositions',
    'LearnedPositions',
    'FixedBasePositions',
    'T5Positions',
  ),
  'a position scheme',
  has='rotate',
)


class _Forwarded(functools.partial):
  """A factory that a model passes on to the slot of another part."""

  binding: str


def forwarded(
  binding: str,
  factory: Callable[..., Any],
  kind: Kind | None = None,
  **arguments: Any,
) -> Callable[..., Any]:
  """A factory whose misfits are reported as those of `binding`.

  Args:
    binding: The argument of the model that passes the factory on, such as
      'BlockRecurrentLM.feed_forward'.
    factory: Value of the argument, a factory or several.
    kind: What the factory makes, if there are `arguments`.
    **arguments: Arguments that the model adds.

  Raises:
    MisfitError: the factory does not take one of the arguments.
  """
  if isinstance(factory, tuple | list):
    return tuple(forwarded(binding, f, kind, **arguments) for f in factory)
  if isinstance(factory, _Forwarded) or not callable(factory):
    return factory
  if arguments:
    _check_takes(binding, factory, kind.taking(*arguments))
  wrapped = _Forwarded(factory, **arguments)
  wrapped.binding = binding
  return wrapped


def build_part(
  binding: str, factory: Callable[..., Any], kind: Kind, **dimensions: Any
) -> Any:
  """Returns what a factory makes, if it fits the slot that it is bound to.

  Args:
    binding: The slot, such as 'DecoderBlock.attention'.
    factory: Value of the slot, called like in `build`.
    kind: What fits.
    **dimensions: As in `build`.

  Raises:
    MisfitError: the part does not fit, or contains itself.

  Example:
    >>> from trax_hier.layers import DenseQKV
    >>> build_part('DecoderBlock.feed_forward', DenseQKV, FEED_FORWARD, d_out=8)
    Traceback (most recent call last):
    ...
    trax_hier.layers.base.slots.MisfitError: DecoderBlock.feed_forward = \
@DenseQKV must make a feed-forward layer, x -> x, but makes a layer of 1 input \
and 3 outputs: legal are @FeedForward, @ReluFeedForward, @SwiGLU and @SparseFF
  """
  slots = [binding]
  if isinstance(factory, _Forwarded):
    # A partial of a partial has merged the arguments of both.
    binding = factory.binding
    slots.insert(0, binding)
    arguments, keywords = factory.args, factory.keywords
    factory = factory.func
    if arguments or keywords:
      factory = functools.partial(factory, *arguments, **keywords)
  if not callable(factory):
    return _build_fitting(binding, factory, kind, dimensions)
  taken = {name for name in dimensions if accepts(factory, name)}
  name = '' if _is_internal(factory) else _name(factory)[1:]
  with building(name, slots, set(dimensions), taken):
    if not name:
      return build(factory, **dimensions)
    return _build_fitting(binding, factory, kind, dimensions)


def _build_fitting(binding, factory, kind, dimensions):
  """`build_part` without `forwarded` factories and functions of the library."""

  misfit = functools.partial(_misfit, binding, factory, kind)
  if isinstance(factory, base.Layer) or not callable(factory):
    raise misfit('is not a factory')
  if _module(factory).startswith('trax_hier.models.'):
    raise misfit('is a model')
  _check_takes(binding, factory, kind)
  _check_keywords(factory, dimensions, misfit)
  is_unmasked = dimensions.get('masked') and not accepts(factory, 'masked')
  # Layers that mix rows have an argument `carry`.
  if accepts(factory, 'carry') and (kind.row_wise or is_unmasked):
    raise misfit('mixes rows without a mask, padding included')
  is_known = _name(factory)[1:] in kind.parts and _is_own(factory)
  slot = f'{binding} = {_name(factory)}', is_known, misfit
  try:
    part = _build_once(slot, factory, dimensions)
  except MisfitError:
    raise
  except (ValueError, TypeError) as error:
    if is_known:
      raise
    raise misfit(f'fails: {message_of(error)}') from error
  if not hasattr(part, kind.has):
    raise misfit(f'makes {_article(part)}')
  if kind.signature:
    masked = bool(dimensions.get('masked'))
    check_signature(part, kind.signature, masked, misfit)
    if not is_known:
      # Evaluation leaves marks in a layer, so this is one of its own.
      other = _build_once(slot, factory, dimensions)
      check_shapes(other, kind.signature, dimensions, misfit)
  return part


def _misfit(binding, factory, kind, reason):
  legal = ' and '.join(
    ', '.join(f'@{part}' for part in kind.parts).rsplit(', ', 1)
  )
  form = f', {kind.signature}' if kind.signature else ''
  return MisfitError(
    f'{binding} = {_name(factory)} must make {kind.noun}{form}, but {reason}'
    f': legal are {legal}'
  )


def _check_takes(binding, factory, kind):
  lacking = [name for name in kind.takes if not accepts(factory, name)]
  if lacking:
    reason = f'has no argument {" and ".join(map(repr, lacking))}'
    raise _misfit(binding, factory, kind, reason)


def build_positions(
  model: str, positions: Callable[..., Any], d_model: int, n_heads: int
) -> Any:
  """The position scheme of the configurable `model`."""
  sizes = dict(d_model=d_model, n_heads=n_heads)
  scheme = build_part(f'{model}.positions', positions, POSITIONS, **sizes)
  if scheme.embed('train') or _name(positions) == '@NoPositions':
    note_use('positions')
  return scheme


def _check_keywords(factory, dimensions, misfit):
  """Refuses a partial with arguments that its slot sets to other values."""
  keywords = getattr(factory, 'keywords', {})
  for name, value in keywords.items():
    if name in dimensions and value != dimensions[name]:
      raise misfit(
        f'sets {name} = {value!r:.60}, and its slot sets {name} = '
        f'{dimensions[name]!r:.60}'
      )


def _build_once(slot, factory, dimensions):
  """Calls the factory, unless it is already being called without end."""
  around = _open_slots.get()
  texts = [text for text, *_ in around]
  if texts.count(slot[0]) >= _MAX_NESTING:
    cycle = around[len(around) - 1 - texts[::-1].index(slot[0]) :]
    # A part that is not made for its slot is to blame, rather than a default.
    first = next((i for i, (_, fits, _) in enumerate(cycle) if not fits), 0)
    (_, _, misfit), *inner = cycle[first:] + cycle[:first]
    by = f', by {", ".join(text for text, *_ in inner)}' if inner else ''
    raise misfit(f'the part contains itself{by}')
  token = _open_slots.set((*around, slot))
  try:
    return build(factory, **dimensions)
  except TypeError as error:
    missing = [n for n in _missing(error, factory) if n not in dimensions]
    if not missing:
      raise
    name = _name(factory)[1:]
    bindings = ' and '.join(f'{name}.{argument}' for argument in missing)
    raise slot[2](
      f'{bindings} {"has" if len(missing) == 1 else "have"} no value here'
    ) from error
  finally:
    _open_slots.reset(token)


def _missing(error, factory):
  """The required arguments of a factory that a call of it did not give."""
  message, *calls = str(error).split('\n  In call to configurable ')
  name = _name(factory)[1:]
  if 'required' not in message and 'No values supplied' not in message:
    return []
  if calls and calls[0].split("'")[1] != name:
    return []  # A call inside the factory.
  named = re.findall(r"'(\w+)'", message)
  return [n for n in dict.fromkeys(named) if accepts(factory, n)]


def _function(factory):
  while isinstance(factory, functools.partial):
    factory = factory.func
  return factory


def _module(factory):
  return getattr(_function(factory), '__module__', None) or ''


def _is_own(factory):
  return _module(factory).startswith('trax_hier.')


def _is_internal(factory):
  """Whether this is a function of the library that gin does not know."""
  name = getattr(_function(factory), '__name__', '')
  return _is_own(factory) and not name[:1].isupper()


def _name(factory):
  if isinstance(factory, base.Layer):
    return factory.name
  name = getattr(_function(factory), '__name__', None)
  return f'@{name}' if name else f'{factory!r:.60}'


def _article(part):
  kind = 'the layer ' if isinstance(part, base.Layer) else ''
  name = part.name if isinstance(part, base.Layer) else type(part).__name__
  return f'{kind}{name}'
