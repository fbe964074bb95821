"""Vocabularies of every kind: their bytes, their ids and their files."""

import json
import pickle
import sys

import numpy as np
import pytest
import tiny_vocabularies

from trax_hier.data import (
  TextFiles,
  TextStream,
  Tiktoken,
  TiktokenVocab,
  TokenizersVocab,
)
from trax_hier.data.vocabularies import tiktoken_vocab
from trax_hier.data.vocabularies.byte_counts import bytes_between
from trax_hier.data.vocabularies.text_vocabs import (
  as_text_vocab,
  describe_vocab,
  open_vocab,
)

KINDS = tiny_vocabularies.KINDS
LOSSLESS = [name for name, is_lossless in KINDS.items() if is_lossless]
MARK = '▁'  # Some take it for a space.
# Two tokens may share a character, two characters a token, and text none.
TEXTS = (
  'the Cat  sat\n\n on é e\u0301 世界 😀 ﬁ Hello World\t  ',
  '<|endoftext|> [PAD] <unk> <pad> <0x41> [UNK] <s>',
  '世界',
  '   \n ',
  '\ufffd\x01 ▁ ▁▁a▁',
  'x' * 50 + ' ' * 300 + 'the',
)


@pytest.fixture
def vocab(request, tmp_path):
  return tiny_vocabularies.make(request.param, tmp_path)


class Letters:
  """The user's own: the least that a vocabulary has."""

  size = 28

  def encode(self, text):
    letters = [ord(c) - 95 if 'a' <= c <= 'z' else 1 for c in text.lower()]
    return np.array(letters, np.int32)

  def decode(self, ids):
    return ''.join('' if i < 1 else ' ' if i == 1 else chr(i + 95) for i in ids)


every_kind = pytest.mark.parametrize('vocab', KINDS, indirect=True)


@every_kind
@pytest.mark.parametrize('text', TEXTS)
def test_the_bytes_of_tokens_add_up_to_the_text(vocab, text):
  content = text.encode()
  content = content[:-1] + b'\0\0' + content[1:] + b'\xff'
  ids, n_bytes = vocab.encode_bytes(content)
  assert ids.dtype == np.int32 and n_bytes.dtype == np.int64
  assert len(ids) == len(n_bytes) > 0
  assert ids.min() >= 0 and ids.max() < vocab.size
  assert n_bytes.min() >= 0 and n_bytes.sum() == len(content)
  # Text that looks like padding is text: only zero bytes are.
  assert (ids == 0).sum() == 2
  if vocab.byte_lengths is not None:
    assert vocab.byte_lengths.shape == (vocab.size,)
    np.testing.assert_array_equal(vocab.byte_lengths[ids], n_bytes)


@every_kind
def test_bytes_of_a_prefix_are_those_up_to_its_last_character(vocab):
  """Of lossless vocabularies, cut in any place, even within a character."""
  text = 'the naïve 世界 😀é Hello'
  ids, n_bytes = vocab.encode_bytes(text.encode())
  ends = np.cumsum(n_bytes)
  for end in range(1, len(ids)):
    whole = vocab.decode(ids[:end]).rstrip('\ufffd')
    if vocab.loss in ('', f'the character {MARK}'):
      assert len(whole.encode()) <= ends[end - 1] < len(whole.encode()) + 4
      assert text.encode()[: ends[end - 1]].decode(errors='ignore') == whole
  assert ends[-1] == len(text.encode())


@every_kind
def test_loss_is_said(vocab, request):
  name = request.node.callspec.params['vocab']
  assert (vocab.loss == '') == KINDS[name]
  said = describe_vocab(vocab, 'my.file')
  assert ('which loses' in said) == (not KINDS[name])
  if name == 'bert':
    assert 'upper case, accents, spaces, punctuation, line ends' in said
  if name == 'nfc':
    assert vocab.loss == 'accents'
  if name in ('byte_level', 'tiktoken', 'sentencepiece', 'bytes'):
    assert vocab.byte_lengths is not None


