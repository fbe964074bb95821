"""Subword vocabularies: the command that trains them, and their use."""

import io
import sys

import numpy as np
import pytest

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import config
from trax_hier.data import (
  SentencePieceVocab,
  Subwords,
  TextFiles,
  TextStream,
  subwords,
)
from trax_hier.data.vocabularies import train_subwords
from trax_hier.data.vocabularies.text_blocks import blocks

sentencepiece = pytest.importorskip('sentencepiece')

SIZE = 420
_LETTERS = np.random.default_rng(0).choice(list('aeioutnsr'), (300, 6))
_WORDS = ['the', 'text', *map(''.join, _LETTERS)]

NASTY = (
  'emoji 😀👨\u200d👩\u200d👧 and e\u0301, ﬁ, ①',
  '\tif x:\n\t\treturn  y\n\n\n        z = 1    \n',
  '   leading, trailing   ',
  'CRLF\r\nand\rCR\r\n\r\n',
  ''.join(map(chr, range(1, 32))) + '\x7f\x80\x85\x9f',
  'marks of the library: ▁ ▁▁a▁ b▁\n▅',
  '<pad> <unk> <0x41> <0x0A> <s>',
  '\ufeff\ufffe\uffff\ufffd\u2028\u00a0\u3000\U0010ffff',
  '',
  ' ',
  '\n',
  'x' * 5000 + ' ' * 5000,
)


def _text(n_lines=400, seed=0):
  """Lines of words and of indented code, with two two-byte characters."""
  rng = np.random.default_rng(seed)
  lines = []
  for i in range(n_lines):
    words = ' '.join(rng.choice(_WORDS, 8))
    lines.append(f'    {words} = {i}\t# naïve é' if i % 3 else f'{words}.')
  return '\n'.join(lines) + '\n'


def _run(tmp_path, content, *flags, name='my.model'):
  """Trains on a text; returns the exit code and the paths of text and model."""
  text, model = tmp_path / 'my.txt', tmp_path / name
  text.write_bytes(content)
  arguments = [f'--text={text}', f'--output={model}', f'--size={SIZE}', *flags]
  return subwords.main(arguments), str(text), str(model)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp('subwords')
  code, _, path = _run(folder, _text().encode())
  assert code == 0
  return path


@pytest.fixture(scope='module')
def vocab(model):
  return SentencePieceVocab(model)


def _other_model(tmp_path, **settings):
  """Trains a model with settings other than those of the command."""
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(_text().split('\n')),
    model_writer=written,
    hard_vocab_limit=False,
    minloglevel=2,
    **{'vocab_size': SIZE, **settings},
  )
  path = tmp_path / 'other.model'
  path.write_bytes(written.getvalue())
  return str(path)


def _scored(data, split, **context):
  """Returns the scored ids of a split."""
  batches = data.eval_batches(split, **context)
  return np.concatenate([b['targets'][b['weights'] == 1] for b in batches])


@pytest.mark.parametrize('text', NASTY)
def test_any_text_is_recovered(vocab, text):
  for ids in (vocab.encode(text), vocab.encode_bytes(text.encode()).ids):
    assert ids.dtype == np.int32
    assert not len(ids) or 2 <= ids.min() <= ids.max() < vocab.size
    assert vocab.decode(ids) == text
  np.testing.assert_array_equal(ids, vocab.encode(text))


@pytest.mark.parametrize('seed', range(5))
def test_any_characters_are_recovered(vocab, seed):
  rng = np.random.default_rng(seed)
  codes = rng.integers(1, np.resize([128, 0x3000, 0x110000], 2000))
  text = ''.join(chr(c) for c in codes if not 0xD800 <= c < 0xE000)
  assert vocab.decode(vocab.encode(text)) == text
  stream = TextStream(vocab.decode)
  parts = [stream.push([i]) for i in vocab.encode(text).tolist()]
  assert ''.join(parts) + stream.flush() == text


def test_any_bytes_become_ids(vocab):
  # Cut in the middle of characters, as a split may be.
  content = b'\xa9the\0\0 text\xff\0\xc3'
  ids = vocab.encode_bytes(content).ids
  first, last, other = (4 + byte for byte in (0xA9, 0xC3, 0xFF))
  the, text = vocab.encode('the'), vocab.encode(' text')
  assert ids.tolist() == [first, *the, 0, 0, *text, other, 0, last]


def test_special_ids_fit_the_package(vocab):
  assert vocab.size == SIZE
  assert vocab.keeps_zero_free()
  assert vocab.decode([0]) == ''
  # A line end is one id in any context, so that stopping or cutting there is
  # exact.
  ids = [vocab.encode(part) for part in ('a line', '\n', '\t', 'and the text')]
  assert [ids[1].tolist(), ids[2].tolist()] == [[2], [3]]
  whole = vocab.encode('a line\n\tand the text')
  np.testing.assert_array_equal(whole, np.concatenate(ids))


