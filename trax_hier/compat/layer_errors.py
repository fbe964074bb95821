"""Short error messages for exceptions in nested layers.

At each layer that an exception passes, trax 1.4.1 raises a new `LayerError`
that repeats the text of all earlier ones. This patch replaces these by a single
error, which states the path to the layer, the problem, the inputs, and advice:

    HourglassLM / Repeat(8) / DecoderBlock / FeedForward / Dense: ...

Its `__cause__` is the exception that was raised in the layer.
"""

import os
import re
import sys
import traceback
import types
from typing import Any

import jax

# Combinators that are omitted from paths.
_OMITTED = ('Serial', 'Branch', 'Parallel', 'PreNormResidual')

_JAX_FOLDER = os.path.dirname(jax.__file__) + os.sep

# (pattern of a message, clearer message or None to keep it, advice).
_ADVICE = (
  (
    r'.*ncompatible shapes for broadcasting: (?:shapes=\[(.*)\]|(.*))',
    r'cannot broadcast \1\2',
    'shapes must be equal, or 1 where they differ; the layers inside a Residual'
    ' must return the shape of their input',
  ),
  (
    r'dot_general requires contracting .* got \((.*?),?\) and \((.*?),?\)',
    r'cannot multiply along axes of \1 and \2',
    'inputs must have the width that the weights were initialized for',
  ),
  (
    r'[Cc]annot concatenate|Concatenate expects',
    None,
    'inputs must have equal shapes, except along the concatenated axis',
  ),
  (
    r'[Cc]annot reshape',
    None,
    'an axis can be split only into factors of its size',
  ),
  (
    r'must have (?:an )?integer',
    'takes integers',
    'tokens are int32 (batch, length)',
  ),
  (
    r'list assignment index out of range|values to unpack \(expected [23]'
    r'(?:, got [1-9])?\)|[Tt]oo many indices',
    'takes inputs of a different rank',
    'tokens are (batch, length), vectors (batch, length, d_model)',
  ),
  (
    r'values to unpack \(expected \d+, got 0\)',
    'has no weights, or its inputs have no axes',
    'call init(signature(inputs)) first',
  ),
  (
    r'(?:carry|input) \S+ has type (\S+) but .* has type (\S+\]),.*',
    r'has blocks that take \1 and return \2',
    'a repeated block must return the shapes and dtypes of its inputs',
  ),
)


def patch(module: types.ModuleType) -> None:
  """Makes `trax.layers.base` raise the errors described above."""

  class LayerError(module.LayerError):
    """An exception in a layer.

    Attributes:
      cause: The exception raised in the layer.
      fault: The problem, the inputs of the layer, and advice.
      path: The layers, from the outermost to the one that raised it.
    """

    def __init__(self, path, fault, cause):
      Exception.__init__(self, f'{path_text(path)}: {fault}')
      self.path, self.fault, self.cause = path, fault, cause

    @property
    def message(self):
      return str(self)

  LayerError.__module__ = module.__name__
  LayerError.__qualname__ = 'LayerError'

  def raise_layer_error(skip=0):
    del skip
    error, names = sys.exception(), sys._getframe(1).f_locals
    layer = names['self']
    if isinstance(error, LayerError):
      path, fault, cause = error.path, error.fault, error.cause
      path = path if path[0] is layer else (layer, *path)
    else:
      inputs = names['x'] if 'x' in names else names['input_signature']
      fault = _diagnose(layer, error, inputs, names.get('weights', ()))
      path, cause = (layer,), _without_internal_frames(error)
    raise LayerError(path, fault, cause) from cause

  # Trax's methods call this in their except clauses, before they raise an error
  # of their own. Wrapping the methods instead would make all tracing slower.
  module._short_traceback = raise_layer_error
  find_frame = module._find_frame
  module._find_frame = lambda frame: _record_maker(find_frame, frame)


def _record_maker(find_frame, frame):
  """Stores in a new layer the name of the function that makes it.

  Args:
    find_frame: Trax's function, which finds the caller of `__init__`.
    frame: Frame in the `__init__` of the layer.
  """
  layer = frame.f_locals['self']
  found = maker = find_frame(frame)
  while maker.f_back and maker.f_locals.get('self') is layer:
    maker = find_frame(maker.f_back)
  layer._maker = maker.f_code.co_qualname.partition('.')[0]
  return found


def path_text(path) -> str:
  """The names of the layers, outermost first, without those in `_OMITTED`."""
  names = []
  for layer in path:
    name = layer.name.lstrip('_')
    maker = getattr(layer, '_maker', '')
    # Functions that make layers have names in CapWords.
    known = any(n.partition('(')[0] == maker for n in (*names, name))
    if layer.sublayers and maker[:1].isupper() and not known:
      names += [maker] * (maker not in _OMITTED)
    if name and name not in _OMITTED:
      names.append(name)
  return ' / '.join(names or ['Serial'])


def _diagnose(layer, error, inputs, weights) -> str:
  """States the problem, the inputs of the layer, and advice."""
  got = _shapes(inputs)
  if not all(hasattr(x, 'shape') for x in jax.tree.leaves(inputs)):
    return f'takes arrays, or signature(array) in init, but got {got}'
  n = len(inputs) if isinstance(inputs, tuple | list) else 1
  if n < layer.n_in or (n > layer.n_in and not layer.sublayers):
    return (
      f'takes {layer.n_in} input{"s" * (layer.n_in != 1)}, but there '
      f'{"is" if n == 1 else "are"} {n} (got {got}); the layers before it must'
      f' leave {layer.n_in} on the stack'
    )
  if not layer.sublayers and jax.tree.leaves(weights):
    got += f'; its weights are {_shapes(jax.tree.leaves(weights))}'
  problem = _describe(error)
  for pattern, clearer, advice in _ADVICE:
    if found := re.search(pattern, problem):
      problem = found.expand(clearer) if clearer else problem
      return f'{problem} (got {got}); {advice}'
  return f'{problem} (got {got})'


def _without_internal_frames(error: Exception) -> Exception:
  """Removes the frames of JAX from the traceback of an error.

  As in JAX itself, JAX_TRACEBACK_FILTERING=off keeps them.
  """
  frames = list(traceback.walk_tb(error.__traceback__))
  if jax.config.jax_traceback_filtering == 'off':
    return error
  kept = None
  for frame, line in reversed(frames):
    if not frame.f_code.co_filename.startswith(_JAX_FOLDER):
      kept = types.TracebackType(kept, frame, frame.f_lasti, line)
  if frames[-1][0].f_code.co_filename.startswith(_JAX_FOLDER):
    error.__cause__ = None  # An exception internal to JAX, if any.
  return error.with_traceback(kept)


def _describe(error: Exception) -> str:
  """The message of an exception, as one paragraph."""
  text = ' '.join(str(error).partition('\n  In call to')[0].split())
  kind = type(error).__name__
  if not text:
    at = traceback.extract_tb(error.__traceback__)[-1]
    text = f'{os.path.basename(at.filename)}:{at.lineno}: {at.line}'
  elif isinstance(error, ValueError | TypeError):
    return text.rstrip('.')
  return f'{kind}: {text.rstrip(".")}'


def _shapes(x: Any) -> str:
  """Shapes and dtypes: '(2, 16, 12) float32, (2, 16) int32'."""
  if isinstance(x, tuple | list):
    return ', '.join(map(_shapes, x)) or 'nothing'
  if hasattr(x, 'shape') and hasattr(x, 'dtype'):
    return f'{tuple(x.shape)} {x.dtype}'
  return type(x).__name__
