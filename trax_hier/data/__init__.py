"""Data sets: index-addressed token batches, with numpy alone.

Every data set is an object with

  train_batch(step, shard=0, n_shards=1) -> batch, a pure function
  eval_batches('valid' or 'test', window=None, stride=None) -> sequence of
      batches, each token once; window and stride only where it is cut from text
  count_bytes('valid' or 'test') -> bytes of text, where units are not bytes
  vocab, unit, describe()

where a batch is a dict of 'inputs' and 'targets', (b, l) int32; 'weights',
(b, l) float32, 1 where a token is scored; and 'start_of_sequence', (b,) bool,
the rows that begin a sequence: all, but where rows carry on from batch to
batch. Sets for encoder-decoder models have 'sources' too, (b, s) int32.
"""

from trax_hier.data.batching.dataset import DataSet, Vocab
from trax_hier.data.batching.span_corruption import SpanCorruption
from trax_hier.data.sources.document_lanes import DocumentLanes
from trax_hier.data.sources.documents import PaddedDocuments
from trax_hier.data.sources.enwik8 import Enwik8
from trax_hier.data.sources.images import ImageBytes
from trax_hier.data.sources.pairs import TextPairs
from trax_hier.data.sources.standard_library import StandardLibrary
from trax_hier.data.sources.synthetic import Synthetic
from trax_hier.data.sources.text import TextFiles
from trax_hier.data.vocabularies.trained_vocab import Subwords
from trax_hier.data.vocabularies.vocab import (
  ByteVocab,
  SentencePieceVocab,
  TextStream,
)

__all__ = [
  'ByteVocab',
  'DataSet',
  'DocumentLanes',
  'Enwik8',
  'ImageBytes',
  'PaddedDocuments',
  'SentencePieceVocab',
  'SpanCorruption',
  'StandardLibrary',
  'Subwords',
  'Synthetic',
  'TextFiles',
  'TextPairs',
  'TextStream',
  'Vocab',
]
