"""DocumentLanes: lanes, scored tokens, and the three forms of input."""

import json

import numpy as np
import pytest
import tiny_vocabularies

from trax_hier.data import ByteVocab, DocumentLanes

_LENGTHS = {
  'train': (25, 3, 8, 16, 1, 9, 40, 2, 31, 12, 7),
  'valid': (5, 30, 4),
  'test': (4, 9, 17, 1, 33, 8),
}


def _write_docs(folder, lengths=_LENGTHS, seed=0, low=1, wrap=True):
  """Writes a file of random documents and its table; returns the documents.

  The first byte of a document is its number, from 1; other bytes are larger.
  """
  rng = np.random.default_rng(seed)
  documents, rows, content = {}, [], b''
  for split, sizes in lengths.items():
    for size in sizes:
      name = len(rows) + 1
      body = rng.integers(100, 256, size - 1, np.uint8)
      body[rng.random(size - 1) < 0.1] = low
      text = bytes([name]) + body.tobytes()
      documents.setdefault(split, []).append(text)
      # Bytes between documents belong to no document.
      content += b'gap'
      rows.append([f'book {name}', split, len(content), size])
      content += text
  path = folder / 'my.docs'
  path.write_bytes(content)
  table = {'columns': 'four', 'docs': rows} if wrap else rows
  (folder / 'my.docs.json').write_text(json.dumps(table))
  return str(path), documents


def _read_lanes(batches):
  """Returns the documents that each lane read, each a list of segments.

  Checks that only the end of a segment is padded, that padding has no weight,
  and that only a lane without a document has no text.
  """
  lanes = None
  for batch in batches:
    lanes = lanes or [[] for _ in batch['inputs']]
    np.testing.assert_array_equal(batch['inputs'], batch['targets'])
    for lane, tokens, weights, start in zip(
      lanes,
      batch['inputs'],
      batch['weights'],
      batch['start_of_sequence'],
      strict=True,
    ):
      text = bytes(np.trim_zeros(tokens, 'b').tolist())
      assert not weights[len(text) :].any()
      if start:
        lane.append([])
      if text:
        lane[-1].append(text)
      assert text or not start
  return lanes


def _texts(lanes):
  return [[b''.join(segments) for segments in lane] for lane in lanes]


def _assert_equal(batch, other):
  assert batch.keys() == other.keys()
  for key, value in batch.items():
    assert value.dtype == other[key].dtype
    np.testing.assert_array_equal(value, other[key])


def test_lanes_read_whole_documents(tmp_path):
  path, documents = _write_docs(tmp_path)
  data = DocumentLanes(path, 3, 8)
  batch = data.train_batch(0)
  assert batch['inputs'].shape == batch['weights'].shape == (3, 8)
  assert batch['inputs'].dtype == np.int32
  assert batch['weights'].dtype == np.float32
  assert batch['start_of_sequence'].dtype == np.bool_
  assert batch['start_of_sequence'].all()

  lanes = _read_lanes(data.train_batch(step) for step in range(100))
  known = set(documents['train'])
  for lane in lanes:
    for segments in lane[:-1]:
      assert b''.join(segments) in known
      assert all(len(segment) == 8 for segment in segments[:-1])
    unfinished = b''.join(lane[-1])
    assert any(text.startswith(unfinished) for text in known)


def test_epochs_contain_each_document_once(tmp_path):
  """Two lanes never read the same document within an epoch."""
  path, documents = _write_docs(tmp_path)
  data = DocumentLanes(path, 3, 8)
  taken = []
  for step in range(100):
    batch = data.train_batch(step)
    firsts = batch['inputs'][batch['start_of_sequence'], 0]
    taken += firsts.tolist()
  n = len(documents['train'])
  orders = [tuple(taken[i : i + n]) for i in range(0, len(taken) - n, n)]
  assert len(orders) > 5
  for order in orders:
    assert sorted(order) == list(range(1, n + 1))
  assert len(set(orders)) == len(orders)


def test_next_epoch_fills_idle_lanes(tmp_path):
  path, _ = _write_docs(tmp_path, {'train': (20, 4), 'test': (3,)})
  data = DocumentLanes(path, 5, 4)
  firsts = data.train_batch(0)['inputs'][:, 0].tolist()
  assert sorted(firsts[:2]) == sorted(firsts[2:4]) == [1, 2]
  for step in range(20):
    assert data.train_batch(step)['inputs'][:, 0].all()


