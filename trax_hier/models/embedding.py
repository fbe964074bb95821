"""First and last layers of the models: token embeddings and logits."""

from collections.abc import Callable

import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.layers import Dense, Head, NoPositions, ShiftRight
from trax_hier.layers.base.build import accepts
from trax_hier.layers.base.slots import LOGITS, build_part


def TokenEncoder(
  embedding: base.Layer, positions: NoPositions, dropout: float, mode: str
) -> base.Layer:
  """Shifts tokens right by one and embeds them: (b, l) int32 -> (b, l, d).

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = TokenEncoder(tl.Embedding(256, 32), NoPositions(), 0.1, 'eval')
    >>> tree(layer, (1, 96)).outputs
    ((1, 96, 32),)
  """
  return tl.Serial(
    ShiftRight(False, mode), *embed(embedding, positions, dropout, mode)
  )


def embed(
  embedding: base.Layer, positions: NoPositions, dropout: float, mode: str
) -> list[base.Layer]:
  """Layers that embed tokens, (b, l) int32 -> (b, l, d), and add positions."""
  return [
    embedding,
    *positions.embed(mode),
    tl.Dropout(dropout, mode=mode),
  ]


def EmbeddingTable(vocab_size: int, d_model: int) -> base.Layer:
  """A table of embeddings that several layers share: () -> (v, d).

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> tree(EmbeddingTable(256, 32)).outputs
    ((256, 32),)
  """
  initializer = tl.RandomNormalInitializer(d_model**-0.5)
  return tl.Weights(initializer, (vocab_size, d_model))


def Embed(table: base.Layer) -> base.Layer:
  """Looks up tokens in a table of embeddings (v, d): (b, l) -> (b, l, d)."""
  return tl.Serial(
    table, tl.Fn('Embed', lambda table, tokens: table[tokens], n_out=1)
  )


def token_embedding(
  vocab_size: int, d_model: int, logits: Callable[..., base.Layer]
) -> tuple[base.Layer, list[base.Layer]]:
  """The embedding of tokens, (b, l) int32 -> (b, l, d), and its shared table.

  Args:
    vocab_size: Number of token ids.
    d_model: Width of the model.
    logits: Factory of the last layer. If it has an argument `embedding`, such
      as that of `TiedLogits`, it shares the table with the embedding.

  Returns:
    The embedding, and a list of the table, () -> (v, d), which `ShareWeights`
    must own and `Logits` gets; the list is empty if nothing is shared.
  """
  if not (callable(logits) and accepts(logits, 'embedding')):
    return tl.Embedding(vocab_size, d_model), []
  table = EmbeddingTable(vocab_size, d_model)
  return Embed(table), [table]


def PaddingMask() -> base.Layer:
  """True where tokens are not padding (0): (b, l) int32 -> (b, l) bool.

  Example:
    >>> import numpy as np
    >>> print(PaddingMask()(np.array([[5, 7, 0]])))
    [[ True  True False]]
  """
  return tl.Fn('PaddingMask', lambda tokens: tokens != 0)


def Logits(
  vocab_size: int,
  dense: Callable[..., base.Layer] = Dense,
  mode: str = 'train',
  binding: str = 'Logits.dense',
  embedding: base.Layer | None = None,
  embedding_norm: float = 1.0,
  carry: bool = False,
) -> base.Layer:
  """Projects to float32 logits: (b, l, d) -> (b, l, v).

  `binding` names the slot of the factory `dense`, for messages. `embedding` and
  `embedding_norm` are those of `TiedLogits`.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> tree(Logits(256), (1, 96, 32)).outputs
    ((1, 96, 256),)
  """
  layer = build_part(
    binding,
    dense,
    LOGITS,
    d_out=vocab_size,
    mode=mode,
    embedding=embedding,
    embedding_norm=embedding_norm,
    carry=carry,
  )
  if isinstance(layer, Dense):
    layer = layer.in_float32()
  return Head(layer, tl.Fn('Float32', lambda x: x.astype(jnp.float32)))
