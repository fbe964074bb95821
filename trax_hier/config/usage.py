"""Checks that every binding has an effect."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from trax_hier.config import names
from trax_hier.config.errors import ConfigError, cut, suggest
from trax_hier.config.files import packaged_gin_dir
from trax_hier.config.parsing import current_table
from trax_hier.config.table import Binding, Key, Table

_MOST = 20  # Faults in a message.
# A reason that is no fault: the model may have 0 layers, as in an ablation.
NO_PARTS = 'the model has no parts that could take it'


def record_effect(configurable: str, parameter: str, why_idle: str) -> bool:
  """Records whether an argument of a call has an effect.

  It has one for `check_used` if it has one in any call.

  Args:
    configurable: Name of the configurable.
    parameter: The argument, which may come from gin.
    why_idle: Why it has no effect; '' if it has one.

  Returns:
    Whether a binding sets the parameter.
  """
  table = current_table()
  key = names.resolve(configurable), parameter
  table.idle[key] = why_idle and table.idle.get(key, why_idle)
  return any(binding.key[1:] == key for binding in table.bindings.values())


def record_source(slot: str, source: str) -> None:
  """Records that a slot gets its part from another slot, `source`.

  Args:
    slot: Such as 'RetinaAttention.pool'.
    source: Such as 'RetinaLM.pool', which is the one to bind.
  """
  current_table().passed_on.setdefault(slot, {})[source] = None


def check_used(called_later: Sequence[str] = ()) -> list[str]:
  """Checks that each binding has had an effect by now.

  A binding that a deeper scope hides still counts as used. When an override
  selects another component, earlier bindings of the replaced component need
  not have an effect. Nor need a macro of a packaged file: tiny.gin has one for
  each size of any model.

  Args:
    called_later: Names of configurables that the run calls only after this
      check; their bindings are not checked, but are part of `operative_text`.

  Returns:
    A line for each argument of a call that has no effect because the model has
    no layers, or because another file or option chose a component that does not
    take it.

  Raises:
    ConfigError: Names each binding without effect and says why.
  """
  table = current_table()
  table.called_later = {names.resolve(name) for name in called_later}
  calls = names.calls()
  live = live_keys(table)
  unmade = _unmade(table, calls)
  faults, notes = [], []
  for key, binding in table.bindings.items():
    if key in live:
      continue
    text = f'{binding.location}: {_why_idle(table, binding, calls)}'
    is_chosen_elsewhere = key in table.excused | table.outranked
    has_no_parts = table.idle.get(key[1:]) == NO_PARTS
    is_idle = _is_idle(table, key) or binding.selector in unmade
    if is_idle and (is_chosen_elsewhere or has_no_parts):
      if not binding.is_macro:
        notes.append(f'{text}, so the binding has no effect')
    elif key not in table.excused and not _is_spare(table, binding):
      faults.append(text)
  if len(faults) == 1:
    raise ConfigError(f'{faults[0]}, so the binding has no effect')
  if faults:
    more = [f'and {len(faults) - _MOST:,} more'] if len(faults) > _MOST else []
    lines = '\n  '.join([*faults[:_MOST], *more])
    raise ConfigError(f'{len(faults)} bindings have no effect:\n  {lines}')
  return notes


def _unmade(table: Table, calls: Iterable[tuple[str, str]]) -> set[str]:
  """Components that only arguments without effect select, and nothing calls."""
  called = {selector for _, selector in calls}
  return {
    ref.configurable.selector
    for key, binding in table.bindings.items()
    if not binding.is_macro and _is_idle(table, key)
    for ref in names.references(binding.value)
    if ref.configurable.selector not in called
  }


def _is_idle(table: Table, key: Key) -> bool:
  """Whether a binding, or each user of a macro, sets an idle argument."""
  if table.bindings[key].is_macro:
    users = [k for k in table.bindings if key in table.macros_of([k])]
    return bool(users) and all(_is_idle(table, k) for k in users)
  return bool(table.idle.get(key[1:]))


def _is_spare(table: Table, binding: Binding) -> bool:
  """Whether it is a macro of a packaged file that no binding uses."""
  file = binding.location.file
  return (
    binding.is_macro
    and file is not None
    and packaged_gin_dir() in pathlib.Path(file).resolve().parents
    and binding.key not in table.macros_of(table.bindings)
  )


def live_keys(table: Table) -> set[Key]:
  """The keys of bindings that a call used or will use, and of their macros."""
  calls = names.calls()

  def is_used(binding: Binding) -> bool:
    if table.idle.get(binding.key[1:]):
      return False
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
    used = table.macros_of(table.bindings)
    if binding.key in used:
      return f'only bindings without effect use %{cut(binding.name)}'
    meant = suggest(binding.scope, (scope for scope, *_ in used))
    return (
      f'no binding uses the macro %{cut(binding.name)} (a parameter would be'
      f' Name.parameter{meant})'
    )
  if reason := table.idle.get(binding.key[1:]):
    return reason
  name = names.short_name(binding.selector)
  scopes = sorted(s for s, selector in calls if selector == binding.selector)
  if not scopes:
    return f'nothing calls {name}'
  if not any(_within(scope, binding.scope) for scope in scopes):
    called = ' and '.join(f"scope '{s}'" if s else 'no scope' for s in scopes)
    meant = suggest(binding.scope, filter(None, scopes)).removeprefix('; ')
    hint = f' ({meant})' if meant else ''
    return (
      f"{name} is called in {called}, never in scope '{cut(binding.scope)}'"
      f'{hint}'
    )
  why = f"every caller of {name} passes '{binding.parameter}'"
  passed_on = table.passed_on.get(f'{name}.{binding.parameter}', {})
  source = ' or '.join(passed_on) or _source(binding, calls)
  return f'{why} (bind {source} instead)' if source else why


def _source(binding: Binding, calls: Iterable[tuple[str, str]]) -> str:
  """The binding to use instead: the same parameter of the outermost caller.

  If no part that is bound leads there, it is that of a model.
  """

  def contains(selector: str, seen: set[str]) -> bool:
    inner = names.parts(selector) - seen
    seen |= inner
    return binding.selector in inner or any(contains(s, seen) for s in inner)

  callers = [
    selector
    for selector in dict.fromkeys(selector for _, selector in calls)
    if selector not in (binding.selector, names.MACRO, names.CONSTANT)
    and binding.parameter in names.bindable_parameters(selector)
  ]
  near = [selector for selector in callers if contains(selector, set())]
  near += [s for s in callers if s.startswith('trax_hier.models.')]
  return f'{names.short_name(near[0])}.{binding.parameter}' if near else ''


def _within(inner: str, outer: str) -> bool:
  """Whether scope `inner` is `outer` or lies inside it."""
  return not outer or f'{inner}/'.startswith(f'{outer}/')
