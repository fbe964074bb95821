"""ByteVocab: bytes as ids."""

import numpy as np
import pytest

from trax_hier.data import ByteVocab


def test_decoding_inverts_encoding():
  vocab = ByteVocab()
  ids = vocab.encode('naïve 世界\n')
  assert ids.dtype == np.int32
  assert vocab.decode(ids) == 'naïve 世界\n'
  assert vocab.decode(ids.tolist()) == 'naïve 世界\n'
  assert vocab.decode([0xE4, 0x41]) == '\ufffdA'
  with pytest.raises(ValueError, match='256'):
    vocab.decode([256])
