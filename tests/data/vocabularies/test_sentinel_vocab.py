"""SentinelVocab: sentinels above the ids of another vocabulary."""

import numpy as np
import pytest

from trax_hier.data import ByteVocab
from trax_hier.data.vocabularies.sentinel_vocab import SentinelVocab


def test_sentinels_decode_and_encode():
  vocab = SentinelVocab(ByteVocab(), 300)
  assert vocab.size == 300
  ids = [104, 105, 299, 195, 175, 298, 297, 10, 256]
  assert vocab.decode(ids) == 'hi<0>ï<1><2>\n<43>'
  assert vocab.decode(np.array(ids, np.int32)) == vocab.decode(ids)
  assert vocab.decode([]) == ''
  assert vocab.decode([299]) == '<0>'
  np.testing.assert_array_equal(vocab.encode(vocab.decode(ids)), ids)
  assert vocab.encode('').dtype == np.int32 and not len(vocab.encode(''))
  # There are 44 sentinels.
  for text in ('<44>', '<a>', '<>', '<-1>'):
    np.testing.assert_array_equal(vocab.encode(text), ByteVocab().encode(text))
  for outside in (300, -1):
    with pytest.raises(ValueError, match=rf'id {outside}: .*\[0, 300\)'):
      vocab.decode([104, outside])
