"""ImageBytes: arrays and the binary files of CIFAR-10."""

import pickle

import numpy as np
import pytest

from trax_hier.data import ImageBytes


def _images(n, size=4, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (n, size, size, 3), np.uint8)


def _save(folder, **splits):
  for split, array in splits.items():
    np.save(folder / f'{split}.npy', array)
  return str(folder)


def _scored(data, split):
  return [
    row
    for batch in data.eval_batches(split)
    for row, weights in zip(batch['inputs'], batch['weights'], strict=True)
    if weights.all()
  ]


def test_rows_are_whole_images(tmp_path):
  train, test = _images(10), _images(5, seed=1)
  path = _save(tmp_path, train=train, test=test)
  data = ImageBytes(path, 2, test_as_valid=True)
  rows = [row for step in range(5) for row in data.train_batch(step)['inputs']]
  assert sorted(map(bytes, rows)) == sorted(
    bytes(image.ravel().astype(np.int32)) for image in train
  )
  for split in ('valid', 'test'):
    np.testing.assert_array_equal(_scored(data, split), test.reshape(5, -1))
  assert data.unit == 'dim'
  assert data.vocab.size == 256
  assert '(4 x 4 images)' in data.describe()
  assert 'windows of 48; batches of 2 rows' in data.describe()


def test_evaluation_scores_whole_images(tmp_path):
  path = _save(tmp_path, train=_images(4), test=_images(2, seed=1))
  data = ImageBytes(path, 2)
  assert data.eval_batches('test').context is None
  assert data.count_bytes('test') is None
  with pytest.raises(ValueError, match=r'window and stride.*ImageBytes'):
    data.eval_batches('test', window=10)


def test_validation_images(tmp_path):
  train, test = _images(10), _images(5, seed=1)
  path = _save(tmp_path, train=train, test=test)
  held_out = _scored(ImageBytes(path, 2, n_valid=3), 'valid')
  np.testing.assert_array_equal(held_out, train[7:].reshape(3, -1))
  _save(tmp_path, valid=_images(4, seed=2))
  np.testing.assert_array_equal(
    _scored(ImageBytes(path, 2), 'valid'),
    _images(4, seed=2).reshape(4, -1),
  )
  with pytest.raises(ValueError, match=r'ImageBytes\.n_valid = 3: must be 0'):
    ImageBytes(path, 2, n_valid=3)


def test_cifar_10_binary_files(tmp_path):
  images = _images(6, size=32)
  records = np.concatenate(
    [
      np.arange(6, dtype=np.uint8)[:, None],
      images.transpose(0, 3, 1, 2).reshape(6, -1),
    ],
    axis=1,
  )
  records[:2].tofile(tmp_path / 'data_batch_1.bin')
  records[2:4].tofile(tmp_path / 'data_batch_2.bin')
  records[4:].tofile(tmp_path / 'test_batch.bin')
  data = ImageBytes(str(tmp_path), 1, test_as_valid=True)
  np.testing.assert_array_equal(
    _scored(data, 'test'), images[4:].reshape(2, -1)
  )
  rows = [data.train_batch(step)['inputs'][0] for step in range(4)]
  assert sorted(map(bytes, rows)) == sorted(
    bytes(image.ravel().astype(np.int32)) for image in images[:4]
  )
  (tmp_path / 'test_batch.bin').write_bytes(b'x' * 3074)
  with pytest.raises(ValueError, match=r'ImageBytes\.path.*test_batch.*3073'):
    ImageBytes(str(tmp_path), 1)


def test_a_missing_folder_names_the_command(tmp_path):
  with pytest.raises(ValueError, match=r'ImageBytes\.path.*data\.prepare'):
    ImageBytes(str(tmp_path / 'none'), 1)


@pytest.mark.parametrize(
  ('splits', 'message'),
  [
    ({}, r'ImageBytes\.path.*neither train\.npy'),
    ({'train': _images(2)}, r'ImageBytes\.path.*neither test\.npy'),
    (
      {'train': _images(2), 'test': _images(2, size=5)},
      r'ImageBytes\.path.*test\.npy has images of another size',
    ),
    ({'train': _images(2).astype(np.float32)}, r'float32 \(2, 4, 4, 3\)'),
    ({'train': _images(2)[..., :1]}, r'uint8 \(2, 4, 4, 1\)'),
    ({'train': _images(0)}, r'train\.npy contains no image'),
  ],
)
def test_bad_arrays_are_named(tmp_path, splits, message):
  with pytest.raises(ValueError, match=message):
    ImageBytes(_save(tmp_path, **splits), 1)


def test_a_file_that_is_not_an_array_is_named(tmp_path):
  (tmp_path / 'train.npy').write_bytes(b'not an array')
  with pytest.raises(ValueError, match=r'ImageBytes\.path.*train\.npy'):
    ImageBytes(str(tmp_path), 1)


def test_bad_numbers_are_named(tmp_path):
  path = _save(tmp_path, train=_images(3), test=_images(2))
  with pytest.raises(ValueError, match=r'ImageBytes\.n_valid = 3: .* 3 train'):
    ImageBytes(path, 1, n_valid=3)
  with pytest.raises(ValueError, match=r'ImageBytes\.batch_size = 0'):
    ImageBytes(path, 0)


def _npz(file):
  with file.open('wb') as opened:
    np.savez(opened, _images(3))


def _header(file, shape):
  with file.open('wb') as opened:
    np.lib.format.write_array_header_1_0(
      opened, {'descr': '|u1', 'fortran_order': False, 'shape': shape}
    )


@pytest.mark.parametrize(
  'write',
  [
    _npz,
    lambda file: file.write_bytes(b''),
    lambda file: file.write_bytes(pickle.dumps(print)),
    lambda file: np.save(file, np.array([print]), allow_pickle=True),
    lambda file: np.save(file, np.uint8(3)),
    lambda file: file.write_bytes(b'\x93NUMPY\1\0\xff\xff' + b'(' * 65535),
    lambda file: _header(file, (2**40, 32, 32, 3)),
    lambda file: _header(file, (-1, 32, 32, 3)),
  ],
)
def test_files_of_other_kinds_are_named(tmp_path, write):
  _save(tmp_path, train=_images(3))
  write(tmp_path / 'test.npy')
  with pytest.raises(ValueError, match=r'ImageBytes\.path = .*test\.npy') as e:
    ImageBytes(str(tmp_path), 1, test_as_valid=True)
  assert len(str(e.value).partition('\n  In call')[0].splitlines()) == 1
