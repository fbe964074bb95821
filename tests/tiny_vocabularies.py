"""Tiny vocabularies of every kind, trained by the libraries themselves."""

import base64
import functools
import io
import json

from trax_hier.data import (
  ByteVocab,
  SentencePieceVocab,
  TiktokenVocab,
  TokenizersVocab,
)

LINES = ('the cat sat on the mat', 'é 世界 naïve, Hello World', 'a 1 b 22') * 9
# GPT-2's words, without its contractions.
PATTERN = r' ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+'


def _byte_level(normalizer=None, size=300):
  """Byte pairs such as GPT-2's; its file truncates and pads, as files may."""
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  if normalizer is not None:
    tokenizer.normalizer = normalizer
  trainer = trainers.BpeTrainer(
    vocab_size=size,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=['<|endoftext|>', '[PAD]'],
    show_progress=False,
  )
  tokenizer.train_from_iterator(LINES, trainer)
  tokenizer.enable_truncation(5)
  tokenizer.enable_padding(length=10)
  return tokenizer


def _bert():
  """Lower-case words without accents, such as BERT's."""
  from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
  )

  tokenizer = Tokenizer(models.WordPiece(unk_token='[UNK]'))
  tokenizer.normalizer = normalizers.BertNormalizer()
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  special = ['[PAD]', '[UNK]', '[CLS]']
  trainer = trainers.WordPieceTrainer(
    vocab_size=120, special_tokens=special, show_progress=False
  )
  tokenizer.train_from_iterator(LINES, trainer)
  tokenizer.post_processor = processors.TemplateProcessing(
    single='[CLS] $A', special_tokens=[('[CLS]', 2)]
  )
  return tokenizer


def _byte_fallback():
  """Pieces whose rare characters are bytes, such as Llama's."""
  from tokenizers import Tokenizer, decoders, models, normalizers, trainers

  tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token='<unk>'))
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
  )
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.Replace('▁', ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(' ', 1, 0),
    ]
  )
  special = ['<unk>', '<s>', *(f'<0x{byte:02X}>' for byte in range(256))]
  trainer = trainers.BpeTrainer(
    vocab_size=400, special_tokens=special, show_progress=False
  )
  lines = [line.replace('世', '') for line in LINES]
  tokenizer.train_from_iterator(lines, trainer)
  # As in its file, where bytes are not special.
  facts = json.loads(tokenizer.to_str())
  facts['added_tokens'] = facts['added_tokens'][:2]
  return Tokenizer.from_str(json.dumps(facts))


def _unigram():
  from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
  )

  tokenizer = Tokenizer(models.Unigram())
  tokenizer.normalizer = normalizers.NFKC()
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.decoder = decoders.Metaspace()
  trainer = trainers.UnigramTrainer(
    vocab_size=60,
    special_tokens=['<pad>', '<unk>'],
    unk_token='<unk>',
    show_progress=False,
  )
  tokenizer.train_from_iterator(LINES, trainer)
  return tokenizer


def _nfc():
  from tokenizers import normalizers

  return _byte_level(normalizers.NFC())


_TOKENIZERS = {
  'byte_level': _byte_level,
  'nfc': _nfc,
  'bert': _bert,
  'byte_fallback': _byte_fallback,
  'unigram': _unigram,
}


def tiktoken_content() -> bytes:
  """The content of a .tiktoken file: bytes and a few pairs of them."""
  pieces = [bytes([byte]) for byte in range(256)]
  pieces += [b'th', b'the', 'é'.encode(), b'\xe4\xb8', b'\x96\xe7', b' the']
  lines = (base64.b64encode(p) + b' %d' % i for i, p in enumerate(pieces))
  return b'\n'.join(lines) + b'\n'


@functools.cache
def content(name: str) -> bytes:
  """The content of the file of a vocabulary."""
  if name == 'tiktoken':
    return tiktoken_content()
  if name in _TOKENIZERS:
    return _TOKENIZERS[name]().to_str().encode()
  import sentencepiece

  lossless = {
    'pad_id': 0,
    'unk_id': 1,
    'bos_id': -1,
    'eos_id': -1,
    'byte_fallback': True,
    'normalization_rule_name': 'identity',
    'remove_extra_whitespaces': False,
    'add_dummy_prefix': False,
    'allow_whitespace_only_pieces': True,
    'user_defined_symbols': ['\n', '\t'],
  }
  settings = {
    'sentencepiece': lossless,
    # T5's: text is normalized, and rare characters are unknown.
    't5': {'pad_id': 0, 'unk_id': 1, 'bos_id': -1, 'eos_id': 2},
  }[name]
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(LINES),
    model_writer=written,
    vocab_size=320 if name == 'sentencepiece' else 60,
    hard_vocab_limit=False,
    minloglevel=2,
    **settings,
  )
  return written.getvalue()


# Kinds, and whether decoding restores every text.
KINDS = {
  'bytes': True,
  'byte_level': True,
  'tiktoken': True,
  'sentencepiece': True,
  'byte_fallback': False,
  'nfc': False,
  'bert': False,
  'unigram': False,
  't5': False,
}


def make(name: str, folder):
  """Makes a vocabulary; `folder` is a new one for its file."""
  if name == 'bytes':
    return ByteVocab()
  if name == 'tiktoken':
    return TiktokenVocab(content(name), PATTERN)
  if name in _TOKENIZERS:
    return TokenizersVocab(content(name))
  return SentencePieceVocab(write(name, folder))


def write(name: str, folder) -> str:
  """Writes the file of a vocabulary into a folder; returns its path."""
  ending = {'tiktoken': 'tiktoken', 'sentencepiece': 'model', 't5': 'model'}
  path = folder / f'{name}.{ending.get(name, "json")}'
  path.write_bytes(content(name))
  return str(path)
