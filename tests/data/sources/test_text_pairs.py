"""TextPairs, and the command that writes its files."""

import io
import json
import sys
import types

import gin
import numpy as np
import pytest
import tiny_vocabularies

from trax_hier.data import TextPairs, prepare
from trax_hier.data.sources import json_pairs

_ROWS = [('abcdefgh', 'xyz'), ('ab', 'vwxyz'), ('é c', 'w'), ('d e', 'uv')]


def _lines(rows, **fields):
  names = {'source': 'document', 'target': 'summary'} | fields
  for source, target in rows:
    row = {'id': 1, names['source']: source, names['target']: target}
    yield json.dumps(row, ensure_ascii=False)


def _write(path, rows, **fields):
  text = ''.join(f'{line}\n' for line in _lines(rows, **fields))
  path.write_text(text, encoding='utf-8', newline='\n')
  return str(path)


def _numbered(n):
  return [(f'document {i}', f'{i}') for i in range(n)]


@pytest.fixture
def folder(tmp_path):
  _write(tmp_path / 'train.jsonl', _numbered(7))
  _write(tmp_path / 'valid.jsonl', _ROWS[2:])
  _write(tmp_path / 'test.jsonl', _ROWS)
  return tmp_path


def _data(path, batch_size=3, source_length=6, target_length=4, **kwargs):
  return TextPairs(
    str(path), batch_size, source_length, target_length, **kwargs
  )


def _texts(data, split):
  return [pair[:2] for pair in data.pairs(split)]


def _shown(batch):
  """Yields the scored targets of a batch as text."""
  for row, weights in zip(batch['targets'], batch['weights'], strict=True):
    if weights.any():
      yield bytes(row[weights > 0].tolist()).rstrip(b'\0').decode()


def test_batches_equal_a_written_out_example(folder):
  batches = _data(folder).eval_batches('test')
  assert (len(batches), batches.context) == (2, None)
  first, last = batches
  assert first['sources'].tolist() == [
    [97, 98, 99, 100, 101, 102],
    [97, 98, 0, 0, 0, 0],
    [0xC3, 0xA9, 32, 99, 0, 0],
  ]
  assert first['targets'].tolist() == [
    [120, 121, 122, 0],
    [118, 119, 120, 121],
    [119, 0, 0, 0],
  ]
  assert first['weights'].tolist() == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
  assert last['sources'].tolist() == [[100, 32, 101, 0, 0, 0], [0] * 6, [0] * 6]
  assert last['targets'].tolist() == [[117, 118, 0, 0], [0] * 4, [0] * 4]
  assert last['weights'].tolist() == [[1, 1, 1, 0], [0] * 4, [0] * 4]
  for batch in batches:
    np.testing.assert_array_equal(batch['inputs'], batch['targets'])
    assert batch['start_of_sequence'].tolist() == [True] * 3
    assert {key: value.dtype for key, value in batch.items()} == {
      'sources': np.int32,
      'inputs': np.int32,
      'targets': np.int32,
      'weights': np.float32,
      'start_of_sequence': np.bool_,
    }
  np.testing.assert_array_equal(batches[-1]['sources'], last['sources'])
  for i in (2, -3):
    with pytest.raises(IndexError, match=f'batch {i} of 2'):
      batches[i]


def test_train_batches_are_pure(folder):
  data = _data(folder, batch_size=4)
  later = data.train_batch(5)
  data.train_batch(0)
  again = _data(folder, batch_size=4).train_batch(5)
  for key, value in later.items():
    np.testing.assert_array_equal(value, again[key])
    for n in (2, 4):
      shards = [data.train_batch(5, shard, n)[key] for shard in range(n)]
      np.testing.assert_array_equal(np.concatenate(shards), value)


def test_an_epoch_has_each_pair_once_in_a_different_order(folder):
  data, other = _data(folder, 1), _data(folder, 1, seed=1)
  assert data.train_batch(0)['sources'].shape == (1, 6)
  orders = [
    [next(_shown(d.train_batch(step))) for step in range(begin, begin + 7)]
    for d, begin in ((data, 0), (data, 7), (other, 0))
  ]
  assert all(sorted(order) == list('0123456') for order in orders)
  assert len(set(map(tuple, orders))) == 3
  assert orders[0] == ['5', '2', '0', '3', '6', '1', '4']


