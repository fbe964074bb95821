"""`trax-hier data describe`: what it prints for data sets of every kind."""

import json
import re

import numpy as np
import pytest
import tiny_vocabularies

from trax_hier.config import configurable
from trax_hier.data import IdVocab, OwnData, make_batch


@configurable(module='described')
class Lines(OwnData):
  def n_rows(self, split):
    return {'train': 4, 'valid': 0, 'test': 2}[split]

  def row(self, split, i):
    if split == 'test' and i:
      raise ValueError('line 2 is blank')
    return f'{split} {i}'


@configurable(module='described')
class Duck:
  """Without a base class."""

  vocab, unit = IdVocab(9), 'token'

  def train_batch(self, step):
    return make_batch(np.full((2, 3), 4, np.int32))

  def eval_batches(self, split):
    return [self.train_batch(0)]

  def describe(self):
    return 'Duck: fours'


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


@pytest.fixture
def describe(program, tmp_path, monkeypatch):
  """Describes a data set by its bindings; nothing may be compiled."""
  import jax

  monkeypatch.setattr(jax, 'jit', pytest.fail)
  monkeypatch.setattr(jax, 'eval_shape', pytest.fail)

  def run(*bindings, flags=()):
    (tmp_path / 'my.gin').write_text('\n'.join(bindings))
    return program('data', 'describe', '--config_file=my.gin', *flags)

  return run


def table(out):
  """{split: {column: text}} of the table of splits."""
  lines = out.partition('Splits\n------\n')[2].partition('\n\n')[0]
  head, *rows = lines.splitlines()
  columns = re.split(r' {2,}', head.strip())
  found = {}
  for row in rows:
    values = re.split(r' {2,}', row.strip())
    if len(values) == len(columns):
      found[values[0]] = dict(zip(columns, values, strict=True))
  return found


def text_files(tmp_path, content, **more):
  (tmp_path / 'my.txt').write_bytes(content)
  more = {'valid_fraction': 0.1, 'test_fraction': 0.1} | more
  return [
    'train.data = @TextFiles()',
    "TextFiles.path = 'my.txt'",
    'TextFiles.batch_size = 2',
    'TextFiles.length = 8',
    *(f'TextFiles.{name} = {value!r}' for name, value in more.items()),
  ]


def test_bytes(describe, tmp_path):
  content = b'\x1b[2Jred\nblue\t' * 20  # 260 bytes.
  code, out, err = describe(*text_files(tmp_path, content))
  assert code == 0, err
  assert 'data: TextFiles: my.txt (split in order): train 208, valid 26' in out
  assert 'vocabulary: ByteVocab, 256 ids; a token is a byte\n' in out
  assert 'a training batch: inputs int32 (2, 8), targets int32 (2, 8)' in out
  assert 'an epoch: 12.5 batches, about 200 scored bytes\n' in out
  assert table(out) == {
    'train': {
      'split': 'train',
      'batches': '12',
      'read': '8',
      'scored bytes': '128',
      'padding': '0.0%',
    },
    'valid': {
      'split': 'valid',
      'batches': '2',
      'read': '2',
      'scored bytes': '26',
      'padding': '18.8%',  # 6 of 32.
    },
    'test': {
      'split': 'test',
      'batches': '2',
      'read': '2',
      'scored bytes': '26',
      'padding': '18.8%',
    },
  }
  rows = out.partition('First rows of valid\n')[2]
  assert '1. \\x1b[2Jred\\n\n2. blue\\t\\x1b[2\n' in rows
  assert '\x1b' not in out


@pytest.mark.parametrize('kind', ['byte_level', 'bert'])
def test_what_a_vocabulary_loses(describe, tmp_path, kind):
  content = 'The cat sat\non the mat ☂\n'.encode() * 40
  path = tiny_vocabularies.write(kind, tmp_path)
  bindings = text_files(tmp_path, content, vocab=path, test_fraction=0.25)
  code, out, err = describe(*bindings, flags=['--batches=1000', '--rows=1'])
  assert code == 0, err
  found = table(out)['test']
  n_test = int(len(content) * 0.25)
  assert found['bytes of text'] == f'{n_test:,}'
  per_token = n_test / int(found['scored tokens'].replace(',', ''))
  assert found['bytes per token'] == f'{per_token:.2f}'
  if kind == 'bert':
    assert '; loses upper case, accents, spaces, punctuation, line ends' in out
    assert 0 < float(found['unknown'].rstrip('%')) < 50
    assert '[UNK]' in out
  else:
    assert '; loses' not in out and 'unknown' not in found


