"""TextFiles: splits, windows and errors of files and folders."""

import gin
import numpy as np
import pytest

from trax_hier.data import TextFiles


def _write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)
  return str(path)


def _scored(data, split, **context):
  """Returns the scored bytes of a split."""
  return b''.join(
    bytes(batch['targets'][batch['weights'] == 1].tolist())
    for batch in data.eval_batches(split, **context)
  )


def _folder(tmp_path, n_files=200):
  for i in range(n_files):
    _write(tmp_path / 'my' / f'{i % 7}' / f'{i}.txt', b'%d ' % i * 30)
  return str(tmp_path / 'my')


def test_a_file_is_cut_in_order(tmp_path):
  content = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
  path = _write(tmp_path / 'my.bin', content)
  data = TextFiles(path, 4, 64, valid_fraction=0.1, test_fraction=0.2)
  assert _scored(data, 'valid') == content[3500:4000]
  assert _scored(data, 'test') == content[4000:]
  batch = data.train_batch(3)
  assert batch['inputs'].shape == (4, 64)
  assert batch['inputs'].dtype == np.int32
  assert batch['weights'].dtype == np.float32
  np.testing.assert_array_equal(batch['inputs'], batch['targets'])
  for row in batch['inputs']:
    assert bytes(row.tolist()) in content[:3500]
  assert data.unit == 'byte'
  fault = 'binary'
  assert data.describe() == (
    f'TextFiles: {path} (split in order; {fault}: each of its bytes is read '
    'as it is): train 3,500, valid 500, '
    'test 1,000 bytes in windows of 64; batches of 4 rows'
  )


def test_batches_are_a_pure_function_of_seed_and_step(tmp_path):
  path = _write(tmp_path / 'my.txt', bytes(range(256)) * 40)
  a, b = TextFiles(path, 4, 64, seed=7), TextFiles(path, 4, 64, seed=7)
  backwards = [b.train_batch(step)['inputs'] for step in reversed(range(60))]
  for step, expected in zip(range(60), reversed(backwards), strict=True):
    np.testing.assert_array_equal(a.train_batch(step)['inputs'], expected)
  other = TextFiles(path, 4, 64, seed=8)
  assert (a.train_batch(0)['inputs'] != other.train_batch(0)['inputs']).any()


def test_shards_are_rows_of_the_global_batch(tmp_path):
  path = _write(tmp_path / 'my.txt', bytes(range(256)) * 40)
  data = TextFiles(path, 8, 32)
  whole = data.train_batch(9)
  for key, value in whole.items():
    shards = [data.train_batch(9, shard, 4)[key] for shard in range(4)]
    np.testing.assert_array_equal(np.concatenate(shards), value)
  with pytest.raises(ValueError, match=r'TextFiles\.batch_size = 8.*3 shards'):
    data.train_batch(9, 0, 3)


def test_a_folder_is_split_by_file(tmp_path):
  root = _folder(tmp_path)
  data = TextFiles(root, 2, 64, valid_fraction=0.1, test_fraction=0.1)
  assert 'split by file' in data.describe()
  total = 200 * 30 * 4
  seen = {}
  for split in ('valid', 'test'):
    scored = _scored(data, split)
    assert 0.08 * total < len(scored) < 0.12 * total
    for text in scored.split(b'\0')[:-1]:
      number = int(text.split()[0])
      assert text == b'%d ' % number * 30
      seen[number] = split
  assert set(seen.values()) == {'valid', 'test'}


def test_a_folder_of_few_files_is_cut_in_order(tmp_path):
  root = tmp_path / 'my'
  _write(root / 'b.txt', b'b' * 500)
  _write(root / 'a' / 'z.txt', b'a' * 500)
  data = TextFiles(str(root), 2, 64, valid_fraction=0.1, test_fraction=0.1)
  assert '2 files, split in order' in data.describe()
  assert _scored(data, 'test') == b'b' * 99 + b'\0'


def test_hidden_and_binary_files_are_skipped(tmp_path):
  root = tmp_path / 'my'
  _write(root / 'a.txt', b'a' * 300)
  _write(root / 'b.txt', 'ß'.encode() * 100)
  _write(root / '.hidden', b'h' * 300)
  _write(root / '.git' / 'c.txt', b'g' * 300)
  _write(root / 'zero.bin', b'z\0' * 300)
  _write(root / 'latin.txt', 'ß'.encode('latin-1') * 300)
  _write(root / 'empty.txt', b'')
  (root / 'loop').symlink_to(root)
  data = TextFiles(str(root), 1, 64)
  assert '2 files' in data.describe()
  assert 'train 452, valid 25, test 25 bytes' in data.describe()


def test_evaluation_length_and_stride(tmp_path):
  content = np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes()
  path = _write(tmp_path / 'my.bin', content)
  data = TextFiles(
    path, 2, 32, test_fraction=0.1, eval_length=64, eval_stride=8
  )
  assert data.eval_batches('test')[0]['inputs'].shape == (2, 64)
  assert _scored(data, 'test') == content[3600:]


