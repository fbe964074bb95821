"""Prepares a tfds data set: python -m trax_hier.data.prepare --help.

Writes a folder that ImageBytes or PaddedDocuments map, so that training needs
neither tensorflow_datasets nor TensorFlow, and starts at once.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trax_hier.data.documents import VOCAB_FILE, token_type
from trax_hier.data.vocab import ByteVocab, SentencePieceVocab

_TEXT_FEATURES = ('text', 'book_text')


def prepare(builder: Any, output_dir: Path, sentencepiece: str | None) -> None:
  """Writes the splits of a prepared tfds builder.

  Sets without a test split, such as downsampled_imagenet, publish their
  results on validation: it is written as test.

  Args:
    builder: a `tfds.core.DatasetBuilder` that is prepared.
    output_dir: made if need be; files appear there when all are written.
    sentencepiece: model file to cut text with; None: bytes.

  Raises:
    ValueError: if the set has neither images nor text, or lacks a split.
  """
  splits = {'train': 'train', 'valid': 'validation', 'test': 'test'}
  if 'validation' not in builder.info.splits:
    del splits['valid']
  elif 'test' not in builder.info.splits:
    splits = {'train': 'train', 'test': 'validation'}
  for source in splits.values():
    if source not in builder.info.splits:
      raise ValueError(f'{builder.name} has no split {source}')
  features = builder.info.features
  text = [feature for feature in _TEXT_FEATURES if feature in features]
  if 'image' not in features and not text:
    raise ValueError(
      f'{builder.name} has no feature image, text or book_text, only '
      f'{", ".join(features)}'
    )
  vocab = SentencePieceVocab(sentencepiece) if sentencepiece else ByteVocab()
  output_dir.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=output_dir) as name:
    scratch = Path(name)
    for split, source in splits.items():
      if 'image' in features:
        n_images = builder.info.splits[source].num_examples
        images = _examples(builder, source, 'image')
        _write_images(scratch / f'{split}.npy', images, n_images)
      else:
        texts = _examples(builder, source, text[0])
        _write_documents(scratch, split, texts, vocab)
    if sentencepiece:
      shutil.copyfile(sentencepiece, scratch / VOCAB_FILE)
    for path in scratch.iterdir():
      path.replace(output_dir / path.name)


def _examples(builder, split, feature):
  """Yields one feature of each example, in the order of the files."""
  # Imports TensorFlow when used, which nothing else here does.
  import tensorflow_datasets as tfds

  data = builder.as_dataset(split=split, shuffle_files=False)
  for example in tfds.as_numpy(data):
    yield example[feature]


def _write_images(path: Path, images: Iterable[np.ndarray], n_images: int):
  """Writes uint8 images as one .npy without holding them in memory."""
  array = None
  for i, image in enumerate(images):
    if array is None:
      array = np.lib.format.open_memmap(
        path, 'w+', np.uint8, (n_images, *image.shape)
      )
    array[i] = image
  array.flush()


def _write_documents(folder, split, texts: Iterable[bytes], vocab):
  """Writes `{split}.tokens` and `{split}.ends.npy`."""
  ends, n_tokens = [], 0
  with (folder / f'{split}.tokens').open('wb') as file:
    for text in texts:
      ids = vocab.encode(text.decode('utf-8'))
      ids.astype(token_type(vocab)).tofile(file)
      n_tokens += len(ids)
      ends.append(n_tokens)
  np.save(folder / f'{split}.ends.npy', np.asarray(ends, np.int64))


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code, 1 after a message on stderr."""
  parser = argparse.ArgumentParser(
    prog='python -m trax_hier.data.prepare',
    description='Writes a tfds data set as files that training can map.',
  )
  add = parser.add_argument
  add('--name', required=True, help='cifar10, downsampled_imagenet/32x32, …')
  add('--output_dir', type=Path, required=True, help='folder for the files')
  add('--data_dir', help="tfds's folder; default: its own default")
  add('--download', action='store_true', help='download and prepare with tfds')
  add('--sentencepiece', help='model file to cut text with; default: bytes')
  flags = parser.parse_args(arguments)
  try:
    import tensorflow_datasets as tfds

    builder = tfds.builder(flags.name, data_dir=flags.data_dir)
    # Asked for first: without it tfds tries the network for minutes.
    if not builder.is_prepared():
      if not flags.download:
        raise ValueError(
          f'not prepared in {builder.data_dir}; add --download to let tfds '
          'download it'
        )
      builder.download_and_prepare()
    prepare(builder, flags.output_dir, flags.sentencepiece)
  except ImportError as error:
    print(
      f'{error}: pip install tensorflow tensorflow-datasets '
      'importlib_resources',
      file=sys.stderr,
    )
    return 1
  except (OSError, ValueError) as error:
    print(f'{flags.name}: {error}', file=sys.stderr)
    return 1
  print(f'Written to {flags.output_dir}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
