"""Checks a value bound in gin against the annotation of its parameter.

A value is a Python literal that may contain `ConfigurableReference` objects.
"""

import collections.abc
import difflib
import inspect
import types
import typing
from collections.abc import Callable

from gin.config import ConfigurableReference

_TEXT = (str, bytes)


def parameter_hints(fn_or_class) -> dict[str, typing.Any]:
  """Returns {name: hint} for the named parameters of a function or class.

  An unannotated parameter gets a hint from its default: int, float or None for
  a number; its type or None for a boolean, string, tuple, list or dict; else
  `Any`. `*args` and `**kwargs` are left out: their names cannot be checked.
  """
  hints = _hints(fn_or_class)
  found = {}
  for name, p in inspect.signature(fn_or_class).parameters.items():
    if p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
      continue
    hint = hints.get(name, _hint_of_default(p.default))
    # `x: int = None` accepts None too.
    found[name] = hint if p.default is not None else typing.Optional[hint]  # noqa: UP045
  return found


def conforms(value, hint) -> bool:
  """Whether a parameter annotated with `hint` accepts `value`."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is typing.Annotated:
    return conforms(value, args[0])
  if _is_union(hint):
    return any(conforms(value, arg) for arg in args)
  if isinstance(value, ConfigurableReference):
    if origin is Callable and _is_class(args[-1]):
      return _is_factory(value, args[-1])
    return _reference_conforms(value, origin or hint)
  if origin is typing.Literal:
    return any(type(value) is type(a) and value == a for a in args)
  if hint is None:
    return value is None
  kind = origin or hint
  if not _is_class(kind):
    return True  # Any, type variables, unresolved forward references.
  if kind in (int, float) and isinstance(value, bool):
    return False
  if kind is float:
    return isinstance(value, int | float)
  try:
    if not isinstance(value, kind):
      return False
  except TypeError:  # A protocol that cannot be checked at run time.
    return True
  if isinstance(value, _TEXT):
    return not issubclass(kind, collections.abc.Iterable) or kind in _TEXT
  return not args or _elements_conform(value, kind, args)


def describe(hint) -> str:
  """Returns the hint in words for an error message."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is typing.Annotated:
    return describe(args[0])
  if _is_union(hint):
    return ' or '.join(describe(arg) for arg in args)
  if origin is typing.Literal:
    return 'one of ' + ', '.join(map(repr, args))
  if hint in (None, type(None)):
    return 'None'
  if takes_reference(hint):
    made = args[-1] if args else None
    if not _is_class(made):
      return 'a reference such as @Name'
    article = 'an' if made.__name__[0] in 'AEIOU' else 'a'
    return f'a reference such as @Name, which makes {article} {made.__name__}'
  if args and _is_class(origin) and takes_reference(args[0]):
    return 'a tuple of references such as (@Name, @Other)'
  if args or not _is_class(hint):
    text = str(hint)
    for module in ('typing.', 'collections.abc.'):
      text = text.replace(module, '')
    return text
  return hint.__name__


def takes_reference(hint) -> bool:
  """Whether the hint is a Callable or a union with one."""
  members = typing.get_args(hint) if _is_union(hint) else (hint,)
  return any((typing.get_origin(m) or m) is Callable for m in members)


def advice(value, hint, write: Callable[[typing.Any], str]) -> str:
  """Returns '; did you mean ...?' if a conforming value is near, else ''.

  Args:
    value: The value, which does not conform.
    hint: The annotation of its parameter.
    write: Writes a value as gin text.
  """
  literals = [a for a in _literals(hint) if isinstance(a, str)]
  near = (
    difflib.get_close_matches(value, literals, n=1)
    if isinstance(value, str)
    else []
  )
  if near:
    return f"; did you mean '{near[0]}'?"
  if isinstance(value, ConfigurableReference):
    other = ConfigurableReference(value.scoped_selector, not value.evaluate)
    return f'; did you mean {write(other)}?' if conforms(other, hint) else ''
  candidates = [(value,), [value]]
  if isinstance(value, str):
    spelled = {'true': True, 'false': False}.get(value.lower())
    candidates = [_number(value), spelled, *candidates]
  elif isinstance(value, float) and value.is_integer():
    candidates = [int(value), *candidates]
  elif isinstance(value, tuple | list):
    candidates = [tuple(value), list(value)]
  for candidate in candidates:
    if candidate is not None and conforms(candidate, hint):
      return f'; did you mean {write(candidate)}?'
  return ''


def _reference_conforms(ref: ConfigurableReference, kind) -> bool:
  """Whether f, for `@f`, or its result, for `@f()`, conforms to a class."""
  if not _is_class(kind):
    return kind is not None and kind is not typing.Literal
  made = ref.configurable.wrapped
  if not ref.evaluate:
    if issubclass(kind, type):
      return inspect.isclass(made)
    return kind in (object, Callable) or any(
      '__call__' in vars(base) for base in kind.__mro__
    )
  if not inspect.isclass(made):
    made = _hints(made).get('return')
  if not _is_class(made):
    return kind is not type(None)
  try:
    return issubclass(made, kind) or (made is int and kind is float)
  except TypeError:
    return True


def _is_factory(ref: ConfigurableReference, kind) -> bool:
  """Whether a reference is a factory of `kind`, as far as its hints say.

  Layers are callable but are not factories of layers. So `@f()` is a factory
  only if f is annotated as returning a callable other than `kind`.
  """
  made = ref.configurable.wrapped
  if not inspect.isclass(made):
    made = _hints(made).get('return')
  made = typing.get_origin(made) or made
  if not ref.evaluate:
    known = _is_class(made)
    return not known or issubclass(made, kind) or issubclass(kind, made)
  return made is Callable or (
    _is_class(made)
    and issubclass(made, Callable)
    and not issubclass(made, kind)
  )


def _elements_conform(value, kind, args) -> bool:
  if issubclass(kind, tuple):
    if len(args) == 2 and args[1] is Ellipsis:
      return all(conforms(v, args[0]) for v in value)
    return len(value) == len(args) and all(map(conforms, value, args))
  if isinstance(value, dict):
    return all(
      conforms(k, args[0]) and conforms(v, args[-1]) for k, v in value.items()
    )
  if isinstance(value, tuple | list):
    return all(conforms(v, args[0]) for v in value)
  return True


def _hints(fn_or_class) -> dict[str, typing.Any]:
  fn = fn_or_class
  if inspect.isclass(fn):
    fn = fn.__init__ if fn.__init__ is not object.__init__ else fn.__new__
  try:
    return typing.get_type_hints(fn)
  except Exception:  # A name that only a type checker imports.
    return {}


def _hint_of_default(default):
  if isinstance(default, int | float) and not isinstance(default, bool):
    return int | float | None
  if isinstance(default, bool | str | tuple | list | dict):
    return type(default) | None
  return typing.Any


def _literals(hint) -> tuple:
  if typing.get_origin(hint) is typing.Literal:
    return typing.get_args(hint)
  return tuple(a for arg in typing.get_args(hint) for a in _literals(arg))


def _number(text: str):
  for convert in (int, float):
    try:
      return convert(text)
    except ValueError:
      pass
  return None


def _is_union(hint) -> bool:
  return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_class(hint) -> bool:
  # `typing.Any` is a class for `inspect`, but not for `isinstance`.
  return (
    inspect.isclass(hint)
    and hint is not typing.Any
    and typing.get_origin(hint) is None
  )
