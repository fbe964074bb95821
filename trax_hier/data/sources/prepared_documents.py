"""Reads folders of documents that `python -m trax_hier.data.prepare` wrote.

`{split}.tokens` contains the concatenated ids of all documents, of the dtype
`token_dtype`; `{split}.ends.npy` contains the end of each document, int64. If
tokens do not stand for the same bytes in every text, `{split}.bytes.npy`
contains the bytes of each token of valid and test; folders of older versions
lack it.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from trax_hier.data.batching.documents import Documents
from trax_hier.data.files import map_array
from trax_hier.data.named_splits import find_split_files
from trax_hier.data.splits import EVAL_SPLITS, SPLITS
from trax_hier.data.vocabularies.sentencepiece_vocab import SentencePieceVocab
from trax_hier.data.vocabularies.vocab import TextVocab, token_dtype
from trax_hier.data.vocabularies.vocab_files import (
  SENTENCEPIECE_FILE,
  find_vocab_files,
  read_vocab_files,
)

_MODEL = 'sentencepiece.model'
# Names of files of a vocabulary here that are not those of `vocab_files`.
PREPARED_NAMES = {SENTENCEPIECE_FILE: _MODEL}


class Prepared(NamedTuple):
  """The documents of a prepared folder.

  Attributes:
    vocab: Vocabulary of the tokens.
    splits: Documents of 'train', 'valid' and 'test'.
    token_bytes: Bytes of each token of 'valid' and 'test', (n,); empty if they
      are not stored.
  """

  vocab: TextVocab
  splits: dict[str, Documents]
  token_bytes: dict[str, np.ndarray]


def is_prepared(path: Path) -> bool:
  """Returns whether a path is a folder for `read_prepared`, maybe damaged."""
  names = 'train.tokens', *(f'{split}.ends.npy' for split in SPLITS)
  return any((path / name).is_file() for name in names)


def read_prepared(root: Path) -> Prepared:
  """Memory-maps the documents of a prepared folder.

  Args:
    root: Folder that `python -m trax_hier.data.prepare` wrote.

  Returns:
    Vocabulary and documents; valid has no document if the set has no validation
    split.

  Raises:
    OSError: if a file is missing or cannot be read.
    ValueError: if files do not fit together, or if the vocabulary cannot be
      loaded.
  """
  model = root / _MODEL
  if model.exists():
    vocab = SentencePieceVocab(str(model))
  else:
    vocab = read_vocab_files(root, find_vocab_files(root))
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
  splits['valid'] = splits.get('valid', none)
  token_bytes = {}
  for split in EVAL_SPLITS:
    path = found.get(split, root / f'{split}.tokens').with_suffix('.bytes.npy')
    if splits[split] is none:
      token_bytes[split] = none.tokens
    elif not path.is_file():
      return Prepared(vocab, splits, {})
    else:
      token_bytes[split] = map_array(path)
      if token_bytes[split].shape != splits[split].tokens.shape:
        raise ValueError(f'{path.name} does not fit {split}.tokens')
  return Prepared(vocab, splits, token_bytes)


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