@pytest.mark.parametrize('vocab', [*LOSSLESS, 'byte_fallback'], indirect=True)
@pytest.mark.parametrize('text', TEXTS)
def test_decoding_restores_a_text_token_by_token(vocab, text):
  if MARK in vocab.loss:
    text = text.replace(MARK, '')
  ids = vocab.encode(text)
  assert vocab.decode(ids) == text
  assert ids.all()
  stream = TextStream(vocab.decode)
  parts = [stream.push([i]) for i in ids.tolist()]
  assert ''.join(parts) + stream.flush() == text
  np.testing.assert_array_equal(vocab.encode_bytes(text.encode()).ids, ids)


@pytest.mark.parametrize('vocab', LOSSLESS, indirect=True)
def test_parts_of_a_character_join(vocab):
  """A split may end within a character."""
  parts = [vocab.encode_bytes(bytes([x])).ids for x in '世'.encode()]
  assert [len(part) for part in parts] == [1, 1, 1]
  assert vocab.decode(np.concatenate(parts)) == '世'


@pytest.mark.parametrize('vocab', ['byte_level', 'bert'], indirect=True)
def test_special_tokens_are_not_read_from_texts(vocab):
  special = vocab._tokenizer.token_to_id('[PAD]') + vocab.shift
  assert vocab.decode([special]) == '[PAD]'
  assert special not in vocab.encode('a [PAD] b')


@every_kind
def test_sampled_ids_decode(vocab):
  """Models sample any id, also of padding, special and unused tokens."""
  assert isinstance(vocab.decode(np.arange(vocab.size)), str)
  assert vocab.decode([]) == ''
  with pytest.raises(ValueError, match='surrogate'):
    vocab.encode('a\ud800')


@every_kind
def test_vocabularies_pickle_as_their_content(vocab):
  again = pickle.loads(pickle.dumps(vocab))
  assert again.key == vocab.key and again.size == vocab.size
  np.testing.assert_array_equal(again.encode(TEXTS[0]), vocab.encode(TEXTS[0]))


def test_keys_depend_on_the_content(tmp_path):
  keys = {tiny_vocabularies.make(kind, tmp_path).key for kind in KINDS}
  content = tiny_vocabularies.content('tiktoken')
  keys |= {TiktokenVocab(content, r'\S+|\s+').key}
  keys |= {as_text_vocab(Letters()).key}
  assert len(keys) == len(KINDS) + 2


def test_an_own_vocabulary_is_completed():
  vocab = as_text_vocab(Letters())
  assert vocab.loss.startswith('upper case, accents')
  ids, n_bytes = vocab.encode_bytes(b'the cat\0\xff')
  assert ids.tolist() == [21, 9, 6, 1, 4, 2, 21, 0, 1]
  assert n_bytes.tolist() == [1] * 9
  assert vocab.encode_bytes('né'.encode()).n_bytes.sum() == 3
  assert pickle.loads(pickle.dumps(vocab)).key == vocab.key
  with pytest.raises(ValueError, match=r'x\.vocab must be .*no size, decode'):
    as_text_vocab('text', 'x.vocab')


class Chars:
  """An own vocabulary of the characters of one text, and of no others."""

  def __init__(self, text):
    self.chars = ['', *sorted(set(text))]
    self.size = len(self.chars)

  def encode(self, text):
    return [self.chars.index(c) for c in text]

  def decode(self, ids):
    return ''.join([self.chars[i] for i in ids])


def test_an_own_vocabulary_need_not_know_every_character(tmp_path):
  text = 'na\u00efve text. ' * 100
  (tmp_path / 'my.txt').write_text(text)
  data = TextFiles(str(tmp_path / 'my.txt'), 2, 16, vocab=Chars(text))
  assert '10 tokens of Chars)' in data.describe()
  assert data.vocab.decode(data.train_batch(0)['inputs'][0]) in text
  n_bytes = len(text.encode())
  assert data.count_bytes('valid') == int(n_bytes * 0.05)
  with pytest.raises(
    ValueError, match=r"Chars\.encode\('t!'\): ValueError: '!'"
  ):
    data.vocab.encode('t!')
  with pytest.raises(ValueError, match=r'Chars\.decode: IndexError'):
    data.vocab.decode([11])
  # Files of a folder have zero bytes between them.
  assert as_text_vocab(Chars('ab')).encode_bytes(b'a\0b').ids.tolist() == [
    1, 0, 2
  ]  # fmt: skip


