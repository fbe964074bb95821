"""Reads the configurables of trax_hier from its source.

Importing them would import JAX, which takes longer than reading them.
"""

import ast
import dataclasses
import functools
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = 'models', 'layers', 'data', 'training'
# The kinds of slots in `layers/base/slots.py`, by the name of the argument.
_KINDS = {
  'activation': 'ACTIVATION',
  'aggregate': 'AGGREGATE',
  'attention': 'ATTENTION',
  'block': 'BLOCK',
  'boundaries': 'BOUNDARIES',
  'coarse_block': 'BLOCK',
  'cross_attention': 'CROSS_ATTENTION',
  'dynamic': 'DYNAMIC',
  'encoder_attention': 'ENCODER_ATTENTION',
  'expand': 'EXPAND',
  'feed_forward': 'FEED_FORWARD',
  'feedback': 'FEEDBACK',
  'gate': 'GATE',
  'inject': 'INJECT',
  'logits': 'LOGITS',
  'norm': 'NORM',
  'output': 'PROJECTION',
  'own_positions': 'POSITIONS',
  'pool': 'SHORTEN',
  'positions': 'POSITIONS',
  'qkv': 'QKV',
  'query': 'PROJECTION',
  'recurrence': 'RECURRENCE',
  'recurrent_attention': 'ATTENTION',
  'shorten': 'SHORTEN',
  'shortened_block': 'BLOCK',
  'upsample': 'UPSAMPLE',
  'vanilla_block': 'BLOCK',
}
_EXCEPTIONS = {
  'DynamicStack.shorten': 'DYNAMIC_SHORTEN',
  'DynamicStack.upsample': 'DYNAMIC_UPSAMPLE',
  'EncoderBlock.attention': 'ENCODER_ATTENTION',
  'EncoderBlock.feed_forward': 'ENCODER_FEED_FORWARD',
  'Terraformer.attention': 'MASKED_ATTENTION',
  'Repeat.block': '',  # For Python: its factory takes no dimensions.
}


@dataclasses.dataclass(frozen=True)
class Argument:
  """An argument that gin can bind.

  Attributes:
    name: Its name.
    type: Its annotation, as Python text; '' if it has none.
    default: Its default, as Python text; None if it must be given.
    text: What the docstring says of it; '' if nothing.
  """

  name: str
  type: str
  default: str | None
  text: str

  @property
  def takes_factory(self) -> bool:
    """Whether gin binds a factory, `@Name`."""
    return self.type.startswith('Callable[')


@dataclasses.dataclass(frozen=True)
class Part:
  """A configurable.

  Attributes:
    name: Its name.
    module: Its gin module, such as 'trax_hier.layers'.
    summary: First line of its docstring.
    arguments: Its arguments, in order.
  """

  name: str
  module: str
  summary: str
  arguments: tuple[Argument, ...]

  @property
  def slots(self) -> dict[str, str]:
    """{argument: name of its kind} of the arguments that take a part."""
    kinds_by_name = {
      a.name: _EXCEPTIONS.get(f'{self.name}.{a.name}', _KINDS.get(a.name))
      for a in self.arguments
      if a.takes_factory
    }
    return {name: kind for name, kind in kinds_by_name.items() if kind}


@functools.cache
def kinds() -> dict[str, Any]:
  """{name: `slots.Kind`} of all kinds of slots, in the order of the source."""
  names = {'__name__': __name__, 'dataclasses': dataclasses}
  tree = ast.parse((_PACKAGE / 'layers/base/slots.py').read_text('utf-8'))
  for node in tree.body:
    is_kind = isinstance(node, ast.ClassDef) and node.name == 'Kind'
    if is_kind or (
      isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper()
    ):
      code = compile(ast.Module([node], []), 'slots.py', 'exec')
      exec(code, names)
  return {n: kind for n, kind in names.items() if type(kind) is names['Kind']}


@functools.cache
def parts() -> Mapping[str, Part]:
  """{name: part} of all configurables of trax_hier, by package and name."""
  nodes, constants = {}, {}
  for folder in _FOLDERS:
    for path in sorted((_PACKAGE / folder).rglob('*.py')):
      tree = ast.parse(path.read_text('utf-8'))
      for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
          nodes[node.name] = node
        elif isinstance(node, ast.Assign):
          constants[ast.unparse(node.targets[0])] = node.value
  found = {}
  for name, node in nodes.items():
    for call in node.decorator_list:
      if (
        isinstance(call, ast.Call) and ast.unparse(call.func) == 'configurable'
      ):
        options = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        found[name] = _read(node, nodes, constants, **options)
  return dict(sorted(found.items(), key=lambda x: (x[1].module, x[0].lower())))


def _read(node, nodes, constants, module, denylist=()):
  """The part that a function or class defines."""
  function = _function(node, nodes)
  texts = _texts(node) | (_texts(function) if function else {})
  arguments = tuple(
    Argument(name, annotation, default, texts.get(name, ''))
    for name, annotation, default in _signature(function, constants)
    if name not in denylist
  )
  docstring = ast.get_docstring(node) or ''
  return Part(node.name, module, docstring.partition('\n')[0], arguments)


def _function(node, nodes):
  """A function itself; the own or inherited `__init__` of a class, or None."""
  if isinstance(node, ast.FunctionDef):
    return node
  for each in node.body:
    if isinstance(each, ast.FunctionDef) and each.name == '__init__':
      return each
  bases = (nodes.get(ast.unparse(base)) for base in node.bases)
  inherited = (_function(base, nodes) for base in bases if base is not None)
  return next((f for f in inherited if f is not None), None)


def _signature(function, constants) -> Iterator[tuple[str, str, str | None]]:
  """Yields the name, the annotation and the default of each argument."""
  if function is None:
    return
  listed = function.args
  positional = [*listed.posonlyargs, *listed.args]
  required = [None] * (len(positional) - len(listed.defaults))
  pairs = [*zip(positional, [*required, *listed.defaults], strict=True)]
  pairs += zip(listed.kwonlyargs, listed.kw_defaults, strict=True)
  for argument, default in pairs:
    if argument.arg != 'self':
      annotation = argument.annotation
      if isinstance(default, ast.Name):
        default = constants.get(default.id, default)
      yield (
        argument.arg,
        ast.unparse(annotation) if annotation else '',
        None if default is None else ast.unparse(default),
      )


def _texts(node):
  """{argument: text} of the section 'Args' of a docstring."""
  docstring = inspect.cleandoc(ast.get_docstring(node) or '')
  _, _, section = docstring.partition('\nArgs:\n')
  section = re.split(r'\n(?=\S)', section)[0]
  items = re.split(r'^  (?=\S)', section, flags=re.MULTILINE)
  pairs = (item.partition(':') for item in items if item.strip())
  return {name: ' '.join(text.split()) for name, _, text in pairs}
