"""Docstrings of array functions state shapes, and all examples run.

A shape is a tuple of the project's letters, as in (b, l, d) -> (b, l / k, d).
"""

import ast
import doctest
import functools
import importlib
import pathlib
import re
import types

import pytest

from trax_hier import config, layers, models
from trax_hier.inspection.layer_tree import tree
from trax_hier.inspection.receptive_field import receptive_field

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / 'trax_hier').rglob('*.py'))
FACTORIES = {
  name: value
  for package in (layers, models)
  for name in package.__all__
  if callable(value := getattr(package, name))
} | {'receptive_field': receptive_field, 'tree': tree}

# Public names whose docstrings need no shapes, with the reasons.
NO_SHAPES = {
  'build': 'calls any factory',
  'has_prefix': 'takes a layer, not arrays',
  'longest_sequence': 'takes a layer, not arrays',
  'ShareWeights': 'has no inputs or outputs',
  'apply_if': 'takes a tree of arrays of any shape',
  'summarize': 'takes arrays of any shape',
  'describe': 'takes an array of any shape',
  'make_record': 'takes arrays of any shape',
  'unpack': 'yields arrays of any shape',
  'half_cosine': 'takes and returns a scalar',
  'global_norm': 'takes arrays of any shape',
  'map_array': 'returns an array of any shape',
  'evaluate_program': 'takes and returns arrays of any shape',
  'Key.array': 'returns a random key',
  'as_array': 'takes a random key',
  'split_key': 'takes a random key',
}

# Letters, widths like d_model and counts like n_heads; sums, products and
# quotients of these and of integers; '..' for any number of dimensions.
_NAME = (
  r'(?:[bcdefghklmnrstvwBS]|[dn]_[a-z]+|N_[A-Z]+|[a-z]+_size|batch|length)'
)
_FACTOR = rf'(?:{_NAME}|\d+)'
_DIMENSION = rf'(?:\.\.|{_FACTOR}(?: ?[-+/*] ?{_FACTOR}| {_FACTOR})*)'
_SHAPE = re.compile(rf'\(({_DIMENSION}(?:,\s+{_DIMENSION})+|{_DIMENSION},)\)')


def shapes(docstring):
  """The shapes that a docstring states outside its examples."""
  text = re.sub(r'Example:.*?(?=\n *Source:|\Z)', '', docstring, flags=re.S)
  found = [match[1] for match in _SHAPE.finditer(text)]
  return [shape for shape in found if _is_shape(shape)]


def _is_shape(shape):
  """Whether a tuple names a dimension and is not the pair (keys, values)."""
  names = re.findall(rf'\b{_NAME}\b', shape)
  return bool(names) and (len(names) == 1 or not set(names) <= {'k', 'v'})


def fault(docstring, *, example=False):
  """Names the first missing item of a docstring; '' if it is complete."""
  if not docstring:
    return 'no docstring'
  if not shapes(docstring):
    return 'no shape like (b, l, d)'
  if example and not re.search(r'\n *Example:[^>]*\n *>>> ', docstring):
    return 'no "Example:" with >>>'
  examples = doctest.DocTestParser().get_examples(docstring)
  if example and not any(statement.want for statement in examples):
    return 'no example that prints'
  return ''


def run_examples(docstring, names, where='docstring', line=0):
  """Runs the examples of a docstring; returns a report of failures, or ''."""
  test = doctest.DocTestParser().get_doctest(
    docstring, dict(names), where, where, line
  )
  wrong = []
  for example in test.examples:
    if example.options.get(doctest.SKIP):
      wrong.append(f'{where}, line {line + example.lineno + 1}: skipped')
  doctest.DocTestRunner(verbose=False).run(test, out=wrong.append)
  return ''.join(wrong)


def name_of(path):
  """The dotted module name of a file."""
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts).removesuffix('.__init__')


@functools.cache
def parse(path):
  return ast.parse(path.read_text())


def documented(path):
  """Yields (line, text) of every docstring in a file."""
  kinds = ast.Module | ast.ClassDef | ast.FunctionDef
  for node in ast.walk(parse(path)):
    if isinstance(node, kinds) and (text := ast.get_docstring(node, False)):
      yield node.body[0].lineno - 1, text


def takes_arrays(tree):
  """Yields (name, docstring) of public functions with arrays in annotations.

  A method's docstring is followed by its class's.
  """

  def visit(nodes, prefix, above):
    for node in nodes:
      if getattr(node, 'name', '_').startswith('_'):
        continue
      text = f'{ast.get_docstring(node) or ""}\n{above}'
      if isinstance(node, ast.ClassDef):
        yield from visit(node.body, f'{prefix}{node.name}.', text)
      elif isinstance(node, ast.FunctionDef):
        returns = ast.unparse(node.returns) if node.returns else ''
        annotations = f'{ast.unparse(node.args)} {returns}'
        if re.search(r'\b(jax\.Array|np\.ndarray)\b', annotations):
          yield prefix + node.name, text

  yield from visit(tree.body, '', '')