def test_a_folder_without_validation(folder):
  assert _texts(_data(folder), 'valid') == _ROWS[2:]
  (folder / 'valid.jsonl').unlink()
  with pytest.raises(ValueError, match=r'valid split is empty.*test_as_valid'):
    _data(folder).eval_batches('valid')
  data = _data(folder, test_as_valid=True)
  assert _texts(data, 'valid') == _texts(data, 'test') == _ROWS
  assert len(data.pairs('train')) == 7


# One file ---------------------------------------------------------------------


def _splits(path, **kwargs):
  data = _data(path, **kwargs)
  return {
    split: [int(target) for _, target in _texts(data, split)]
    for split in ('train', 'valid', 'test')
  }


def test_one_file_is_split_by_line(tmp_path):
  path = _write(tmp_path / 'x.jsonl', _numbered(1000))
  kwargs = dict(valid_fraction=0.1, test_fraction=0.3)
  splits = _splits(path, **kwargs)
  assert sorted(i for split in splits.values() for i in split) == list(
    range(1000)
  )
  assert all(split == sorted(split) for split in splits.values())
  assert abs(len(splits['valid']) - 100) < 30
  assert abs(len(splits['test']) - 300) < 45
  assert splits['valid'][:5] == [1, 26, 33, 65, 69]
  assert splits['test'][:5] == [0, 2, 10, 19, 22]
  # Neither appended lines nor the seed change the splits.
  assert _splits(path, seed=3, **kwargs) == splits
  _write(tmp_path / 'x.jsonl', _numbered(1100))
  longer = _splits(path, **kwargs)
  for split, numbers in splits.items():
    assert [i for i in longer[split] if i < 1000] == numbers
  # A larger validation split takes no line from the test.
  both = _splits(path, valid_fraction=0.5, test_fraction=0.3)
  assert both['test'] == longer['test']
  assert set(both['valid']) > set(longer['valid'])


def test_an_evaluation_has_each_pair_once(tmp_path):
  path = _write(tmp_path / 'x.jsonl', _numbered(200))
  data = _data(path, 7, valid_fraction=0.4, test_fraction=0.2)
  for split in ('valid', 'test'):
    batches = data.eval_batches(split)
    found = [text for batch in batches for text in _shown(batch)]
    assert found == [target for _, target in _texts(data, split)]
    assert len(batches) == -(-len(found) // 7)


@pytest.mark.parametrize('block', [1, 2, 50, 1 << 24])
@pytest.mark.parametrize('end', ['\n', ''])
def test_lines(tmp_path, monkeypatch, block, end):
  """Blank lines count as lines, but are not pairs."""
  monkeypatch.setattr(json_pairs, '_BLOCK', block)
  lines = list(_lines(_ROWS))
  content = f'\n{lines[0]}\r\n \n\r\n{lines[1]}\n\n{lines[2]}{end}'
  path = tmp_path / 'x.jsonl'
  path.write_bytes(content.encode())
  data = _data(path, valid_fraction=0, test_fraction=0)
  assert _texts(data, 'train') == _ROWS[:3]
  where = [data._splits['train'].location(i).split(', ')[1] for i in range(3)]
  assert where == ['line 2', 'line 5', 'line 7']


# Texts -----------------------------------------------------------------------


def test_pairs(folder):
  data = _data(folder)
  found = data.pairs('test')
  assert len(found) == 4
  first = found[0]
  assert (first.source, first.target) == _ROWS[0]
  assert (first.ids.tolist(), first.ids.dtype) == ([*b'abcdef'], np.int32)
  assert found[-1].source == 'd e' and found[-1].ids.tolist() == [*b'd e']
  with pytest.raises(IndexError):
    found[4]
  with pytest.raises(ValueError, match=r"pairs: split = 'all': must be one"):
    data.pairs('all')


def test_description(folder):
  data = _data(folder, source_length=9, target_length=1)
  assert data.describe() == (
    f'TextPairs: {folder}: train 7, valid 2, test 4 pairs; of 7 sampled in '
    'train, 7 are truncated at source_length = 9 and 7 at target_length = 1; '
    'batches of 3 rows'
  )
  data = _data(folder, source_length=10, target_length=2)
  assert '0 are truncated at source_length = 10 and 0 at' in data.describe()
  assert (data.unit, data.vocab.size) == ('byte', 256)
  assert (data.source_length, data.target_length) == (10, 2)
  assert data.count_bytes('test') is None


def test_gin_and_field_names(tmp_path):
  path = _write(tmp_path / 'x', _ROWS, source='article', target='abstract')
  gin.clear_config()
  gin.parse_config(f"""
    TextPairs.path = '{path}'
    TextPairs.batch_size = 4
    TextPairs.source_length = 5
    TextPairs.target_length = 3
    TextPairs.source = 'article'
    TextPairs.target = 'abstract'
    TextPairs.valid_fraction = 0.0
    TextPairs.test_fraction = 0.0
  """)
  try:
    data = TextPairs()
  finally:
    gin.clear_config()
  assert data.train_batch(0)['sources'].shape == (4, 5)
  assert _texts(data, 'train') == _ROWS
  with pytest.raises(ValueError, match='TextPairs: the test split is empty'):
    data.eval_batches('test')


# Subwords ---------------------------------------------------------------------


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """Returns a function that trains a lossless vocabulary, unless overridden."""
  sentencepiece = pytest.importorskip('sentencepiece')

  def make(**settings):
    written = io.BytesIO()
    defaults = dict(
      vocab_size=300,
      pad_id=0,
      unk_id=1,
      bos_id=-1,
      eos_id=-1,
      byte_fallback=True,
      normalization_rule_name='identity',
      remove_extra_whitespaces=False,
      add_dummy_prefix=False,
      hard_vocab_limit=False,
      minloglevel=2,
    )
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=(f'the text {i} of texts' for i in range(99)),
      model_writer=written,
      **defaults | settings,
    )
    path = tmp_path_factory.mktemp('model') / 'x.model'
    path.write_bytes(written.getvalue())
    return str(path)

  return make


