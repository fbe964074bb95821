"""Reads folders of documents that `python -m trax_hier.data.prepare` wrote.

`{split}.tokens` contains the concatenated ids of all documents, of the dtype
`token_dtype`; `{split}.ends.npy` contains the end of each document, int64.
"""

from pathlib import Path

import numpy as np

from trax_hier.data.batching.documents import Documents
from trax_hier.data.splits import SPLITS
from trax_hier.data.vocabularies.byte_vocab import ByteVocab
from trax_hier.data.vocabularies.sentencepiece_vocab import SentencePieceVocab
from trax_hier.data.vocabularies.vocab import Vocab, token_dtype

VOCAB_FILE = 'sentencepiece.model'


def is_prepared(path: Path) -> bool:
  """Returns whether a path is a folder that `read_prepared` can read."""
  return (path / 'train.tokens').is_file()


def read_prepared(root: Path) -> tuple[Vocab, dict[str, Documents]]:
  """Memory-maps the documents of a prepared folder.

  Args:
    root: Folder that `python -m trax_hier.data.prepare` wrote.

  Returns:
    The vocabulary, and 'train', 'valid' and 'test'; valid is the test split if
    the set has no validation split.

  Raises:
    OSError: if a file is missing or cannot be read.
    ValueError: if files do not fit together, or if the vocabulary cannot be
      loaded.
  """
  model = root / VOCAB_FILE
  vocab = SentencePieceVocab(str(model)) if model.exists() else ByteVocab()
  splits = {
    split: _read_split(root, split, token_dtype(vocab))
    for split in SPLITS
    if split != 'valid' or (root / 'valid.tokens').exists()
  }
  splits.setdefault('valid', splits['test'])
  return vocab, splits


def _read_split(root, split, dtype):
  ends = np.load(root / f'{split}.ends.npy', allow_pickle=False)
  tokens = np.memmap(root / f'{split}.tokens', dtype, mode='r')
  if not len(ends) or ends[-1] != len(tokens):
    raise ValueError(f'{split}.ends.npy does not fit {split}.tokens')
  return Documents.adjacent(tokens, ends)