def is_public(path):
  return not any(
    part.startswith('_') for part in name_of(path).split('.') if part
  )


def has_examples(path):
  return any('>>>' in text for _, text in documented(path))


@pytest.mark.parametrize('name', FACTORIES)
def test_layers_and_models_have_shapes_and_an_example(name):
  text = FACTORIES[name].__doc__
  missing = fault(text, example=True)
  if name in NO_SHAPES and text:
    assert not shapes(text), 'has shapes: needs no exception'
    missing = fault(f'(b,)\n{text}', example=True)
  assert not missing


@pytest.mark.parametrize('path', list(filter(is_public, SOURCES)), ids=name_of)
def test_functions_of_arrays_have_shapes(path):
  found = dict(takes_arrays(parse(path)))
  missing = {name for name, text in found.items() if fault(text)}
  assert missing == found.keys() & NO_SHAPES.keys()


@pytest.mark.parametrize(
  'path', list(filter(has_examples, SOURCES)), ids=name_of
)
def test_examples_run(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  names = vars(importlib.import_module(name_of(path)))
  wrong = ''.join(
    run_examples(text, names, str(path), line)
    for line, text in documented(path)
  )
  config.clear()
  assert not wrong, wrong


@pytest.mark.parametrize(
  'text',
  [
    'Tokens (b, l) -> logits.',
    '(b, l, d) -> (b, l / k, d)',
    'queries (.., l, d_head)',
    'Of the vocabulary, (v,).',
    'Rows (b h, n + l, 2 w).',
    'Float32 (b, l,\n    d).',
    'Example:\n    >>> 1\n    1\n\n  Source: there, weights (n, d).',
  ],
)
def test_shapes_are_found(text):
  assert shapes(text)


@pytest.mark.parametrize(
  'text',
  [
    'Prose (which has a comma, as here).',
    'Source: Hourglass (arXiv 2110.13711, section 3).',
    'Keeps keys and values: (k, v) -> (k, v, ..).',
    'scales: (1, S_1, ..).',
    'The function (state, batch) -> (new state, metrics).',
    'x (of width d) -> x',
    'Adds (2, 3).',
    'Any shape (..).',
    'A sequence (l).',
    'Example:\n  >>> x.shape  # (b, l)',
  ],
)
def test_prose_has_no_shapes(text):
  assert not shapes(text)


def test_exceptions_name_existing_functions():
  functions = {
    name
    for path in filter(is_public, SOURCES)
    for name, _ in takes_arrays(parse(path))
  }
  assert NO_SHAPES.keys() <= FACTORIES.keys() | functions


def test_faults_are_found():
  assert fault(None) == 'no docstring'
  assert 'shape' in fault('Projects.\n\n  Example:\n    >>> 1\n    1\n')
  assert not fault('Projects (b, l, d).')
  assert 'Example' in fault('Projects (b, l, d).', example=True)
  assert 'Example' in fault('(b, l, d)\n\n  Example:\n    f(x)', example=True)
  silent = '(b, l)\n\n  Example:\n    >>> import jax\n'
  assert 'prints' in fault(silent, example=True)
  assert not fault('(b, l)\n\n  Example:\n    >>> 1\n    1\n', example=True)


def test_functions_of_arrays_are_found():
  found = dict(
    takes_arrays(
      ast.parse("""
def f(x: jax.Array | None) -> int:
  'Its own.'
def g(n: int) -> Callable[[np.ndarray], int]: pass
def h(n: int) -> int: pass
def _i(x: jax.Array): pass
class A:
  'Of the class.'
  def j(self, x: jax.Array): pass
  def _k(self, x: jax.Array): pass
class _B:
  def l(self, x: jax.Array): pass
""")
    )
  )
  assert list(found) == ['f', 'g', 'A.j']
  assert 'Its own.' in found['f']
  assert 'Of the class.' in found['A.j']


def test_wrong_examples_are_found():
  names = vars(types.SimpleNamespace(n=2))
  assert not run_examples('>>> n + 1\n3\n', names)
  assert 'Got:\n    3' in run_examples('>>> n + 1\n4\n', names)
  assert 'NameError' in run_examples('>>> m\n2\n', names)
  assert 'skipped' in run_examples('>>> n  # doctest: +SKIP\n9\n', names)
  assert 'ValueError' in run_examples(">>> int('x')\n1\n", names)
