"""Tied embeddings: logits from the table that also embeds the tokens.

Source: Using the Output Embedding to Improve Language Models (arXiv
1608.05859).
"""

import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.base.products import wide_einsum


@configurable(
  module='trax_hier.layers', denylist=['embedding', 'embedding_norm']
)
def TiedLogits(embedding: base.Layer, embedding_norm: float = 1.0):
  """Logits from the model's own embeddings E: x (b, l, d) -> x E^T (b, l, v).

  For the slot `logits` of a model, which shares its table of embeddings with
  this layer. The layer has no weights of its own. Logits are float32.

  Args:
    embedding: Layer that returns the table E (v, d); its weights must be owned
      by a `ShareWeights` before this layer.
    embedding_norm: Norm of the rows of E at initialization, by which the logits
      are divided.

  Example:
    >>> from trax_hier.models import TransformerLM
    >>> from trax_hier.inspection.layer_tree import tree
    >>> model = TransformerLM(
    ...   256, d_model=32, d_ff=64, n_layers=2, n_heads=4, logits=TiedLogits
    ... )
    >>> print(tree(model, (1, 96)).text(1))
    layer                parameters   in            out
    TransformerLM            27,520   (1, 96)       (1, 96, 256)
      ShareWeights ...        8,256
      Repeat(2) ...          19,200   (1, 96, 32)   (1, 96, 32)
      LayerNorm                  64   (1, 96, 32)   (1, 96, 32)
      Logits ...                  -   (1, 96, 32)   (1, 96, 256)
  """

  def logits(table, x):
    y = wide_einsum('...d,dv->...v', x, table.T)
    return y.astype(jnp.float32) / embedding_norm

  return tl.Serial(embedding, tl.Fn('Logits', logits))