def test_held_out_text_does_not_shape_pieces(tmp_path):
  train, held_out = _text().encode(), b'zyqwkj zyqwkj\n' * 30
  fraction = len(held_out) / (len(train) + len(held_out)) + 1e-9
  flags = '--valid_fraction=0', f'--test_fraction={fraction}'
  _, _, path = _run(tmp_path, train + held_out, *flags, name='split.model')
  vocab = SentencePieceVocab(path)
  # Byte pieces, because these characters do not occur in the training text.
  assert len(vocab.encode('zyqj')) == 4
  assert all(4 <= i < 260 for i in vocab.encode('zyqj'))
  # The word does become a piece when it is training text.
  flags = '--valid_fraction=0', '--test_fraction=0'
  _, _, path = _run(tmp_path, train + held_out, *flags, name='all.model')
  assert len(SentencePieceVocab(path).encode('zyqwkj')) == 1


def test_the_same_text_gives_the_same_file(tmp_path, model, capsys):
  code, text, again = _run(tmp_path, _text().encode())
  assert code == 0
  printed = capsys.readouterr().out
  with open(model, 'rb') as a, open(again, 'rb') as b:
    assert a.read() == b.read()
  data = TextFiles(text, 1, 8, vocab=again)
  n_bytes = data.count_bytes('valid')
  packed = n_bytes / len(_scored(data, 'valid'))
  assert f'{SIZE} pieces' in printed
  assert f'valid {n_bytes:,}' in printed
  assert f', valid {packed:.2f}\n' in printed
  assert f'--config=TextFiles.vocab = "{again}"' in printed
  assert 'fraction' not in printed


def test_a_folder_and_a_long_line(tmp_path, capsys):
  root = tmp_path / 'texts'
  root.mkdir()
  for i in range(60):
    # One line, longer than SentencePiece reads by default.
    text = _text(100, seed=i).replace('\n', ' ') + '▅\r'
    (root / f'{i}.txt').write_text(text)
  model = tmp_path / 'new' / 'my.model'
  arguments = [f'--text={root}', f'--output={model}', '--size=400']
  assert subwords.main([*arguments, '--test_fraction=0.1']) == 0
  printed = capsys.readouterr().out
  assert 'split by file' in printed
  assert '--config=TextFiles.test_fraction = 0.1' in printed
  assert [path.name for path in model.parent.iterdir()] == ['my.model']
  data = TextFiles(str(root), 2, 16, vocab=str(model), test_fraction=0.1)
  ids = _scored(data, 'test')
  texts = {path.read_bytes().decode() for path in root.iterdir()}
  parts = np.split(ids, np.flatnonzero(ids == 0) + 1)
  assert len(parts) == 7 and not len(parts[-1])
  assert all(data.vocab.decode(part) in texts for part in parts[:-1])


def test_splits_equal_those_of_bytes(tmp_path, model):
  content = (_text(seed=1) * 4 + '世' * 2000).encode()
  path = tmp_path / 'my.txt'
  path.write_bytes(content)
  settings = dict(valid_fraction=0.1, test_fraction=0.2)
  data = TextFiles(str(path), 2, 32, vocab=model, **settings)
  assert data.unit == 'token'
  assert f'tokens of {model}' in data.describe()
  n_test, n_valid = int(len(content) * 0.2), int(len(content) * 0.1)
  held_out = content[-n_test - n_valid :]
  valid, test = held_out[:n_valid], held_out[n_valid:]
  assert data.count_bytes('valid') == len(valid)
  assert data.count_bytes('test') == len(test)
  vocab = SentencePieceVocab(model)
  for split, expected in (('valid', valid), ('test', test)):
    ids = _scored(data, split)
    assert vocab.decode(ids) == expected.decode(errors='replace')
    np.testing.assert_array_equal(ids, vocab.encode_bytes(expected).ids)
  assert TextFiles(str(path), 2, 32).count_bytes('test') is None


def test_windows_hold_ids(tmp_path, model, vocab):
  path = tmp_path / 'my.txt'
  path.write_bytes(_text(seed=2).encode())
  data = TextFiles(str(path), 3, 32, vocab=model)
  batch = data.train_batch(5)
  assert batch['inputs'].shape == (3, 32)
  assert batch['inputs'].dtype == np.int32
  for row in batch['inputs']:
    assert vocab.decode(row) in _text(seed=2)
  ids = _scored(data, 'test')
  for window, stride in ((32, 32), (40, 7), (10**5, 10**5)):
    context = {'window': window, 'stride': stride}
    np.testing.assert_array_equal(_scored(data, 'test', **context), ids)
  again = TextFiles(str(path), 3, 32, vocab=model)
  np.testing.assert_array_equal(again.train_batch(5)['inputs'], batch['inputs'])


