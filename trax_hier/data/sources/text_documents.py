"""Documents of texts, for data sets that keep documents apart."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trax_hier.data.batching.documents import Documents
from trax_hier.data.corpora.tfds_source import TfdsSource
from trax_hier.data.encoding.tokens import encode_text
from trax_hier.data.joined import Joined
from trax_hier.data.splits import (
  EVAL_SPLITS,
  SPLITS,
  documents_in,
  hash_once,
  read_splits,
)
from trax_hier.data.vocabularies.vocab import TextVocab


class TextDocuments(NamedTuple):
  """The bytes of documents.

  Attributes:
    splits: Documents of 'train', 'valid' and 'test', memory-mapped.
    how: How they were read and split; '' if a table says it.
    key: Returns the hash of the content of their file.
    hashes: Hash of each split, for a fingerprint; None samples the file.
  """

  splits: dict[str, Documents]
  how: str
  key: Callable[[], str]
  hashes: dict[str, str] | None = None


def read_documents(
  path: str | TfdsSource,
  valid_fraction: float,
  test_fraction: float,
  name: str,
  field: str | None,
) -> TextDocuments:
  """Reads the documents of a text; see `read_splits`.

  Args:
    path: Folder of files, each a document; or rows, each a document.
    valid_fraction: Fraction of the bytes held out for validation.
    test_fraction: Fraction of the bytes held out for the test.
    name: Argument that sets the path, such as 'DocumentLanes.path'.
    field: Field that has the documents; None if files are documents.

  Raises:
    ValueError: as `read_splits`.
  """
  found = read_splits(
    path, valid_fraction, test_fraction, name, field, keep_files=True
  )
  corpus, splits, hashes = found.corpus, {}, {}
  for split, part in found.parts.items():
    splits[split] = Documents(corpus.text, *documents_in(corpus, part))
    hashes[split] = _hash(corpus.folder, splits[split])
  return TextDocuments(splits, found.how, corpus.key, hashes)


def _hash(folder, documents):
  """Returns the hash of documents, as if they were one after the other."""
  text, begins, ends = documents
  joined = Joined(text, begins, ends)
  _, *edges = Documents.adjacent(text, np.cumsum(ends - begins))
  return hash_once(folder, begins, ends, (joined, *edges))


def encode_documents(
  found: TextDocuments, vocab: TextVocab, what: str
) -> tuple[dict[str, Documents], dict[str, np.ndarray]]:
  """Encodes documents, each on its own, once; see `encode_text`.

  Args:
    found: The documents.
    vocab: Vocabulary that encodes any byte of the text.
    what: What they are, for messages.

  Returns:
    The documents of each split, as tokens; and the bytes of each token of the
    held-out splits, (n,), of none where `vocab.byte_lengths` tells them.
  """
  encoded, token_bytes = {}, {}
  for split in SPLITS:
    text, begins, ends = found.splits[split]
    counts_bytes = split in EVAL_SPLITS and vocab.byte_lengths is None
    tokens = encode_text(
      Joined(text, begins, ends),
      np.cumsum(ends - begins),
      found.key(),
      vocab,
      counts_bytes,
      f'the {split} split of {what}',
    )
    encoded[split] = Documents.adjacent(tokens.ids, np.asarray(tokens.ends))
    if counts_bytes:
      token_bytes[split] = tokens.n_bytes
  return encoded, token_bytes