def test_documents_that_share_rows(describe, tmp_path):
  texts = ['six by', 'nine long', 'ab', 'much longer than a row']
  rows = [{'text': texts[i % 4]} for i in range(40)]
  (tmp_path / 'x.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  code, out, err = describe(
    'train.data = @PaddedDocuments()',
    "PaddedDocuments.path = 'x.jsonl'",
    "PaddedDocuments.field = 'text'",
    'PaddedDocuments.batch_size = 1',
    'PaddedDocuments.length = 18',
    'PaddedDocuments.packed = True',
    'PaddedDocuments.multiple_of = 3',
    'PaddedDocuments.valid_fraction = 0.2',
    'PaddedDocuments.test_fraction = 0.2',
    flags=['--batches=1000', '--rows=20'],
  )
  assert code == 0, err
  n_pieces, padding = re.search(
    r'several documents: ([\d.]+) on average in train, ([\d.]+%) of it', out
  ).groups()
  assert float(n_pieces) > 1.5 and table(out)['train']['padding'] == padding
  assert 'documents int32 (1, 18)' in out
  lines = re.findall(r'^\d+\. (.*)$', out, re.MULTILINE)
  assert {'much longer than a', 'six by ‖ six by ‖ six by'} <= {*lines}


def test_pairs(describe, tmp_path):
  rows = [
    {'document': f'doc {i}', 'summary': 's' * (i % 3 + 1)} for i in range(40)
  ]
  (tmp_path / 'x.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  code, out, err = describe(
    'train.data = @TextPairs()',
    "TextPairs.path = 'x.jsonl'",
    'TextPairs.batch_size = 2',
    'TextPairs.source_length = 10',
    'TextPairs.target_length = 3',
    'TextPairs.valid_fraction = 0.2',
    'TextPairs.test_fraction = 0.2',
  )
  assert code == 0, err
  assert re.search(r'30 sampled in train, 0 are .* and \d+ at target_', out)
  assert re.search(r'1\. sources: doc \d+\n1\. targets: s+\n', out)
  assert 40 <= float(table(out)['train']['padding of sources'][:-1]) <= 50


def test_what_is_left_out(describe, tmp_path):
  root = tmp_path / 'books'
  root.mkdir()
  for i in range(20):
    (root / f'{i}.txt').write_text('the same text ' * 4)
  (root / 'picture.jpg').write_bytes(b'\xff\xd8\0')
  code, out, err = describe(
    'train.data = @DocumentLanes()',
    "DocumentLanes.path = 'books'",
    'DocumentLanes.batch_size = 2',
    'DocumentLanes.length = 16',
  )
  assert code == 0, err
  assert 'left out: 1 ' in out and 'picture.jpg' in out
  assert 'of 1,008 bytes' in out


def test_own_data(describe):
  code, out, err = describe(
    'train.data = @Lines()',
    'Lines.batch_size = 1',
    'Lines.length = 9',
    flags=['--batches=1'],
  )
  assert code == 0, err
  assert 'valid: no batches: Lines: the valid split is empty' in out
  assert 'First rows of test\n------------------\n1. test 0\n' in out
  code, out, err = describe(
    'train.data = @Lines()', 'Lines.batch_size = 1', 'Lines.length = 9'
  )
  assert (code, out) == (1, '')
  assert "batch 2 of test cannot be read: Lines.row('test', 1)" in err
  assert 'line 2 is blank' in err
  code, out, err = describe('train.data = @Duck()')
  assert code == 0, err
  assert 'data: Duck: fours\n' in out
  assert 'an epoch: none, as rows are generated' in out
  assert '1. 4 4 4\n2. 4 4 4\n' in out


def test_a_run(program, tiny_run):
  code, out, err = program('data', 'describe', f'--run={tiny_run.folder}')
  assert code == 0, err
  assert 'data: TextFiles: ' in out and 'First rows of test' in out


@pytest.mark.parametrize(
  ('bindings', 'message'),
  [
    ([], 'train.data'),
    (['train.data = 3'], 'train.data must be a data set'),
    (['train.data = @TextFiles'], 'train.data must be a data set'),
    (['train.data = @TextFile()'], "did you mean 'TextFiles'"),
    (
      [
        'train.data = @TextFiles()',
        "TextFiles.path = 'none.txt'",
        'TextFiles.batch_size = 2',
        'TextFiles.length = 8',
      ],
      "TextFiles.path = 'none.txt': no such file",
    ),
  ],
)
def test_errors_are_one_message(describe, bindings, message):
  code, out, err = describe(*bindings)
  assert (code, out) == (2, '')
  assert err.startswith('trax-hier data: ') and message in err


def test_flags(program):
  for flags in (
    ['data'],
    ['data', 'describe'],
    ['data', 'describe', '--rows=0'],
  ):
    with pytest.raises(SystemExit, match='2'):
      program(*flags)
