"""ImageBytes: images as sequences of sub-pixels."""

from pathlib import Path

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet, windowed
from trax_hier.data.vocabularies.vocab import ByteVocab

COMMAND = 'python -m trax_hier.data.prepare --name=cifar10 --output_dir=DIR'

_CIFAR_SHAPE = (3, 32, 32)  # a record: a label byte, then the pixels in CHW
_CIFAR_RECORD = 1 + 3 * 32 * 32


@configurable(module='trax_hier.data')
def ImageBytes(
  path: str, batch_size: int, seed: int = 0, n_valid: int = 0
) -> DataSet:
  """Whole images, flattened row by row as R G B R G B (HWC), 256 values.

  A row of a batch is an image, so its length is height * width * 3. The unit
  is the dimension: "bits per byte" is what papers call bits per dim. Reads a
  folder that holds either
    train.npy and test.npy, and valid.npy if there is one: uint8 (n, h, w, 3),
    mapped, as `python -m trax_hier.data.prepare` writes them; or
    data_batch*.bin and test_batch.bin, CIFAR-10's official binary files, read
    into memory.

  Args:
    path: the folder.
    batch_size: images of the global batch.
    seed: which shuffle.
    n_valid: images at the end of train to hold out for validation. With 0,
      and no valid.npy, valid is test: published numbers on these sets train
      on the whole of train.

  Raises:
    ValueError: naming the binding, if files are missing or not images.
  """
  binding = f'ImageBytes.path = {path!r}'
  root = Path(path).expanduser()
  if not path or not root.is_dir():
    raise ValueError(
      f'{binding}: no such folder (looked for {root.absolute()}). To make '
      f'one from a tfds data set: {COMMAND}'
    )
  try:
    images = _read_folder(root, binding)
  except OSError as error:
    raise ValueError(f'{binding}: cannot be read: {error}') from error
  if 'valid' not in images:
    checks.check_not_negative('ImageBytes.n_valid', n_valid)
    if n_valid >= len(images['train']):
      raise ValueError(
        f'ImageBytes.n_valid = {n_valid}: must be less than the '
        f'{len(images["train"])} training images'
      )
    cut = len(images['train']) - n_valid
    images['valid'] = images['train'][cut:] if n_valid else images['test']
    images['train'] = images['train'][:cut]
  elif n_valid:
    raise ValueError(
      f'ImageBytes.n_valid = {n_valid}: must be 0, {path} has a valid.npy'
    )
  shape = images['train'].shape[1:]
  return windowed(
    'ImageBytes',
    f'{path} ({shape[0]} x {shape[1]} images)',
    {split: array.reshape(-1) for split, array in images.items()},
    ByteVocab(),
    batch_size,
    int(np.prod(shape)),
    seed,
    unit='dim',
    move_edges=False,
  )


def _read_folder(root, binding):
  """Returns uint8 (n, h, w, 3) by split, 'valid' only if there is a file."""
  if (root / 'test_batch.bin').exists():
    return {
      'train': _read_cifar(sorted(root.glob('data_batch*.bin')), binding),
      'test': _read_cifar([root / 'test_batch.bin'], binding),
    }
  images = {}
  for split in ('train', 'test', 'valid'):
    file = root / f'{split}.npy'
    if file.exists():
      images[split] = _read_npy(file, binding)
    elif split != 'valid':
      raise ValueError(
        f'{binding}: the folder has no {file.name}, and no test_batch.bin '
        'of CIFAR-10'
      )
  for split, array in images.items():
    if array.shape[1:] != images['train'].shape[1:]:
      raise ValueError(f'{binding}: {split}.npy has images of another size')
  return images


def _read_npy(file, binding):
  """Maps one array of images."""
  try:
    array = np.load(file, mmap_mode='r', allow_pickle=False)
  except ValueError as error:
    raise ValueError(f'{binding}: {file.name}: {error}') from error
  if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
    raise ValueError(
      f'{binding}: {file.name} is {array.dtype} {array.shape}, not uint8 '
      '(n, height, width, 3)'
    )
  if not array.size:
    raise ValueError(f'{binding}: {file.name} holds no image')
  return array


def _read_cifar(paths, binding):
  """Reads CIFAR-10 binary files as one uint8 (n, 32, 32, 3)."""
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