def test_subwords(tmp_path, model):
  rows = [('the text of', 'the text'), ('naïve', 'texts of texts 😀')]
  for split in ('train', 'test'):
    _write(tmp_path / f'{split}.jsonl', rows)
  data = _data(tmp_path, 2, 8, 8, vocab=model())
  ids = [[data.vocab.encode(text) for text in row] for row in rows]
  assert len(ids[0][0]) < 8 and len(ids[0][1]) < 8 < len(ids[1][1])
  batch = data.eval_batches('test')[0]
  for row, (source, target) in enumerate(ids):
    both = (('sources', source), ('targets', target))
    for key, expected in both:
      found = np.zeros(8, np.int32)
      found[: len(expected[:8])] = expected[:8]
      assert batch[key][row].tolist() == found.tolist()
  n = [len(ids[0][1]) + 1, 8]
  assert batch['weights'].sum(axis=1).tolist() == n
  assert data.unit == 'token'
  # The end of the first summary counts as a byte; the second is truncated.
  kept = data.vocab.decode(ids[1][1][:8]).encode()
  assert data.count_bytes('test') == len('the text') + 1 + len(kept)
  assert 'texts of texts 😀'.encode().startswith(kept)
  exact = _data(tmp_path, 2, 8, len(ids[1][1]), vocab=model())
  assert exact.count_bytes('test') == 9 + len('texts of texts 😀'.encode())
  with pytest.raises(ValueError, match='count_bytes: split'):
    data.count_bytes('train')


@pytest.mark.parametrize('kind', tiny_vocabularies.KINDS)
def test_the_bytes_of_cut_summaries(tmp_path, kind):
  """Cut in any place: a part of a character does not decode."""
  rows = [('the document', 'naïve 世界 the é'), ('another', 'a 1')]
  for split in ('train', 'valid', 'test'):
    _write(tmp_path / f'{split}.jsonl', rows)
  vocab = tiny_vocabularies.make(kind, tmp_path)
  for length in range(1, 30):
    data = _data(tmp_path, 2, 8, length, vocab=vocab)
    if kind == 'bytes':
      assert data.count_bytes('test') is None
      continue
    expected = 0
    for _, summary in rows:
      n_bytes = vocab.encode_bytes(summary.encode()).n_bytes
      expected += n_bytes[:length].sum() + (len(n_bytes) < length)
    assert data.count_bytes('test') == expected


def test_vocabularies_that_do_not_fit_are_named(folder, model, tmp_path):
  start = r'TextPairs\.vocab = '
  with pytest.raises(ValueError, match=f'{start}.*no such file'):
    _data(folder, vocab=str(tmp_path / 'none'))
  with pytest.raises(ValueError, match=f"{start}'': no such file"):
    _data(folder, vocab='')
  with pytest.raises(ValueError, match=f'{start}.*not a tokenizer.json'):
    _data(folder, vocab=str(folder / 'train.jsonl'))
  taken = model(pad_id=-1, unk_id=0, byte_fallback=False, vocab_size=30)
  with pytest.raises(ValueError, match=f'{start}.*id 0.*padding.*subwords'):
    _data(folder, vocab=taken)


