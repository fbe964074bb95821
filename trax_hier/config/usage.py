"""Checks that every binding has an effect."""

from collections.abc import Iterable, Sequence
from typing import Any

from trax_hier.config import names
from trax_hier.config.errors import ConfigError
from trax_hier.config.parsing import current_table
from trax_hier.config.table import Binding, Key, Table


def check_used(called_later: Sequence[str] = ()) -> None:
  """Checks that each binding has had an effect by now.

  A binding that a deeper scope hides still counts as used. When an override
  selects another component, earlier bindings of the replaced component need
  not have an effect.

  Args:
    called_later: Names of configurables that the run calls only after this
      check; their bindings are not checked, but are part of `operative_text`.

  Raises:
    ConfigError: Names each binding without effect and says why.
  """
  table = current_table()
  table.called_later = {names.resolve(name) for name in called_later}
  calls = names.calls()
  live = live_keys(table)
  faults = [
    f'{binding.location}: {_why_idle(table, binding, calls)}'
    for key, binding in table.bindings.items()
    if key not in live and key not in table.excused
  ]
  if len(faults) == 1:
    raise ConfigError(f'{faults[0]}, so the binding has no effect')
  if faults:
    raise ConfigError(
      f'{len(faults)} bindings have no effect:\n  ' + '\n  '.join(faults)
    )


def live_keys(table: Table) -> set[Key]:
  """The keys of bindings that a call used or will use, and of their macros."""
  calls = names.calls()

  def is_used(binding: Binding) -> bool:
    return binding.selector in table.called_later or any(
      selector == binding.selector
      and _within(scope, binding.scope)
      and binding.parameter in values
      for (scope, selector), values in calls.items()
    )

  live = {
    key
    for key, binding in table.bindings.items()
    if not binding.is_macro and is_used(binding)
  }
  return live | set(table.macros_of(live))


def _why_idle(
  table: Table, binding: Binding, calls: dict[tuple[str, str], dict[str, Any]]
) -> str:
  """The reason why a binding has no effect."""
  if binding.is_macro:
    if binding.key in table.macros_of(table.bindings):
      return f'only bindings without effect use %{binding.name}'
    return (
      f'no binding uses the macro %{binding.name} (a parameter would be'
      ' Name.parameter)'
    )
  name = names.short_name(binding.selector)
  scopes = sorted(s for s, selector in calls if selector == binding.selector)
  if not scopes:
    return f'nothing calls {name}'
  if not any(_within(scope, binding.scope) for scope in scopes):
    called = ' and '.join(f"scope '{s}'" if s else 'no scope' for s in scopes)
    return f"{name} is called in {called}, never in scope '{binding.scope}'"
  why = f"every caller of {name} passes '{binding.parameter}'"
  source = _source(binding, calls)
  return f'{why} (bind {source} instead)' if source else why


def _source(binding: Binding, calls: Iterable[tuple[str, str]]) -> str:
  """The binding to use instead: the same parameter of the outermost caller."""

  def contains(selector: str, seen: set[str]) -> bool:
    inner = names.parts(selector) - seen
    seen |= inner
    return binding.selector in inner or any(contains(s, seen) for s in inner)

  for selector in dict.fromkeys(selector for _, selector in calls):
    if (
      selector != binding.selector
      and binding.parameter in names.bindable_parameters(selector)
      and contains(selector, set())
    ):
      return f'{names.short_name(selector)}.{binding.parameter}'
  return ''


def _within(inner: str, outer: str) -> bool:
  """Whether scope `inner` is `outer` or lies inside it."""
  return not outer or f'{inner}/'.startswith(f'{outer}/')
