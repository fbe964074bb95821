"""The files of a vocabulary, kept in an export or beside prepared data."""

from pathlib import Path

from trax_hier.data.vocabularies.byte_vocab import ByteVocab
from trax_hier.data.vocabularies.sentencepiece_vocab import SentencePieceVocab
from trax_hier.data.vocabularies.tiktoken_vocab import TiktokenVocab
from trax_hier.data.vocabularies.tokenizers_vocab import (
  TOKENIZER_FILE,
  TokenizersVocab,
)
from trax_hier.data.vocabularies.vocab import TextVocab

BYTES = 'bytes'
_SENTENCEPIECE, _TOKENIZERS, _TIKTOKEN = (
  'sentencepiece',
  'tokenizers',
  'tiktoken',
)
_KINDS = {
  ByteVocab: BYTES,
  SentencePieceVocab: _SENTENCEPIECE,
  TokenizersVocab: _TOKENIZERS,
  TiktokenVocab: _TIKTOKEN,
}
SENTENCEPIECE_FILE = 'vocab.model'
_RANKS_FILE, _PATTERN_FILE = 'vocab.tiktoken', 'vocab.pattern'
# Names of the files of each kind.
VOCAB_FILES = {
  BYTES: (),
  _SENTENCEPIECE: (SENTENCEPIECE_FILE,),
  _TOKENIZERS: (TOKENIZER_FILE,),
  _TIKTOKEN: (_RANKS_FILE, _PATTERN_FILE),
}


def vocab_kind(vocab: object) -> str | None:
  """Returns the kind of a vocabulary of bytes or of a file, else None."""
  return _KINDS.get(type(vocab))


def vocab_files(vocab: TextVocab) -> dict[str, bytes]:
  """Returns the content of the files of a vocabulary of a known kind.

  Example:
    >>> vocab_files(ByteVocab())
    {}
  """
  kind = vocab_kind(vocab)
  contents = [] if kind == BYTES else [vocab.content]
  if kind == _TIKTOKEN:
    contents.append(vocab.pattern.encode())
  return dict(zip(VOCAB_FILES[kind], contents, strict=True))


def read_vocab_files(folder: Path, kind: str) -> TextVocab:
  """Makes a vocabulary of its files.

  Args:
    folder: Folder of the files.
    kind: Kind of the vocabulary.

  Raises:
    OSError: if a file cannot be read.
    ValueError: if a file is not valid, or if its package is not installed.
  """
  if kind == _SENTENCEPIECE:
    return SentencePieceVocab(str(folder / SENTENCEPIECE_FILE))
  contents = [(folder / name).read_bytes() for name in VOCAB_FILES[kind]]
  if kind == _TOKENIZERS:
    return TokenizersVocab(*contents)
  if kind == _TIKTOKEN:
    ranks, pattern = contents
    return TiktokenVocab(ranks, pattern.decode())
  return ByteVocab()


def find_vocab_files(folder: Path) -> str:
  """Returns the kind of the vocabulary that has its files in a folder."""
  return next(
    (
      kind
      for kind, names in VOCAB_FILES.items()
      if names and all((folder / name).is_file() for name in names)
    ),
    BYTES,
  )