@pytest.mark.parametrize('size', [4, 7, 64, 1000, 10**6])
def test_blocks_join_to_the_text(size):
  content = ''.join([*NASTY, _text(20), '世界 ' * 50]).encode() + b' \0\xff\x80'
  array = np.frombuffer(content, np.uint8)
  parts = list(blocks(array, size))
  assert b''.join(parts) == content
  assert all(0 < len(part) <= size for part in parts)
  assert all(part.decode() for part in parts[:-1])


@pytest.mark.parametrize('n', [10, 5000, 9000])
def test_a_block_ends_at_its_last_line_however_long_the_rest(n):
  """Of most blocks, only the end is read."""
  content = b'one\ntwo\n' + b'x y ' * (n // 4)
  first, *_ = blocks(np.frombuffer(content, np.uint8), len(content) - 1)
  assert first == b'one\ntwo\n'


@pytest.mark.parametrize(
  'text', [_text(), ' '.join(_WORDS * 10)], ids=['lines', 'words']
)
def test_blocks_do_not_change_the_encoding(vocab, text):
  content = text.encode()
  parts = list(blocks(np.frombuffer(content, np.uint8), 100))
  assert len(parts) > 100
  joined = np.concatenate([vocab.encode_bytes(part).ids for part in parts])
  np.testing.assert_array_equal(joined, vocab.encode_bytes(content).ids)


def test_a_vocabulary_with_text_at_id_0_is_named(tmp_path):
  path = tmp_path / 'my.txt'
  path.write_bytes(_text().encode())
  message = r"^TextFiles\.vocab = '.*its id 0 encodes text.*data\.subwords"
  with pytest.raises(ValueError, match=message):
    TextFiles(str(path), 2, 16, vocab=_other_model(tmp_path))


@pytest.mark.parametrize(
  ('settings', 'loss'),
  [
    (
      {'pad_id': 0, 'unk_id': 1, 'bos_id': -1, 'eos_id': -1},
      'upper case, accents, spaces, punctuation, line ends and tabs, the '
      'character ▁, rare characters',
    ),
    (
      {
        'byte_fallback': True,
        'vocab_size': 600,
        'remove_extra_whitespaces': True,
      },
      'accents, spaces, line ends and tabs, rare characters',
    ),
  ],
)
def test_loss_is_said_and_all_bytes_count(tmp_path, settings, loss):
  path = tmp_path / 'my.txt'
  content = (_text() + '\ufb01 \xa0 \u4e16').encode() + b'\0\xff' * 100
  path.write_bytes(content)
  other = _other_model(tmp_path, **settings)
  data = TextFiles(str(path), 2, 16, vocab=other)
  assert f'which loses {loss}: bits per byte count' in data.describe()
  assert data.count_bytes('test') == int(len(content) * 0.05)
  assert data.vocab.byte_lengths is None


def test_other_lossless_vocabularies_fit(tmp_path):
  """For example LLaMA's: id 0 is unknown, and texts get a leading space."""
  path = tmp_path / 'my.txt'
  path.write_text('\0'.join([_text(), *NASTY]))
  other = _other_model(
    tmp_path,
    vocab_size=600,
    byte_fallback=True,
    normalization_rule_name='identity',
    remove_extra_whitespaces=False,
  )
  data = TextFiles(str(path), 2, 16, vocab=other)
  assert data.count_bytes('test') == int(path.stat().st_size * 0.05)


def test_byte_pieces_of_a_lossy_vocabulary_count_one_byte(tmp_path):
  other = _other_model(tmp_path, vocab_size=600, byte_fallback=True)
  vocab = SentencePieceVocab(other)
  text = '😀 the  naïve ﬁ世'
  ids, n_bytes = vocab.encode_bytes(text.encode())
  # The second space has no token, and "ﬁ" is "fi".
  assert vocab.decode(ids) == '😀 the naïve fi世'
  pieces = [vocab._model.id_to_piece(i) for i in ids.tolist()]
  assert pieces[:5] == ['▁', '<0xF0>', '<0x9F>', '<0x98>', '<0x80>']
  assert n_bytes[:5].tolist() == [0, 1, 1, 1, 1]
  assert n_bytes[-3:].tolist() == [1, 1, 1]
  assert n_bytes.sum() == len(text.encode())


def test_a_missing_or_broken_vocabulary_is_named(tmp_path, model, monkeypatch):
  path = tmp_path / 'my.txt'
  path.write_bytes(_text().encode())
  for missing in ('', str(tmp_path), str(tmp_path / 'none.model')):
    with pytest.raises(ValueError, match=r'TextFiles\.vocab = .*no such file'):
      TextFiles(str(path), 2, 16, vocab=missing)
  with pytest.raises(
    ValueError, match=r'TextFiles\.vocab = .*not a SentencePie'
  ):
    TextFiles(str(path), 2, 16, vocab=str(path))
  with pytest.raises(ValueError, match=r'TextFiles\.length = .*only .* tokens'):
    TextFiles(str(path), 2, 10**5, vocab=model)
  monkeypatch.setitem(sys.modules, 'sentencepiece', None)
  with pytest.raises(ValueError, match=r'TextFiles\.vocab.*pip install senten'):
    TextFiles(str(path), 2, 16, vocab=model)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--text=nowhere.txt'], '--text=nowhere.txt: no such file or folder'),
    (['--size=0'], 'size = 0: must be an integer of 1 or more'),
    (['--size=50000'], 'size = 50000: too large for the text: at most '),
    (['--size=100'], 'size = 100: too small for the characters of the text'),
    (['--valid_fraction=1'], 'TextFiles.valid_fraction = 1.0: must be in'),
    (['--output=/dev/null/my.model'], '--output=/dev/null/my.model: cannot be'),
  ],
)
def test_errors_are_one_line(tmp_path, capsys, flags, message):
  code, _, path = _run(tmp_path, _text().encode(), *flags)
  out, err = capsys.readouterr()
  assert code == 2
  assert err.startswith(f'trax_hier.data.subwords: {message}')
  assert err.count('\n') == 1 and not out
  assert [p.name for p in tmp_path.iterdir()] == ['my.txt'], path


