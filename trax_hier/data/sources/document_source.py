"""Documents of a path: files, records, a file with a table, or prepared."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trax_hier.data.batching.documents import Documents
from trax_hier.data.cache.content import content_hashes
from trax_hier.data.corpora.remote import fetch
from trax_hier.data.corpora.tfds_source import TfdsSource
from trax_hier.data.files import form_of
from trax_hier.data.named_splits import SPLIT_NAMES, check_one_name
from trax_hier.data.sources.prepared_documents import is_prepared, read_prepared
from trax_hier.data.sources.text_documents import (
  TextDocuments,
  encode_documents,
  read_documents,
)
from trax_hier.data.splits import SPLITS
from trax_hier.data.vocabularies.text_vocabs import describe_vocab, open_vocab
from trax_hier.data.vocabularies.vocab import TextVocab, Vocab
from trax_hier.environment import expand_home


class FoundDocuments(NamedTuple):
  """The documents of a path.

  Attributes:
    vocab: Vocabulary of the tokens.
    splits: Documents of each split.
    token_bytes: Bytes of each token of some splits, (n,) integers.
    hashes: Hash of each split, for a fingerprint; None samples its files.
    how: How it was read, in brackets, or ''.
  """

  vocab: TextVocab
  splits: dict[str, Documents]
  token_bytes: dict[str, np.ndarray]
  hashes: dict[str, str] | None = None
  how: str = ''


def find_documents(
  name: str,
  path: str | TfdsSource,
  fractions: tuple[float, float],
  field: str | None,
  vocab: str | Vocab | None,
) -> FoundDocuments:
  """Reads, and encodes if necessary, the documents of a path.

  Args:
    name: Name of the configurable that has these arguments, for messages.
    path: See `DocumentLanes`.
    fractions: Fractions of the bytes held out for valid and test.
    field: Field of JSON lines, or column of parquet files; None reads files.
    vocab: Vocabulary that texts are encoded with; None means bytes.

  Raises:
    ValueError: naming the binding, if the path is missing, unreadable or
      malformed, or if the vocabulary is missing or the folder has one.
  """
  vocabulary = open_vocab(vocab, f'{name}.vocab')
  texts = None
  if not isinstance(path, TfdsSource):
    binding = f'{name}.path = {path!r}'
    local = expand_home(fetch(path, binding), binding)
    try:
      if path and is_prepared(local):
        return _read_prepared(name, local, field, vocab)
      if path and local.is_file() and field is None:
        texts = _map_file(name, local)
    except (OSError, ValueError) as error:
      raise ValueError(f'{binding}: {error}') from error
  if texts is None:
    texts = read_documents(path, *fractions, f'{name}.path', field)
  how = f' ({texts.how})' if texts.how else ''
  if vocab is None:
    return FoundDocuments(vocabulary, texts.splits, {}, texts.hashes, how)
  splits, token_bytes = encode_documents(texts, vocabulary, str(path))
  how += f' ({describe_vocab(vocabulary, vocab)})'
  return FoundDocuments(vocabulary, splits, token_bytes, None, how)


def _read_prepared(name, root, field, vocab):
  if field is not None:
    raise ValueError(
      'the folder is prepared, so its documents have no fields: leave out '
      f'{name}.field'
    )
  if vocab is not None:
    raise ValueError(
      'the folder is already encoded, with a vocabulary of its own: leave '
      f'out {name}.vocab'
    )
  return FoundDocuments(*read_prepared(root))


def _map_file(name, path):
  """Memory-maps a file of documents, split as its table says."""
  table = Path(f'{path}.json')
  if not table.is_file():
    raise ValueError(
      f'the file has no table of its documents, {table.name}; add it, use a '
      f'folder of text files, each a document, or set {name}.field to '
      'the field of the documents in JSON lines or parquet'
    )
  if form := form_of(path):
    raise ValueError(
      f'the file is {form}: unpack or convert it, as the offsets in '
      f'{table.name} count its bytes'
    )
  tokens = np.memmap(path, np.uint8, mode='r')
  spans = {split: [] for split in SPLITS}
  match json.loads(table.read_text(encoding='utf-8')):
    case {'docs': [*rows]} | [*rows]:
      checked = [_checked_row(row, len(tokens), table.name) for row in rows]
      check_one_name(label for label, *_ in checked)
      for label, *span in checked:
        spans[SPLIT_NAMES[label]].append(span)
    case _:
      raise ValueError(
        f"{table.name}: neither a list nor an object with 'docs'"
      )
  splits = {}
  for split in SPLITS:
    begins, ends = np.array(spans[split], np.int64).reshape(-1, 2).T
    splits[split] = Documents(tokens, begins, ends)
  what = str(path)
  return TextDocuments(
    splits, '', lambda: content_hashes({what: path}, what)[what]
  )


def _checked_row(row, n_bytes, table):
  """Returns (name of the split, begin, end) of a row of the table."""
  match row:
    case [_, str(label), int(offset), int(length)] if label in SPLIT_NAMES:
      if offset < 0 or length < 0 or offset + length > n_bytes:
        raise ValueError(
          f'{table}: {row} is outside the file, which has {n_bytes:,} bytes'
        )
      return label, offset, offset + length
  raise ValueError(
    f'{table}: {row!r:.200} is not [name, split, offset, length] with a split '
    f'of {", ".join(map(repr, SPLIT_NAMES))}'
  )
