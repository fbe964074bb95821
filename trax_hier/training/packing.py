"""Checks that a model keeps apart the documents that share a row."""

from collections.abc import Mapping

import numpy as np

from trax_hier.compat import base
from trax_hier.layers.base.documents import document_multiple, mixing_layer

_UNPACKED = (
  "give batches without 'documents' (of our data sets, packed = False)"
)


def multiple_of_documents(layer: base.Layer, batch: Mapping) -> int:
  """The number of which each document must fill a multiple of tokens.

  Args:
    layer: Model in 'train' or 'eval' mode.
    batch: Batch, or the shapes of its arrays. Only if it has 'documents', the
      model must keep these apart.

  Raises:
    ValueError: if a layer of the model may mix documents, or if the length of
      the rows is not a multiple.
  """
  if 'documents' not in batch:
    return 1
  if mixing := mixing_layer(layer):
    raise ValueError(
      'train.data has rows of several documents, which train.model does not '
      f'keep apart in {mixing}: use another layer, such as @SelfAttention, or '
      f'{_UNPACKED}'
    )
  multiple, length = document_multiple(layer), batch['inputs'].shape[1]
  if length % multiple:
    raise ValueError(
      'train.data has rows of several documents, each of which must fill a '
      f'multiple of {multiple} tokens in train.model, so the length of a row, '
      f'{length}, must be a multiple of it too'
    )
  return multiple


def check_documents(
  batch: Mapping[str, np.ndarray], multiple: int, made_by: str
) -> None:
  """Checks that each document of a batch fills a multiple of tokens.

  Args:
    batch: Batch of tokens (b, l); all are legal without 'documents'.
    multiple: The number.
    made_by: What made the batch, such as 'train_batch(0)'.

  Raises:
    ValueError: naming the first document that does not.
  """
  if multiple == 1 or 'documents' not in batch:
    return
  rows, ends = np.nonzero(np.diff(batch['documents'], axis=1))
  is_wrong = (ends + 1) % multiple != 0
  if is_wrong.any():
    row, begin = (int(x[is_wrong][0]) for x in (rows, ends + 1))
    raise ValueError(
      f"train.data: {made_by}['documents']: a document begins at token "
      f'{begin} of row {row}, but each must fill a multiple of {multiple} '
      'tokens, which train.model groups: set multiple_of of the data set to a '
      f'multiple of {multiple}'
    )