def test_batches_are_a_pure_function_of_seed_and_step(tmp_path):
  path, _ = _write_docs(tmp_path)
  a, b = (DocumentLanes(path, 3, 8, seed=7) for _ in range(2))
  backwards = [b.train_batch(step) for step in reversed(range(60))]
  for step, expected in zip(range(60), reversed(backwards), strict=True):
    _assert_equal(a.train_batch(step), expected)
  resumed = DocumentLanes(path, 3, 8, seed=7)
  _assert_equal(resumed.train_batch(59), a.train_batch(59))
  other = DocumentLanes(path, 3, 8, seed=8)
  assert any(
    (a.train_batch(i)['inputs'] != other.train_batch(i)['inputs']).any()
    for i in range(10)
  )


def test_shards_are_lanes_of_the_global_batch(tmp_path):
  path, _ = _write_docs(tmp_path)
  data = DocumentLanes(path, 6, 8)
  for step in (0, 1, 17):
    shards = [data.train_batch(step, shard, 3) for shard in range(3)]
    whole = data.train_batch(step)
    joined = {k: np.concatenate([shard[k] for shard in shards]) for k in whole}
    _assert_equal(joined, whole)
  with pytest.raises(ValueError, match=r'DocumentLanes\.batch_size = 6.*4 sha'):
    data.train_batch(0, 0, 4)
  with pytest.raises(ValueError, match='step = -1'):
    data.train_batch(-1)


@pytest.mark.parametrize('predict_first', [False, True])
@pytest.mark.parametrize('n_lanes', [1, 2, 4, 10])
@pytest.mark.parametrize('split', ['valid', 'test'])
def test_evaluation_scores_each_token_once(
  tmp_path, split, n_lanes, predict_first
):
  path, documents = _write_docs(tmp_path)
  data = DocumentLanes(
    path, 2, 8, predict_first=predict_first, eval_batch_size=n_lanes
  )
  batches = data.eval_batches(split)
  lanes = _read_lanes(batches)
  texts = [text for lane in _texts(lanes) for text in lane]
  assert sorted(texts) == sorted(documents[split])

  skipped = 0 if predict_first else 1
  expected = b''.join(
    text[i : i + 8][skipped:]
    for text in documents[split]
    for i in range(0, len(text), 8)
  )
  scored = np.concatenate(
    [batch['targets'][batch['weights'] == 1] for batch in batches]
  )
  assert sorted(scored) == sorted(expected)
  assert {batch['inputs'].shape for batch in batches} == {(n_lanes, 8)}
  weights = np.concatenate([batch['weights'] for batch in batches])
  assert set(np.unique(weights)) <= {0, 1}
  assert batches.context is None
  _assert_equal(batches[-1], batches[len(batches) - 1])


def test_evaluation_begins_with_the_longest_document(tmp_path):
  lengths = (8, 80, 24, 40, 16, 32)
  path, _ = _write_docs(tmp_path, {'train': (9,), 'test': lengths})
  batches = DocumentLanes(path, 2, 8).eval_batches('test')
  # No order needs fewer steps, because there are 25 segments on 2 lanes.
  assert len(batches) == 13
  lanes = _texts(_read_lanes(batches))
  assert [len(lane[0]) for lane in lanes] == [80, 40]


def test_idle_lanes_are_padding(tmp_path):
  path, _ = _write_docs(tmp_path, {'train': (9,), 'test': (20, 3)})
  batches = DocumentLanes(path, 4, 8).eval_batches('test')
  assert len(batches) == 3
  assert [batch['start_of_sequence'].tolist() for batch in batches] == [
    [True, True, False, False],
    [False] * 4,
    [False] * 4,
  ]
  for i, first_idle in enumerate((2, 1, 1)):
    for key in ('inputs', 'targets', 'weights'):
      assert batches[i][key][:first_idle].any(axis=1).all()
      assert not batches[i][key][first_idle:].any()


def test_zeros_in_a_document_are_not_scored(tmp_path):
  path, documents = _write_docs(tmp_path, low=0)
  text = b''.join(documents['test'])
  assert 0 in text
  data = DocumentLanes(path, 2, 8, predict_first=True)
  weights = sum(b['weights'].sum() for b in data.eval_batches('test'))
  assert weights == len(text) - text.count(0)


