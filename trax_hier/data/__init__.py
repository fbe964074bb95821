"""Data sets: random-access token batches, made with numpy alone.

The data sets are in `sources`, the vocabularies in `vocabularies`. The modules
`enwik8`, `prepare` and `subwords` are programs, such as `python -m
trax_hier.data.enwik8`.

Every data set is an object with

  train_batch(step, shard=0, n_shards=1): one batch or a shard of it, a pure
      function of the seed and these arguments. The shards of a step, one after
      the other, are its batch. Each of several hosts makes only its own shard.
  eval_batches(split, window=None, stride=None): the batches of 'valid' or
      'test', in which each token counts once; window and stride apply only to
      data sets that are cut from a text. If they have batch_size and a method
      rows(i, begin, end), each of several hosts makes only its own rows
  count_bytes(split, n_batches=None): bytes of text that the scored tokens of
      'valid' or 'test' encode; None if they are bytes or encode no text
  vocab, unit, describe()

A batch is a dict of 'inputs' and 'targets', (b, l) int32; 'weights', (b, l)
float32, 1 where a token is scored; and 'start_of_sequence', (b,) bool, True for
rows that begin a sequence. All rows do, except those that continue the same row
of the previous batch. Batches for encoder-decoder models also have 'sources',
(b, s) int32.
"""

from trax_hier.data.batching.batches import make_batch
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.mixture import Mixture
from trax_hier.data.batching.span_corruption import SpanCorruption
from trax_hier.data.sources.document_lanes import DocumentLanes
from trax_hier.data.sources.enwik8 import Enwik8
from trax_hier.data.sources.from_arrays import FromArrays
from trax_hier.data.sources.images import ImageBytes
from trax_hier.data.sources.own_data import OwnData, TrainData
from trax_hier.data.sources.padded_documents import PaddedDocuments
from trax_hier.data.sources.standard_library import StandardLibrary
from trax_hier.data.sources.synthetic import Synthetic
from trax_hier.data.sources.text_files import TextFiles
from trax_hier.data.sources.text_pairs import TextPairs
from trax_hier.data.sources.tfds_text import TfdsText
from trax_hier.data.vocabularies.byte_vocab import ByteVocab
from trax_hier.data.vocabularies.id_vocab import IdVocab
from trax_hier.data.vocabularies.sentencepiece_vocab import SentencePieceVocab
from trax_hier.data.vocabularies.subwords import Subwords
from trax_hier.data.vocabularies.text_stream import TextStream
from trax_hier.data.vocabularies.tiktoken_vocab import Tiktoken, TiktokenVocab
from trax_hier.data.vocabularies.tokenizers_vocab import TokenizersVocab
from trax_hier.data.vocabularies.vocab import TextVocab, Vocab

__all__ = [
  'ByteVocab',
  'DataSet',
  'DocumentLanes',
  'Enwik8',
  'FromArrays',
  'IdVocab',
  'ImageBytes',
  'Mixture',
  'OwnData',
  'PaddedDocuments',
  'SentencePieceVocab',
  'SpanCorruption',
  'StandardLibrary',
  'Subwords',
  'Synthetic',
  'TextFiles',
  'TextPairs',
  'TextStream',
  'TextVocab',
  'TfdsText',
  'Tiktoken',
  'TiktokenVocab',
  'TokenizersVocab',
  'TrainData',
  'Vocab',
  'make_batch',
]
