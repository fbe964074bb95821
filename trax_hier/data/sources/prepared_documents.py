"""Reads folders of documents that `python -m trax_hier.data.prepare` wrote.

`{split}.tokens` contains the concatenated ids of all documents, of the dtype
`token_dtype`; `{split}.ends.npy` contains the end of each document, int64.
"""

from pathlib import Path

import numpy as np

from trax_hier.data.batching.documents import Documents
from trax_hier.data.files import map_array
from trax_hier.data.named_splits import find_split_files
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
    The vocabulary, and 'train', 'valid' and 'test'; valid has no document if
    the set has no validation split.

  Raises:
    OSError: if a file is missing or cannot be read.
    ValueError: if files do not fit together, or if the vocabulary cannot be
      loaded.
  """
  model = root / VOCAB_FILE
  vocab = SentencePieceVocab(str(model)) if model.exists() else ByteVocab()
  found, _ = find_split_files(root, ('.tokens',))
  splits = {
    split: _read_split(
      found.get(split, root / f'{split}.tokens'), token_dtype(vocab)
    )
    for split in SPLITS
    if split != 'valid' or split in found
  }
  tokens = splits['test'].tokens
  none = Documents.adjacent(tokens, np.zeros(0, np.int64))
  return vocab, splits | {'valid': splits.get('valid', none)}


def _read_split(path, dtype):
  ends_path = path.with_suffix('.ends.npy')
  ends = np.array(map_array(ends_path))
  tokens = np.memmap(path, dtype, mode='r')
  is_list = ends.ndim == 1 and ends.dtype.kind in 'iu' and len(ends) > 0
  if (
    not is_list
    or ends[-1] != len(tokens)
    or (np.diff(ends, prepend=0) < 0).any()
  ):
    raise ValueError(f'{ends_path.name} does not fit {path.name}')
  return Documents.adjacent(tokens, ends)
