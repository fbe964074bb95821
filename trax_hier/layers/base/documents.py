"""Rows that hold several documents, which layers keep apart.

A batch may have 'documents', int32 (b, l): the number of the document of each
token; the tokens of a document are adjacent. For a call in 'train' or 'eval'
mode, `set_documents` puts the documents into the state of every layer that
reads several positions. A document is then computed as if it were alone in its
row.

Letters: b batch, l length.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.compat.layer_errors import path_text
from trax_hier.layers.base.head import is_positionwise
from trax_hier.layers.base.repeat import Stack


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Documents:
  """The state of a `ReadsDocuments` layer while rows hold several documents.

  Attributes:
    positions: The position of each token in its document, int32 (b, l).

  Example: three documents, and vectors that are two tokens apart.
    >>> documents = Documents.from_ids(jnp.array([[1, 1, 1, 1, 2, 2, 0, 0]]))
    >>> print(documents.positions, documents.of_rows(4))
    [[0 1 2 3 0 1 0 1]] [[0 1 0 0]]
  """

  positions: jax.Array

  @classmethod
  def from_ids(cls, ids: jax.Array) -> 'Documents':
    """Makes it from the numbers of the documents, (b, l)."""
    rows = jnp.arange(ids.shape[1])
    is_first = jnp.diff(ids, axis=1, prepend=ids[:, :1]) != 0
    return cls(rows - jax.lax.cummax(jnp.where(is_first, rows, 0), axis=1))

  def of_rows(self, n: int) -> jax.Array:
    """Positions of n vectors, in vectors from the first of their document.

    Args:
      n: Number of vectors, which divides that of the tokens.

    Returns:
      int32 (b, n).
    """
    stride = self.positions.shape[1] // n
    return self.positions[:, ::stride] // stride


class ReadsDocuments(base.Layer):
  """A layer that keeps the documents of a row apart, or the memory of one.

  In 'train' and 'eval' modes, its state must be () otherwise. Positions of
  vectors (b, l, d) in their documents are `documents.of_rows(l)`.

  Example: sums over a document so far.
    >>> class Total(ReadsDocuments):
    ...   def forward(self, x):
    ...     total = jnp.cumsum(x, axis=1)
    ...     if self.documents is None:
    ...       return total
    ...     begins = jnp.arange(x.shape[1]) - self.documents.of_rows(x.shape[1])
    ...     return total - jnp.take_along_axis(total - x, begins, axis=1)
    >>> documents = Documents.from_ids(jnp.array([[1, 1, 2, 2]]))
    >>> y, _ = Total().pure_fn(jnp.ones((1, 4)), (), documents, None)
    >>> print(y)
    [[1. 2. 1. 2.]]
  """

  @property
  def documents(self) -> Documents | None:
    """The documents of the rows; None if a row is one sequence."""
    return documents_in(self.state)


def documents_in(state: Any) -> Documents | None:
  """The documents that `set_documents` put into the state of a layer."""
  return state if isinstance(state, Documents) else None


def set_documents(
  layer: base.Layer, state: Any, documents: Documents | tuple[()]
) -> Any:
  """`state`, with `documents` as that of each `ReadsDocuments` layer.

  Args:
    layer: The layer.
    state: Its state in 'train' or 'eval' mode.
    documents: The documents of each row; () takes them out.
  """
  if isinstance(state, dict):
    return state  # Trax's marker of a layer that occurs earlier.
  if isinstance(layer, ReadsDocuments):
    return documents
  if not layer.sublayers:
    return state
  if isinstance(layer, Stack):
    # The axis of the blocks follows those of the stacks around.
    documents = jax.tree.map(
      lambda x: jnp.repeat(x[..., None, :, :], layer.n, axis=-3), documents
    )
  pairs = zip(layer.sublayers, state, strict=True)
  return tuple(set_documents(*pair, documents) for pair in pairs)


def mixing_layer(layer: base.Layer) -> str:
  """The first layer in `layer` that may mix documents, after those around it.

  A layer keeps them apart if it reads the documents, is a `Serial` or
  `Parallel`, `is_positionwise`, or says so by `keeps_documents_apart = True`.

  Example:
    >>> from trax_hier.layers import Repeat, SlidingAttention
    >>> mixing_layer(Repeat(lambda: SlidingAttention(8), n=2))
    'Repeat(2) / SlidingAttention / PastRows'
    >>> mixing_layer(tl.Dense(8))
    ''
  """
  path = _path_to_mixing(layer)
  return path_text(path) if path else ''


def _path_to_mixing(layer):
  """The layers around the first that may mix documents, and that one."""
  keeps = isinstance(layer, ReadsDocuments | tl.Serial | tl.Parallel)
  keeps = keeps or (not layer.sublayers and is_positionwise(layer))
  if not getattr(layer, 'keeps_documents_apart', keeps):
    return (layer,)
  path = next(filter(None, map(_path_to_mixing, layer.sublayers)), ())
  return path and (layer, *path)


def document_multiple(layer: base.Layer) -> int:
  """The number of which each document in a row must fill a multiple of tokens.

  Layers that run their first sublayer on a shorter sequence have an attribute
  `shorten_factor`, others that group vectors have `document_multiple`.

  Example:
    >>> from trax_hier.models import HourglassLM
    >>> document_multiple(HourglassLM(256, hierarchy='1@2 4@4 1@2'))
    4
  """
  inside = [document_multiple(x) for x in layer.sublayers]
  if inside:
    inside[0] *= getattr(layer, 'shorten_factor', 1)
  alternatives = map(document_multiple, getattr(layer, 'alternatives', ()))
  own = getattr(layer, 'document_multiple', 1)
  return math.lcm(own, *inside, *alternatives)