def test_a_text_without_tokens_is_named(folder, model, monkeypatch):
  data = _data(folder, vocab=model())
  for ids, fault in (([], 'has no token for its text'), ([5, 0], 'has id 0')):
    monkeypatch.setattr(data.vocab, 'encode', lambda _, i=ids: np.array(i))
    with pytest.raises(
      ValueError, match=rf'source.*test\.jsonl, line 1.*{fault}'
    ):
      data.eval_batches('test')[0]


# Errors ----------------------------------------------------------------------


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"document": "a"', r'{file}, line {n}: not JSON: Expecting'),
    (b'\xff', r'{file}, line {n}: not JSON: .*utf-8'),
    ('[' * 99_999, r'{file}, line {n}: not JSON: '),
    ('["a", "b"]', r'{file}, line {n}: not a JSON object'),
    (
      '{"text": "a", "summary": "b"}',
      r"TextPairs\.source = 'document': {file}, line {n}: no such field; the "
      r"fields are: 'text', 'summary'",
    ),
    (
      '{"document": "a"}',
      r"TextPairs\.target = 'summary': {file}, line {n}: no such field; the "
      r"fields are: 'document'",
    ),
    (
      '{ }',
      r"'document': {file}, line {n}: no such field; the fields are: none",
    ),
    (
      '{"document": ["a"], "summary": "b"}',
      r"source = 'document': {file}, line {n}: must be a string, got \['a'\]",
    ),
    (
      '{"document": "a", "summary": null}',
      r"target = 'summary': {file}, line {n}: must be a string, got None",
    ),
    (
      '{"document": "", "summary": "b"}',
      r"source = 'document': {file}, line {n}: is blank",
    ),
    (
      '{"document": "a", "summary": " \\n"}',
      r"target = 'summary': {file}, line {n}: is blank",
    ),
    (
      '{"document": "a\\u0000b", "summary": "b"}',
      r"source = 'document': {file}, line {n}: contains the character NUL",
    ),
    (
      '{"document": "a", "summary": "\\ud800"}',
      r"target = 'summary': {file}, line {n}: cannot be encoded: .*surrogates",
    ),
  ],
)
def test_malformed_lines_are_named_and_counted(folder, line, message):
  """The first bad line, wherever it is, stops the construction."""
  content = line if isinstance(line, bytes) else line.encode()
  good = [x.encode() for x in _lines(_numbered(30))]
  for name, n in (('train', 1), ('valid', 2), ('test', 20)):
    file = folder / f'{name}.jsonl'
    file.write_bytes(b'\n'.join([*good[: n - 1], content, *good, content]))
    expected = message.format(file=rf'.*{name}\.jsonl', n=n)
    with pytest.raises(ValueError, match=expected) as caught:
      _data(folder)
    assert '(bad lines: 2 of ' in str(caught.value)
    _write(file, _numbered(30))


def test_the_first_bad_line_of_one_file_is_named(tmp_path):
  """The lines are in different splits."""
  lines = [*_lines(_numbered(300))]
  for n in (9, 120, 250):
    lines[n] = '{}'
  path = tmp_path / 'x.jsonl'
  path.write_text('\n'.join(lines))
  with pytest.raises(ValueError, match=r'line 10: .*bad lines: 3 of 300'):
    _data(path, valid_fraction=0.4, test_fraction=0.3)


def test_errors_after_construction_name_the_line(folder):
  data = _data(folder, 19)
  content = (folder / 'test.jsonl').read_bytes()
  batches, pairs = data.eval_batches('test'), data.pairs('test')
  (folder / 'test.jsonl').write_bytes(content.replace(b'"uv"', b'null'))
  with pytest.raises(ValueError, match=r'test\.jsonl, line 4: must be a str'):
    batches[0]
  # Reading a truncated mapping would end the process.
  (folder / 'test.jsonl').write_bytes(content[:9])
  for read in (lambda: batches[0], lambda: pairs[0]):
    with pytest.raises(OSError, match=r'test\.jsonl has been truncated'):
      read()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (dict(batch_size=0), 'batch_size = 0: must be an integer of 1'),
    (dict(source_length=0), 'source_length = 0'),
    (dict(target_length=True), 'target_length = True'),
    (dict(seed=-1), 'seed = -1'),
    (dict(valid_fraction=1.0), r'valid_fraction = 1\.0'),
    (dict(valid_fraction=0.5, test_fraction=0.5), 'nothing is left to train'),
    (dict(path=''), "path = '': no such file or folder"),
    (dict(path='/no/where'), "path = '/no/where': no such file or folder"),
    (dict(path='{tmp}'), r'path = .*cannot be read: .*train\.jsonl'),
    (dict(path='{tmp}/empty'), 'path = .*has no line in the training split'),
  ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
  (tmp_path / 'empty').write_bytes(b'')
  path = _write(tmp_path / 'x.jsonl', _ROWS)
  good = dict(path=path, batch_size=1, source_length=4, target_length=4)
  TextPairs(**good)
  if 'path' in arguments:
    arguments = {'path': arguments['path'].format(tmp=tmp_path)}
  with pytest.raises(ValueError, match=rf'TextPairs\..*{message}'):
    TextPairs(**good | arguments)