def test_windows_do_not_apply(tmp_path):
  path, _ = _write_docs(tmp_path)
  data = DocumentLanes(path, 2, 8)
  for given in ({'window': 8}, {'stride': 4}):
    with pytest.raises(ValueError, match=r'window and stride.*DocumentLanes'):
      data.eval_batches('test', **given)
  with pytest.raises(ValueError, match="'train': must be one of 'valid'"):
    data.eval_batches('train')


def test_a_file_with_a_table(tmp_path):
  path, _ = _write_docs(tmp_path)
  data = DocumentLanes(path, 2, 8)
  assert data.unit == 'byte'
  assert isinstance(data.vocab, ByteVocab)
  assert data.count_bytes('test') is None
  assert data.describe() == (
    f'DocumentLanes: {path}: train 11 documents of 154 bytes, valid 3 '
    'documents of 39 bytes, test 6 documents of 72 bytes, in segments of 8; '
    'batches of 2 rows'
  )
  bare, _ = _write_docs(tmp_path, wrap=False)
  _assert_equal(DocumentLanes(bare, 2, 8).train_batch(5), data.train_batch(5))


def test_test_is_valid_only_if_asked(tmp_path):
  path, documents = _write_docs(tmp_path, {'train': (9, 9), 'test': (20, 3)})
  with pytest.raises(ValueError, match=r'DocumentLanes\.test_as_valid = True$'):
    DocumentLanes(path, 1, 8).eval_batches('valid')
  data = DocumentLanes(path, 1, 8, test_as_valid=True)
  lanes = _texts(_read_lanes(data.eval_batches('valid')))
  assert lanes == [documents['test']]


@pytest.mark.parametrize(
  ('table', 'message'),
  [
    ('{', r'DocumentLanes\.path.*Expecting'),
    ('{"rows": []}', r"my\.docs\.json: neither a list nor .* 'docs'"),
    ('[["a", "train", 0]]', r"my\.docs\.json: \['a', 'train', 0\] is not \[na"),
    ('[["a", "all", 0, 1]]', r"'all'.* a split of 'train', 'valid', "),
    ('[["a", "dev", 0, 1], ["b", "val", 1, 1]]', r'both dev and val are names'),
    ('[["a", "train", 0.5, 1]]', r'0\.5.*is not \[name'),
    ('[["a", "train", 40, 11]]', r'is outside the file, which has 50 bytes'),
    ('[["a", "train", -1, 9]]', r'outside the file'),
    ('[["a", "train", 9, -1]]', r'outside the file'),
    ('[["a", "train", 0, 50]]', r'no document for the test split'),
    ('[["a", "test", 0, 50]]', r'no document for the train split'),
    (
      '[["a", "train", 0, 9], ["b", "test", 9, 0]]',
      r'no document for the test split',
    ),
    ('[]', r'no document for the train split'),
  ],
)
def test_malformed_tables_are_named(tmp_path, table, message):
  path = tmp_path / 'my.docs'
  path.write_bytes(b'x' * 50)
  (tmp_path / 'my.docs.json').write_text(table)
  with pytest.raises(ValueError, match=message) as caught:
    DocumentLanes(str(path), 1, 8)
  assert str(caught.value).startswith(f"DocumentLanes.path = '{path}': ")


def test_empty_documents_are_dropped(tmp_path):
  path, _ = _write_docs(tmp_path, {'train': (9,), 'test': (20,)})
  table = tmp_path / 'my.docs.json'
  rows = json.loads(table.read_text())['docs']
  table.write_text(json.dumps([['none', 'train', 0, 0], *rows]))
  data = DocumentLanes(path, 1, 8)
  assert 'train 1 documents of 9 bytes' in data.describe()
  starts = [data.train_batch(i)['start_of_sequence'][0] for i in range(4)]
  assert starts == [True, False, True, False]


def test_a_folder_of_text_files(tmp_path):
  root = tmp_path / 'books'
  texts = {f'shelf {i % 3}/{i:02}.txt': f'{i:02} naïve ' * 5 for i in range(40)}
  for name, text in texts.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding='utf-8')
  (root / 'picture.jpg').write_bytes(b'\xff\xd8\0')
  (root / '.notes').write_text('hidden')
  (root / 'empty.txt').write_text('')
  data = DocumentLanes(str(root), 3, 16, valid_fraction=0.1, test_fraction=0.2)
  assert 'train 28 documents of 1,400 bytes, valid 4' in data.describe()
  held_out = {
    text.decode()
    for split in ('valid', 'test')
    for lane in _texts(_read_lanes(data.eval_batches(split)))
    for text in lane
  }
  assert len(held_out) == 12
  lanes = _texts(_read_lanes(data.train_batch(i) for i in range(60)))
  trained = {text.decode() for lane in lanes for text in lane[:-1]}
  assert held_out | trained == set(texts.values())
  assert not held_out & trained


