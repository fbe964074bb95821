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

import jax
import jax.numpy as jnp

from trax_hier.compat import ShapeDtype, base
from trax_hier.layers.base.build import accepts, build

# A slot that occurs this often inside itself contains itself without end.
_MAX_NESTING = 8
# Shapes for the check of a part: batch size, rows of the coarsest sequence, and
# the width of a layer whose slot sets none.
_BATCH, _ROWS, _WIDTH = 3, 2, 8

_open_slots: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar(
  'open_slots', default=()
)


class MisfitError(ValueError):
  """A part does not fit the slot that it is bound to."""


@dataclasses.dataclass(frozen=True)
class Kind:
  """What fits into a slot.

  Attributes:
    signature: Inputs and outputs: `x` (b, l, d), `x/4` (b, l / 4, d), `y` (b,
      l, d_out), `mask` (b, l) bool. '' for parts that are not layers.
    parts: Names of the parts in this library that fit.
    noun: What the slot takes.
    has: An attribute of what the factory makes.
    takes: Arguments that the factory must have.
  """

  signature: str
  parts: tuple[str, ...]
  noun: str = 'a layer'
  has: str = 'pure_fn'
  takes: tuple[str, ...] = ()

  def of(self, signature: str) -> 'Kind':
    """The kind with another signature."""
    return dataclasses.replace(self, signature=signature)

  def taking(self, *arguments: str) -> 'Kind':
    """The kind, for factories that have these arguments."""
    return dataclasses.replace(self, takes=arguments)


_CAUSAL = (
  'SelfAttention',
  'SlidingAttention',
  'SparseAttention',
  'RetinaAttention',
  'BlockRecurrentCell',
)
_SHORTENINGS = ('AverageShorten', 'LinearShorten', 'AttentionShorten')
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
  'x, x, mask -> x',
  ('CrossAttention', 'SparseCrossAttention'),
  'attention to another sequence',
)
FEED_FORWARD = Kind(
  'x -> x',
  ('FeedForward', 'ReluFeedForward', 'SparseFF'),
  'a feed-forward layer',
)
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
LOGITS = Kind('x -> y', ('Dense', 'MultiplicativeDense'), 'a projection')
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
    'T5Positions',
  ),
  'a position scheme',
  has='rotate',
)


class _Forwarded(functools.partial):
  """A factory that a model passes on to the slot of another part."""

  binding: str


def forwarded(binding: str, factory: Callable[..., Any]) -> Callable[..., Any]:
  """A factory whose misfits are told as those of `binding`.

  Args:
    binding: The argument of the model that passes the factory on, such as
      'BlockRecurrentLM.feed_forward'.
    factory: Value of the argument.
  """
  if isinstance(factory, _Forwarded) or not callable(factory):
    return factory
  wrapped = _Forwarded(factory)
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
and 3 outputs: legal are @FeedForward, @ReluFeedForward and @SparseFF
  """
  if isinstance(factory, _Forwarded):
    # A partial of a partial has merged the keywords of both.
    binding, keywords = factory.binding, factory.keywords
    factory = factory.func
    if keywords:
      factory = functools.partial(factory, **keywords)
  if _is_internal(factory):
    return build(factory, **dimensions)

  def misfit(reason):
    legal = ' and '.join(
      ', '.join(f'@{part}' for part in kind.parts).rsplit(', ', 1)
    )
    form = f', {kind.signature}' if kind.signature else ''
    return MisfitError(
      f'{binding} = {_name(factory)} must make {kind.noun}{form}, but {reason}'
      f': legal are {legal}'
    )

  if isinstance(factory, base.Layer) or not callable(factory):
    raise misfit('is not a factory')
  lacking = [name for name in kind.takes if not accepts(factory, name)]
  if lacking:
    raise misfit(f'has no argument {" and ".join(map(repr, lacking))}')
  is_known = _name(factory)[1:] in kind.parts and _is_own(factory)
  try:
    part = _build_once(binding, factory, dimensions, misfit)
  except MisfitError:
    raise
  except (ValueError, TypeError) as error:
    if is_known:
      raise
    raise misfit(f'fails: {_message(error)}') from error
  if not hasattr(part, kind.has):
    raise misfit(f'makes {_article(part)}')
  if kind.signature:
    _check_signature(part, kind, dimensions.get('masked'), misfit)
    if not is_known:
      # Evaluation leaves marks in a layer, so this is one of its own.
      other = _build_once(binding, factory, dimensions, misfit)
      _check_shapes(other, kind, dimensions, misfit)
  return part


def build_positions(
  model: str, positions: Callable[..., Any], d_model: int, n_heads: int
) -> Any:
  """The position scheme of the configurable `model`."""
  sizes = dict(d_model=d_model, n_heads=n_heads)
  return build_part(f'{model}.positions', positions, POSITIONS, **sizes)


def _build_once(binding, factory, dimensions, misfit):
  """Calls the factory, unless it is already being called without end."""
  around = _open_slots.get()
  slot = f'{binding} = {_name(factory)}'
  if around.count(slot) >= _MAX_NESTING:
    cycle = around[len(around) - 1 - around[::-1].index(slot) :]
    inner = ', '.join(cycle[1:])
    raise misfit(f'the part contains itself{f", by {inner}" if inner else ""}')
  token = _open_slots.set((*around, slot))
  try:
    return build(factory, **dimensions)
  except TypeError as error:
    missing = [n for n in _missing(error, factory) if n not in dimensions]
    if not missing:
      raise
    name = _name(factory)[1:]
    bindings = ' and '.join(f'{name}.{argument}' for argument in missing)
    raise misfit(
      f'{bindings} {"has" if len(missing) == 1 else "have"} no value here'
    ) from error
  finally:
    _open_slots.reset(token)


def _message(error):
  """The message of an error, in one line without gin's chain of calls."""
  text = getattr(error, 'fault', None) or str(error)
  return ' '.join(text.partition('\n  In call to')[0].split())


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