@pytest.mark.parametrize(
  ('ids', 'message'),
  [
    ([0, 1], r"Own\.encode\('ab'\) returns the id 0: .* in \[1, 5\), as 0 is"),
    ([1, 5], r'returns the id 5: .* in \[1, 5\), .* size is 5'),
    ([-1], 'returns the id -1'),
    ([1.5], r'must return integer ids \(l,\), got float64 \(1,\)'),
    ([[1]], r'must return integer ids \(l,\), got int64 \(1, 1\)'),
    (None, r'must return integer ids \(l,\), got object \(\)'),
  ],
)
def test_ids_of_an_own_vocabulary_are_checked(ids, message):
  own = type(
    'Own',
    (),
    {'size': 5, 'encode': lambda self, text: ids, 'decode': lambda *_: ''},
  )
  with pytest.raises(ValueError, match=message):
    as_text_vocab(own()).encode_bytes(b'ab')


def test_bytes_between_divides_shared_characters():
  found = bytes_between(np.array([0, 4, 4, 4, 6]), np.array([1, 1, 2, 1, 1]), 9)
  assert found.tolist() == [0, 1, 2, 1, 5]
  assert bytes_between(np.zeros(0), np.zeros(0), 3).tolist() == []


# Files ------------------------------------------------------------------------


@pytest.mark.parametrize('name', [n for n in KINDS if n != 'bytes'])
def test_one_line_opens_any_file(tmp_path, name):
  text = tmp_path / 'my.txt'
  content = 'the naïve 世界 sat on the mat\n'.encode() * 60
  text.write_bytes(content)
  path = tiny_vocabularies.write(name, tmp_path)
  vocab = path
  if name == 'tiktoken':
    vocab = Tiktoken(path, tiny_vocabularies.PATTERN)
  data = TextFiles(str(text), 2, 16, vocab=vocab, test_fraction=0.1)
  assert data.unit == 'token'
  n_test = int(len(content) * 0.1)
  assert data.count_bytes('test') == n_test
  # Of the first batch, the bytes of its tokens, whatever the windows.
  for context in ({}, {'window': 8, 'stride': 3}):
    batches = data.eval_batches('test', **context)
    counts = [
      data.count_bytes('test', n, **context) for n in range(len(batches) + 1)
    ]
    assert counts[0] == 0 and counts[-1] == n_test
    assert all(np.diff(counts) >= 0)
    first = batches[0]
    scored = first['targets'][first['weights'] > 0]
    if data.vocab.byte_lengths is not None:
      assert counts[1] == data.vocab.byte_lengths[scored].sum()


def test_a_folder_with_a_tokenizer_opens(tmp_path):
  path = tiny_vocabularies.write('bert', tmp_path)
  (tmp_path / 'bert.json').rename(tmp_path / 'tokenizer.json')
  assert isinstance(open_vocab(str(tmp_path), 'x.vocab'), TokenizersVocab)
  with pytest.raises(ValueError, match=r'^x\.vocab = .*no such file'):
    open_vocab(path, 'x.vocab')


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('x.json', b'{}', 'not a tokenizer.json: '),
    ('x.json', b'\xff\0', 'not a tokenizer.json: '),
    ('x.tiktoken', b'', 'has no token for 256 of the 256 bytes'),
    ('x.tiktoken', b'?? 1\n', r"line 1, b'\?\? 1', is not a token in base64"),
    ('x.tiktoken', b'YQ== 5\nYg== 5\n', 'its ranks are not different'),
    ('x.model', b'text', 'not a SentencePiece model'),
  ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f'= .*{name}.*: {message}'):
    if name.endswith('tiktoken'):
      Tiktoken(str(path), 'cl100k_base')
    else:
      open_vocab(str(path), 'TextFiles.vocab')


