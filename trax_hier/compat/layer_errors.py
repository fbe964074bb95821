"""One short message for what fails in a layer, however deep it lies.

trax 1.4.1 makes a new `LayerError` at each layer that an exception passes, each
with the text of all those before it. With this patch they are of a class of
their own, which says the way to the layer, what is wrong there, what it got,
and what to do:

    HourglassLM / Repeat(8) / DecoderBlock / FeedForward / Dense: ...

The exception that was raised in the layer is its `__cause__`.
"""

import os
import re
import sys
import traceback
import types
from typing import Any

import jax

# Levels of the way that say nothing: what a model is glued together with.
_GLUE = ('Serial', 'Branch', 'Parallel', 'PreNormResidual')

_INTERNAL = (os.path.dirname(jax.__file__) + os.sep,)

# What an exception says, what says it better if need be, and what to do.
_SAYINGS = (
  (
    r'.*ncompatible shapes for broadcasting: (?:shapes=\[(.*)\]|(.*))',
    r'cannot broadcast \1\2',
    'shapes must be equal, or 1 where they are not; layers inside a Residual'
    ' must end in the shape that they begin with',
  ),
  (
    r'dot_general requires contracting .* got \((.*?),?\) and \((.*?),?\)',
    r'cannot multiply along axes of \1 and \2',
    'inputs must be as wide as those that the weights were initialised for',
  ),
  (
    r'[Cc]annot concatenate|Concatenate expects',
    None,
    'all inputs must agree in every axis but the one that is joined',
  ),
  (
    r'[Cc]annot reshape',
    None,
    'an axis that is split must be a multiple of its parts',
  ),
  (
    r'must have (?:an )?integer',
    'takes whole numbers',
    'tokens are int32 (batch, length)',
  ),
  (
    r'list assignment index out of range|values to unpack \(expected [23]'
    r'(?:, got [1-9])?\)|[Tt]oo many indices',
    'takes inputs of another rank',
    'tokens are (batch, length), vectors (batch, length, d_model)',
  ),
  (
    r'values to unpack \(expected \d+, got 0\)',
    'has no weights, or its inputs no axes',
    'call init(signature(inputs)) first',
  ),
  (
    r'(?:carry|input) \S+ has type (\S+) but .* has type (\S+\]),.*',
    r'has blocks that take \1 and return \2',
    'a block that is repeated must return the shapes and dtypes that it takes',
  ),
)


def patch(module: types.ModuleType) -> None:
  """Gives the layers of `trax.layers.base` the messages described above."""

  class LayerError(module.LayerError):
    """What went wrong in a layer, and where that is: see its text.

    Attributes:
      cause: the exception raised in the layer.
      fault: what is wrong, what the layer got, and what to do.
      path: the layers from the outermost to the one at fault.
    """

    def __init__(self, path, fault, cause):
      Exception.__init__(self, f'{_way(path)}: {fault}')
      self.path, self.fault, self.cause = path, fault, cause

    @property
    def message(self):
      return str(self)

  LayerError.__module__ = module.__name__
  LayerError.__qualname__ = 'LayerError'

  def tell(skip=0):
    del skip
    error, names = sys.exception(), sys._getframe(1).f_locals
    layer = names['self']
    if isinstance(error, LayerError):
      path, fault, cause = error.path, error.fault, error.cause
      path = path if path[0] is layer else (layer, *path)
    else:
      inputs = names['x'] if 'x' in names else names['input_signature']
      fault = _fault(layer, error, inputs, names.get('weights', ()))
      path, cause = (layer,), _readable(error)
    raise LayerError(path, fault, cause) from cause

  # Each method that may fail asks for this when it has, before it raises an
  # error of its own. To wrap those methods would make all tracing slower.
  module._short_traceback = tell
  find_frame = module._find_frame
  module._find_frame = lambda frame: _note_maker(find_frame, frame)


def _note_maker(find_frame, frame):
  """Notes in a new layer which function makes it; `frame` is of its init."""
  layer = frame.f_locals['self']
  found = maker = find_frame(frame)
  while maker.f_back and maker.f_locals.get('self') is layer:
    maker = find_frame(maker.f_back)
  layer._maker = maker.f_code.co_qualname.partition('.')[0]
  return found


def _way(path) -> str:
  """The names of the layers that mean something, outermost first."""
  names = []
  for layer in path:
    name = layer.name.lstrip('_')
    maker = getattr(layer, '_maker', '')
    # A function that makes a layer is named like a class.
    known = any(n.partition('(')[0] == maker for n in (*names, name))
    if layer.sublayers and maker[:1].isupper() and not known:
      names += [maker] * (maker not in _GLUE)
    if name and name not in _GLUE:
      names.append(name)
  return ' / '.join(names or ['Serial'])


def _fault(layer, error, inputs, weights) -> str:
  """Says what is wrong, what the layer got, and what to do."""
  got = _shapes(inputs)
  if not all(hasattr(x, 'shape') for x in jax.tree.leaves(inputs)):
    return f'takes arrays, and in init signature(array), but got {got}'
  n = len(inputs) if isinstance(inputs, tuple | list) else 1
  if n < layer.n_in or (n > layer.n_in and not layer.sublayers):
    return (
      f'takes {layer.n_in} input{"s" * (layer.n_in != 1)}, but there '
      f'{"is" if n == 1 else "are"} {n} (got {got}); the layers before it must'
      ' leave as many as it takes'
    )
  if not layer.sublayers and jax.tree.leaves(weights):
    got += f'; its weights are {_shapes(jax.tree.leaves(weights))}'
  what = _what(error)
  for pattern, better, advice in _SAYINGS:
    if found := re.search(pattern, what):
      what = found.expand(better) if better else what
      return f'{what} (got {got}); {advice}'
  return f'{what} (got {got})'


def _readable(error: Exception) -> Exception:
  """Takes JAX's and trax's own frames out of what is raised in them.

  As in JAX itself, JAX_TRACEBACK_FILTERING=off leaves them there.
  """
  frames = list(traceback.walk_tb(error.__traceback__))
  if jax.config.jax_traceback_filtering == 'off':
    return error
  kept = None
  for frame, line in reversed(frames):
    if not frame.f_code.co_filename.startswith(_INTERNAL):
      kept = types.TracebackType(kept, frame, frame.f_lasti, line)
  if frames[-1][0].f_code.co_filename.startswith(_INTERNAL):
    error.__cause__ = None  # What JAX tried before, if anything.
  return error.with_traceback(kept)


def _what(error: Exception) -> str:
  """An exception as one paragraph."""
  text = ' '.join(str(error).partition('\n  In call to')[0].split())
  kind = type(error).__name__
  if not text:
    at = traceback.extract_tb(error.__traceback__)[-1]
    text = f'{os.path.basename(at.filename)}:{at.lineno}: {at.line}'
  elif isinstance(error, ValueError | TypeError):
    return text.rstrip('.')
  return f'{kind}: {text.rstrip(".")}'


def _shapes(x: Any) -> str:
  """Shapes and dtypes, such as '(2, 16, 12) float32, (2, 16) int32'."""
  if isinstance(x, tuple | list):
    return ', '.join(map(_shapes, x)) or 'nothing'
  if hasattr(x, 'shape') and hasattr(x, 'dtype'):
    return f'{tuple(x.shape)} {x.dtype}'
  return type(x).__name__