def _check_signature(part, kind, masked, misfit):
  """Raises unless a layer has as many inputs and outputs as the kind."""
  inputs, outputs = _parse(kind.signature)
  can_mask = bool(masked) and 'mask' not in inputs
  n_inputs = len(inputs) + (can_mask and part.n_in > len(inputs))
  if (part.n_in, part.n_out) != (n_inputs, len(outputs)):
    raise misfit(
      f'makes a layer of {_count(part.n_in, "input")} and '
      f'{_count(part.n_out, "output")}'
    )


def _check_shapes(part, kind, dimensions, misfit):
  """Raises unless a layer returns the shapes of the kind for small inputs."""
  width = dimensions.get('d_model')
  if dimensions.get('carry') or dimensions.get('mode') == 'predict':
    return  # Not every length is legal; the model's own evaluation follows.
  inputs, outputs = _parse(kind.signature)
  inputs += ['mask'] * (part.n_in - len(inputs))
  factors = [int(n) for n in re.findall(r'/(\d+)', kind.signature)]
  length = _ROWS * max(factors, default=1)

  def shape(symbol):
    if symbol == 'mask':
      return ShapeDtype((_BATCH, length), jnp.bool_)
    name, _, factor = symbol.partition('/')
    d = dimensions.get('d_out') if name == 'y' else width
    rows = length // int(factor or 1)
    return ShapeDtype((_BATCH, rows, d or _WIDTH), jnp.float32)

  signature = tuple(map(shape, inputs))
  signature = signature if len(signature) > 1 else signature[0]
  try:
    made = jax.eval_shape(
      lambda key: _outputs(part, signature, key), jax.random.PRNGKey(0)
    )
  except Exception as error:
    if width is None and 'd_out' in dimensions:
      return  # The layer may not take the width that is assumed here.
    raise misfit(f'fails: {_message(error)}') from error
  found = [y.shape for y in made]
  wanted = [tuple(shape(symbol).shape) for symbol in outputs]
  if found != wanted:
    raise misfit(
      f'maps {_shapes(signature)} to {", ".join(map(str, found))} and not to '
      f'{", ".join(map(str, wanted))}'
    )


def _outputs(part, signature, key):
  weights, state = part.init(signature, rng=key)
  x = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), signature)
  y = part.pure_fn(x, weights, state, key)[0]
  return list(y) if isinstance(y, tuple | list) else [y]


def _parse(signature):
  return [side.split(', ') for side in signature.split(' -> ')]


def _shapes(signature):
  if not isinstance(signature, tuple):
    signature = (signature,)
  return ', '.join(str(tuple(s.shape)) for s in signature)


def _function(factory):
  while isinstance(factory, functools.partial):
    factory = factory.func
  return factory


def _is_own(factory):
  module = getattr(_function(factory), '__module__', None) or ''
  return module.startswith('trax_hier.')


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


def _count(n, noun):
  return f'{n} {noun}{"s" * (n != 1)}'