def test_fraction_too_small_for_a_file_is_named(tmp_path):
  for i in range(10):
    (tmp_path / f'{i}.txt').write_text('ten bytes!')
  with pytest.raises(
    ValueError,
    match=r'DocumentLanes\.path.*DocumentLanes\.valid_fraction = 0\.05: no '
    r'file fits .*: the smallest of 10 files has 0\.1 of all bytes',
  ):
    DocumentLanes(str(tmp_path), 1, 8, test_fraction=0.1)
  with pytest.raises(ValueError, match=r'DocumentLanes\.test_fraction = 0\.05'):
    DocumentLanes(str(tmp_path), 1, 8, valid_fraction=0.1)
  data = DocumentLanes(str(tmp_path), 1, 8, 0, False, None, 0.0, 0.1)
  assert 'valid 0 documents of 0 bytes, test 1' in data.describe()
  with pytest.raises(ValueError, match='no document for the test split'):
    DocumentLanes(str(tmp_path), 1, 8, 0, False, None, 0.1, 0.0)


def _write_prepared(folder, texts, shift=0):
  """Writes a folder as `trax_hier.data.prepare` does, with ids byte + shift."""
  for split, documents in texts.items():
    ids = np.frombuffer(b''.join(documents), np.uint8).astype('<u2') + shift
    ids.astype('<u2' if shift else 'u1').tofile(folder / f'{split}.tokens')
    ends = np.cumsum([len(document) for document in documents])
    np.save(folder / f'{split}.ends.npy', ends)


def test_a_prepared_folder_of_bytes(tmp_path):
  texts = {'train': [b'one book', b'another'], 'test': [b'held out', b'it']}
  _write_prepared(tmp_path, texts)
  data = DocumentLanes(str(tmp_path), 2, 4, test_as_valid=True)
  assert data.unit == 'byte'
  for split in ('valid', 'test'):
    lanes = _texts(_read_lanes(data.eval_batches(split)))
    assert lanes == [[b'held out'], [b'it']]


def test_a_prepared_folder_of_an_older_version(tmp_path):
  """It has no bytes of tokens, and its vocabulary loses text."""
  vocab = tiny_vocabularies.make('t5', tmp_path)
  (tmp_path / 't5.model').rename(tmp_path / 'sentencepiece.model')
  texts = {
    'train': ['the cat sat'],
    'valid': ['the mat'],
    'test': ['the  cat sat on', 'a 1'],
  }
  ids = {s: [vocab.encode(t) for t in found] for s, found in texts.items()}
  for split, documents in ids.items():
    joined = np.concatenate(documents)
    joined.astype('u1').tofile(tmp_path / f'{split}.tokens')
    np.save(tmp_path / f'{split}.ends.npy', np.cumsum([*map(len, documents)]))
  data = DocumentLanes(str(tmp_path), 2, 4)
  assert data.unit == 'token' and data.vocab.size == vocab.size
  first = data.eval_batches('valid')[0]['inputs'][0].tolist()
  assert first == ids['valid'][0][:4].tolist()
  # The bits of the scored tokens are too few for the bytes of all tokens.
  assert data.count_bytes('test') is None
  data = DocumentLanes(str(tmp_path), 2, 4, predict_first=True)
  decoded = ''.join(map(vocab.decode, ids['test']))
  assert data.count_bytes('test') == len(decoded.encode())

  # The bytes of a token that is not scored are not counted.
  changed = np.fromfile(tmp_path / 'test.tokens', 'u1')
  changed[2] = 0
  changed.tofile(tmp_path / 'test.tokens')
  kept = [np.delete(ids['test'][0], 2), ids['test'][1]]
  data = DocumentLanes(str(tmp_path), 2, 4, predict_first=True)
  decoded = ''.join(map(vocab.decode, kept))
  assert data.count_bytes('test') == len(decoded.encode())


