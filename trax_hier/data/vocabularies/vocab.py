"""Vocab: the interface of a vocabulary, and the dtype that stores its ids."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np


class Vocab(Protocol):
  """The interface of a vocabulary.

  Attributes:
    size: Number of ids.
  """

  size: int

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of the text as (l,) int32."""

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of the ids."""


def token_dtype(vocab: Vocab) -> np.dtype:
  """Returns the smallest unsigned little-endian dtype that holds every id."""
  return np.dtype(np.min_scalar_type(vocab.size - 1)).newbyteorder('<')