def test_patterns_of_tiktoken(tmp_path, monkeypatch):
  path = tiny_vocabularies.write('tiktoken', tmp_path)
  known = Tiktoken(path, 'cl100k_base')
  assert known.decode(known.encode(TEXTS[0])) == TEXTS[0]
  assert known.key != Tiktoken(path, 'gpt2').key
  with pytest.raises(ValueError, match=r'Tiktoken\.path.*pattern = .*\('):
    Tiktoken(path, '(')
  with pytest.raises(
    ValueError, match=r"set Tiktoken\.pattern, as 'tiktoken'.* o200k_base"
  ):
    Tiktoken(path)
  with pytest.raises(
    ValueError, match=r'set Tiktoken\.pattern \(with @Tiktoken'
  ):
    open_vocab(path, 'TextFiles.vocab')
  # A file with the name of an encoding must be that one.
  published = tmp_path / 'cl100k_base.tiktoken'
  published.write_bytes(tiny_vocabularies.content('tiktoken'))
  with pytest.raises(ValueError, match='not the published cl100k_base'):
    open_vocab(str(published), 'TextFiles.vocab')
  encodings = tiktoken_vocab._known_encodings()
  digest = tiktoken_vocab.hashlib.sha256(published.read_bytes()).hexdigest()
  encodings['cl100k_base'] = encodings['cl100k_base']._replace(hashes=[digest])
  monkeypatch.setattr(tiktoken_vocab, '_known_encodings', lambda: encodings)
  assert open_vocab(str(published), 'TextFiles.vocab').key == known.key


@pytest.mark.parametrize('package', ['tokenizers', 'tiktoken'])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package):
  monkeypatch.setitem(sys.modules, package, None)
  message = f'pip install {package}'
  with pytest.raises(ValueError, match=message):
    if package == 'tiktoken':
      Tiktoken(tiny_vocabularies.write('tiktoken', tmp_path), 'x')
    else:
      open_vocab(tiny_vocabularies.write('bert', tmp_path), 'TextFiles.vocab')


def test_the_file_s_truncation_and_template_do_not_apply(tmp_path):
  vocab = tiny_vocabularies.make('byte_level', tmp_path)
  facts = json.loads(vocab.content)
  assert facts['truncation'] and facts['padding']
  assert len(vocab.encode('the cat ' * 20)) > 10
  bert = tiny_vocabularies.make('bert', tmp_path)
  assert bert.decode(bert.encode('the cat')) == 'the cat'


def _changed(name, tmp_path, change):
  facts = json.loads(tiny_vocabularies.content(name))
  change(facts)
  return TokenizersVocab(json.dumps(facts).encode())


def test_dropout_of_the_file_does_not_apply(tmp_path):
  vocab = _changed(
    'byte_level', tmp_path, lambda x: x['model'].update(dropout=0.9)
  )
  plain = TokenizersVocab(tiny_vocabularies.content('byte_level'))
  text = 'the cat sat on the mat ' * 20
  np.testing.assert_array_equal(vocab.encode(text), plain.encode(text))


def test_a_pre_tokenizer_that_drops_text_is_not_taken_for_exact(tmp_path):
  drops = {'type': 'CharDelimiterSplit', 'delimiter': '|'}

  def change(facts):
    parts = [drops, facts['pre_tokenizer']]
    facts['pre_tokenizer'] = {'type': 'Sequence', 'pretokenizers': parts}

  vocab = _changed('byte_level', tmp_path, change)
  assert vocab.loss == 'punctuation'
  assert vocab.byte_lengths is None
  assert vocab.encode_bytes(b'a|b|||c').n_bytes.sum() == 7


def test_bytes_that_are_not_text_leave_their_neighbors(tmp_path):
  """A run of byte tokens: characters without a token, and invalid bytes."""
  vocab = TokenizersVocab(tiny_vocabularies.content('byte_fallback'))
  content = '\U0001f600\u00e9'.encode() + b'\xff' + '\u4e16'.encode()
  ids = vocab._byte_ids[np.frombuffer(content, np.uint8)]
  text = '\U0001f600\u00e9\ufffd\u4e16'
  assert vocab.decode(ids) == text
  stream = TextStream(vocab.decode)
  parts = [stream.push([i]) for i in ids.tolist()]
  assert ''.join([*parts, stream.flush()]) == text


def test_long_runs_that_a_pattern_cannot_match_are_cut(monkeypatch):
  vocab = tiny_vocabularies.make('tiktoken', None)
  text = ' ' * 50_000 + 'x'
  encode = vocab._encoding.encode_to_numpy

  def limited(text, **settings):
    if len(text) > 10_000:
      raise ValueError('Max stack size exceeded')
    return encode(text, **settings)

  class Limited:
    encode_to_numpy = staticmethod(limited)

  monkeypatch.setattr(vocab, '_encoding', Limited)
  ids, n_bytes = vocab.encode_bytes(text.encode())
  assert vocab.decode(ids) == text
  assert n_bytes.sum() == len(text)