# The test split has 400 bytes: less than a window; a multiple of the stride or
# not; and with a stride that divides neither the split nor the window.
@pytest.mark.parametrize(
  ('window', 'stride'),
  [(512, 512), (512, 100), (400, 400), (64, 64), (64, 8), (70, 33), (1, 1)],
)
def test_any_window_and_stride_score_each_byte_once(tmp_path, window, stride):
  content = np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes()
  data = TextFiles(
    _write(tmp_path / 'my.bin', content), 3, 32, test_fraction=0.1
  )
  context = {'window': window, 'stride': stride}
  assert _scored(data, 'test', **context) == content[3600:]
  batches = data.eval_batches('test', **context)
  assert batches.context == (window, stride)
  assert batches[0]['inputs'].shape == (3, window)
  rows = [row for batch in batches for row in batch['weights'] if row.any()]
  assert all(row[: window - stride].sum() == 0 for row in rows[1:])


@pytest.mark.parametrize(
  ('given', 'context'),
  [
    ({}, (64, 8)),
    ({'window': 100}, (100, 100)),
    ({'stride': 5}, (64, 5)),
    ({'window': 100, 'stride': 5}, (100, 5)),
  ],
)
def test_defaults_of_window_and_stride(tmp_path, given, context):
  path = _write(tmp_path / 'my.txt', b'x' * 1000)
  data = TextFiles(path, 2, 32, eval_length=64, eval_stride=8)
  assert data.eval_batches('test', **given).context == context


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'window': 0}, r'^window = 0: must be an integer of 1 or more'),
    ({'stride': 0}, r'^stride = 0: must be an integer of 1 or more'),
    ({'stride': 33}, r'^stride = 33: must be at most window = 32'),
    ({'window': 8, 'stride': 9}, r'^stride = 9: must be at most window = 8'),
  ],
)
def test_bad_windows_and_strides_are_named(tmp_path, given, message):
  data = TextFiles(_write(tmp_path / 'my.txt', b'x' * 1000), 2, 32)
  with pytest.raises(ValueError, match=message):
    data.eval_batches('test', **given)


def test_gin(tmp_path):
  path = _write(tmp_path / 'my.txt', b'abc ' * 500)
  with gin.unlock_config():
    gin.parse_config(f"""
        DATA = '{path}'
        trax_hier.data.TextFiles.path = %DATA
        trax_hier.data.TextFiles.batch_size = 2
        trax_hier.data.TextFiles.length = 16
    """)
  try:
    assert TextFiles().train_batch(0)['inputs'].shape == (2, 16)
  finally:
    gin.clear_config()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'path': 'nowhere.txt'}, r"TextFiles\.path = 'nowhere\.txt': no such"),
    ({'path': ''}, r"TextFiles\.path = '': no such"),
    ({'path': '/dev/null'}, r'TextFiles\.path.*neither a file nor a folder'),
    ({'batch_size': 0}, r'TextFiles\.batch_size = 0'),
    ({'batch_size': True}, r'TextFiles\.batch_size = True'),
    ({'length': -1}, r'TextFiles\.length = -1'),
    ({'length': 901}, r'TextFiles\.length = 901: .* has only 900 bytes'),
    ({'seed': -1}, r'TextFiles\.seed = -1'),
    ({'valid_fraction': 1.0}, r'TextFiles\.valid_fraction = 1\.0'),
    ({'test_fraction': -0.1}, r'TextFiles\.test_fraction = -0\.1'),
    (
      {'valid_fraction': 0.5, 'test_fraction': 0.5},
      r'TextFiles\.valid_fraction \+ TextFiles\.test_fraction = 1',
    ),
    ({'eval_length': 0}, r'TextFiles\.eval_length = 0'),
    ({'eval_stride': 0}, r'TextFiles\.eval_stride = 0'),
    ({'eval_stride': 17}, r'TextFiles\.eval_stride = 17.*at most.*16'),
  ],
)
def test_bad_arguments_are_named(tmp_path, changes, message):
  arguments = {
    'path': _write(tmp_path / 'my.txt', b'x' * 1000),
    'batch_size': 2,
    'length': 16,
  }
  with pytest.raises(ValueError, match=message):
    TextFiles(**(arguments | changes))


def test_an_empty_file_and_a_folder_without_text_are_named(tmp_path):
  empty = _write(tmp_path / 'empty.txt', b'')
  with pytest.raises(ValueError, match=r'TextFiles\.path.*the file is empty'):
    TextFiles(empty, 2, 16)
  with pytest.raises(ValueError, match=r'TextFiles\.path.*no UTF-8 text file'):
    TextFiles(str(tmp_path), 2, 16)


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
  path = _write(tmp_path / 'my.txt', b'x' * 1000)

  def refuse(*_, **__):
    raise PermissionError('Permission denied')

  monkeypatch.setattr(np, 'memmap', refuse)
  with pytest.raises(ValueError, match=r'TextFiles\.path.*cannot be read'):
    TextFiles(path, 2, 16)


def test_an_empty_split_and_an_unknown_one_are_named(tmp_path):
  path = _write(tmp_path / 'my.txt', b'x' * 1000)
  data = TextFiles(path, 2, 16, valid_fraction=0.0)
  with pytest.raises(ValueError, match='the valid split is empty'):
    data.eval_batches('valid')
  with pytest.raises(ValueError, match="'train': must be one of 'valid'"):
    data.eval_batches('train')