@pytest.mark.parametrize('kind', tiny_vocabularies.KINDS)
def test_any_vocabulary(tmp_path, kind):
  texts = {
    f'{i:02}.txt': f'the naïve 世界 {i}\n  sat é ' * 3 for i in range(20)
  }
  root = tmp_path / 'books'
  root.mkdir()
  for name, text in texts.items():
    (root / name).write_text(text, encoding='utf-8')
  vocab = tiny_vocabularies.make(kind, tmp_path)

  def lanes(vocab, predict_first):
    return DocumentLanes(
      str(root), 2, 8, 0, predict_first, test_fraction=0.2, vocab=vocab
    )

  by_byte = lanes(None, True)
  n_bytes = sum(b['weights'].sum() for b in by_byte.eval_batches('test'))
  assert by_byte.count_bytes('test') is None
  whole, partly = lanes(vocab, True), lanes(vocab, False)
  if kind == 'bytes':
    assert whole.unit == 'byte' and whole.count_bytes('test') is None
    return
  assert whole.count_bytes('test') == n_bytes
  assert n_bytes / 2 < partly.count_bytes('test') < n_bytes
  assert 0 < whole.count_bytes('test', 1) < n_bytes
  # The first lane reads the longest documents.
  batches = whole.eval_batches('test')
  ids = np.concatenate([batch['inputs'][0] for batch in batches])
  first = max(texts.values(), key=len)
  n = len(vocab.encode(first))
  assert vocab.decode(ids[:n]) in {
    vocab.decode(vocab.encode(text)) for text in texts.values()
  }
  said = whole.describe()
  assert f'{vocab.size:,} tokens of {type(vocab).__name__}' in said
  assert ('which loses' in said) == bool(vocab.loss)


def test_a_prepared_folder_has_a_vocabulary_and_no_fields(tmp_path):
  texts = {'train': [b'one book', b'another'], 'test': [b'held out', b'it']}
  _write_prepared(tmp_path, texts)
  with pytest.raises(ValueError, match=r'leave out DocumentLanes\.vocab'):
    DocumentLanes(str(tmp_path), 2, 4, vocab=ByteVocab())
  with pytest.raises(ValueError, match=r'leave out DocumentLanes\.field'):
    DocumentLanes(str(tmp_path), 2, 4, field='text')


def test_malformed_prepared_folder_is_named(tmp_path):
  (tmp_path / 'train.tokens').write_bytes(b'abc')
  np.save(tmp_path / 'train.ends.npy', np.array([2]))
  with pytest.raises(
    ValueError, match=r'DocumentLanes\.path.*train\.ends\.npy does not fit'
  ):
    DocumentLanes(str(tmp_path), 1, 8)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'path': 'nowhere'}, r"DocumentLanes\.path = 'nowhere': no such file"),
    ({'path': ''}, r"DocumentLanes\.path = '': no such"),
    (
      {'path': __file__},
      r'DocumentLanes\.path.*test_\w+_lanes\.py\.json;',
    ),
    ({'batch_size': 0}, r'DocumentLanes\.batch_size = 0'),
    ({'batch_size': True}, r'DocumentLanes\.batch_size = True'),
    ({'eval_batch_size': 0}, r'DocumentLanes\.eval_batch_size = 0'),
    ({'length': 0}, r'DocumentLanes\.length = 0'),
    ({'length': 1}, r'DocumentLanes\.length = 1: must be 2 or more'),
    ({'seed': -1}, r'DocumentLanes\.seed = -1'),
    ({'valid_fraction': 1.0}, r'DocumentLanes\.valid_fraction = 1\.0'),
    ({'test_fraction': -0.1}, r'DocumentLanes\.test_fraction = -0\.1'),
  ],
)
def test_bad_arguments_are_named(tmp_path, changes, message):
  path, _ = _write_docs(tmp_path)
  arguments = {'path': path, 'batch_size': 2, 'length': 8}
  with pytest.raises(ValueError, match=message):
    DocumentLanes(**(arguments | changes))


def test_a_folder_without_text_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'DocumentLanes\.path.*no UTF-8 text'):
    DocumentLanes(str(tmp_path), 1, 8)


def test_length_of_one_requires_predict_first(tmp_path):
  path, documents = _write_docs(tmp_path)
  data = DocumentLanes(path, 2, 1, predict_first=True)
  first, second = _texts(_read_lanes(data.eval_batches('test')))
  assert sorted(first + second) == sorted(documents['test'])
