"""Finds arguments without effect: none of a layer's parts takes them.

A model offers its arguments to its parts, which take what their signatures
name. Whether `TransformerLM.d_ff` has an effect thus depends on the parts that
are bound: `SRUBranch` takes no `d_ff`. `passes_on` marks the arguments that a
function uses only in this way, and `build_part` records what happens to them.
"""

import collections
import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from trax_hier.config.usage import NO_PARTS, record_effect, record_source

# Any model is sampled from with a `max_len`, needed or not.
_SET_FOR_ALL = 'max_len'
# Is meant for all blocks, so it is not enough that some of them take it.
_FOR_ALL_BLOCKS = 'd_head'


class _Call:
  """Records which arguments of a call have an effect.

  Attributes:
    offered: Arguments from the slot whose part this call builds; None for a
      call that offers arguments itself.
    used: Arguments that have an effect.
    unwanted: Arguments that must not be set, whoever uses them.
    lacking: For each argument, the parts that do not take it.
    idle: Arguments without effect of the functions called, by their name.
    built: The slots filled so far, in the outermost call.
  """

  def __init__(self, outer: '_Call | None', offered=None):
    self.offered: set[str] | None = offered
    self.used: set[str] = set()
    self.unwanted: set[str] = set()
    self.lacking = collections.defaultdict(dict)
    self.idle: dict[str, set[str]] = {}
    self.built: set[str] = outer.built if outer else set()


_current: contextvars.ContextVar[_Call | None] = contextvars.ContextVar(
  'current_call', default=None
)


@contextlib.contextmanager
def _call(offered=None):
  call = _Call(_current.get(), offered)
  token = _current.set(call)
  try:
    yield call
  finally:
    _current.reset(token)


@contextlib.contextmanager
def building(name: str, slots: Sequence[str], offered: set[str], taken: set):
  """While a part is built, records which of its arguments have an effect.

  Args:
    name: Name of the part's factory; '' for functions that gin does not know.
    slots: The slot that the part is bound to, such as 'RetinaLM.pool', and the
      one that it is passed on to, if any, such as 'RetinaAttention.pool'.
    offered: Arguments offered to the part.
    taken: Those that its factory takes.
  """
  outer = _current.get() or _Call(None)
  binding, *inner_slots = slots
  for slot in inner_slots:
    record_source(slot, binding)
  outer.built.update(slots)
  with _call(offered) as inner:
    yield
  idle = inner.idle.get(name, set())
  outer.used |= taken - idle
  outer.unwanted |= taken & idle & {_FOR_ALL_BLOCKS}
  for argument in offered - taken if name else ():
    outer.lacking[argument][f'{binding} = @{name}'] = None
  for argument in idle:
    outer.lacking[argument] |= inner.lacking[argument]


def note_use(*arguments: str) -> None:
  """Records that the function in progress uses these arguments itself."""
  call = _current.get()
  if call is not None:
    call.used.update(arguments)


def passes_on(*arguments: str) -> Callable:
  """Marks arguments that a function uses only as arguments of its parts.

  The decorated function raises ValueError if such an argument, or a factory, is
  given, is not the default, and has no effect although there are parts. If gin
  binds it, `config.check_used` raises instead, since it knows the place of the
  binding.

  Example:
    >>> from trax_hier.layers import DecoderBlock, SRUBranch
    >>> try:
    ...   DecoderBlock(8, d_ff=16, n_heads=2, feed_forward=SRUBranch)
    ... except ValueError as error:
    ...   print(str(error).partition(':')[0])
    DecoderBlock.d_ff = 16 has no effect
  """

  def decorate(function):
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
      outer = _current.get()
      with _call() as call:
        made = function(*args, **kwargs)
      call.used -= call.unwanted
      given = signature.bind(*args, **kwargs).arguments
      if outer is not None:
        outer.used |= call.used
        outer.unwanted |= call.unwanted
        outer.idle[function.__name__] = set(arguments) - call.used
        for argument, parts in call.lacking.items():
          outer.lacking[argument] |= parts
      offered = set() if outer is None else outer.offered
      for name, value in given.items():
        binding, shown = f'{function.__name__}.{name}', _shown(value)
        reason = _reason(call, binding, value, arguments)
        is_default = shown == _shown(signature.parameters[name].default)
        if is_default and not (reason and _selects_factory(value)):
          reason = ''
        is_bound = record_effect(function.__name__, name, reason)
        is_chosen = offered is not None and name not in {*offered, _SET_FOR_ALL}
        is_fault = reason not in ('', NO_PARTS) and not is_default
        if is_fault and is_chosen and not is_bound:
          raise ValueError(f'{binding} = {shown} has no effect: {reason}')
      return made

    # Gin asks for the signature of the function that it calls.
    wrapper.__signature__ = signature
    return wrapper

  return decorate


def _selects_factory(value):
  values = value if isinstance(value, tuple | list) else (value,)
  return any(map(callable, values))


def _reason(call: _Call, binding: str, value: Any, passed_on) -> str:
  """Why an argument has no effect, or ''."""
  name = binding.rpartition('.')[2]
  if value is None:
    return ''  # No value, as for d_head.
  if name not in passed_on:
    is_idle = _selects_factory(value) and binding not in call.built
    return 'no layer of the model is made by it' if is_idle else ''
  if name in call.used:
    return ''
  parts = [*call.lacking[name]]
  if not parts:
    return NO_PARTS
  if len(parts) > 3:
    parts[3:] = [f'{len(parts) - 3} others']
  listed = ' and '.join(', '.join(parts).rsplit(', ', 1))
  return f'{listed} {"does" if len(parts) == 1 else "do"} not take it'


def _shown(value):
  if isinstance(value, tuple | list) and any(map(callable, value)):
    return f'({", ".join(map(_shown, value))})'
  function = value
  while isinstance(function, functools.partial):
    function = function.func
  name = getattr(function, '__name__', None)
  return f'@{name}' if name else repr(value)