def test_bad_calls_are_named(folder):
  data = _data(folder)
  with pytest.raises(ValueError, match=r'step = -1'):
    data.train_batch(-1)
  with pytest.raises(
    ValueError, match=r'TextPairs\.batch_size = 3: .*2 shards'
  ):
    data.train_batch(0, 0, 2)
  with pytest.raises(ValueError, match=r"must be one of 'valid', 'test'"):
    data.eval_batches('train')
  for context in (dict(window=4), dict(stride=4)):
    with pytest.raises(ValueError, match=r'window and stride.*TextPairs'):
      data.eval_batches('test', **context)


# From tfds --------------------------------------------------------------------


class _Text:
  """Stub of tfds.features.Text."""


@pytest.fixture
def tfds(monkeypatch):
  """Stubs tensorflow_datasets; returns a function that sets its data."""
  module = types.ModuleType('tensorflow_datasets')
  module.as_numpy = lambda data: data
  module.features = types.SimpleNamespace(Text=_Text)
  module.builder = lambda name, data_dir: module.toy
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', module)

  def set_data(names, rows, keys=None, **features):
    made = {name: _Text() for name in names} | features
    splits = {'train': rows, 'validation': rows[:2], 'test': rows[1:]}
    examples = {
      split: [
        dict(zip(names, map(str.encode, row), strict=True)) for row in part
      ]
      for split, part in splits.items()
    }
    info = types.SimpleNamespace(
      features=made,
      supervised_keys=keys,
      splits={
        split: types.SimpleNamespace(num_examples=len(part))
        for split, part in examples.items()
      },
    )
    module.toy = types.SimpleNamespace(
      name='toy',
      info=info,
      is_prepared=lambda: True,
      as_dataset=lambda split, shuffle_files: examples[split],
    )

  return set_data


def _prepare(folder, *flags):
  return prepare.main(['--name=toy', f'--output_dir={folder}', *flags])


@pytest.mark.parametrize(
  ('names', 'keys'),
  [
    (('article', 'abstract'), ('article', 'abstract')),
    (('article', 'abstract'), None),
    (('document', 'summary'), ('document', ('summary', 'other'))),
    (('text', 'title'), ('text', 'title')),
  ],
)
def test_pairs_from_tfds(tmp_path, tfds, capsys, names, keys):
  rows = [('a\nb', 'x .\ny .'), ('naïve “', 'z'), ('c', ' '), ('d\0', 'w')]
  tfds(names, rows, keys, section_names=_Text())
  assert _prepare(tmp_path / 'out') == 0
  lines = (tmp_path / 'out/train.jsonl').read_text(encoding='utf-8').split('\n')
  assert lines == [
    r'{"document": "a\nb", "summary": "x .\ny ."}',
    '{"document": "naïve “", "summary": "z"}',
    '',
  ]
  said = capsys.readouterr().out
  assert 'train: skipped 2 of 4 pairs' in said
  assert 'test: skipped 2 of 3 pairs' in said and 'valid' not in said
  data = _data(tmp_path / 'out')
  assert _texts(data, 'train') == _texts(data, 'valid') == rows[:2]
  assert _texts(data, 'test') == rows[1:2]


def test_pairs_stay_text(tmp_path, tfds, model, capsys):
  tfds(('article', 'abstract'), _ROWS)
  assert _prepare(tmp_path / 'out', f'--sentencepiece={model()}') == 1
  assert 'toy has documents with a summary' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_other_sets_are_not_pairs(tmp_path, tfds):
  """A label is not a text, and a text is not a summary of itself."""
  for keys, features in (
    (('text', 'label'), {'label': None}),
    (('text', 'text'), {}),
  ):
    tfds(('text',), [('a',), ('b',)], keys, **features)
    assert _prepare(tmp_path) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
      f'{split}.{end}'
      for split in ('train', 'valid', 'test')
      for end in ('tokens', 'ends.npy')
    }