def test_reported_bounds_of_the_size_are_exact(tmp_path, capsys):
  for size, bound in ((50000, 'most '), (100, 'least ')):
    _run(tmp_path, _text().encode(), f'--size={size}')
    size = capsys.readouterr().err.split(bound)[1].strip()
    code, _, _ = _run(
      tmp_path, _text().encode(), f'--size={size}', name=f'{size}.model'
    )
    assert code == 0


def test_output_is_neither_overwritten_nor_partial(
  tmp_path, capsys, monkeypatch
):
  output = tmp_path / 'my.model'
  output.write_bytes(b'mine')
  assert _run(tmp_path, _text().encode())[0] == 2
  assert 'already exists' in capsys.readouterr().err
  assert output.read_bytes() == b'mine'

  def stop(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(train_subwords, 'SentencePieceVocab', stop)
  with pytest.raises(KeyboardInterrupt):
    _run(tmp_path, _text().encode(), name='new.model')
  assert {p.name for p in tmp_path.iterdir()} == {'my.txt', 'my.model'}


def test_a_vocabulary_from_gin(tmp_path, model):
  text, output = tmp_path / 'my.txt', tmp_path / 'new' / 'my.model'
  text.write_bytes(_text().encode())
  config.clear()
  bindings = [
    'train.data = @TextFiles()',
    f"TextFiles.path = '{text}'",
    'TextFiles.batch_size = 2',
    'TextFiles.length = 16',
    'TextFiles.vocab = @Subwords()',
    f"Subwords.text = '{text}'",
    f"Subwords.output = '{output}'",
  ]
  config.parse([], [*bindings, f'Subwords.size = {SIZE}'])
  assert config.value('train.data').vocab.size == SIZE
  # The same file as from the command, and trained only once.
  with open(model, 'rb') as expected:
    assert output.read_bytes() == expected.read()
  text.unlink()
  assert Subwords(str(text), str(output), SIZE) == str(output)
  with pytest.raises(ValueError, match=f'with {SIZE} pieces, not .*size = 421'):
    Subwords(str(text), str(output), SIZE + 1)
  with pytest.raises(ValueError, match=r'Subwords\.text = .*no such file'):
    Subwords(str(text), str(tmp_path / 'other.model'), SIZE)
  config.clear()


def test_empty_text_and_missing_package_are_named(
  tmp_path, capsys, monkeypatch
):
  assert _run(tmp_path, b'\n\0\n' * 9)[0] == 2
  assert 'contains no text' in capsys.readouterr().err
  monkeypatch.setitem(sys.modules, 'sentencepiece', None)
  assert _run(tmp_path, _text().encode())[0] == 2
  assert 'pip install sentencepiece' in capsys.readouterr().err
