"""ImageBytes: images as sequences of color channel values."""

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.windowed import windowed
from trax_hier.data.corpora.remote import fetch
from trax_hier.data.files import find_path, map_array
from trax_hier.data.named_splits import find_split_files, use_test_as_valid
from trax_hier.data.vocabularies.byte_vocab import ByteVocab

_COMMAND = 'python -m trax_hier.data.prepare --name=cifar10 --output_dir=DIR'

_CIFAR_SHAPE = (3, 32, 32)  # a record: a label byte, then the pixels in CHW
_CIFAR_RECORD = 1 + 3 * 32 * 32


@configurable(module='trax_hier.data')
def ImageBytes(
  path: str,
  batch_size: int,
  seed: int = 0,
  n_valid: int = 0,
  test_as_valid: bool = False,
) -> DataSet:
  """Whole 8-bit RGB images, flattened to R G B R G B … (HWC).

  A row of a batch is an image, so its length is height * width * 3. The unit is
  the dimension, so "bits per byte" are the bits per dim of the papers. Reads a
  folder that contains either
    train.npy, test.npy and optionally valid.npy, uint8 (n, h, w, 3), which
    `python -m trax_hier.data.prepare` writes; they are memory-mapped; or
    data_batch*.bin and test_batch.bin, CIFAR-10's official binary files; they
    are read into memory.

  Args:
    path: Folder of the images.
    batch_size: Images of the global batch.
    seed: Seed of the shuffle.
    n_valid: Images at the end of train to hold out for validation; 0 if there
      is a valid.npy.
    test_as_valid: Whether test is also used for validation, as in published
      results on these sets, which train on all of train. With False, training
      needs a valid.npy or `n_valid`.

  Raises:
    ValueError: naming the binding, if files are missing or not images.
  """
  binding = f'ImageBytes.path = {path!r}'
  hint = f'. To make one from a tfds data set: {_COMMAND}'
  root = find_path(fetch(path, binding), binding, 'folder', hint)
  try:
    images, left_out = _read_folder(root, binding)
  except OSError as error:
    raise ValueError(f'{binding}: cannot be read: {error}') from error
  has_valid = 'valid' in images
  if has_valid and n_valid:
    raise ValueError(
      f'ImageBytes.n_valid = {n_valid}: must be 0, {path} has a file of the '
      'valid split'
    )
  if not has_valid:
    checks.check_not_negative('ImageBytes.n_valid', n_valid)
    if n_valid >= len(images['train']):
      raise ValueError(
        f'ImageBytes.n_valid = {n_valid}: must be less than the '
        f'{len(images["train"])} training images'
      )
    cut = len(images['train']) - n_valid
    images['valid'] = images['train'][cut:]
    images['train'] = images['train'][:cut]
  hint = use_test_as_valid(
    images, len(images['valid']), test_as_valid, 'ImageBytes'
  )
  shape = images['train'].shape[1:]
  return windowed(
    'ImageBytes',
    f'{path} ({shape[0]} x {shape[1]} images{left_out})',
    {split: array.reshape(-1) for split, array in images.items()},
    ByteVocab(),
    batch_size,
    int(np.prod(shape)),
    seed,
    unit='dim',
    move_edges=False,
    empty_hint=hint,
  )


def _read_folder(root, binding):
  """Returns uint8 (n, h, w, 3) by split, and what else is there, as text.

  'valid' is there only if it has a file.
  """
  if (root / 'test_batch.bin').exists():
    images = {
      'train': _read_cifar(sorted(root.glob('data_batch*.bin')), binding),
      'test': _read_cifar([root / 'test_batch.bin'], binding),
    }
    return images, ''
  try:
    files, left_out = find_split_files(root, ('.npy',))
  except ValueError as error:
    raise ValueError(f'{binding}: {error}') from error
  images = {split: _read_npy(file, binding) for split, file in files.items()}
  for split in ('train', 'test'):
    if split not in files:
      raise ValueError(
        f'{binding}: the folder has neither {split}.npy nor the '
        'test_batch.bin of CIFAR-10'
      )
  for split, array in images.items():
    if array.shape[1:] != images['train'].shape[1:]:
      raise ValueError(
        f'{binding}: {files[split].name} has images of another size'
      )
  left_out = str(left_out)
  return images, left_out and f'; left out: {left_out}'


def _read_npy(file, binding):
  """Memory-maps one array of images."""
  try:
    array = map_array(file)
  except ValueError as error:
    raise ValueError(f'{binding}: {error}') from error
  if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
    raise ValueError(
      f'{binding}: {file.name} is {array.dtype} {array.shape}, not uint8 '
      '(n, height, width, 3)'
    )
  if not array.size:
    raise ValueError(f'{binding}: {file.name} contains no image')
  return array


def _read_cifar(paths, binding):
  """Reads CIFAR-10 binary files into one array, uint8 (n, 32, 32, 3)."""
  if not paths:
    raise ValueError(f'{binding}: the folder has no data_batch*.bin')
  parts = []
  for path in paths:
    records = np.fromfile(path, np.uint8)
    if not records.size or records.size % _CIFAR_RECORD:
      raise ValueError(
        f'{binding}: {path.name} has {records.size:,} bytes, not a multiple '
        f'of {_CIFAR_RECORD}, the size of a CIFAR-10 record'
      )
    chw = records.reshape(-1, _CIFAR_RECORD)[:, 1:].reshape(-1, *_CIFAR_SHAPE)
    parts.append(chw.transpose(0, 2, 3, 1))
  return np.concatenate(parts)
